"""What a person sees of a run while it goes: a status line on a terminal, a progress bar for files, else log lines."""

from __future__ import annotations

import logging
import math
import shutil
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol, TextIO

from tqdm import tqdm

from stream_sr.pipeline.stats import Stats
from stream_sr.system.printable import printable
from stream_sr.video.frame import StreamInfo

LOG_EVERY_SECONDS = 5.0


class Status(Protocol):
    """Shown at every tick, closed once."""

    def show(self, stats: Stats) -> None: ...

    def close(self) -> None: ...


Model = Callable[[Stats], str]  # what is said of the model, empty where it does not change


def open_status(
    source: StreamInfo,
    output: StreamInfo,
    *,
    frames: int | None,
    stream: TextIO | None = None,
    model: Model = lambda _: "",
) -> Status:
    """The right form for this run: a bar where the end is known, a line on a terminal, else log lines."""
    stream = stream or sys.stderr
    sizes = f"{source.width}x{source.height} > {output.width}x{output.height}"
    if not stream.isatty():
        return LogStatus(sizes, model, frames, live=source.live)
    if not source.live:
        return ProgressBar(sizes, frames, stream)
    return StatusLine(sizes, stream, model)


class Rate:
    """Frames per second over the last ticks, not since the start: what it is now."""

    def __init__(self, seconds: float = 2.0) -> None:
        self._seconds = seconds
        self._marks: list[tuple[float, int]] = []

    def update(self, frames: int) -> float:
        now = time.monotonic()
        self._marks.append((now, frames))
        while len(self._marks) > 2 and now - self._marks[1][0] > self._seconds:
            self._marks.pop(0)
        (began, first), (ended, last) = self._marks[0], self._marks[-1]
        return (last - first) / (ended - began) if ended > began else 0.0


def describe(sizes: str, fps: float, summary: dict[str, Any], model: str = "", *, live: bool = True) -> str:
    """``640x360 > 1280x720  30.0 fps  latency p50 12.1 p99 20.3 ms  dropped 3 (late 3)``, and the source's losses.

    A file goes as fast as it can and waits for itself: no latency is told, and drops only where there are some.
    """
    parts = [sizes, f"{fps:5.1f} fps", *([model] if model else [])]
    latency = summary["latency_ms"]
    if latency["count"] and live:
        parts.append(f"latency p50 {latency['p50']:.1f} p99 {latency['p99']:.1f} ms")
    dropped = summary["dropped"]
    total = sum(dropped.values())
    reasons = ", ".join(f"{reason} {count}" for reason, count in dropped.items())
    parts += [f"dropped {total} ({reasons})"] if total else ["dropped 0"] if live else []
    parts += [f"repeated {summary['repeated']}"] if summary["repeated"] else []
    parts += [f"{name.replace('_', ' ')} {count}" for name, count in summary["lost_in_source"].items()]
    return "  ".join(parts)


def describe_briefly(fps: float, summary: dict[str, Any], model: str = "") -> str:
    """The same in 40 columns: ``30.0 fps  12.1/20.3 ms  dropped 3``, and what is said of the model."""
    latency = summary["latency_ms"]
    delay = f"  {latency['p50']:.1f}/{latency['p99']:.1f} ms" if latency["count"] else ""
    return f"{fps:.1f} fps{delay}  dropped {sum(summary['dropped'].values())}" + (f"  {model}" if model else "")


class StatusLine:
    """One line, rewritten."""

    def __init__(self, sizes: str, stream: TextIO, model: Model) -> None:
        self._sizes, self._stream, self._model, self._rate = sizes, stream, model, Rate()
        self._handler = _AboveLine(stream)
        logging.getLogger("stream_sr").addHandler(self._handler)

    def show(self, stats: Stats) -> None:
        summary = stats.summary()
        fps = self._rate.update(summary["frames_out"])
        width = shutil.get_terminal_size().columns - 1
        model = printable(self._model(stats))
        text = describe(self._sizes, fps, summary, model)
        if len(text) > width:
            text = describe_briefly(fps, summary, model)
        self._stream.write("\r\x1b[2K" + text[:width])
        self._stream.flush()

    def close(self) -> None:
        self._stream.write("\r\x1b[2K")
        self._stream.flush()
        logging.getLogger("stream_sr").removeHandler(self._handler)


class _AboveLine(logging.Handler):
    """Clears the status line before the next handler writes its log line there."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._to = stream

    def emit(self, record: logging.LogRecord) -> None:
        self._to.write("\r\x1b[2K")
        self._to.flush()


class ProgressBar:
    """Progress through a file."""

    def __init__(self, sizes: str, frames: int | None, stream: TextIO) -> None:
        self._bar = tqdm(total=frames, unit=" frames", desc=sizes, file=stream, dynamic_ncols=True, smoothing=0.1)

    def show(self, stats: Stats) -> None:
        self._bar.update(stats.summary()["frames_out"] - self._bar.n)

    def close(self) -> None:
        self._bar.close()


class LogStatus:
    """A log line every few seconds; of a file, how far it is."""

    def __init__(self, sizes: str, model: Model, frames: int | None, *, live: bool) -> None:
        self._sizes, self._model, self._rate, self._due = sizes, model, Rate(LOG_EVERY_SECONDS), -math.inf
        self._live, self._of = live, f" of {frames}" if frames else ""

    def show(self, stats: Stats) -> None:
        now = time.monotonic()
        if self._due == -math.inf:
            self._due = now + LOG_EVERY_SECONDS
            self._rate.update(0)
        elif now >= self._due:
            self._due = now + LOG_EVERY_SECONDS
            summary = stats.summary()
            rate = self._rate.update(summary["frames_out"])
            text = describe(self._sizes, rate, summary, self._model(stats), live=self._live)
            far = "" if self._live else f"{summary['frames_out']}{self._of} frames  "
            logging.getLogger("stream_sr").info("%s%s", far, text)

    def close(self) -> None:
        pass
