"""A second Ctrl-C ends the program, whatever its threads are stuck in: a small process beside it sees to that.

The interpreter writes the number of each signal into a pipe from its signal handler in C (`signal.set_wakeup_fd`),
also while a native call holds the interpreter's lock or the main thread does not return from one. This process reads
them. It kills its parent some seconds after the second signal to stop, if the parent has not ended by then. It needs
nothing from the parent's threads, so it cannot be stuck with them.

Run as a program, ``python -I -S watchdog.py PARENT NUMBER...``, it is that process: only the standard library is there.
"""

import os
import select
import signal
import sys
import time
from collections.abc import Collection
from contextlib import suppress

try:
    import fcntl
except ImportError:  # Windows
    AVAILABLE = False
else:
    AVAILABLE = hasattr(os, "posix_spawn")

GRACE_SECONDS = 5.0  # from the second signal on: threads are given 2 s to end, then files are closed
KILL_SECONDS = 1.0  # for a kill to have its effect
TEXT = (
    f"stream-sr: error: not ended {GRACE_SECONDS:g} s after the second signal to stop: a library hangs; killed "
    "(exit code 137). MP4, MOV, MKV and TS files are playable up to their last fragment.\n"
)


def start(*, hangup_stops: bool = True) -> None:
    """Begin to watch this process until its end. Call it in the main thread.

    SIGINT and SIGTERM stop, as far as they have a Python handler, and so does SIGHUP with ``hangup_stops``. Where no
    process can be started this way (not `AVAILABLE`), there is no watchdog: that ends nothing.
    """
    if not AVAILABLE or not sys.executable:
        return
    stops = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hangup_stops else [])]
    ends = os.pipe()
    # above 2: a standard stream that is closed must not become the pipe
    reading, writing = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 3) for end in ends)
    for end in ends:
        os.close(end)
    os.set_blocking(writing, False)
    program = [sys.executable, "-I", "-S", __file__, str(os.getpid()), *(str(int(number)) for number in stops)]
    try:
        os.posix_spawn(
            sys.executable,
            program,
            os.environ,
            setsigmask=[*stops, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP],
            file_actions=[(os.POSIX_SPAWN_DUP2, reading, 0), (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)],
        )
    except OSError:
        os.close(writing)
    else:
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    finally:
        os.close(reading)


def watch(parent: int, stops: Collection[int]) -> None:
    """Read signal numbers from descriptor 0 until the parent ends, or until it has to be killed."""
    with suppress(OSError):
        os.setsid()  # no Ctrl-C and no end of the terminal reaches this process
    os.chdir("/")
    os.closerange(3, 4096)
    process = _open(parent)  # names this very process, whoever gets its number later
    seen, deadline = 0, None
    while True:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        if not select.select([0], [], [], left)[0]:
            break
        numbers = os.read(0, 4096)
        if not numbers:
            return
        seen += sum(number in stops for number in numbers)
        if seen > 1 and deadline is None:
            deadline = time.monotonic() + GRACE_SECONDS
    if os.getppid() == parent:
        _kill(parent, process)
        _report()


def _open(parent: int) -> int | None:
    """A descriptor of the parent; None before Linux 5.3 and on other systems."""
    try:
        return os.pidfd_open(parent) if os.getppid() == parent else None
    except (OSError, AttributeError):
        return None


def _report() -> None:
    """Write `TEXT` to standard error, if it is taken now: a full pipe must not keep this process."""
    with suppress(OSError):
        if select.select([], [2], [], 0)[1]:
            os.write(2, TEXT.encode())


def _kill(parent: int, process: int | None) -> None:
    if process is None:
        os.kill(parent, signal.SIGKILL)
    else:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(process, signal.SIGKILL)
    if _has_ended(KILL_SECONDS):
        return
    # The first process of a container is killed by nobody inside it, but the kernel ends it at its limit of CPU time.
    with suppress(OSError, ValueError, ImportError, AttributeError):  # prlimit: Linux
        import resource

        resource.prlimit(parent, resource.RLIMIT_CPU, (1, 1))


def _has_ended(seconds: float) -> bool:
    """Whether the parent, which holds the other end of the pipe, ends in this time."""
    deadline = time.monotonic() + seconds
    while select.select([0], [], [], max(0.0, deadline - time.monotonic()))[0]:
        if not os.read(0, 4096):
            return True
    return False


if __name__ == "__main__":
    with suppress(Exception):
        watch(int(sys.argv[1]), {int(number) for number in sys.argv[2:]})
    os._exit(0)
