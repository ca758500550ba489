"""What this system does not offer and what happens instead: for `doctor`, so that no fallback is silent."""

from __future__ import annotations

import os
from pathlib import Path

from stream_sr.system import files, signals, watchdog


def missing_features() -> list[str]:
    """Return one phrase for each call that this system lacks: what it is and what happens without it. None on Linux."""
    lacks = {
        "CPU affinity (all cores are counted)": not hasattr(os, "sched_getaffinity"),
        "SIGHUP (`serve` reads its file when it starts)": signals.HANGUP is None,
        "file locks (two processes may compile the same engine)": not files.HAS_LOCKS,
        "the watchdog (a library that hangs may hold up the second Ctrl-C)": not watchdog.AVAILABLE,
        "/proc (memory, load and instruction sets are unknown: no int8)": not Path("/proc/self/statm").exists(),
    }
    return [text for text, is_missing in lacks.items() if is_missing]
