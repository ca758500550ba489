"""The viewer of the benchmark `soak` that stays, as a process of its own.

    python -m benchmarks.robustness.soak_viewer URL FILE

Appends a line for each frame to FILE, its moment in seconds and its age in ms, until it is ended.
"""

import sys
import time
from pathlib import Path

from stream_sr.pipeline.interfaces import SourceOptions
from stream_sr.sources import open_reconnecting_source
from stream_sr.video import barcode


def view(url: str, file: Path) -> None:
    """Read ``url`` for ever, across its reconnects."""
    source = open_reconnecting_source(url, SourceOptions(read_timeout=20))
    with file.open("w", buffering=1) as log:
        for frame in source.frames():
            now = time.monotonic_ns()
            reading = barcode.read(frame.planes[0])
            if reading is not None:
                log.write(f"{now / 1e9:.3f} {reading.age_ns(now) / 1e6:.1f}\n")


if __name__ == "__main__":
    view(sys.argv[1], Path(sys.argv[2]))
