"""The report of a run: what was read, computed and written, as JSON."""

from __future__ import annotations

from typing import Any

from stream_sr.app.telemetry import auto_figures
from stream_sr.config import Config
from stream_sr.pipeline.engine import EngineSpec
from stream_sr.pipeline.plan import Plan, counters_of
from stream_sr.pipeline.stats import Stats
from stream_sr.system import machine
from stream_sr.video.frame import StreamInfo


def expected_frames(info: StreamInfo, config: Config) -> int | None:
    """About how many frames will come, None where nobody knows; not every container counts its own."""
    if info.frame_count is not None and config.duration is None:
        return info.frame_count
    seconds = [one for one in (info.duration_seconds, config.duration) if one is not None]
    return round(min(seconds) * info.fps) if info.fps and seconds else None


def make_report(plan: Plan, stats: Stats, error: BaseException | None) -> dict[str, Any]:
    """The figures of a run: counts, drops by reason, fps, latency and stage percentiles in ms, what computed where."""
    info, output, spec = plan.source.info, plan.output, plan.engine.spec
    report = stats.summary() | {
        "source": {"name": info.name, "live": info.live} | _size(info),
        "output": _size(output),
    }
    for sink, counts in zip(plan.sinks, report["outputs"].values(), strict=False):
        counts.update(counters_of(sink))
    report |= engine_block(spec) | auto_figures(spec, stats)
    report["machine"] = machine.describe()
    if error is not None:
        report["error"] = {"kind": type(error).__name__, "message": str(error)}
        report["exit_code"] = getattr(error, "exit_code", 1)
    return report


def engine_block(spec: EngineSpec) -> dict[str, Any]:
    """What a report says of an engine."""
    return {
        "model": spec.model,
        "scale": spec.scale,
        "backend": spec.backend,
        "precision": spec.precision,
        "device": spec.device,
        "head": spec.head,
        "notes": list(spec.notes),
    }


def _size(info: StreamInfo) -> dict[str, Any]:
    return {"width": info.width, "height": info.height, "fps": float(info.fps) if info.fps else None}
