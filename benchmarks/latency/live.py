"""The live restream: camera process -> RTSP -> filter -> RTSP -> viewer process, on this machine.

    python -m benchmarks live [--seconds 60] [--models fast,fsrcnn-s] [--size 640x360@30] [--readers ours,...]

Each model runs for ``--seconds`` with our reader, and in the same run with the readers of others (`readers`) in the
same chain, after a warm-up run. The viewer and the filter read the camera's clock out of each frame. Memory is the
resident set of the filter's process, sampled every second.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.interface import Benchmark, Measurement
from benchmarks.latency.readers import READERS
from benchmarks.processes import ProcessFailed, environment, module_command, quarters, resident_mib
from stream_sr.cli.demo import PATIENCE_SECONDS, child, free_port, wait_for_port
from stream_sr.cli.latency import LatencyProbe, chain
from stream_sr.config import Config
from stream_sr.evaluation.plots import new_figure, save_figure

STAGES = {"camera": "camera to capture", "filter": "capture to result", "out": "result to viewer"}


def measure_chain(
    model: str, size: str, seconds: float, *, reader: str = "ours", max_latency: float = Config.max_latency
) -> dict[str, Any]:
    """One run: the filter's own report, the stages of the chain, memory over time. Raises ProcessFailed."""
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
        request = {
            "source": f"rtsp://127.0.0.1:{camera}/camera",
            "sink": f"rtsp://@:{served}/sr",
            "reader": reader,
            "model": model,
            "seconds": seconds,
            "max_latency": max_latency,
        }
        with tempfile.TemporaryFile() as messages:
            process = subprocess.Popen(
                module_command("benchmarks.latency.filter_process", json.dumps(request), str(folder)),
                stdout=subprocess.DEVNULL,
                stderr=messages,
                env=environment(),
            )
            memory = []
            while process.poll() is None:
                memory.append(resident_mib(process.pid))
                time.sleep(1)
            if process.returncode:
                messages.seek(0)
                raise ProcessFailed(f"the filter ended with {process.returncode}: {messages.read().decode()[-2000:]}")
        viewer.wait(PATIENCE_SECONDS)
        report = json.loads((folder / "report.json").read_text())
        probe = LatencyProbe()
        probe.burnt, probe.sequences = (
            {int(key): value for key, value in report.pop(name).items()} for name in ("burnt", "sequences")
        )
        found = chain(probe, {int(key): value for key, value in json.loads(seen.read_text()).items()})
    report["chain_ms"] |= {name: found[name] for name in ("out", "glass to glass")}
    second, last = quarters(memory)
    return report | {
        "reader": reader,
        "glass_to_glass_ms": found["glass to glass"],
        "memory_mib": {
            "second_quarter": round(second, 1),
            "last_quarter": round(last, 1),
            "peak": round(max(memory), 1),
        },
    }


def plot(result: Mapping[str, Any], out: Path) -> Path:
    """Where the time of the median frame goes, a bar for each reader and model, and the age of one in a hundred."""
    rows = result["rows"]
    figure = new_figure(8, 1.2 + 0.42 * len(rows))
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
    return save_figure(figure, out)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--models", default="fast,fsrcnn-s")
    parser.add_argument("--readers", default=";".join(READERS), help="with ; between them")
    parser.add_argument("--size", default="640x360@30")


def measure(parsed: argparse.Namespace) -> Measurement:
    rows = []
    for model in parsed.models.split(","):
        measure_chain(model, parsed.size, 3)  # warm-up: caches, compiled engine
        for reader in parsed.readers.split(";"):
            rows.append(measure_chain(model, parsed.size, parsed.seconds, reader=reader))
            latency, dropped = rows[-1]["glass_to_glass_ms"], sum(rows[-1]["dropped"].values())
            print(
                f"{model}, {reader}: {rows[-1]['fps']:.1f} fps, dropped {dropped}, glass to glass {latency}, "
                f"{rows[-1]['memory_mib']}",
                flush=True,
            )
    return Measurement({"rows": rows, "seconds": parsed.seconds})


ENTRY = Benchmark(add_options=add_options, measure=measure, plot=plot, image="latency.png")
