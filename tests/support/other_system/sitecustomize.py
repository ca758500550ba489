"""Python as on a system without the calls of Linux and POSIX: put this folder into PYTHONPATH.

What is removed here is missing on Windows, or on Windows and macOS. The interpreter imports this module when it starts,
so it holds for the processes that a program starts as well.
"""

import builtins
import io
import os
import select
import selectors  # noqa: F401 - chooses its calls before they are removed, as do subprocess, socket and shutil
import shutil  # noqa: F401
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

MODULES = ("fcntl", "resource", "termios", "tty", "pty", "pwd", "grp", "syslog")
HIDDEN = ("/proc", "/sys", "/dev/shm", "/dev/video")
REMOVED: dict[Any, str] = {
    os: """sched_getaffinity sched_setaffinity sched_yield pidfd_open memfd_create posix_spawn posix_spawnp
        posix_fallocate posix_fadvise geteuid getgid getegid setsid getpgid killpg sysconf readv writev preadv
        pwritev sendfile statvfs O_NONBLOCK O_CLOEXEC O_NOFOLLOW wait3 wait4 getloadavg mkfifo fork set_blocking
        nice lockf eventfd POSIX_SPAWN_OPEN POSIX_SPAWN_DUP2""",
    signal: """SIGHUP SIGQUIT SIGTSTP SIGKILL SIGUSR1 SIGUSR2 SIGALRM alarm setitimer pthread_sigmask siginterrupt
        sigwait pidfd_send_signal""",
    select: "poll epoll",
    socket: "AF_UNIX",
    time: "clock_gettime clock_gettime_ns CLOCK_BOOTTIME",
}


def guard(call: Callable[..., Any]) -> Callable[..., Any]:
    """The call, for which the hidden folders do not exist."""

    def guarded(path: Any = ".", *arguments: Any, **options: Any) -> Any:
        if isinstance(path, str | os.PathLike) and os.fspath(path).startswith(HIDDEN):
            raise FileNotFoundError(2, "hidden by the test", os.fspath(path))
        return call(path, *arguments, **options)

    return guarded


def select_sockets(readers: Any, writers: Any, others: Any, timeout: float | None = None) -> Any:
    """`select.select` as Windows has it: for sockets only."""
    for one in (*readers, *writers):
        if not stat.S_ISSOCK(os.fstat(one if isinstance(one, int) else one.fileno()).st_mode):
            raise OSError(10038, "not a socket")
    return real_select(readers, writers, others, timeout)


def socketpair(family: Any = None, *arguments: Any) -> Any:
    return real_socketpair(unix if family is None else family, *arguments)


for name in MODULES:
    sys.modules[name] = None  # type: ignore[assignment]
real_select, select.select = select.select, select_sockets
real_socketpair, unix, socket.socketpair = socket.socketpair, socket.AF_UNIX, socketpair  # type: ignore[assignment]
subprocess.Popen.kill = subprocess.Popen.terminate  # type: ignore[method-assign]
for module, names in REMOVED.items():
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
builtins.open = io.open = guard(open)
for name in ("open", "stat", "lstat", "listdir", "scandir"):
    setattr(os, name, guard(getattr(os, name)))
