"""Does anything listen on a port of this machine?"""

from __future__ import annotations

import socket


def is_free(port: int, address: str = "") -> bool:
    """Whether a container could publish this port, TCP and UDP, on ``address`` (default: on all)."""
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(type=kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError:
                return False
    return True
