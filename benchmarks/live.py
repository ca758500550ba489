"""The live restream, measured: camera process -> RTSP -> filter -> RTSP -> viewer process, on this machine.

    python benchmarks/live.py [--seconds 60] [--models fast,fsrcnn-s] [--size 640x360@30] [--readers ours,...]

Each model runs for ``--seconds`` with our reader, and in the same run with those of others (readers.py) in the same
chain, after a warm-up run. The viewer and the filter read the camera's clock out of each picture. Memory is the filter
process's resident set, sampled every second. Writes results/live.json and docs/latency.png.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from readers import READERS

from stream_sr.app.engine_setup import open_fitted_engine, warm_up
from stream_sr.app.report import make_report
from stream_sr.cli.demo import child, free_port, wait_for_port
from stream_sr.cli.latency import WARM_UP_SECONDS, LatencyProbe, chain
from stream_sr.codec.encoder import Encoder
from stream_sr.config import Config
from stream_sr.pipeline.interfaces import SinkOptions
from stream_sr.pipeline.pipeline import Pipeline
from stream_sr.pipeline.plan import Plan
from stream_sr.pipeline.stats import Stats
from stream_sr.sinks import open_sink
from stream_sr.system import machine

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PATIENCE_SECONDS = 30.0
PAGE_BYTES = 4096
STAGES = {"camera": "camera to capture", "filter": "capture to result", "out": "result to viewer"}


def resident_mib(pid: int) -> float:
    """Resident memory of a process, MiB; 0 once it has gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES / 2**20
    except (OSError, IndexError):
        return 0.0


