"""The WSGI application with the middleware around it."""

from wsgi_app import app as plain

from overseer_py.worker.wsgi import DrainingMiddleware

app = DrainingMiddleware(plain)
