"""The overlapped schedule on a recording double of the driver: nothing overwritten, nothing early, nothing mixed up."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from doubles_cuda import AddingProgram, RecordingDriver, enlarge

from stream_sr.errors import EngineRunError
from stream_sr.inference.backends.cuda.schedule import OverlappedEngine
from stream_sr.pipeline.engine import EngineSpec, Pending
from stream_sr.pipeline.stages import upscale
from stream_sr.pipeline.stats import Stats
from stream_sr.video.frame import Frame
from stream_sr.video.frame_pool import FramePool
from stream_sr.video.optical_flow import flows
from stream_sr.video.planes import empty_planes, read_only
from stream_sr.video.quality import texture
from stream_sr.video.timing import MonotonicClock

pytestmark = pytest.mark.gpu

WIDTH, HEIGHT = 4, 2
SPEC = EngineSpec("double", "double", 2, WIDTH, HEIGHT, "uint8", "a double")
BREAKS = {7, 8, 100}  # frames that follow a break in the stream
CUT = 150  # a frame that begins another scene


def frame_of(number: int, pool: FramePool | None = None) -> Frame:
    slot = pool.lease() if pool else None
    planes = slot.planes if slot else empty_planes(WIDTH, HEIGHT)
    for index, plane in enumerate(planes):
        step = 13 * number if index else 0  # the luma stands still: no scene cut but those below
        plane.flat[:] = (60 + 20 * np.arange(plane.size) if index == 0 else np.arange(plane.size)) + step
    if number >= CUT:
        planes[0][:] = planes[0][::-1, ::-1]
    return Frame(
        read_only(planes),
        pts=number,
        time_base=Fraction(1, 25),
        number=number,
        slot=slot,
        discontinuity=number in BREAKS,
    )


def expected(number: int, *, recurrent: bool) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    planes = frame_of(number).planes
    result = enlarge(np.concatenate([plane.ravel() for plane in planes]), WIDTH, HEIGHT)
    if recurrent:
        last = max((one for one in BREAKS | {CUT} if one <= number), default=0)
        result[0] = (int(planes[0][0, 0]) + number - last + 1) % 256
    return result


def run(
    driver: RecordingDriver,
    *,
    frames: int,
    depth: int,
    pinned: bool = True,
    recurrent: bool = False,
    graphs: bool | None = None,
) -> OverlappedEngine:
    """Frames through stages.upscale, as the pipeline does it, with poisoned pools; results are held for a while."""
    program = AddingProgram(driver, WIDTH, HEIGHT, recurrent=recurrent)
    engine = OverlappedEngine(SPEC, depth, driver, program, cuda_graphs=graphs)
    allocate = engine.allocate if pinned else None
    before = FramePool(WIDTH, HEIGHT, depth + 1, allocate=allocate, poison=True)
    after = FramePool(2 * WIDTH, 2 * HEIGHT, depth + 3, allocate=allocate, poison=True)

    def source() -> Iterator[Frame]:
        for number in range(frames):
            yield frame_of(number, before)

    held: deque[Frame] = deque()
    numbers = []
    for result in upscale(source(), engine, clock=MonotonicClock(), stats=Stats(), lease=after.lease):
        assert result.slot is not None
        np.testing.assert_array_equal(result.slot.buffer, expected(result.number, recurrent=recurrent))
        numbers.append(result.number)
        held.append(result)
        if len(held) > 2:
            old = held.popleft()
            assert old.slot is not None
            np.testing.assert_array_equal(old.slot.buffer, expected(old.number, recurrent=recurrent))
            old.release()
    assert numbers == list(range(frames))
    engine.close()
    engine.close()
    assert (driver.closed, program.closed) == (1, 1)
    return engine


def test_ten_thousand_frames() -> None:
    driver = RecordingDriver(1)
    run(driver, frames=10_000, depth=3)
    assert driver.most_at_once == 3, "upload, computation and download never ran at once"
    assert driver.calls["copy_in"] == driver.calls["copy_out"] == driver.calls["replay"] - 5 == 10_000
    assert driver.calls["device_memory"] == 6


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("pinned", [False, True])
@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_every_way(depth: int, graphs: bool, pinned: bool, recurrent: bool) -> None:
    driver = RecordingDriver(depth)
    run(driver, frames=300, depth=depth, pinned=pinned, recurrent=recurrent, graphs=graphs)
    assert (driver.calls["replay"] > 0) == graphs


@pytest.mark.parametrize("seed", range(6))
def test_other_timings(seed: int) -> None:
    run(RecordingDriver(seed), frames=300, depth=3, recurrent=seed % 2 == 0)


@pytest.mark.parametrize("call", ["wait", "synchronize", "record"])
def test_the_double_sees_what_is_forgotten(call: str) -> None:
    with pytest.raises(AssertionError):
        run(RecordingDriver(2, forget=frozenset({call})), frames=500, depth=3)


def test_the_double_sees_too_few_buffers() -> None:
    class Crowded(OverlappedEngine):
        """Takes a frame more than it has buffers for."""

        def __init__(self, *arguments, **options) -> None:  # type: ignore[no-untyped-def]
            super().__init__(*arguments, **options)
            self._ring = [*self._ring[:2], self._ring[0]]
            self._submitted = _NeverFull()

    class _NeverFull(deque):  # type: ignore[type-arg]
        def __contains__(self, _: object) -> bool:
            return False

    driver = RecordingDriver(3)
    engine = Crowded(SPEC, 3, driver, AddingProgram(driver, WIDTH, HEIGHT))
    with pytest.raises(AssertionError):
        for result in upscale(map(frame_of, range(500)), engine, clock=MonotonicClock(), stats=Stats()):
            np.testing.assert_array_equal(result.planes[0].ravel(), expected(result.number, recurrent=False)[:32])


def test_without_graphs_the_reason_is_noted_or_raised() -> None:
    driver = RecordingDriver(graphs=False)
    engine = run(driver, frames=20, depth=2)
    assert "no CUDA graph: the double was told" in engine.spec.notes[0]
    assert engine.compute_ms == {"launch": 2.0}, "the launch is timed all the same"
    driver = RecordingDriver(graphs=False)
    with pytest.raises(EngineRunError, match="refuse graphs"):
        OverlappedEngine(SPEC, 1, driver, AddingProgram(driver, WIDTH, HEIGHT), cuda_graphs=True)
    assert driver.closed == 1


def test_a_frame_that_fails_leaves_nothing_behind() -> None:
    driver = RecordingDriver(4)
    engine = OverlappedEngine(SPEC, 2, driver, AddingProgram(driver, WIDTH, HEIGHT, recurrent=True))
    first = engine.submit(frame_of(0))
    driver.fail_at = "copy_out"
    pool = FramePool(WIDTH, HEIGHT, 1, allocate=engine.allocate, poison=True)
    frame = frame_of(1, pool)
    with pytest.raises(EngineRunError, match="told to fail at copy_out"):
        engine.submit(frame)
    frame.release()  # its memory is poisoned: nothing may read it any more
    driver.fail_at = None
    assert first.wait().planes[0][0, 0] == 61
    results = [engine.submit(frame_of(n)).wait() for n in (1, 2)]
    assert [result.planes[0][0, 0] for result in results] == [61, 62], "after a failure a recurrent network begins anew"
    np.testing.assert_array_equal(results[1].planes[1].ravel(), expected(2, recurrent=True)[32:40])
    engine.close()


def test_results_are_waited_for_in_order() -> None:
    driver = RecordingDriver()
    engine = OverlappedEngine(SPEC, 2, driver, AddingProgram(driver, WIDTH, HEIGHT))
    _, second = engine.submit(frame_of(0)), engine.submit(frame_of(1))
    second.wait()
    with pytest.raises(EngineRunError, match="order of submission"):
        engine.submit(frame_of(2))
    engine.close()


def test_a_result_can_be_taken_after_closing() -> None:
    driver = RecordingDriver()
    engine = OverlappedEngine(SPEC, 2, driver, AddingProgram(driver, WIDTH, HEIGHT))
    pending = engine.submit(frame_of(5))
    engine.close()
    np.testing.assert_array_equal(pending.wait().planes[0].ravel(), expected(5, recurrent=False)[:32])


def test_what_a_lost_device_had_in_flight_is_no_result() -> None:
    driver = RecordingDriver()
    engine = OverlappedEngine(SPEC, 2, driver, AddingProgram(driver, WIDTH, HEIGHT))
    pending = engine.submit(frame_of(5))
    driver.drain_all()
    driver.fail_at = "synchronize"
    engine.close()
    with pytest.raises(EngineRunError, match="lost with its engine: the double was told to fail at synchronize"):
        pending.wait()


def test_nothing_of_the_device_outlives_the_engine() -> None:
    driver = RecordingDriver()
    engine = OverlappedEngine(SPEC, 2, driver, AddingProgram(driver, WIDTH, HEIGHT))
    pending = engine.submit(frame_of(1))
    engine.close()
    pending.wait()
    del engine, pending
    assert driver.leaked == 0


def test_memory_is_held_until_the_device_is_done_with_it() -> None:
    driver = RecordingDriver()
    engine = OverlappedEngine(SPEC, 1, driver, AddingProgram(driver, WIDTH, HEIGHT))
    frame = frame_of(1, FramePool(WIDTH, HEIGHT, 1, allocate=engine.allocate))
    slot = FramePool(2 * WIDTH, 2 * HEIGHT, 1, allocate=engine.allocate).lease()
    assert frame.slot is not None
    assert slot is not None
    ends = [weakref.ref(frame.slot.buffer), weakref.ref(slot.buffer)]
    engine.submit(frame, slot)  # and nobody waits for it
    del frame, slot
    driver.drain_all()  # the double's own hold on them
    assert all(one() is not None for one in ends)
    engine.close()
    assert all(one() is None for one in ends)


@pytest.mark.parametrize("depth", [1, 3])
def test_each_picture_is_given_its_own_motion(depth: int) -> None:
    driver, (width, height) = RecordingDriver(depth), (48, 32)
    program = AddingProgram(driver, width, height, recurrent=True)
    engine = OverlappedEngine(replace(SPEC, width=width, height=height), depth, driver, program)
    program.moved.clear()  # while it opened
    scene = texture(2 * height, 2 * width)
    lumas = [np.ascontiguousarray(scene[n : n + height, 2 * n : 2 * n + width]) for n in range(8)]
    waiting: deque[Pending] = deque()
    for number, luma in enumerate(lumas):
        planes = (luma, *empty_planes(width, height)[1:])
        frame = Frame(read_only(planes), pts=number, time_base=Fraction(1, 25), number=number)
        waiting.append(engine.submit(frame))
        if len(waiting) == depth:
            waiting.popleft().wait()
    for pending in waiting:
        pending.wait()
    engine.close()
    wanted = flows(lumas, 2)
    np.testing.assert_array_equal(np.stack(program.moved[1:]), wanted[1:])
    assert np.abs(wanted[1:]).mean() > 1
    assert not program.moved[0].any()


def test_a_part_of_a_pinned_picture_is_copied_first() -> None:
    driver = RecordingDriver()
    engine = OverlappedEngine(SPEC, 1, driver, AddingProgram(driver, WIDTH, HEIGHT))
    pool = FramePool(WIDTH, HEIGHT, 1, allocate=engine.allocate)
    whole = frame_of(1, pool)
    y, u, v = whole.planes
    flipped = whole.with_planes((y[::-1], u, v), whole.slot)
    result = engine.submit(flipped).wait()
    np.testing.assert_array_equal(result.planes[0], y[::-1].repeat(2, axis=0).repeat(2, axis=1))
    engine.close()


def test_a_device_that_fails_while_opening_is_given_back() -> None:
    driver = RecordingDriver()
    driver.fail_at = "event"
    with pytest.raises(EngineRunError, match="told to fail at event"):
        OverlappedEngine(SPEC, 1, driver, AddingProgram(driver, WIDTH, HEIGHT))
    assert driver.closed == 1
