"""Waitress on the inherited socket, with the WSGI application."""

import socket

import waitress
import wsgi_app

waitress.serve(wsgi_app.app, sockets=[socket.socket(fileno=3)])
