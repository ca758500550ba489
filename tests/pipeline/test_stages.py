"""Stages are generators: they drop, order, pace and release as promised, with the time handed to them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
from doubles import HEIGHT, WIDTH, CountingSource, DoublingEngine, picture

from stream_sr.errors import EngineRunError
from stream_sr.inference.hot_swap import SwapEngine
from stream_sr.pipeline.stages import drop_late, measure, pace, upscale
from stream_sr.pipeline.stats import Stats
from stream_sr.video import barcode
from stream_sr.video.frame import Frame
from stream_sr.video.frame_pool import FramePool
from stream_sr.video.planes import empty_planes
from stream_sr.video.timing import ManualClock, Pacer


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
    inputs, outputs = FramePool(WIDTH, HEIGHT, depth + 2, poison=True), FramePool(32, 16, depth + 1, poison=True)
    engine, pairs = DoublingEngine(depth=depth), []
    stage = upscale(
        frames(20, inputs),
        engine,
        clock=ManualClock(),
        stats=Stats(),
        lease=outputs.lease,
        seen=lambda before, after: pairs.append((before.number, after.number)),
    )
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
    inputs, outputs = FramePool(WIDTH, HEIGHT, depth + 2), FramePool(32, 16, depth + 1)
    stage = upscale(
        frames(20, inputs),
        DoublingEngine(depth=depth, fail_at=9),
        clock=ManualClock(),
        stats=Stats(),
        lease=outputs.lease,
    )
    with pytest.raises(EngineRunError):
        for result in stage:
            result.release()
    assert inputs.held == outputs.held == 0


def test_upscale_gives_memory_back_when_it_is_closed_early() -> None:
    inputs, outputs = FramePool(WIDTH, HEIGHT, 5), FramePool(32, 16, 4)
    stage = upscale(
        frames(20, inputs), DoublingEngine(depth=3), clock=ManualClock(), stats=Stats(), lease=outputs.lease
    )
    next(stage).release()
    stage.close()  # type: ignore[attr-defined]
    assert inputs.held == outputs.held == 0


STILL = [0, 1, 1, 1, 2, 3, 3, 2, 2]  # what each of nine frames shows
COMPUTED = [0, 1, 4, 5, 7]


def standing(pool: FramePool | None = None) -> Iterator[Frame]:
    """Frames that show `STILL`, each in memory of its own."""
    for frame, shown in zip(frames(len(STILL), pool), STILL, strict=True):
        for plane in frame.slot.planes if frame.slot else ():
            plane.fill(picture(shown))
        yield frame


@pytest.mark.parametrize("with_source", [False, True])
@pytest.mark.parametrize("depth", [1, 2, 3, 9])
def test_a_picture_that_stands_still_is_computed_once(depth: int, with_source: bool) -> None:
    inputs = FramePool(WIDTH, HEIGHT, 2 * depth + 3, poison=True)
    outputs = FramePool(32, 16, depth + 2, poison=True)
    engine, stats, seen = DoublingEngine(depth=depth, is_deterministic=True), Stats(), []
    stage = upscale(
        standing(inputs),
        engine,
        clock=ManualClock(),
        stats=stats,
        lease=outputs.lease,
        with_source=with_source,
        seen=lambda before, after: seen.append((before.number, int(after.planes[0][0, 0]))),
    )
    waiting: Frame | None = None  # a consumer that is one frame behind
    for number, result in enumerate(stage):
        assert (result.number, result.pts) == (number, 40 * number)
        assert all((plane == picture(STILL[number])).all() for plane in result.planes)
        assert (result.source is not None) == with_source
        if result.source is not None:
            assert (result.source.planes[0] == picture(STILL[number])).all()
        if waiting is not None:
            assert (waiting.planes[0] == picture(STILL[waiting.number])).all()
            waiting.release()
        waiting = result
    assert waiting is not None
    waiting.release()
    assert engine.computed == COMPUTED
    assert seen == [(number, picture(shown)) for number, shown in enumerate(STILL)]
    assert stats.summary()["repeated"] == len(STILL) - len(COMPUTED)
    assert inputs.held == outputs.held == 0


def test_a_network_that_remembers_sees_every_picture() -> None:
    engine = DoublingEngine(is_deterministic=False)
    for result in upscale(standing(FramePool(WIDTH, HEIGHT, 3)), engine, clock=ManualClock(), stats=Stats()):
        result.release()
    assert engine.computed == list(range(len(STILL)))


def test_an_engine_that_is_about_to_be_replaced_computes() -> None:
    first, second = DoublingEngine(is_deterministic=True), DoublingEngine(is_deterministic=True)
    engine = SwapEngine(first)
    for result in upscale(standing(FramePool(WIDTH, HEIGHT, 3)), engine, clock=ManualClock(), stats=Stats()):
        if result.number == 1:
            engine.offer(second)
        result.release()
    assert first.computed == [0, 1]
    assert second.computed == [2, 4, 5, 7]


@pytest.mark.parametrize("depth", [1, 3])
def test_a_repeated_picture_gives_memory_back_when_something_fails(depth: int) -> None:
    inputs, outputs = FramePool(WIDTH, HEIGHT, depth + 2), FramePool(32, 16, depth + 1)

    def failing(before: Frame, after: Frame) -> None:
        if before.number == 2:
            raise ValueError("seen fails")

    stage = upscale(
        standing(inputs),
        DoublingEngine(depth=depth, is_deterministic=True),
        clock=ManualClock(),
        stats=Stats(),
        lease=outputs.lease,
        seen=failing,
    )
    with pytest.raises(ValueError, match="seen fails"):
        for result in stage:
            result.release()
    assert inputs.held == outputs.held == 0


def test_pictures_are_the_same_only_sample_by_sample() -> None:
    one, other = (next(frames(1)) for _ in range(2))
    assert one.is_duplicate_of(other)
    for plane, row in ((0, HEIGHT // 2), (0, HEIGHT - 1), (1, 0), (2, HEIGHT // 2 - 1)):
        planes = [part.copy() for part in other.planes]
        planes[plane][row, 0] += 1
        assert not one.is_duplicate_of(other.with_planes((planes[0], planes[1], planes[2])))
    assert not one.is_duplicate_of(replace(other, color=replace(other.color, siting=other.color.siting + 1)))
    assert not one.is_duplicate_of(other.with_planes(empty_planes(WIDTH, HEIGHT + 2)))


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
