"""Cameras, the filter and viewers for a long time, with random faults: what grows, and what gets slower.

    python -m benchmarks soak [--minutes 30] [--cameras 1] [--size 640x360@30] [--model fast] [--seed 1]

Every camera is a process that is now and then killed, stopped for a while, or comes back with another size; viewers
come and go beside one that stays. Memory, descriptors and threads of the filter are read every second (a thread of a
library bears the name of the one of ours that started it, or its own), the latency from the clock in the picture; of
the latency, seconds within a fault and the three after it do not count. A run of less than ten minutes has shorter
windows and denser faults. The targets: memory grows by less than 5 %, descriptors do not, and p99 of the last window is
within 20 % of the first.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.interface import Benchmark, Measurement
from benchmarks.processes import ProcessFailed, environment, module_command, resident_mib
from stream_sr.cli.demo import child, free_port, wait_for_port
from stream_sr.errors import SourceOpenError, StreamSRError
from stream_sr.pipeline.interfaces import SourceOptions
from stream_sr.pipeline.threads import Worker
from stream_sr.sources import open_source

START_SECONDS = 120.0  # that the cameras and viewers may take to start
AFTER_FAULT_SECONDS = 3.0
FULL_SECONDS = 600.0  # of a run with everything at its full length; a shorter one is denser in proportion
WARM_UP_SECONDS = 20.0
WINDOW_SECONDS = 300.0
EVERY_SECONDS = (10.0, 30.0)  # between faults
LAST_SECONDS = 15.0  # without a new fault
OTHER_SIZE = "256x192@15"


class Sample(NamedTuple):
    """What a process holds at a moment."""

    at: float
    mib: float
    descriptors: int
    threads: Counter[str]


class Camera:
    """One camera process and its faults."""

    def __init__(self, size: str, stack: ExitStack) -> None:
        self.port, self.size = free_port(), size
        self._stack = stack
        self.process = self._start(size)

    def _start(self, size: str) -> subprocess.Popen[bytes]:
        words = ["run", f"synthetic:photos,{size}", f"rtsp://@:{self.port}/cam", "--backend", "bicubic", "--scale", "1"]
        process = subprocess.Popen(
            [sys.executable, "-m", "stream_sr", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._stack.callback(end, process)
        wait_for_port(self.port, 120)
        return process

    def fault(self, chance: random.Random, pace: float) -> str:
        """Something happens to it; when it is over, this returns what it was. ``pace`` is 1 for the full length."""
        kind = chance.choice(("killed", "silent", "other size"))
        if kind == "silent":
            self.process.send_signal(signal.SIGSTOP)
            time.sleep(chance.uniform(2, 6) * pace)
            self.process.send_signal(signal.SIGCONT)
            return kind
        self.process.kill()
        self.process.wait()
        time.sleep(chance.uniform(0, 4) * pace)
        if kind == "other size":
            self.process = self._start(OTHER_SIZE)
            time.sleep(5 * pace)
            self.process.kill()
            self.process.wait()
        self.process = self._start(self.size)
        return kind


def end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()


def resources(pid: int) -> Sample:
    """What a process holds now."""
    proc = Path(f"/proc/{pid}")
    return Sample(
        time.monotonic(),
        resident_mib(pid),
        len(list((proc / "fd").iterdir())),
        threads(proc),
    )


def threads(proc: Path) -> Counter[str]:
    """How many there are of each kind: by name, whatever the number in it."""
    found = Counter[str]()
    for task in (proc / "task").iterdir():
        with suppress(OSError):  # it has ended meanwhile
            found[re.sub(r"\d+", "#", (task / "comm").read_text().strip())] += 1
    return found


@contextmanager
def sampling(pid: int) -> Iterator[list[Sample]]:
    """A list that grows by a sample a second, for as long as the process is there."""
    samples, ended = [resources(pid)], threading.Event()

    def sample() -> None:
        while not ended.wait(1):
            with suppress(OSError, IndexError):  # it is gone: the others say so
                samples.append(resources(pid))

    worker = Worker("samples", sample)
    try:
        yield samples
    finally:
        ended.set()
        worker.join()


def threads_of(kind: str, sample: Sample) -> int:
    return sample.threads[kind]


def join_for_a_moment(url: str, chance: random.Random) -> None:
    """A viewer that comes, sees some pictures and leaves."""
    try:
        source = open_source(url, SourceOptions(read_timeout=10, rtsp_transport=chance.choice(("tcp", "udp"))))
    except SourceOpenError:
        return
    wanted = chance.randrange(1, 30)
    try:
        for number, _ in enumerate(source.frames(), 1):
            if number >= wanted:
                break
    except StreamSRError:
        return
    finally:
        source.close()


def run_soak(options: argparse.Namespace) -> dict[str, Any]:
    """The whole run; the figures. Raises ProcessFailed where the filter ends before its time."""
    chance = random.Random(options.seed)
    seconds = options.minutes * 60
    pace = min(1.0, seconds / FULL_SECONDS)
    faults: list[tuple[float, float, str]] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        cameras = [Camera(options.size, stack) for _ in range(options.cameras)]
        served = free_port()
        (folder / "cameras.toml").write_text(fleet(options.model, cameras, served))
        program = stack.enter_context(child("filter", "serve", str(folder / "cameras.toml")))
        urls = [f"rtsp://127.0.0.1:{served}/c{number}" for number in range(options.cameras)]
        for number, url in enumerate(urls):
            wait_until_served(url)
            command = module_command("benchmarks.robustness.soak_viewer", url, str(folder / f"{number}.log"))
            stack.callback(end, subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment()))
        wait_for_first_frames([folder / f"{number}.log" for number in range(options.cameras)])
        with sampling(program.pid) as samples:
            began = time.monotonic()
            due = began + WARM_UP_SECONDS * pace
            while (now := time.monotonic()) < began + seconds:
                if program.poll() is not None:
                    raise ProcessFailed(f"the filter ended with {program.returncode}")
                if due <= now < began + seconds - LAST_SECONDS * pace:
                    kind = chance.choice(cameras).fault(chance, pace)
                    join_for_a_moment(chance.choice(urls), chance)
                    faults.append((now, time.monotonic() + AFTER_FAULT_SECONDS * pace, kind))
                    due = time.monotonic() + chance.uniform(*EVERY_SECONDS) * pace
                time.sleep(0.1)
        ages = [read_ages(folder / f"{number}.log") for number in range(options.cameras)]
    return figures(options, began, samples, faults, ages)


def fleet(model: str, cameras: list[Camera], served: int) -> str:
    """The file for `stream-sr serve`."""
    lines = [f'[all]\nmodel = "{model}"\nread-timeout = 1\n']
    lines += [
        f'[camera.c{number}]\nsource = "rtsp://127.0.0.1:{camera.port}/cam"\nsinks = ["rtsp://@:{served}/c{number}"]\n'
        for number, camera in enumerate(cameras)
    ]
    return "".join(lines)


def read_ages(log: Path) -> list[tuple[float, float]]:
    """Moment and age in ms of every picture of a viewer; a line that it is still writing is left out."""
    whole = log.read_text().rpartition("\n")[0] if log.exists() else ""
    return [(float(at), float(age)) for at, age in map(str.split, whole.splitlines())]


def wait_for_first_frames(logs: Sequence[Path]) -> None:
    """Wait until every viewer has seen a frame. Raises ProcessFailed after `START_SECONDS`."""
    deadline = time.monotonic() + START_SECONDS
    while not all(log.exists() and log.stat().st_size for log in logs):
        if time.monotonic() > deadline:
            raise ProcessFailed(f"a viewer saw no frame within {START_SECONDS:g} s")
        time.sleep(0.1)


def wait_until_served(url: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            open_source(url, SourceOptions(read_timeout=10)).close()
            return
        except SourceOpenError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def figures(
    options: argparse.Namespace,
    began: float,
    samples: list[Sample],
    faults: list[tuple[float, float, str]],
    ages: list[list[tuple[float, float]]],
) -> dict[str, Any]:
    """First against last window."""
    seconds = samples[-1].at - began
    window = min(WINDOW_SECONDS, seconds / 2)
    first = (began + WARM_UP_SECONDS * min(1.0, seconds / FULL_SECONDS), began + window)
    last = (samples[-1].at - window, samples[-1].at)

    def quiet(at: float) -> bool:
        return not any(start <= at <= stop for start, stop, _ in faults)

    def p99(camera: list[tuple[float, float]], span: tuple[float, float]) -> float | None:
        found = sorted(age for at, age in camera if span[0] <= at <= span[1] and quiet(at))
        return round(found[int(len(found) * 0.99)], 1) if found else None

    def median(of: Callable[[Sample], float], span: tuple[float, float]) -> float:
        return round(statistics.median(of(sample) for sample in samples if span[0] <= sample.at <= span[1]), 1)

    memory, files, held = (
        [median(of, span) for span in (first, last)]
        for of in (attrgetter("mib"), attrgetter("descriptors"), lambda sample: sample.threads.total())
    )
    minutes = [(began + 60 * minute, began + 60 * minute + 60) for minute in range(round(seconds) // 60)]
    kinds = sorted({kind for sample in samples for kind in sample.threads})
    latency = [[p99(camera, span) for span in (first, last)] for camera in ages]
    checks = {
        "memory": memory[1] <= memory[0] * 1.05,
        "descriptors": files[1] <= files[0],
        "latency": all(a is not None and b is not None and b <= a * 1.2 for a, b in latency),
    }
    return {
        "minutes": options.minutes,
        "cameras": options.cameras,
        "size": options.size,
        "model": options.model,
        "window_seconds": round(window),
        "faults": {k: sum(f[2] == k for f in faults) for k in {f[2] for f in faults}},
        "pictures_seen": [len(camera) for camera in ages],
        "memory_mib": memory,
        "descriptors": files,
        "threads": held,
        "latency_p99_ms": latency,
        "checks": checks,
        "memory_mib_by_minute": [median(attrgetter("mib"), minute) for minute in minutes],
        "threads_by_minute": {
            kind: [median(partial(threads_of, kind), minute) for minute in minutes] for kind in kinds
        },
    }


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--cameras", type=int, default=1)
    parser.add_argument("--size", default="640x360@30")
    parser.add_argument("--model", default="fast")
    parser.add_argument("--seed", type=int, default=1)


def measure(parsed: argparse.Namespace) -> Measurement:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # the processes end with this one
    result = run_soak(parsed)
    print(json.dumps(result, indent=2))
    return Measurement(result, [name for name, met in result["checks"].items() if not met])


ENTRY = Benchmark(add_options=add_options, measure=measure)
