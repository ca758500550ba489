"""Picture quality against time: ``results/ladder.json`` and ``docs/ladder.png``.

    python benchmarks/ladder.py [--size 640x360] [--rounds 9]

The x2 models of ``results/quality.json`` and bicubic, one frame at a time through the default backend in its live
precision, with all cores. The models take turns, some frames each, so that what disturbs one disturbs all; the
median of the rounds counts. Run it on a quiet machine.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from stream_sr.bench.engine import TIME_BASE, make_pictures
from stream_sr.config import size
from stream_sr.errors import ConfigError, StreamSRError
from stream_sr.inference.engines import open_engine
from stream_sr.inference.model import find_model
from stream_sr.pipeline.engine import Engine, EngineOptions, EngineSpec
from stream_sr.system import machine
from stream_sr.video.frame import StreamInfo

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
FRAMES = 6  # of each turn; the first is not counted
SETS = ("Set5", "Set14", "B100")
OURS = ("tiny", "fast", "balanced", "quality")


def time_turns(engines: dict[str, Engine], width: int, height: int, rounds: int) -> dict[str, float]:
    """Median milliseconds of a frame, by model."""
    pictures = make_pictures(width, height)
    turns: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(rounds):
        for name, engine in engines.items():
            spent = []
            for n in range(FRAMES):
                began = time.perf_counter()
                engine.submit(pictures[n % len(pictures)]).wait()
                spent.append((time.perf_counter() - began) * 1e3)
            turns[name].append(statistics.median(spent[1:]))
    return {name: statistics.median(values) for name, values in turns.items()}


def psnr_of(quality: dict[str, Any], spec: EngineSpec) -> dict[str, float]:
    """PSNR by set of a x2 model as the engine computes it, or of bicubic. Raises ConfigError where it is not there."""
    rows = [row for row in quality["rows"] if row["scale"] == 2]
    if spec.backend == "bicubic":
        return {row["set"]: row["bicubic"]["psnr_y"] for row in rows}
    way = (spec.model, spec.backend, spec.precision)
    found = {row["set"]: row["psnr_y"] for row in rows if (row["model"], row["backend"], row["precision"]) == way}
    if set(found) != set(SETS):
        raise ConfigError(f"{' '.join(way)} is not in results/quality.json; run benchmarks/evaluate.py first")
    return found


def plot(rows: list[dict[str, Any]], out: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for row in rows:
        ours = row["model"] in OURS
        axes.scatter(
            row["ms"], row["psnr_y"]["Set14"], s=70, marker="o" if ours else "s", color="C0" if ours else "0.5"
        )
        label = row["model"] + (f", {row['parameters'] / 1000:.1f} K" if row["parameters"] else "")
        axes.annotate(label, (row["ms"], row["psnr_y"]["Set14"]), xytext=(8, -4), textcoords="offset points")
    axes.plot(
        *zip(*[(r["ms"], r["psnr_y"]["Set14"]) for r in rows if r["model"] in OURS], strict=True), color="C0", alpha=0.4
    )
    axes.set_xlabel("milliseconds per frame")
    axes.set_ylabel("PSNR on Set14 x2, dB")
    axes.set_xlim(left=0, right=max(row["ms"] for row in rows) * 1.25)
    axes.grid(visible=True, alpha=0.3)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=100, format="png", metadata={"Software": None})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=size, default=(640, 360), metavar="WxH")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=RESULTS / "ladder.json", metavar="FILE")
    parser.add_argument("--plot", type=Path, default=ROOT / "docs" / "ladder.png", metavar="FILE")
    parsed = parser.parse_args()
    width, height = parsed.size
    quality = json.loads((RESULTS / "quality.json").read_text())
    names = list(dict.fromkeys(row["model"] for row in quality["rows"] if row["scale"] == 2))
    info = StreamInfo(width, height, TIME_BASE)
    engines: dict[str, Engine] = {}
    try:
        engines["bicubic"] = open_engine(None, info, EngineOptions(backend="bicubic"), scale=2)
        for name in names:
            engines[name] = open_engine(find_model(name, 2), info, EngineOptions(fidelity=50.0))
        times = time_turns(engines, width, height, parsed.rounds)
    except StreamSRError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    finally:
        for engine in engines.values():
            engine.close()
    try:
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
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    for row in rows:
        print(f"{row['model']:>20}  {row['ms']:7.2f} ms  " + "  ".join(f"{row['psnr_y'][s]:.2f}" for s in SETS))
    command = f"python benchmarks/ladder.py --size {width}x{height} --rounds {parsed.rounds}"
    result = {"command": command, "machine": machine.describe(), "size": f"{width}x{height}", "rows": rows}
    parsed.out.write_text(json.dumps(result, indent=1) + "\n")
    plot(rows, parsed.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
