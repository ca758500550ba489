"""Counters, latency histograms and percentiles. Prints nothing, keeps no list: memory is constant for weeks."""

from __future__ import annotations

import math
import threading
from collections import Counter, deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

STEP = 1.01  # relative width of a bucket, hence the error of a percentile
FLOOR_NS = 1_000  # 1 us
BUCKETS = math.ceil(math.log(1000e9 / FLOOR_NS) / math.log(STEP)) + 1  # up to 1000 s
OVERLOAD = ("overload", "late", "slow encoder")  # reasons for a drop that say: the machine was too slow
STEPS_KEPT = 1000


@dataclass(frozen=True, slots=True)
class ModelStep:
    """``--model auto`` took another network."""

    at_ns: int  # on the clock of the run
    before: str
    after: str
    up: bool  # to a larger one
    why: str


class Histogram:
    """Durations in logarithmic buckets of 1 %, from 1 us to 1000 s. Not thread-safe: `Stats` locks."""

    def __init__(self) -> None:
        self.counts = np.zeros(BUCKETS, np.int64)
        self.count = 0
        self.sum_ns = 0
        self.max_ns = 0

    def record(self, ns: int) -> None:
        """Add one duration; below 1 us counts as 1 us."""
        bucket = int(math.log(max(ns, FLOOR_NS) / FLOOR_NS) / math.log(STEP) + 0.5)
        self.counts[min(bucket, BUCKETS - 1)] += 1
        self.count += 1
        self.sum_ns += ns
        self.max_ns = max(self.max_ns, ns)

    def percentile_ms(self, percent: float) -> float:
        """Nearest-rank percentile in milliseconds, within 0.5 %; NaN when empty."""
        if not self.count:
            return math.nan
        rank = max(1, math.ceil(percent / 100 * self.count))
        bucket = int(np.searchsorted(np.cumsum(self.counts), rank))
        return FLOOR_NS * STEP**bucket / 1e6

    def since(self, before: Histogram) -> Histogram:
        """What was recorded after ``before``, an earlier `copy` of this one; its ``max_ns`` is that of all."""
        later = self.copy()
        later.counts -= before.counts
        later.count -= before.count
        later.sum_ns -= before.sum_ns
        return later

    def plus(self, other: Histogram) -> Histogram:
        """What both have recorded."""
        both = self.copy()
        both.counts += other.counts
        both.count += other.count
        both.sum_ns += other.sum_ns
        both.max_ns = max(self.max_ns, other.max_ns)
        return both

    def copy(self) -> Histogram:
        """A copy that stays as it is."""
        other = Histogram()
        other.counts = self.counts.copy()
        other.count, other.sum_ns, other.max_ns = self.count, self.sum_ns, self.max_ns
        return other

    def below(self, ns: int) -> int:
        """How many were at most ``ns``, to 0.5 % of it."""
        if ns < FLOOR_NS:
            return 0
        bucket = int(math.log(ns / FLOOR_NS) / math.log(STEP) + 0.5)
        return int(self.counts[: bucket + 1].sum())

    def summary(self) -> dict[str, float]:
        """p50, p95, p99, mean and max in milliseconds, and the count."""
        if not self.count:
            return {"count": 0}
        return {
            "p50": round(self.percentile_ms(50), 3),
            "p95": round(self.percentile_ms(95), 3),
            "p99": round(self.percentile_ms(99), 3),
            "mean": round(self.sum_ns / self.count / 1e6, 3),
            "max": round(self.max_ns / 1e6, 3),
            "count": self.count,
        }


