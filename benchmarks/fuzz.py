"""Hostile input for everything that reads the network, for long: the targets of tests/support/fuzzing.py.

    python benchmarks/fuzz.py [--seconds 600] [--inputs 100000]

Goes on until both are reached; ends with 1 at the first input that breaks something, which it prints. Writes
results/fuzz.json: inputs per target, and how far the memory grew.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from hypothesis import HealthCheck, given, seed, settings

from stream_sr.system import machine

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT.parent / "tests" / "support"))

from fuzzing import inputs, targets  # noqa: E402 - of the tests

Target = Callable[[list[bytes]], None]
BATCH = 500
MOST_GROWTH_MIB = 50.0  # beyond the first round, in which everything is loaded


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


def counting(name: str, target: Target, done: Counter[str]) -> Target:
    def counted(data: list[bytes]) -> None:
        done[name] += 1
        target(data)

    return counted


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "fuzz.json")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    done: Counter[str] = Counter()
    began, round_number, first = time.monotonic(), 0, 0.0
    while time.monotonic() - began < options.seconds or done.total() < options.inputs:
        for name, (target, seeds) in targets().items():
            test = settings(max_examples=BATCH, deadline=None, database=None, suppress_health_check=list(HealthCheck))(
                given(inputs(seeds))(counting(name, target, done))
            )
            seed(round_number * 100 + len(done))(test)()
        round_number += 1
        first = first or resident_mib()
        print(f"{time.monotonic() - began:6.0f} s, {done.total()} inputs, {resident_mib():.0f} MiB", flush=True)
    growth = resident_mib() - first
    result = {
        "inputs": dict(done),
        "total": done.total(),
        "seconds": round(time.monotonic() - began),
        "memory_growth_mib": round(growth, 1),
        "failures": 0,
        "machine": machine.describe(),
        "command": machine.command_line(["python", "benchmarks/fuzz.py", *sys.argv[1:]]),
    }
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(f"wrote {options.out}")
    return 0 if growth < MOST_GROWTH_MIB else 1


if __name__ == "__main__":
    sys.exit(main())
