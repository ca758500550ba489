"""How fast an engine is, on its own, and the figures of a run, printed the way trtexec ends.

An engine is measured on changing pictures after a warm-up, one thread, up to ``depth`` in flight. What a backend does
not tell apart (copies to a device and back) is absent from the result and from the print, never filled in.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from stream_sr.backends import open_engine
from stream_sr.engine import Engine, EngineOptions, Pending
from stream_sr.errors import ConfigError
from stream_sr.frame import Frame, StreamInfo, chroma_shape, read_only
from stream_sr.machine import describe, format_line
from stream_sr.model import ModelSpec

TIME_BASE = Fraction(1, 30)
WARM_UP_FRAMES = 5
PICTURES_BYTES = 64 << 20  # memory for the prepared input pictures
ROWS = (  # keys of a result and trtexec's names for them; only a GPU backend can tell the last three apart
    ("enqueue_ms", "Enqueue Time"),
    ("h2d_ms", "H2D Latency"),
    ("gpu_compute_ms", "GPU Compute Time"),
    ("d2h_ms", "D2H Latency"),
)
STAGES = ("decode", "wait", "infer", "wait output", "encode", "write")


def bench_engine(
    model: ModelSpec | None,
    width: int,
    height: int,
    options: EngineOptions,
    *,
    scale: int | None = None,
    frames: int | None = None,
    seconds: float = 5.0,
    command: str = "",
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Time an engine on ``width`` x ``height`` input: ``frames`` frames, or for ``seconds`` where it is None.

    Returns ``open_seconds``, ``first_frame_ms`` (both before the warm-up), ``frames``, ``wall_seconds``,
    ``throughput_fps``, ``latency_ms`` and ``enqueue_ms`` (submit to result, and the call of submit: min, max, mean,
    p50, p90, p95, p99), ``cpu_ms_per_frame`` (processor time of the whole process, all threads), ``depth``, what the
    engine says of itself, ``machine`` and ``command``. With more than one frame in flight the latency includes the
    wait for the frames in front. Ends early, with what it has, when ``stop()`` is true. Raises ConfigError for less
    than one frame, and what `open_engine` raises.
    """
    if (frames is not None and frames < 1) or seconds <= 0:
        raise ConfigError(f"nothing to measure in {frames} frames or {seconds:g} s; give at least one frame")
    began = time.monotonic_ns()
    engine = open_engine(model, StreamInfo(width, height, TIME_BASE), options, scale=scale)
    try:
        opened = time.monotonic_ns()
        pictures = make_pictures(width, height)
        start = time.monotonic_ns()
        engine.submit(pictures[0]).wait()
        first = time.monotonic_ns()
        _drive(engine, pictures, WARM_UP_FRAMES, math.inf, stop)
        timed = _drive(engine, pictures, frames, seconds, stop)
    finally:
        engine.close()
    spec = engine.spec
    return {
        "model": spec.model, "scale": spec.scale, "width": width, "height": height, "backend": spec.backend,
        "precision": spec.precision, "device": spec.device, "head": spec.head, "notes": list(spec.notes),
        "depth": engine.depth, "threads": options.threads,
        "open_seconds": round((opened - began) / 1e9, 3), "first_frame_ms": round((first - start) / 1e6, 3),
        **timed, "machine": describe(), "command": command,
    }  # fmt: skip


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
) -> dict[str, Any]:
    """Keep the engine's depth full and time every frame."""
    flying: deque[tuple[int, Pending]] = deque()
    latency: list[int] = []
    enqueue: list[int] = []
    limit = math.inf if frames is None else frames
    cpu, began = time.process_time_ns(), time.monotonic_ns()
    ends = math.inf if frames is not None else began + seconds * 1e9
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
    wall = time.monotonic_ns() - began
    return {
        "frames": number,
        "wall_seconds": round(wall / 1e9, 3),
        "throughput_fps": round(number / wall * 1e9, 3),
        "latency_ms": spread(latency),
        "enqueue_ms": spread(enqueue),
        "cpu_ms_per_frame": round((time.process_time_ns() - cpu) / number / 1e6, 3),
    }


def spread(durations_ns: Sequence[int]) -> dict[str, float]:
    """min, max, mean, p50, p90, p95 and p99 in milliseconds; percentiles by nearest rank, as trtexec has them."""
    ordered = sorted(durations_ns)
    figures = {"min": ordered[0], "max": ordered[-1], "mean": sum(ordered) / len(ordered)}
    for percent in (50, 90, 95, 99):
        figures[f"p{percent}"] = ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]
    return {name: round(ns / 1e6, 3) for name, ns in figures.items()}


def format_trtexec(result: Mapping[str, Any]) -> str:
    """What `bench_engine` returned, as trtexec's closing lines. Rows that the backend does not know are absent."""
    size = f"{result['width']}x{result['height']}"
    larger = f"{result['width'] * result['scale']}x{result['height'] * result['scale']}"
    lines = [
        f"{result['model']} x{result['scale']}, {size} to {larger}, {result['backend']} {result['precision']}"
        f" on {result['device']}" + (f", {result['head']}" if result["head"] else ""),
        *(f"note: {note}" for note in result["notes"]),
        f"Opened in {result['open_seconds']:.2f} s, first frame after {result['first_frame_ms']:.2f} ms",
        "",
        "=== Performance summary ===",
        f"Throughput: {result['throughput_fps']:.6g} qps",
        _trtexec_row("Latency", result["latency_ms"]),
        *(_trtexec_row(title, result[key]) for key, title in ROWS if key in result),
        f"Total Host Walltime: {result['wall_seconds']:.6g} s",
        f"CPU time: {result['cpu_ms_per_frame']:.6g} ms per frame (all threads), {result['frames']} frames,"
        f" {result['depth']} in flight",
        f"Machine: {format_line(result['machine'])}",
    ]
    return "\n".join(lines)


def _trtexec_row(title: str, ms: Mapping[str, float]) -> str:
    return (
        f"{title}: min = {ms['min']:.6g} ms, max = {ms['max']:.6g} ms, mean = {ms['mean']:.6g} ms,"
        f" median = {ms['p50']:.6g} ms, percentile(90%) = {ms['p90']:.6g} ms,"
        f" percentile(95%) = {ms['p95']:.6g} ms, percentile(99%) = {ms['p99']:.6g} ms"
    )


def format_stages(report: Mapping[str, Any]) -> str:
    """The stages, the way from capture to output and the drops of a run's report, as a block of plain text.

    ``report`` holds what `Stats.summary` gives. Stages that nothing was recorded for are absent.
    """
    measured = {name: figures for name, figures in report["stages_ms"].items() if figures.get("count")}
    names = [name for name in STAGES if name in measured] + sorted(set(measured) - set(STAGES))
    lines = [f"{'ms':<18}{'p50':>9}{'p95':>9}{'p99':>9}{'mean':>9}{'max':>9}"]
    lines += [_stage_row(name, measured[name]) for name in names]
    if report["latency_ms"].get("count"):
        lines.append(_stage_row("capture to output", report["latency_ms"]))
    dropped = ", ".join(f"{reason} {count}" for reason, count in sorted(report["dropped"].items()) if count) or "none"
    lines.append(
        f"{report['frames_in']} frames in, {report['frames_out']} out, {report['fps']:.1f} fps, dropped: {dropped}"
    )
    return "\n".join(lines)


def _stage_row(name: str, ms: Mapping[str, float]) -> str:
    return f"{name:<18}" + "".join(f"{ms[key]:9.2f}" for key in ("p50", "p95", "p99", "mean", "max"))
