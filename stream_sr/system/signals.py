"""The signals that this system has: Windows knows neither SIGHUP nor those of a terminal's job control."""

from __future__ import annotations

import signal

HANGUP: signal.Signals | None = getattr(signal, "SIGHUP", None)
STOPS = (signal.SIGINT, signal.SIGTERM, *(() if HANGUP is None else (HANGUP,)))  # each of them stops a run


def ignore_hangup() -> None:
    """Ignore SIGHUP from now on, where there is one. Call it in the main thread."""
    if HANGUP is not None:
        signal.signal(HANGUP, signal.SIG_IGN)
