"""A model that is too slow for a live stream: how old the frames get, what is dropped, whether memory grows.

    python -m benchmarks overload [--seconds 300] [--model fsrcnn] [--size 1280x720@30] [--max-latency 500,100]

The chain of `live`: camera, filter and viewer are processes and speak RTSP. The targets: p99 from capture to output at
most ``--max-latency`` and one inference (its p99), every frame that came in either out or counted as dropped, memory of
the last quarter at most 5 % over the second. A machine that keeps up with the model measures nothing here, which misses
the target too.
"""

from __future__ import annotations

import argparse
from typing import Any

from benchmarks.interface import Benchmark, Measurement
from benchmarks.latency.live import measure_chain


def judge(row: dict[str, Any]) -> dict[str, bool]:
    """Which targets a run met."""
    dropped, memory = sum(row["dropped"].values()), row["memory_mib"]
    bound = row["max_latency_ms"] + row["stages_ms"]["infer"]["p99"]
    return {
        "latency": row["latency_ms"]["p99"] <= bound,
        "drops": dropped > 0 and row["frames_in"] == row["frames_out"] + dropped,
        "memory": memory["last_quarter"] <= 1.05 * memory["second_quarter"],
    }


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--model", default="fsrcnn")
    parser.add_argument("--size", default="1280x720@30")
    parser.add_argument("--max-latency", default="500,100", help="ms; a run for each")


def measure(parsed: argparse.Namespace) -> Measurement:
    rows, missed = [], []
    for limit in map(float, parsed.max_latency.split(",")):
        row = measure_chain(parsed.model, parsed.size, parsed.seconds, max_latency=limit) | {"max_latency_ms": limit}
        rows.append(row | {"checks": judge(row)})
        missed += [f"{name} at {limit:g} ms" for name, met in rows[-1]["checks"].items() if not met]
        shown = {key: rows[-1][key] for key in ("dropped", "frames_in", "fps", "latency_ms", "memory_mib", "checks")}
        print(f"{limit:g} ms: {shown}, one inference {row['stages_ms']['infer']}", flush=True)
    return Measurement({"rows": rows, "seconds": parsed.seconds}, missed)


ENTRY = Benchmark(add_options=add_options, measure=measure)
