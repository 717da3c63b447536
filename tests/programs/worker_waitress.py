"""Waitress on the listeners that it was given; its application has the middleware around it."""

import waitress
import worker_wsgi

from overseer_py import worker

waitress.serve(worker_wsgi.app, sockets=list(worker.listeners()))
