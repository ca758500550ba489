"""A model that is too big for the machine, on a live picture: how old the pictures get, what is dropped, what grows.

    python benchmarks/overload.py [--seconds 300] [--model fsrcnn] [--size 1280x720@30] [--max-latency 500,100]

The chain of live.py: camera, filter and viewer are processes and speak RTSP. Writes results/overload.json and ends with
1 where a target is missed: p99 from capture to output at most ``--max-latency`` and one inference (its p99), every
picture that came in either out or counted as dropped, memory of the last quarter at most 5 % over the second. A machine
that keeps up with the model measures nothing here, which is a miss too.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from live import RESULTS, measure

from stream_sr.system import machine


def judge(row: dict[str, Any]) -> dict[str, bool]:
    """Which targets a run met."""
    dropped, memory = sum(row["dropped"].values()), row["memory_mib"]
    bound = row["max_latency_ms"] + row["stages_ms"]["infer"]["p99"]
    return {
        "latency": row["latency_ms"]["p99"] <= bound,
        "drops": dropped > 0 and row["frames_in"] == row["frames_out"] + dropped,
        "memory": memory["last_quarter"] <= 1.05 * memory["second_quarter"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--model", default="fsrcnn")
    parser.add_argument("--size", default="1280x720@30")
    parser.add_argument("--max-latency", default="500,100", help="ms; a run for each")
    parser.add_argument("--out", type=Path, default=RESULTS / "overload.json")
    options = parser.parse_args()
    rows = []
    for limit in map(float, options.max_latency.split(",")):
        row = measure(options.model, options.size, options.seconds, max_latency=limit) | {"max_latency_ms": limit}
        rows.append(row | {"checks": judge(row)})
        shown = {key: rows[-1][key] for key in ("dropped", "frames_in", "fps", "latency_ms", "memory_mib", "checks")}
        print(f"{limit:g} ms: {shown}, one inference {row['stages_ms']['infer']}", flush=True)
    result = {
        "rows": rows,
        "seconds": options.seconds,
        "machine": machine.describe(),
        "command": machine.command_line(["python", "benchmarks/overload.py", *sys.argv[1:]]),
    }
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(f"wrote {options.out}")
    return 0 if all(all(row["checks"].values()) for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
