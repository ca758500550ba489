"""Memory of this process: what it uses, how glibc shares it among threads, and memory shared with another process."""

from __future__ import annotations

import ctypes
import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multiprocessing.shared_memory import SharedMemory

M_ARENA_MAX = -8  # glibc's malloc.h
ARENAS = 2
SHARED = Path("/dev/shm")  # where Linux keeps POSIX shared memory; a container may have 64 MiB of it


def share_arenas() -> None:
    """Have glibc serve all threads from two arenas, unless the environment says otherwise; no other libc knows this.

    Else threads that start and end, as with every camera that disconnects and reconnects, leave blocks behind in up to
    eight arenas per core, whose holes nothing fills: measured, a third of a MiB with every reconnect.
    """
    if "MALLOC_ARENA_MAX" not in os.environ:
        with suppress(OSError, AttributeError, TypeError):
            ctypes.CDLL(None).mallopt(M_ARENA_MAX, ARENAS)


def resident_mib() -> float:
    """Memory of this process that is in use now; 0 where the system does not report it."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)
    except (OSError, AttributeError, IndexError):
        return 0.0


def create_shared(size: int) -> SharedMemory:
    """Return new shared memory of ``size`` bytes or more, for another process to open by its name.

    The owner closes it, and unlinks it as soon as the other process has opened it: from then on nothing is left behind,
    however the two end. The memory is reserved: without that, a process that writes into memory which the system does
    not have is killed (SIGBUS). Raises OSError where there is too little.
    """
    from multiprocessing.shared_memory import SharedMemory

    shared = SharedMemory(create=True, size=size)
    try:
        _reserve(SHARED / shared.name.removeprefix("/"), size)
    except OSError as error:
        shared.close()
        shared.unlink()
        if error.errno != errno.ENOSPC:
            raise
        free = os.statvfs(SHARED)
        raise OSError(
            errno.ENOSPC,
            f"{size >> 20} MiB of shared memory are needed, {SHARED} has {free.f_bavail * free.f_frsize >> 20} MiB; "
            "a container is given more by: docker run --shm-size=1g",
        ) from error
    return shared


def _reserve(path: Path, size: int) -> None:
    """Have the system set memory aside for a file of Linux' shared memory. Nothing on other systems."""
    if not (hasattr(os, "posix_fallocate") and path.exists()):
        return
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.posix_fallocate(descriptor, 0, size)
    finally:
        os.close(descriptor)
