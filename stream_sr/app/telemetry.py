"""The figures of a run while it goes, for displays: what computes, how fast, how late, what was lost, what it costs."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from stream_sr.app.status import Rate
from stream_sr.pipeline.engine import EngineSpec
from stream_sr.pipeline.plan import Plan
from stream_sr.pipeline.stats import STEPS_KEPT, Histogram, Stats
from stream_sr.system import machine
from stream_sr.system.memory import resident_mib
from stream_sr.system.printable import printable

WINDOW_SECONDS = 2.0  # of the rates and of the latency that is shown
LATEST_NOTES = 5
LATEST_STEPS = 5


class Telemetry:
    """Makes the figures, from one thread, at every tick.

    ``fps_in``, ``fps_out`` and ``latency_ms`` (p50 and p99, from capture to the first output; None without a frame) are
    of the last two seconds, ``total`` of the whole run; ``cpu`` is in percent of all cores. Files are named without
    their folders: a page may be open to others.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._in, self._out = Rate(WINDOW_SECONDS), Rate(WINDOW_SECONDS)
        self._latencies: deque[tuple[float, Histogram]] = deque()
        self._cpu, self._gpus = machine.CpuMeter(), machine.GpuMeter()

    def figures(self, stats: Stats) -> dict[str, Any]:
        """The figures now, as JSON would have them."""
        summary = stats.summary()
        plan, info, output = self._plan, self._plan.source.info, self._plan.output
        return {
            "source": {
                "name": printable(strip_folder(info.name)),
                "live": info.live,
                "width": info.width,
                "height": info.height,
            },
            "output": {"width": output.width, "height": output.height},
            "signal": getattr(plan.source, "signal", True),
            "engine": engine_figures(plan.engine.spec),
            **auto_figures(plan.engine.spec, stats, LATEST_STEPS),
            "fps_in": round(self._in.update(summary["frames_in"]), 2),
            "fps_out": round(self._out.update(summary["frames_out"]), 2),
            "latency_ms": self._recent(stats.latency()),
            "frames_in": summary["frames_in"],
            "frames_out": summary["frames_out"],
            "repeated": summary["repeated"],
            "dropped": summary["dropped"],
            "lost_in_source": summary["lost_in_source"],
            "outputs": _named(summary["outputs"]),
            "total": {"latency_ms": summary["latency_ms"], "stages_ms": summary["stages_ms"], "fps": summary["fps"]},
            "cpu": self._cpu.percent(),
            "gpus": self._gpus.percent(),
            "memory_mib": resident_mib(),
        }

    def _recent(self, latency: Histogram) -> dict[str, float | None]:
        now = time.monotonic()
        self._latencies.append((now, latency))
        while len(self._latencies) > 2 and now - self._latencies[1][0] > WINDOW_SECONDS:
            self._latencies.popleft()
        lately = latency.since(self._latencies[0][1])
        values = {"p50": lately.percentile_ms(50), "p99": lately.percentile_ms(99)}
        return {name: None if math.isnan(value) else round(value, 2) for name, value in values.items()}


def strip_folder(name: str) -> str:
    """The name of a source or an output as others may read it: a path's last part, anything else as it is."""
    if "://" in name:
        return name
    folder, _, last = name.rpartition("/")
    kind, mark, _ = folder.partition(":")
    return f"{kind}:{last}" if mark else last


def _named(outputs: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, counts in outputs.items():
        short = printable(strip_folder(name))
        found[f"{short} ({len(found) + 1})" if short in found else short] = counts
    return found


def engine_figures(spec: EngineSpec) -> dict[str, Any]:
    """What is told of an engine while it runs; of its notes the latest."""
    return {
        "model": spec.model,
        "scale": spec.scale,
        "backend": spec.backend,
        "precision": spec.precision,
        "device": spec.device,
        "notes": list(spec.notes[-LATEST_NOTES:]),
    }


def auto_figures(spec: EngineSpec, stats: Stats, latest: int = STEPS_KEPT) -> dict[str, Any]:
    """``auto``: what ``--model auto`` chooses from, whether it is on, and its steps; nothing where it never was."""
    steps = stats.steps(latest)
    if not spec.ladder and not steps["steps"]:
        return {}
    return {"auto": {"on": bool(spec.ladder), "ladder": list(spec.ladder)} | steps}


def auto_line(spec: EngineSpec, stats: Stats) -> str:
    """The same for a status line, such as ``auto: tiny, 3 steps``; empty while it is off."""
    if not spec.ladder:
        return ""
    steps = stats.steps(0)
    count = steps["up"] + steps["down"]
    return f"auto: {spec.model}, {count} step{'' if count == 1 else 's'}"
