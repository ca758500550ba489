"""Sockets that listen, pairs of UDP sockets for RTP, and the message for a server that cannot listen."""

from __future__ import annotations

import errno
import os
import socket

LOOPBACK = "127.0.0.1"

UDP_BUFFER_BYTES = 4 << 20  # a keyframe is sent, and arrives, in one burst


def listening_socket(host: str, port: int, backlog: int) -> socket.socket:
    """Return a non-blocking TCP socket that listens at an address, also one that a server has just left.

    On Windows SO_REUSEADDR would share the port with another server, so it is set on other systems only. Raises
    OSError, OverflowError (a port above 65535).
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        if os.name != "nt":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(backlog)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def udp_pair(host: str) -> tuple[socket.socket, socket.socket]:
    """Two UDP sockets at neighbouring ports, the first even, as RTP and RTCP want them. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    error: OSError | None = None
    for _ in range(50):
        first, second = socket.socket(family, socket.SOCK_DGRAM), socket.socket(family, socket.SOCK_DGRAM)
        try:
            first.bind((host, 0))
            port = first.getsockname()[1]
            second.bind((host, port ^ 1))
        except OSError as failure:
            error = failure
            first.close()
            second.close()
            continue
        for one in (first, second):
            one.setblocking(False)
        return (first, second) if port % 2 == 0 else (second, first)
    raise OSError(f"no two free UDP ports beside each other at {host}") from error


def bind_refusal(name: str, host: str, port: int, error: OSError | OverflowError) -> str:
    """One line for a server that cannot listen at ``host`` and ``port``: what is wrong, and what to do."""
    if isinstance(error, socket.gaierror):
        return f"{name}: '{host}' is no address of this machine ({error.strerror}); give one, or none for {LOOPBACK}"
    if isinstance(error, PermissionError):
        return f"{name}: port {port} needs privileges; choose one above 1023"
    hints = {
        errno.EADDRINUSE: f"port {port} is taken; stop what uses it, or choose another port",
        errno.EADDRNOTAVAIL: f"{host} is no address of this machine; give one, or none for {LOOPBACK}",
    }
    return f"{name}: {hints.get(getattr(error, 'errno', None) or 0, str(error))}"
