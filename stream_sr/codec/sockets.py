"""Sockets: pairs for RTP, and those that FFmpeg opens inside itself, which are shut down to free a call in it."""

from __future__ import annotations

import contextlib
import os
import socket


def open_sockets() -> dict[int, str]:
    """Descriptors of this process that are sockets, with their identity. Empty where there is no /proc."""
    found = {}
    with contextlib.suppress(OSError):
        for entry in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                link = os.readlink(f"/proc/self/fd/{entry}")
                if link.startswith("socket:"):
                    found[int(entry)] = link
    return found


def peer_port(descriptor: int) -> int | None:
    """The port that the socket is connected to; None where there is none."""
    try:
        with socket.socket(fileno=os.dup(descriptor)) as peer:
            name = peer.getpeername()
    except OSError:
        return None
    return name[1] if isinstance(name, tuple) else None


def shut_down(descriptor: int) -> None:
    """End both directions: a read or write that waits on it returns. The descriptor stays its owner's to close."""
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as peer:
        peer.shutdown(socket.SHUT_RDWR)


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
