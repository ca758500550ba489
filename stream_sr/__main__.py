"""The program's entry: ``python -m stream_sr`` and ``stream-sr``."""

import os
import signal
import sys


def main() -> int:
    """Run the command line. Ctrl-C while libraries are loaded, or on the way out, ends the process without a word."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.stderr is None:  # closed, as daemons and cron have it
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - for as long as the process lives
    from stream_sr.cli import main as run

    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return run()
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


if __name__ == "__main__":
    sys.exit(main())
