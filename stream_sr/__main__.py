"""The program's entry: ``python -m stream_sr`` and ``stream-sr``."""

import os
import signal
import sys

from stream_sr.system import watchdog
from stream_sr.system.memory import share_arenas
from stream_sr.system.signals import ignore_hangup

LONG_RUNNING = {
    *("run", "preview", "restream", "serve", "latency", "demo", "bench", "train", "clips", "export", "quantize"),
    *("evaluate", "engine", "models"),
}


def main() -> int:
    """Run the command line. Ctrl-C while libraries are loaded, or on the way out, ends the process without a word."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    command = "".join(sys.argv[1:2])
    if command == "serve":
        ignore_hangup()  # it would have the file read again, which has not been read yet
    share_arenas()
    if sys.stderr is None:  # closed, as daemons and cron have it
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - for as long as the process lives
    if command in LONG_RUNNING:
        watchdog.start(hangup_stops=command != "serve")
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
