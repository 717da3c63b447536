"""A WSGI application: answers its generation and its pid."""

import os


def app(_, start_response):
    body = f"{os.environ['OVERSEER_GENERATION']} {os.getpid()}\n".encode()
    headers = [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))]
    start_response("200 OK", headers)
    return [body]
