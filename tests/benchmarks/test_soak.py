"""The benchmark soak: a short run with faults comes to its end; its verdict sees what grows and what gets slower."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from waiting import wait_until

from benchmarks.record import ROOT
from benchmarks.robustness import soak
from stream_sr.pipeline.threads import Worker

pytestmark = [pytest.mark.network, pytest.mark.long, pytest.mark.serial]


def test_a_short_run_with_faults_comes_to_its_end(tmp_path: Path) -> None:
    out = tmp_path / "soak.json"
    words = ["--minutes", "0.1", "--cameras", "2", "--size", "128x96@15", "--model", "fsrcnn-s", "--out", str(out)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "soak", *words],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode in (0, 1), done.stderr  # a run so short judges nothing
    result = json.loads(out.read_text())["result"]
    assert done.returncode == (0 if all(result["checks"].values()) else 1)
    assert sum(result["faults"].values()) > 0
    assert len(result["pictures_seen"]) == 2
    assert min(result["pictures_seen"]) > 0
    assert min(result["memory_mib"]) > 10
    assert min(result["descriptors"]) > 3
    assert result["threads"][0] > len(result["pictures_seen"])


def verdict(
    *,
    memory: float = 200,
    files: int = 40,
    age: float = 20,
    until: float = 1801,
    faults: Sequence[tuple[float, float, str]] = (),
) -> set[str]:
    """What half an hour misses that begins with 200 MiB, 40 descriptors and 20 ms, and goes on with these.

    The age lasts ``until`` that second.
    """
    options = argparse.Namespace(minutes=30, cameras=1, size="320x180@15", model="fast")
    threads = Counter({"capture": 1, "camera c#": 5})
    samples = [
        soak.Sample(float(s), memory if s >= 900 else 200, files if s >= 900 else 40, threads) for s in range(1801)
    ]
    ages = [(float(s), age if 900 <= s < until else 20) for s in range(1801)]
    checks = soak.figures(options, 0, samples, list(faults), [ages])["checks"]
    return {name for name, met in checks.items() if not met}


def test_what_grows_and_what_gets_slower() -> None:
    assert verdict(memory=209, age=23.9) == set()
    assert verdict(memory=211) == {"memory"}
    assert verdict(files=41) == {"descriptors"}
    assert verdict(age=24.1) == {"latency"}


def test_what_is_late_within_a_fault_is_not_counted_and_no_picture_is_no_success() -> None:
    assert verdict(age=5000, until=1600) == {"latency"}
    assert verdict(age=5000, until=1600, faults=[(900, 1600, "silent")]) == set()
    assert verdict(faults=[(1400, 1900, "silent")]) == {"latency"}


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux' /proc")
def test_threads_are_counted_by_kind() -> None:
    done, named = threading.Event(), threading.Barrier(4)

    def work() -> None:
        named.wait(30)
        done.wait(30)

    workers = [Worker(f"soaked {number}", work) for number in range(3)]
    try:
        named.wait(30)
        assert soak.threads(Path("/proc/self"))["soaked #"] == 3
    finally:
        done.set()
        for worker in workers:
            worker.join()
    wait_until(lambda: "soaked #" not in soak.threads(Path("/proc/self")))  # the kernel may list one a little longer
    kinds = [Counter({"capture": 1 + (minute > 1)}) for minute in range(4) for _ in range(60)]
    kinds.append(kinds[-1])
    options = argparse.Namespace(minutes=4, cameras=1, size="320x180@15", model="fast")
    samples = [soak.Sample(float(s), 200, 40, kind) for s, kind in enumerate(kinds)]
    assert soak.figures(options, 0, samples, [], [[]])["threads_by_minute"] == {"capture": [1, 1, 2, 2]}
