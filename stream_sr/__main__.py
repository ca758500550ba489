"""The program's entry: ``python -m stream_sr`` and ``stream-sr``."""

import ctypes
import os
import signal
import sys
from contextlib import suppress

from stream_sr.cli import watchdog

M_ARENA_MAX = -8  # glibc's malloc.h
ARENAS = 2


def share_arenas() -> None:
    """Have glibc serve all threads from two arenas, unless the environment says otherwise; no other libc knows this.

    Else threads that come and go, as with every camera that is lost and found, leave blocks behind in up to eight
    arenas a core, whose holes serve nobody: measured, a third of a MiB with every reconnect.
    """
    if "MALLOC_ARENA_MAX" not in os.environ:
        with suppress(OSError, AttributeError, TypeError):
            ctypes.CDLL(None).mallopt(M_ARENA_MAX, ARENAS)


def main() -> int:
    """Run the command line. Ctrl-C while libraries are loaded, or on the way out, ends the process without a word."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.argv[1:2] == ["serve"]:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # read again what has not been read yet: nothing to do
    share_arenas()
    if sys.stderr is None:  # closed, as daemons and cron have it
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - for as long as the process lives
    watchdog.start(sys.argv[1:])
    from stream_sr.cli.main import main as run
    from stream_sr.pipeline.threads import finish_process

    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code = run()
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    return finish_process(code)


if __name__ == "__main__":
    sys.exit(main())