def measure(
    model: str, size: str, seconds: float, *, reader: str = "ours", max_latency: float = Config.max_latency
) -> dict[str, Any]:
    """One run: the filter's own report, the chain's stages, memory over time."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        camera, served = free_port(), free_port()
        address = f"rtsp://@:{camera}/camera"
        stack.enter_context(
            child("camera", "run", f"synthetic:photos,{size}", address, "--backend", "bicubic", "--scale", "1")
        )
        wait_for_port(camera, PATIENCE_SECONDS)
        seen = folder / "viewer.json"
        viewed = ("view", f"rtsp://127.0.0.1:{served}/sr", str(seen), "tcp")
        viewer = stack.enter_context(child("viewer", *viewed, module="stream_sr.cli.latency"))
        asked = {
            "source": f"rtsp://127.0.0.1:{camera}/camera",
            "sink": f"rtsp://@:{served}/sr",
            "reader": reader,
            "model": model,
            "seconds": seconds,
            "max_latency": max_latency,
        }
        with tempfile.TemporaryFile() as said:
            process = subprocess.Popen(
                [sys.executable, str(ROOT / "benchmarks" / "live.py"), "filter", json.dumps(asked), str(folder)],
                stdout=subprocess.DEVNULL,
                stderr=said,
            )
            memory = []
            while process.poll() is None:
                memory.append(resident_mib(process.pid))
                time.sleep(1)
            if process.returncode:
                said.seek(0)
                raise RuntimeError(f"the filter ended with {process.returncode}: {said.read().decode()[-2000:]}")
        viewer.wait(PATIENCE_SECONDS)
        report = json.loads((folder / "report.json").read_text())
        marks = LatencyProbe()
        marks.burnt, marks.sequences = (
            {int(key): value for key, value in report.pop(name).items()} for name in ("burnt", "sequences")
        )
        found = chain(marks, {int(key): value for key, value in json.loads(seen.read_text()).items()})
    report["chain_ms"] |= {name: found[name] for name in ("out", "glass to glass")}
    quarter = max(1, len(memory) // 4)
    return report | {
        "reader": reader,
        "glass_to_glass_ms": found["glass to glass"],
        "memory_mib": {
            "second_quarter": round(statistics.median(memory[quarter : 2 * quarter] or memory), 1),
            "last_quarter": round(statistics.median(memory[-quarter - 1 : -1] or memory), 1),
            "peak": round(max(memory), 1),
        },
    }


def run_filter(asked: dict[str, Any], folder: Path) -> None:
    """The filter with one of the readers, as `session.run` composes it; report.json when the time is over."""
    config = Config(model=asked["model"], max_latency=asked["max_latency"])
    with ExitStack() as stack:
        sink = stack.enter_context(closing(open_sink(asked["sink"], SinkOptions())))
        source = stack.enter_context(closing(READERS[asked["reader"]](asked["source"])))
        engine = stack.enter_context(closing(open_fitted_engine(config, source.info, live=True)))
        warm_up(engine, source.info)
        marks = LatencyProbe()
        plan = Plan(
            source,
            engine,
            [sink],
            make_encoder=lambda info: Encoder(info, config.encoder_options, live=True),
            max_latency_ns=round(config.max_latency * 1e6),
            seen=marks.see,
        )
        pipeline = Pipeline(plan)
        deadline = time.monotonic() + asked["seconds"] + WARM_UP_SECONDS

        def tick(stats: Stats) -> None:
            if time.monotonic() > deadline:
                pipeline.stop()

        pipeline.run(tick=tick)
        report = make_report(plan, pipeline.stats, None)
    stages = marks.stats.summary()["stages_ms"]
    kept = ("model", "scale", "backend", "precision", "device", "frames_in", "frames_out", "dropped", "fps",
            "latency_ms", "stages_ms", "source", "output")  # fmt: skip
    report = {key: report[key] for key in kept} | {
        "chain_ms": {name: stages.get(name, {"count": 0}) for name in ("camera", "filter")},
        "burnt": marks.burnt,
        "sequences": marks.sequences,
    }
    (folder / "report.json").write_text(json.dumps(report))


def plot(rows: list[dict[str, Any]], out: Path) -> None:
    """Where the time of the median picture goes, a bar for each reader and model, and how late one in a hundred is."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.2 + 0.42 * len(rows)))
    axes = figure.subplots()
    names = [f"{row['reader']} ({row['model']})" for row in rows]
    left = [0.0] * len(rows)
    for stage, words in STAGES.items():
        widths = [row["chain_ms"][stage].get("p50", 0.0) for row in rows]
        axes.barh(range(len(rows)), widths, left=left, height=0.6, label=words)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    late = [row["glass_to_glass_ms"].get("p99", 0.0) for row in rows]
    axes.plot(late, range(len(rows)), "k|", markersize=12, label="glass to glass, p99")
    axes.set_yticks(range(len(rows)), names)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.05 * max([*late, *left]))
    axes.set_xlabel("ms after the camera's clock was drawn (stages: p50)")
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=4, frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(out, dpi=100, format="png", metadata={"Software": None})


def main() -> int:
    if sys.argv[1:2] == ["filter"]:
        run_filter(json.loads(sys.argv[2]), Path(sys.argv[3]))
        return 0
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--models", default="fast,fsrcnn-s")
    parser.add_argument("--readers", default=";".join(READERS), help="with ; between them")
    parser.add_argument("--size", default="640x360@30")
    parser.add_argument("--out", type=Path, default=RESULTS / "live.json")
    parser.add_argument("--plot", type=Path, default=ROOT / "docs" / "latency.png")
    options = parser.parse_args()
    rows = []
    for model in options.models.split(","):
        measure(model, options.size, 3)  # warm-up: caches, compiled engine
        for reader in options.readers.split(";"):
            rows.append(measure(model, options.size, options.seconds, reader=reader))
            glass, dropped = rows[-1]["glass_to_glass_ms"], sum(rows[-1]["dropped"].values())
            print(
                f"{model}, {reader}: {rows[-1]['fps']:.1f} fps, dropped {dropped}, glass to glass {glass}, "
                f"{rows[-1]['memory_mib']}",
                flush=True,
            )
    result = {
        "rows": rows,
        "seconds": options.seconds,
        "machine": machine.describe(),
        "command": machine.command_line(["python", "benchmarks/live.py", *sys.argv[1:]]),
    }
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    plot(rows, options.plot)
    print(f"wrote {options.out} and {options.plot}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
