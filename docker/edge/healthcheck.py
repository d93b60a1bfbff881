#!/usr/bin/env python3
"""Healthy: a TLS handshake succeeds, and what listens there answers HTTP."""

import os
import socket
import ssl
import sys

# It asks itself, whoever signed its certificate; and not a service: those have checks of their own.
context = ssl._create_unverified_context()  # noqa: S323
host = os.environ.get("EDGE_HOST") or "localhost"
with (
    socket.create_connection(("127.0.0.1", 443), timeout=4) as plain,
    context.wrap_socket(plain, server_hostname=host) as connection,
):
    connection.sendall(f"GET /healthcheck HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    sys.exit(not connection.recv(100).startswith(b"HTTP/1.1 404"))