class Counters:
    """Named counters to which one thread adds while others read. Thread-safe.

    A bare `collections.Counter` is not: reading it raises RuntimeError when another thread counts something new.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[str, int] = {}

    def add(self, name: str, amount: int = 1) -> None:
        """Add to a counter, which is 0 at first."""
        with self._lock:
            self._values[name] = self._values.get(name, 0) + amount

    def add_all(self, counters: Mapping[str, int]) -> None:
        """Add to several counters at once."""
        with self._lock:
            for name, amount in counters.items():
                self._values[name] = self._values.get(name, 0) + amount

    def read(self) -> dict[str, int]:
        """A copy of the counters that are above 0."""
        with self._lock:
            return {name: value for name, value in self._values.items() if value > 0}


class Stats:
    """All that is counted in one run. Thread-safe.

    Stages are named by their users: ``decode``, ``wait`` (in ring A), ``infer``, ``encode``, and so on. ``latency`` is
    from ``captured_ns`` to the moment the frame was handed to the output.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stages: dict[str, Histogram] = {}
        self._dropped: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()
        self._latency = Histogram()
        self._begin_ns = self._first_ns = self._last_ns = 0  # first captured; first and last handed out
        self._outputs: dict[str, Counter[str]] = {}
        self._source: dict[str, int] = {}
        self._progress = 0
        self._overload = 0
        self._steps: deque[ModelStep] = deque(maxlen=STEPS_KEPT)
        self._step_counts = {"up": 0, "down": 0}

    def add_output(self, name: str) -> str:
        """Announce an output; the first is the one that latency, fps, ``frames_out`` and ``dropped`` are about.

        Returns the name to use for it, which differs from ``name`` where that is taken.
        """
        with self._lock:
            unique = name
            while unique in self._outputs:
                unique = f"{name} ({len(self._outputs) + 1})"
            self._outputs[unique] = Counter()
            return unique

    @property
    def progress(self) -> int:
        """Grows with everything that is recorded: what has not grown for long is stuck."""
        with self._lock:
            return self._progress

    def count(self, name: str, amount: int = 1) -> None:
        """Add to a counter: ``frames_in``, ``corrupt_packets``..."""
        with self._lock:
            self._counts[name] += amount

    def drop(self, reason: str, amount: int = 1, *, outputs: Collection[str] | None = None) -> None:
        """Count frames that were lost, by reason, on their way to these outputs (None: all)."""
        with self._lock:
            self._drop(reason, amount, self._outputs if outputs is None else outputs)
            self._overload += amount if reason in OVERLOAD else 0

    def _drop(self, reason: str, amount: int, outputs: Collection[str]) -> None:
        self._progress += 1
        for name in outputs:
            self._outputs[name]["dropped"] += amount
        if not self._outputs or next(iter(self._outputs)) in outputs:
            self._dropped[reason] += amount

    @property
    def overload(self) -> int:
        """Frames lost so far because the machine was too slow, on the way to whatever output."""
        with self._lock:
            return self._overload

    def step(self, step: ModelStep) -> None:
        """Another network computes from now on. The latest 1000 are kept, all are counted."""
        with self._lock:
            self._steps.append(step)
            self._step_counts["up" if step.up else "down"] += 1

    def steps(self, latest: int = STEPS_KEPT) -> dict[str, Any]:
        """Steps ``up`` and ``down``, and the ``latest`` of them, in seconds since the first frame was out."""
        with self._lock:
            steps = list(self._steps)[max(0, len(self._steps) - latest) :]
            return dict(self._step_counts) | {
                "steps": [
                    {
                        "seconds": round((step.at_ns - self._first_ns) / 1e9, 3) if self._first_ns else 0.0,
                        "from": step.before,
                        "to": step.after,
                        "why": step.why,
                    }
                    for step in steps
                ]
            }

    def source(self, counters: Mapping[str, int]) -> None:
        """What the source says it has lost or met; replaces what it said before."""
        with self._lock:
            self._source = {name: value for name, value in counters.items() if value}

    def finish(self) -> None:
        """The run is over: frames that were captured and reached no output are dropped as ``unfinished``."""
        with self._lock:
            for name, counts in self._outputs.items():
                rest = self._counts["frames_in"] - counts["frames"] - counts["dropped"]
                if rest > 0:
                    self._drop("unfinished", rest, [name])

    def stage(self, name: str, ns: int) -> None:
        """Record what one frame took in a stage."""
        with self._lock:
            self._progress += 1
            if name not in self._stages:
                self._stages[name] = Histogram()
            self._stages[name].record(ns)

    def output(self, name: str, captured_ns: int, began_ns: int, now_ns: int) -> None:
        """One frame was handed to an output between ``began_ns`` and ``now_ns``."""
        with self._lock:
            self._progress += 1
            self._outputs[name]["frames"] += 1
            if name != next(iter(self._outputs)):
                return
            self._latency.record(now_ns - captured_ns)
            self._stages.setdefault("write", Histogram()).record(now_ns - began_ns)
            if self._outputs[name]["frames"] == 1:
                self._begin_ns, self._first_ns = captured_ns, now_ns
            self._last_ns = now_ns

    def _rate(self, frames: int) -> float:
        """Frames per second between the first and the last that were handed out.

        Where most of the run had passed before the first (an encoder that looks ahead gives all at the end), those of
        the whole.
        """
        whole, between = (self._last_ns - began for began in (self._begin_ns, self._first_ns))
        if 2 * between < whole:
            return round(frames / whole * 1e9, 3)
        return round((frames - 1) / between * 1e9, 3) if between else 0.0

    def latency(self) -> Histogram:
        """A copy of the latencies so far; two of them make those of the time between, with `Histogram.since`."""
        with self._lock:
            return self._latency.copy()

    def histograms(self) -> dict[str, Histogram]:
        """Copies of all histograms: of every stage, and ``latency``."""
        with self._lock:
            return {name: one.copy() for name, one in self._stages.items()} | {"latency": self._latency.copy()}

    def summary(self) -> dict[str, Any]:
        """``frames_in``, ``frames_out``, ``dropped``, ``fps``, ``latency_ms``, ``stages_ms`` and the other counters.

        The first four and the latency are about the first output; ``outputs`` has frames and drops of each,
        ``lost_in_source`` what never came in, ``repeated`` what was the picture before and not computed again. After
        `finish` frames_in is frames_out and the drops together.
        """
        with self._lock:
            frames = next(iter(self._outputs.values()))["frames"] if self._outputs else 0
            return {
                "frames_in": self._counts["frames_in"],
                "frames_out": frames,
                "repeated": self._counts["repeated"],
                "dropped": dict(self._dropped),
                "lost_in_source": dict(self._source),
                "outputs": {
                    name: {"frames": counts["frames"], "dropped": counts["dropped"]}
                    for name, counts in self._outputs.items()
                },
                "fps": self._rate(frames),
                "latency_ms": self._latency.summary(),
                "stages_ms": {name: histogram.summary() for name, histogram in self._stages.items()},
            } | {name: value for name, value in self._counts.items() if name not in ("frames_in", "repeated")}
