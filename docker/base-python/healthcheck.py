#!/opt/venv/bin/python3 -ES
"""Healthy: the service on this port answers /health with 200. It runs every few seconds, so it imports little."""

import socket
import sys

with socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=4) as connection:
    connection.sendall(b"GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n")
    status = connection.makefile("rb").readline().split()
sys.exit(status[1:2] != [b"200"])
