"""Processes and threads as the system knows them: how a child is started, when this process began, a thread's name."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

# Options of `subprocess.Popen` for a child that does not get the terminal's Ctrl-C: its parent ends it.
OWN_GROUP: dict[str, Any] = (
    {"creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)}
    if os.name == "nt"
    else {"start_new_session": True}
)


def start_with_socket(command: Sequence[str], **options: Any) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start ``command`` with one more argument, the number of a socket, and return the process and the other end.

    The child opens its end by ``socket.socket(fileno=int(argument))``. The end of either process ends the connection.
    ``options`` are those of `subprocess.Popen`. Raises OSError.
    """
    ours, theirs = socket.socketpair()
    try:
        with theirs:
            if os.name == "nt":  # handles are inherited there, all or none
                theirs.set_inheritable(True)
                options |= {"close_fds": False}
            else:
                options |= {"pass_fds": (theirs.fileno(),)}
            return subprocess.Popen([*command, str(theirs.fileno())], **options), ours
    except BaseException:
        ours.close()
        raise


def ended_by_terminate(code: int) -> bool:
    """Whether this exit code is that of a process that `subprocess.Popen.terminate` ended."""
    return code == (1 if os.name == "nt" else -15)  # SIGTERM


def is_root() -> bool:
    """Whether this process runs as root; False where the system has no such user."""
    return hasattr(os, "geteuid") and os.geteuid() == 0


def started_ns() -> int:
    """When this process was started, on the monotonic clock, to 10 ms; on other systems than Linux: now."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        since_boot = int(fields[19]) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")
        return time.monotonic_ns() - (time.clock_gettime_ns(time.CLOCK_BOOTTIME) - since_boot)
    except (OSError, AttributeError, IndexError):
        return time.monotonic_ns()


def name_thread(name: str) -> None:
    """Give the calling thread a name that the system shows (``top -H``, gdb): its first 15 bytes. Linux only."""
    with suppress(OSError):  # another system, or no /proc
        Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_bytes(name.encode()[:15])
