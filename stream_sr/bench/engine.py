"""How fast an engine is, on its own.

An engine is measured on changing frames after a warm-up, in one thread, with up to ``depth`` frames in flight.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from stream_sr.bench.rounds import LoadMeter, Turn, measure
from stream_sr.errors import ConfigError
from stream_sr.inference.engines import open_engine
from stream_sr.inference.model import ModelSpec
from stream_sr.pipeline.engine import Engine, EngineOptions, Pending
from stream_sr.video.frame import Frame, StreamInfo
from stream_sr.video.planes import chroma_shape, read_only

TIME_BASE = Fraction(1, 30)
WARM_UP_FRAMES = 5
PICTURES_BYTES = 64 << 20  # memory for the prepared input pictures


def bench_engine(
    model: ModelSpec | None,
    width: int,
    height: int,
    options: EngineOptions,
    *,
    scale: int | None = None,
    frames: int | None = None,
    seconds: float = 1.0,
    rounds: int = 1,
) -> dict[str, Any]:
    """Time one engine alone; the row that `EngineSubject` makes of it. Raises as that does."""
    subject = EngineSubject(model, (width, height), options, scale=scale, frames=frames, seconds=seconds)
    try:
        return measure([subject], rounds)[0]
    finally:
        subject.close()


class EngineSubject:
    """An engine on ``size`` input, a round being ``frames`` frames, or ``seconds`` where that is None.

    Its figures: what the engine says of itself, ``open_seconds``, ``first_frame_ms`` (both before the warm-up),
    ``latency_ms`` and ``enqueue_ms`` (submit to result, and the call of submit: min, max, mean, p50, p90, p95, p99
    over all rounds). With more than one frame in flight the latency includes the wait for the frames in front. A round
    ends early, with what it has, when ``stop()`` is true. Raises ConfigError for less than one frame; warming up raises
    what `open_engine` raises.
    """

    def __init__(
        self,
        model: ModelSpec | None,
        size: tuple[int, int],
        options: EngineOptions,
        *,
        scale: int | None = None,
        frames: int | None = None,
        seconds: float = 1.0,
        label: str = "",
        stop: Callable[[], bool] = lambda: False,
        meter: LoadMeter | None = None,
    ) -> None:
        if (frames is not None and frames < 1) or seconds <= 0:
            raise ConfigError(f"nothing to measure in {frames} frames or {seconds:g} s; give at least one frame")
        self.label = label
        self._limits = frames, seconds
        self._stop, self._meter = stop, meter or LoadMeter()
        self._request = model, size, options, scale
        self._latency: list[int] = []
        self._enqueue: list[int] = []
        self._engine: Engine | None = None
        self._pictures: list[Frame] = []
        self._open_ns = self._first_ns = 0

    def warm_up(self) -> None:
        """Opens the engine, too."""
        model, size, options, scale = self._request
        began = time.monotonic_ns()
        self._engine = engine = open_engine(model, StreamInfo(*size, TIME_BASE), options, scale=scale)
        self._open_ns = time.monotonic_ns() - began
        self._pictures = make_pictures(*size)
        began = time.monotonic_ns()
        engine.submit(self._pictures[0]).wait()
        self._first_ns = time.monotonic_ns() - began
        _drive(engine, self._pictures, WARM_UP_FRAMES, math.inf, self._stop)

    def turn(self) -> Turn:
        """See `Subject.turn`."""
        assert self._engine is not None, "warm_up comes first"
        self._meter.begin()
        began = time.monotonic_ns()
        latency, enqueue = _drive(self._engine, self._pictures, *self._limits, self._stop)
        wall = time.monotonic_ns() - began
        load = self._meter.end(len(latency))
        self._latency += latency
        self._enqueue += enqueue
        return Turn(len(latency) / wall * 1e9, len(latency), wall / 1e9, load)

    def figures(self) -> dict[str, Any]:
        """See `Subject.figures`; of an engine that could not be opened, what was asked for."""
        model, (width, height), options, scale = self._request
        if self._engine is None:
            return {
                "model": model.name if model else "bicubic",
                "scale": model.scale if model else scale,
                "width": width,
                "height": height,
                "backend": options.backend,
                "precision": options.precision,
            }
        spec = self._engine.spec
        found = {
            "model": spec.model, "scale": spec.scale, "width": width, "height": height, "backend": spec.backend,
            "precision": spec.precision, "device": spec.device, "head": spec.head, "notes": list(spec.notes),
            "depth": self._engine.depth, "threads": options.threads,
            "open_seconds": round(self._open_ns / 1e9, 3), "first_frame_ms": round(self._first_ns / 1e6, 3),
        }  # fmt: skip
        if self._latency:
            found |= {"latency_ms": spread(self._latency), "enqueue_ms": spread(self._enqueue)}
        return found

    def close(self) -> None:
        """Close the engine, if it was opened."""
        if self._engine is not None:
            self._engine.close()


def make_pictures(width: int, height: int) -> list[Frame]:
    """Different frames of smooth texture and noise, 2 to 32 of them as memory allows, seeded, so never two equal ones.

    Made beforehand, so that making them is not measured.
    """
    rows, columns = chroma_shape(width, height)
    count = max(2, min(32, PICTURES_BYTES // (width * height + 2 * rows * columns)))
    random = np.random.default_rng(1)
    y, x = np.mgrid[: height + count, : width + count].astype(np.float32)
    texture = 128 + 50 * np.sin(x / 17 + y / 29) + 30 * np.sin(x * y / 5000) + random.normal(0, 6, x.shape)
    luma = np.clip(texture, 16, 235).astype(np.uint8)
    frames = []
    for n in range(count):
        planes = (
            np.ascontiguousarray(luma[n : n + height, n : n + width]),
            np.ascontiguousarray(luma[n : n + rows, n : n + columns]),
            np.ascontiguousarray(luma[count - n : count - n + rows, :columns]),
        )
        frames.append(Frame(read_only(planes), pts=n, time_base=TIME_BASE, number=n))
    return frames


def _drive(
    engine: Engine, pictures: Sequence[Frame], frames: int | None, seconds: float, stop: Callable[[], bool]
) -> tuple[list[int], list[int]]:
    """Keep the engine's depth full and time every frame: nanoseconds to its result, and of the call of submit."""
    flying: deque[tuple[int, Pending]] = deque()
    latency: list[int] = []
    enqueue: list[int] = []
    limit = math.inf if frames is None else frames
    ends = math.inf if frames is not None else time.monotonic_ns() + seconds * 1e9
    number, more = 0, True
    while more or flying:
        if more and len(flying) < engine.depth:
            submitted = time.monotonic_ns()
            flying.append((submitted, engine.submit(pictures[number % len(pictures)])))
            enqueue.append(time.monotonic_ns() - submitted)
            number += 1
            more = number < limit and time.monotonic_ns() < ends and not stop()
        else:
            submitted, pending = flying.popleft()
            pending.wait()
            latency.append(time.monotonic_ns() - submitted)
    return latency, enqueue


def spread(durations_ns: Sequence[int]) -> dict[str, float]:
    """min, max, mean, p50, p90, p95 and p99 in milliseconds; percentiles by nearest rank, as trtexec has them."""
    ordered = sorted(durations_ns)
    figures = {"min": ordered[0], "max": ordered[-1], "mean": sum(ordered) / len(ordered)}
    for percent in (50, 90, 95, 99):
        figures[f"p{percent}"] = ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]
    return {name: round(ns / 1e6, 3) for name, ns in figures.items()}
