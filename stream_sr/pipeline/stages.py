"""What happens to frames on their way: generators from frames to frames, without a thread or a clock of their own.

Each takes over the hold on the frames it is given and hands on a hold on those it yields. A stage that is closed early
releases what it still has.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from stream_sr.errors import EngineError
from stream_sr.pipeline.engine import Engine, Pending
from stream_sr.pipeline.stall import working
from stream_sr.pipeline.stats import Stats
from stream_sr.video import barcode
from stream_sr.video.frame import Frame
from stream_sr.video.frame_pool import Slot
from stream_sr.video.timing import Clock, Pacer, to_ns


def drop_late(frames: Iterable[Frame], *, limit_ns: int, clock: Clock, stats: Stats) -> Iterator[Frame]:
    """Drop frames captured more than ``limit_ns`` ago, counted as ``late``, before the engine works on them."""
    for frame in frames:
        if clock.now_ns() - frame.captured_ns > limit_ns:
            stats.drop("late")
            frame.release()
        else:
            yield frame


def upscale(
    frames: Iterable[Frame],
    engine: Engine,
    *,
    clock: Clock,
    stats: Stats,
    lease: Callable[[], Slot] | None = None,
    seen: Callable[[Frame, Frame], None] = lambda before, after: None,
    with_source: bool = False,
) -> Iterator[Frame]:
    """Run every frame through the engine, in order, with up to ``engine.depth`` in flight.

    ``lease`` gives the memory of each result; without it every result owns its own. At depth 1 a frame is handed on
    before the next is asked for; at depth n it leaves when n - 1 later ones were submitted. Records the stage
    ``infer``, from submission to result. ``seen`` is shown each pair of input and result, both borrowed. With
    ``with_source`` each result holds its input as `Frame.source`. Raises EngineRunError.

    A duplicate frame is not computed again where the engine is deterministic: its result is the pixels of the last one,
    held once more. Counted as ``repeated``. For that one input and one result are kept.
    """
    flying: deque[_Flight] = deque()
    last: Frame | None = None  # input that was submitted last, held
    made: Frame | None = None  # result that landed last, held

    def complete() -> Frame:
        nonlocal made
        flight = flying.popleft()
        try:
            if flight.pending is None:
                assert made is not None
                result = _repeat_last(made, flight.frame).retain()
            else:
                with working("engine"):
                    result = flight.pending.wait()
                stats.stage("infer", clock.now_ns() - flight.began_ns)
            flight.slot = None  # now the result's
            try:
                seen(flight.frame, result)
            except BaseException:
                result.release()
                raise
        except BaseException:
            flight.release()
            raise
        made = _exchange(made, result)
        if with_source:
            return replace(result, source=flight.frame)  # the hold on the input goes on with it
        flight.frame.release()
        return result

    try:
        for frame in frames:
            flight = _Flight(frame)
            try:
                if last is not None and engine.spec.is_deterministic and frame.is_duplicate_of(last):
                    stats.count("repeated")
                else:
                    flight.slot = lease() if lease else None
                    flight.began_ns = clock.now_ns()
                    with working("engine"):
                        flight.pending = engine.submit(frame, flight.slot)
                    last = _exchange(last, frame)
            except BaseException:
                flight.release()
                raise
            flying.append(flight)
            if len(flying) >= engine.depth:
                yield complete()
        while flying:
            yield complete()
    finally:
        for flight in flying:
            if flight.pending is not None:
                with contextlib.suppress(EngineError):
                    flight.pending.wait()  # the engine may still write into the slot
            flight.release()
        for kept in (last, made):
            if kept is not None:
                kept.release()


@dataclass(slots=True)
class _Flight:
    """A frame on its way through the engine. Without ``pending``: its result is that of the one before."""

    frame: Frame
    slot: Slot | None = None
    pending: Pending | None = None
    began_ns: int = 0

    def release(self) -> None:
        self.frame.release()
        if self.slot is not None:
            self.slot.release()


def _repeat_last(made: Frame, frame: Frame) -> Frame:
    """The result ``made`` at the moment of ``frame``: the engine may have given it colours and a shape of its own."""
    return replace(frame.with_planes(made.planes, made.slot), color=made.color, sample_aspect=made.sample_aspect)


def _exchange(old: Frame | None, new: Frame) -> Frame:
    """Hold ``new`` instead of ``old``."""
    if old is not None:
        old.release()
    return new.retain()


def pace(frames: Iterable[Frame], pacer: Pacer, *, clock: Clock, stop: threading.Event) -> Iterator[Frame]:
    """Hand each frame on at its presentation time; once ``stop`` is set, at once."""
    for frame in frames:
        wait_ns = pacer.wait_ns(to_ns(frame.pts, frame.time_base), clock.now_ns())
        if wait_ns and not stop.is_set():
            clock.wait(wait_ns / 1e9, stop)
        yield frame


def measure(frames: Iterable[Frame], *, clock: Clock, stats: Stats) -> Iterator[Frame]:
    """Read the clock barcode of each picture: stage ``glass_to_glass``, from burning it to now.

    Pictures without a readable barcode are counted as ``unreadable_barcodes``. The barcode's clock is the monotonic
    clock of this machine, so the camera must run on it too.
    """
    for frame in frames:
        reading = barcode.read(frame.planes[0])
        if reading is None:
            stats.count("unreadable_barcodes")
        else:
            stats.stage("glass_to_glass", max(0, reading.age_ns(clock.now_ns())))
        yield frame
