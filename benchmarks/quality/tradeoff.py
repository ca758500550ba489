"""Quality against time: PSNR of the x2 models and what a frame takes.

    python -m benchmarks tradeoff [--size 640x360] [--rounds 9]

The x2 models of ``results/quality.json`` and bicubic, one frame at a time through the default backend in its live
precision, with all cores. The models take turns, some frames each, so that what disturbs one disturbs all; the
median of the rounds counts. Run it on a quiet machine.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.interface import Benchmark, Measurement
from benchmarks.quality.turns import time_turns
from benchmarks.record import RESULTS, read_record
from stream_sr.bench.engine import TIME_BASE
from stream_sr.cli.listing import SETS
from stream_sr.config import size
from stream_sr.errors import ConfigError
from stream_sr.evaluation.plots import new_figure, save_figure
from stream_sr.inference.engines import open_engine
from stream_sr.inference.model import PRESETS, find_model
from stream_sr.pipeline.engine import LIVE_FIDELITY, Engine, EngineOptions, EngineSpec
from stream_sr.video.frame import StreamInfo


def psnr_of(quality: dict[str, Any], spec: EngineSpec) -> dict[str, float]:
    """PSNR by set of a x2 model as the engine computes it, or of bicubic. Raises ConfigError where it is not there."""
    rows = [row for row in quality["rows"] if row["scale"] == 2]
    if spec.backend == "bicubic":
        return {row["set"]: row["bicubic"]["psnr_y"] for row in rows}
    key = (spec.model, spec.backend, spec.precision)
    found = {row["set"]: row["psnr_y"] for row in rows if (row["model"], row["backend"], row["precision"]) == key}
    if set(found) != set(SETS):
        raise ConfigError(f"{' '.join(key)} is not in results/quality.json; run `python -m benchmarks quality` first")
    return found


def plot(result: Mapping[str, Any], out: Path) -> Path:
    rows = result["rows"]
    figure = new_figure(8, 5)
    axes = figure.subplots()
    for row in rows:
        ours = row["model"] in PRESETS
        axes.scatter(
            row["ms"], row["psnr_y"]["Set14"], s=70, marker="o" if ours else "s", color="C0" if ours else "0.5"
        )
        label = row["model"] + (f", {row['parameters'] / 1000:.1f} K" if row["parameters"] else "")
        axes.annotate(label, (row["ms"], row["psnr_y"]["Set14"]), xytext=(8, -4), textcoords="offset points")
    axes.plot(
        *zip(*[(r["ms"], r["psnr_y"]["Set14"]) for r in rows if r["model"] in PRESETS], strict=True),
        color="C0",
        alpha=0.4,
    )
    axes.set_xlabel("milliseconds per frame")
    axes.set_ylabel("PSNR on Set14 x2, dB")
    axes.set_xlim(left=0, right=max(row["ms"] for row in rows) * 1.25)
    axes.grid(visible=True, alpha=0.3)
    return save_figure(figure, out)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", type=size, default=(640, 360), metavar="WxH")
    parser.add_argument("--rounds", type=int, default=9)


def measure(parsed: argparse.Namespace) -> Measurement:
    width, height = parsed.size
    quality = read_record(RESULTS / "quality.json")["result"]
    names = list(dict.fromkeys(row["model"] for row in quality["rows"] if row["scale"] == 2))
    info = StreamInfo(width, height, TIME_BASE)
    engines: dict[str, Engine] = {}
    try:
        engines["bicubic"] = open_engine(None, info, EngineOptions(backend="bicubic"), scale=2)
        for name in names:
            engines[name] = open_engine(find_model(name, 2), info, EngineOptions(fidelity=LIVE_FIDELITY))
        times = time_turns(engines, width, height, parsed.rounds)
    finally:
        for engine in engines.values():
            engine.close()
    rows: list[dict[str, Any]] = [
        {
            "model": name,
            "ms": round(ms, 2),
            "psnr_y": psnr_of(quality, engines[name].spec),
            "backend": engines[name].spec.backend,
            "precision": engines[name].spec.precision,
            "parameters": 0 if name == "bicubic" else find_model(name, 2).parameters,
            "macs_per_pixel": 0 if name == "bicubic" else find_model(name, 2).macs_per_pixel,
        }
        for name, ms in sorted(times.items(), key=lambda item: item[1])
    ]
    for row in rows:
        print(f"{row['model']:>20}  {row['ms']:7.2f} ms  " + "  ".join(f"{row['psnr_y'][s]:.2f}" for s in SETS))
    return Measurement({"size": f"{width}x{height}", "rows": rows})


ENTRY = Benchmark(add_options=add_options, measure=measure, plot=plot, image="tradeoff.png")
