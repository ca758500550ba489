"""Counters, latency histograms and percentiles. Prints nothing, keeps no list: memory is constant for weeks."""

import math
import threading
from collections import Counter
from typing import Any

import numpy as np

STEP = 1.01  # relative width of a bucket, hence the error of a percentile
FLOOR_NS = 1_000  # 1 us
BUCKETS = math.ceil(math.log(1000e9 / FLOOR_NS) / math.log(STEP)) + 1  # up to 1000 s


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
        self._outputs = 0
        self._first_ns = self._last_ns = 0

    def count(self, name: str, amount: int = 1) -> None:
        """Add to a counter: ``frames_in``, ``corrupt_packets``..."""
        with self._lock:
            self._counts[name] += amount

    def drop(self, reason: str, amount: int = 1) -> None:
        """Count frames that were lost, by reason."""
        with self._lock:
            self._dropped[reason] += amount

    def stage(self, name: str, ns: int) -> None:
        """Record what one frame took in a stage."""
        with self._lock:
            if name not in self._stages:
                self._stages[name] = Histogram()
            self._stages[name].record(ns)

    def output(self, captured_ns: int, now_ns: int) -> None:
        """One frame reached the (first) output."""
        with self._lock:
            self._latency.record(now_ns - captured_ns)
            if not self._outputs:
                self._first_ns = now_ns
            self._outputs += 1
            self._last_ns = now_ns

    def summary(self) -> dict[str, Any]:
        """``frames_in``, ``frames_out``, ``dropped``, ``fps``, ``latency_ms``, ``stages_ms`` and the other counters."""
        with self._lock:
            seconds = (self._last_ns - self._first_ns) / 1e9
            return {
                "frames_in": self._counts["frames_in"],
                "frames_out": self._outputs,
                "dropped": dict(self._dropped),
                "fps": round((self._outputs - 1) / seconds, 3) if seconds > 0 else 0.0,
                "latency_ms": self._latency.summary(),
                "stages_ms": {name: histogram.summary() for name, histogram in self._stages.items()},
            } | {name: value for name, value in self._counts.items() if name != "frames_in"}
