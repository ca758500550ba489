"""Files, pipes and terminals where systems differ: opening without waiting, locks, reading with a time limit."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    HAS_LOCKS = False
else:
    HAS_LOCKS = True

NO_WAIT = getattr(os, "O_NONBLOCK", 0)  # 0: opening never waits there
BINARY = getattr(os, "O_BINARY", 0)


def open_without_waiting(path: Path) -> BinaryIO:
    """Open a file to read, without waiting for a named pipe. Raises OSError, ValueError (a NUL in the name)."""
    return open(os.open(path, os.O_RDONLY | NO_WAIT | BINARY | getattr(os, "O_CLOEXEC", 0)), "rb")


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold the lock ``path``, a file that is created, as the only process. The lock ends with the process.

    While another process holds it, wait for that process, or with ``wait`` False go on without it. Yields whether the
    lock is held: not where files cannot be locked (`HAS_LOCKS`) or ``path`` cannot be written.
    """
    with ExitStack() as stack:
        held = False
        if HAS_LOCKS:
            with suppress(OSError):
                path.parent.mkdir(parents=True, exist_ok=True)
                while not held:
                    file = stack.enter_context(path.open("w"))
                    fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
                    # else another process removed the file while this one waited for it
                    held = path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())
        yield held


def read_within(descriptor: int, view: memoryview, seconds: float) -> int | None:
    """Read what a pipe, terminal or file has into ``view``; the number of bytes, 0 at its end, None: nothing came.

    Where the system cannot wait for a pipe (Windows) it waits for the data without limit. Raises OSError.
    """
    with suppress(OSError):  # not a socket, the only thing that Windows can wait for
        if not select.select([descriptor], [], [], seconds)[0]:
            return None
    if hasattr(os, "readv"):
        return os.readv(descriptor, [view])
    data = os.read(descriptor, len(view))
    view[: len(data)] = data
    return len(data)


def write_without_waiting(descriptor: int, data: bytes) -> None:
    """Write ``data`` (up to 512 bytes) if it is taken now: a full pipe loses it. Raises nothing.

    Where the system cannot tell (Windows) it is written in any case.
    """
    with suppress(OSError):
        try:
            ready = bool(select.select([], [descriptor], [], 0)[1])
        except OSError:
            ready = True
        if ready:
            os.write(descriptor, data)


def set_binary(descriptor: int) -> None:
    """Have a standard stream carry bytes as they are; Windows would change line ends."""
    if BINARY:
        import msvcrt

        msvcrt.setmode(descriptor, BINARY)  # type: ignore[attr-defined, unused-ignore]
