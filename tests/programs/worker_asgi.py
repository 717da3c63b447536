"""The ASGI application with the middleware around it."""

from asgi_app import app as plain

from overseer_py.worker.asgi import DrainingMiddleware

app = DrainingMiddleware(plain)
