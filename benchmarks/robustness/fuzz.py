"""Hostile input for everything that reads the network, for long: the targets of `fuzz_targets`.

    python -m benchmarks fuzz [--seconds 600] [--inputs 100000]

Goes on until both are reached. The first input that breaks something ends it with that error and prints the input. The
result has the inputs per target, and how far the memory grew, which must stay under 50 MiB.
"""

from __future__ import annotations

import argparse
import logging
import os
import time
from collections import Counter
from collections.abc import Callable

from hypothesis import HealthCheck, given, seed, settings

from benchmarks.interface import Benchmark, Measurement
from benchmarks.processes import resident_mib
from benchmarks.robustness.fuzz_targets import inputs, targets

Target = Callable[[list[bytes]], None]
BATCH = 500
GROWTH_MIB = 50.0  # beyond the first round, in which everything is loaded; the target is less


def counting(name: str, target: Target, done: Counter[str]) -> Target:
    def counted(data: list[bytes]) -> None:
        done[name] += 1
        target(data)

    return counted


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--inputs", type=int, default=100_000)


def measure(parsed: argparse.Namespace) -> Measurement:
    logging.disable(logging.CRITICAL)
    done: Counter[str] = Counter()
    began, round_number, first, held = time.monotonic(), 0, 0.0, 0.0
    while time.monotonic() - began < parsed.seconds or done.total() < parsed.inputs:
        for name, (target, seeds) in targets().items():
            test = settings(max_examples=BATCH, deadline=None, database=None, suppress_health_check=list(HealthCheck))(
                given(inputs(seeds))(counting(name, target, done))
            )
            seed(round_number * 100 + len(done))(test)()
        round_number += 1
        held = resident_mib(os.getpid())
        first = first or held
        print(f"{time.monotonic() - began:6.0f} s, {done.total()} inputs, {held:.0f} MiB", flush=True)
    result = {
        "inputs": dict(done),
        "total": done.total(),
        "seconds": round(time.monotonic() - began),
        "memory_growth_mib": round(held - first, 1),
        "failures": 0,
    }
    return Measurement(result, [] if held - first < GROWTH_MIB else [f"memory grew by {held - first:.0f} MiB"])


ENTRY = Benchmark(add_options=add_options, measure=measure)
