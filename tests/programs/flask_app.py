"""The WSGI application for Flask's development server, which serves nothing but Flask."""

import logging

import flask
import wsgi_app

logging.getLogger("werkzeug").setLevel(logging.ERROR)  # or it writes a line for each request
app = flask.Flask(__name__)
app.wsgi_app = wsgi_app.app
