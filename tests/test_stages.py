"""Stages are generators: they drop, order, pace and release as promised, with the time handed to them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
from doubles import HEIGHT, WIDTH, CountingSource, DoublingEngine

from stream_sr import barcode
from stream_sr.errors import EngineRunError
from stream_sr.frame import Frame, empty_planes
from stream_sr.ring import FramePool
from stream_sr.stages import drop_late, measure, pace, upscale
from stream_sr.stats import Stats
from stream_sr.timing import ManualClock, Pacer


def frames(count: int, pool: FramePool | None = None) -> Iterator[Frame]:
    return CountingSource(count).frames(pool)


def test_only_late_frames_are_dropped_and_counted() -> None:
    clock, stats = ManualClock(1_000_000_000), Stats()
    pool = FramePool(WIDTH, HEIGHT, 1)
    aged = (replace(frame, captured_ns=clock.ns - 40 * frame.number) for frame in frames(10, pool))
    kept = []
    for frame in drop_late(aged, limit_ns=200, clock=clock, stats=stats):
        kept.append(frame.number)
        frame.release()
    assert kept == [0, 1, 2, 3, 4, 5]  # 200 ns is not later than 200 ns
    assert stats.summary()["dropped"] == {"late": 4}
    assert pool.held == 0


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_upscale_keeps_order_and_gives_memory_back(depth: int) -> None:
    inputs, outputs = FramePool(WIDTH, HEIGHT, depth + 1, poison=True), FramePool(32, 16, depth, poison=True)
    engine, pairs = DoublingEngine(depth=depth), []
    stage = upscale(
        frames(20, inputs), engine, clock=ManualClock(), stats=Stats(), lease=outputs.lease,
        seen=lambda before, after: pairs.append((before.number, after.number)),
    )  # fmt: skip
    numbers = []
    for result in stage:
        assert (result.width, result.height) == (32, 16)
        numbers.append(result.number)
        result.release()
    assert numbers == list(range(20))
    assert pairs == [(number, number) for number in range(20)]
    assert inputs.held == outputs.held == 0


@pytest.mark.parametrize("depth", [1, 3])
def test_upscale_gives_memory_back_when_the_engine_fails(depth: int) -> None:
    inputs, outputs = FramePool(WIDTH, HEIGHT, depth + 1), FramePool(32, 16, depth)
    stage = upscale(
        frames(20, inputs), DoublingEngine(depth=depth, fail_at=9), clock=ManualClock(), stats=Stats(),
        lease=outputs.lease,
    )  # fmt: skip
    with pytest.raises(EngineRunError):
        for result in stage:
            result.release()
    assert inputs.held == outputs.held == 0


def test_upscale_gives_memory_back_when_it_is_closed_early() -> None:
    inputs, outputs = FramePool(WIDTH, HEIGHT, 4), FramePool(32, 16, 3)
    stage = upscale(
        frames(20, inputs), DoublingEngine(depth=3), clock=ManualClock(), stats=Stats(), lease=outputs.lease
    )
    next(stage).release()
    stage.close()  # type: ignore[attr-defined]
    assert inputs.held == outputs.held == 0


def test_pace_waits_for_the_presentation_time() -> None:
    clock, stop = ManualClock(5_000), threading.Event()
    shown = [clock.ns for _ in pace(frames(5), Pacer(), clock=clock, stop=stop)]
    assert shown == [5_000 + 40_000_000 * number for number in range(5)]


def test_pace_lets_everything_through_once_stopped() -> None:
    clock, stop = ManualClock(), threading.Event()
    stop.set()
    assert len(list(pace(frames(5), Pacer(), clock=clock, stop=stop))) == 5
    assert clock.ns == 0


def test_measure_reads_the_age_from_the_picture() -> None:
    planes = empty_planes(640, 360)
    for plane in planes:
        plane.fill(90)
    source = next(frames(1))
    blank = source.with_planes(tuple(plane.copy() for plane in planes))  # type: ignore[arg-type]
    barcode.burn(planes[0], 7, 1_000_000_000)
    stats, clock = Stats(), ManualClock(1_025_000_000)
    assert len(list(measure([source.with_planes(planes), blank], clock=clock, stats=stats))) == 2
    summary = stats.summary()
    assert summary["stages_ms"]["glass_to_glass"]["p50"] == pytest.approx(25, abs=0.2)
    assert summary["unreadable_barcodes"] == 1
