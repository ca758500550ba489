"""Engines are exchanged between two frames: every frame comes once, in order, from an engine that was open."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from doubles import HEIGHT, WIDTH, DoublingEngine
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_sr.errors import ConfigError, EngineRunError
from stream_sr.inference.hot_swap import SwapEngine
from stream_sr.pipeline.engine import EngineSpec, Pending
from stream_sr.pipeline.threads import Worker
from stream_sr.video.frame import Frame
from stream_sr.video.frame_pool import Allocate, FramePool, Slot
from stream_sr.video.planes import empty_planes, read_only

GOOD, REFUSES, FAILS = "good", "refuses the first frame", "fails at the first result"


class Tagged:
    """Fills its results with ``tag``; strict about depth, order, memory that is held, and being closed once."""

    allocate: Allocate | None = None

    def __init__(self, tag: int, *, depth: int, kind: str = GOOD) -> None:
        self.spec = EngineSpec("double", f"m{tag}", 2, WIDTH, HEIGHT, "uint8", "none")
        self.tag, self.depth, self.kind = tag, depth, kind
        self.in_flight: deque[_Tag] = deque()
        self.closed = 0

    def submit(self, frame: Frame, slot: Slot | None = None) -> Pending:
        assert not self.closed, "submitted to a closed engine"
        assert len(self.in_flight) < self.depth
        if self.kind == REFUSES:
            raise EngineRunError("refused by the double")
        self.in_flight.append(_Tag(self, frame, slot))
        return self.in_flight[-1]

    def close(self) -> None:
        assert not self.in_flight, "closed with a frame in flight"
        self.closed += 1
        assert self.closed == 1


class _Tag:
    def __init__(self, engine: Tagged, frame: Frame, slot: Slot | None) -> None:
        self.engine, self.frame, self.slot = engine, frame, slot

    def wait(self) -> Frame:
        if self not in self.engine.in_flight:
            raise EngineRunError("waited for twice")
        assert self.engine.in_flight.popleft() is self, "not in the order of submission"
        planes = self.slot.planes if self.slot else empty_planes(2 * WIDTH, 2 * HEIGHT)
        for plane in planes:
            plane.fill(self.engine.tag)
        if self.engine.kind == FAILS:
            raise EngineRunError("failed by the double")
        return self.frame.with_planes(planes, self.slot)


def frame_of(number: int) -> Frame:
    planes = empty_planes(WIDTH, HEIGHT)
    for plane in planes:
        plane.fill(number % 256)
    return Frame(read_only(planes), pts=number, time_base=Fraction(1, 25), number=number)


def tag_of(result: Frame) -> int:
    (tag,) = {int(value) for plane in result.planes for value in np.unique(plane)}
    return tag


OPERATIONS = st.lists(st.sampled_from(["frame", "frame", "frame", "land", GOOD, REFUSES, FAILS]), max_size=60)


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 3), OPERATIONS)
def test_every_frame_comes_once_in_order_from_a_working_engine(depth: int, operations: list[str]) -> None:
    made = [Tagged(0, depth=depth)]
    engine = SwapEngine(made[0])
    in_flight: deque[tuple[int, int, Pending]] = deque()  # number, the newest engine then, pending
    numbers = itertools.count()

    def complete() -> None:
        number, newest, pending = in_flight.popleft()
        result = pending.wait()
        assert result.number == number
        assert made[tag_of(result)].kind == GOOD
        assert tag_of(result) <= newest, "an engine that was offered later"
        with pytest.raises(EngineRunError, match="twice"):
            pending.wait()

    for operation in operations:
        if operation == "frame":
            if len(in_flight) == depth:
                complete()
            number = next(numbers)
            in_flight.append((number, len(made) - 1, engine.submit(frame_of(number))))
        elif operation == "land":
            if in_flight:
                complete()
        else:
            made.append(Tagged(len(made), depth=depth, kind=operation))
            engine.offer(made[-1])
        assert engine.spec.model in {f"m{one.tag}" for one in made if not one.closed}
    while in_flight:
        complete()
    best = max(one.tag for one in made if one.kind == GOOD)
    if made[-1].kind == GOOD:
        for number in (next(numbers), next(numbers)):  # nothing is in flight: the offer takes over now
            in_flight.append((number, len(made) - 1, engine.submit(frame_of(number))))
            complete()
        assert engine.spec.model == f"m{best}"
    engine.close()
    engine.close()
    assert [one.closed for one in made] == [1] * len(made)
    late = Tagged(9, depth=depth)
    engine.offer(late)
    assert late.closed == 1, "an engine that comes after the end is closed"


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_offers_from_other_threads(depth: int) -> None:
    first = Tagged(0, depth=depth)
    engine = SwapEngine(first)
    count = 40
    made = [[Tagged(1 + n, depth=depth, kind=(GOOD, FAILS, REFUSES)[n % 3]) for n in range(count)] for _ in range(2)]

    turns = threading.Semaphore(0)  # spreads the offers over the run

    def offer_all(engines: list[Tagged]) -> None:
        for one in engines:
            turns.acquire()
            engine.offer(one)

    workers = [Worker(f"offers {n}", lambda one=one: offer_all(one)) for n, one in enumerate(made)]  # type: ignore[misc]
    in_flight: deque[tuple[int, Pending]] = deque()
    landed = []
    for number in range(3000):
        if number % 30 == 0:
            turns.release()
        in_flight.append((number, engine.submit(frame_of(number))))
        if len(in_flight) == depth:
            number, pending = in_flight.popleft()
            result = pending.wait()
            landed.append(result.number)
            tag = tag_of(result)
            assert tag == 0 or tag % 3 == 1, "not a good engine's"
            assert result.number == number
    landed += [pending.wait().number for _, pending in in_flight]
    assert landed == list(range(3000))
    for worker in workers:
        worker.join()
        assert worker.error is None
    engine.close()
    assert all(one.closed == 1 for one in [first, *made[0], *made[1]])


@pytest.mark.parametrize("kind", [REFUSES, FAILS])
def test_a_failure_of_the_first_frame_goes_back_and_is_noted(kind: str) -> None:
    first, bad = Tagged(7, depth=2), Tagged(8, depth=2, kind=kind)
    engine = SwapEngine(first)
    engine.offer(bad)
    pool = FramePool(2 * WIDTH, 2 * HEIGHT, 2, poison=True)
    pending = [engine.submit(frame_of(n), pool.lease()) for n in range(2)]
    results = [one.wait() for one in pending]
    assert [(one.number, tag_of(one)) for one in results] == [(0, 7), (1, 7)]
    assert engine.spec.model == "m7"
    assert any("m8 x2 on double" in note and "by the double" in note for note in engine.spec.notes)
    assert (bad.closed, first.closed) == (1, 0)


def test_a_later_failure_is_the_callers() -> None:
    first, second = Tagged(1, depth=1), Tagged(2, depth=1)
    engine = SwapEngine(first)
    engine.offer(second)
    assert tag_of(engine.submit(frame_of(0)).wait()) == 2
    assert first.closed == 1
    second.kind = FAILS
    with pytest.raises(EngineRunError, match="failed by the double"):
        engine.submit(frame_of(1)).wait()


def test_the_old_engine_must_fail_too_before_a_frame_is_lost() -> None:
    first, bad = Tagged(1, depth=2), Tagged(2, depth=2, kind=FAILS)
    engine = SwapEngine(first)
    engine.offer(bad)
    one, two = engine.submit(frame_of(0)), engine.submit(frame_of(1))
    first.kind = REFUSES
    for pending in (one, two):
        with pytest.raises(EngineRunError, match="refused by the double"):
            pending.wait()
    engine.close()


def test_only_an_engine_of_the_same_sizes_and_depth_takes_over() -> None:
    engine = SwapEngine(DoublingEngine(depth=2))
    larger, shallow = Tagged(1, depth=2), Tagged(2, depth=1)
    larger.spec = replace(larger.spec, scale=3)
    with pytest.raises(ConfigError, match=r"makes 16x8 to 48x24, .* 16x8 to 32x16"):
        engine.offer(larger)
    with pytest.raises(ConfigError, match="1 frames in flight, 2 are needed"):
        engine.offer(shallow)
    assert (larger.closed, shallow.closed) == (0, 0), "they stay the caller's"


def test_the_limits_of_an_engine_hold() -> None:
    engine = SwapEngine(Tagged(1, depth=1))
    engine.note("a note before")
    pending = engine.submit(frame_of(0))
    with pytest.raises(EngineRunError, match="in flight"):
        engine.submit(frame_of(1))
    pending.wait()
    engine.offer(Tagged(2, depth=1))
    engine.submit(frame_of(1)).wait()
    assert engine.spec.notes == (
        "a note before",
        "frame 1: m2 x2 on double (uint8) took over from m1 x2 on double (uint8)",
    )
    engine.close()
    with pytest.raises(EngineRunError, match="closed"):
        engine.submit(frame_of(2))


def test_memory_for_engines_to_come() -> None:
    def allocate(nbytes: int) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
        return np.zeros(nbytes, np.uint8)

    assert SwapEngine(Tagged(1, depth=1), allocate=allocate).allocate is allocate
    assert SwapEngine(Tagged(1, depth=1)).allocate is None
