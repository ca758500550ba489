"""The sockets that FFmpeg opens inside itself: shutting them down frees a call that waits in it."""

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
