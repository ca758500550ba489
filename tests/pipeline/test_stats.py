"""Histograms hold percentiles to half a percent in constant memory; the summary adds up."""

import json
import math
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_sr.pipeline.stats import BUCKETS, Counters, Histogram, Stats


@given(st.lists(st.integers(1_000, 10**12), min_size=1, max_size=200), st.sampled_from([1, 50, 95, 99, 100]))
def test_percentiles_are_nearest_rank_within_half_a_percent(durations: list[int], percent: int) -> None:
    histogram = Histogram()
    for ns in durations:
        histogram.record(ns)
    exact = sorted(durations)[max(1, math.ceil(percent / 100 * len(durations))) - 1]
    assert histogram.percentile_ms(percent) == pytest.approx(exact / 1e6, rel=0.0051)


@given(st.lists(st.integers(0, 10**13), min_size=1, max_size=50))
def test_any_duration_is_counted_and_the_order_of_percentiles_holds(durations: list[int]) -> None:
    histogram = Histogram()
    for ns in durations:
        histogram.record(ns)
    assert int(histogram.counts.sum()) == histogram.count == len(durations)
    assert len(histogram.counts) == BUCKETS
    summary = histogram.summary()
    assert summary["p50"] <= summary["p95"] <= summary["p99"]
    assert summary["max"] == pytest.approx(max(durations) / 1e6, abs=1e-3)
    assert summary["mean"] == pytest.approx(np.mean(durations) / 1e6, rel=1e-6, abs=1e-3)


def test_an_empty_histogram_has_no_percentiles() -> None:
    assert math.isnan(Histogram().percentile_ms(50))
    assert Histogram().summary() == {"count": 0}


def test_summary_of_a_run() -> None:
    stats = Stats()
    file, window = stats.add_output("out.mp4"), stats.add_output("window")
    stats.count("frames_in", 9)
    stats.source({"corrupt_packets": 1, "late_frames": 0})
    stats.drop("late")
    stats.drop("slow output", 2, outputs=[file])
    stats.drop("slow output", 5, outputs=[window])
    for n in range(3):
        stats.stage("infer", 20_000_000)
        stats.output(file, n * 10**9, n * 10**9 + 49_000_000, n * 10**9 + 50_000_000)
        stats.output(window, 0, 0, 7)
    stats.finish()
    summary = stats.summary()
    assert (summary["frames_in"], summary["frames_out"]) == (9, 3)
    assert summary["lost_in_source"] == {"corrupt_packets": 1}
    assert summary["dropped"] == {"late": 1, "slow output": 2, "unfinished": 3}
    assert summary["outputs"] == {"out.mp4": {"frames": 3, "dropped": 6}, "window": {"frames": 3, "dropped": 6}}
    assert summary["stages_ms"]["write"]["count"] == 3
    assert summary["fps"] == 1.0
    assert summary["latency_ms"]["p99"] == pytest.approx(50, rel=0.006)
    assert summary["stages_ms"]["infer"]["count"] == 3
    json.dumps(summary, allow_nan=False)


def test_a_run_of_no_frame_has_no_rate() -> None:
    stats = Stats()
    stats.add_output("null:")
    assert stats.summary()["fps"] == 0.0
    json.dumps(stats.summary(), allow_nan=False)


def test_a_run_that_ends_all_at_once_has_the_rate_of_the_whole() -> None:
    """As an encoder that looks ahead gives a short film: nothing, and then everything."""
    for frames in (1, 9):
        stats = Stats()
        name = stats.add_output("out.mp4")
        for n in range(frames):
            stats.output(name, 10**9 + n, 0, 3 * 10**9 + 1000 * n)
        assert stats.summary()["fps"] == pytest.approx(frames / 2, rel=1e-3)


def test_outputs_of_one_name_are_told_apart() -> None:
    stats = Stats()
    names = [stats.add_output("null:") for _ in range(3)]
    assert len(set(names)) == 3
    before = stats.progress
    stats.output(names[2], 0, 1, 2)
    assert stats.progress > before
    assert [counts["frames"] for counts in stats.summary()["outputs"].values()] == [0, 0, 1]


def test_threads_lose_no_count() -> None:
    stats = Stats()

    def work() -> None:
        for _ in range(500):
            stats.count("frames_in")
            stats.stage("decode", 1_000_000)
            stats.drop("late")

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(work) for _ in range(4)]:
            future.result()
    summary = stats.summary()
    assert summary["frames_in"] == summary["dropped"]["late"] == summary["stages_ms"]["decode"]["count"] == 2000


def test_latencies_of_a_stretch_of_time() -> None:
    stats = Stats()
    stats.add_output("out")
    for _ in range(100):
        stats.output("out", 0, 0, 200_000_000)
    before = stats.latency()
    for _ in range(10):
        stats.output("out", 0, 0, 5_000_000)
    lately = stats.latency().since(before)
    assert lately.count == 10
    assert lately.percentile_ms(99) == pytest.approx(5, rel=0.006)
    assert before.percentile_ms(50) == pytest.approx(200, rel=0.006)


def test_counts_are_read_while_another_thread_counts_something_new() -> None:
    """A Counter raises here: "dictionary changed size during iteration"."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(3) as pool:
            for _ in range(20):
                counts = Counters()

                def add(counts: Counters = counts) -> None:
                    for number in range(2000):
                        counts.add(f"kind {number % 500}")
                        counts.add_all({"all": 1, f"other {number}": 0})

                adding = [pool.submit(add) for _ in range(2)]
                seen = 0
                while not all(one.done() for one in adding):
                    now = counts.read()
                    assert seen <= now.get("all", 0)
                    seen = now.get("all", 0)
                for one in adding:
                    one.result()
                assert counts.read() == {"all": 4000} | {f"kind {number}": 8 for number in range(500)}
    finally:
        sys.setswitchinterval(interval)
