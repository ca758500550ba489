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

    A duplicate of the frame before is not computed again where the engine is deterministic: its result is the pixels of
    the last one, held once more. Counted as ``repeated``. For that one input and one result are kept.
    """
    in_flight: deque[_FrameInFlight] = deque()
    last_input: Frame | None = None  # input that was submitted last, held
    last_result: Frame | None = None  # result that came last, held

    def complete() -> Frame:
        nonlocal last_result
        current = in_flight.popleft()
        try:
            if current.pending is None:
                assert last_result is not None
                result = _repeat_last(last_result, current.frame).retain()
            else:
                with working("engine"):
                    result = current.pending.wait()
                stats.stage("infer", clock.now_ns() - current.began_ns)
            current.slot = None  # now the result's
            try:
                seen(current.frame, result)
            except BaseException:
                result.release()
                raise
        except BaseException:
            current.release()
            raise
        last_result = _exchange(last_result, result)
        if with_source:
            return replace(result, source=current.frame)  # the hold on the input goes on with it
        current.frame.release()
        return result

    try:
        for frame in frames:
            current = _FrameInFlight(frame)
            try:
                if last_input is not None and engine.spec.is_deterministic and frame.is_duplicate_of(last_input):
                    stats.count("repeated")
                else:
                    current.slot = lease() if lease else None
                    current.began_ns = clock.now_ns()
                    with working("engine"):
                        current.pending = engine.submit(frame, current.slot)
                    last_input = _exchange(last_input, frame)
            except BaseException:
                current.release()
                raise
            in_flight.append(current)
            if len(in_flight) >= engine.depth:
                yield complete()
        while in_flight:
            yield complete()
    finally:
        for current in in_flight:
            if current.pending is not None:
                with contextlib.suppress(EngineError):
                    current.pending.wait()  # the engine may still write into the slot
            current.release()
        for held in (last_input, last_result):
            if held is not None:
                held.release()


@dataclass(slots=True)
class _FrameInFlight:
    """A frame that was submitted, or without ``pending`` a duplicate, whose result is that of the frame before."""

    frame: Frame
    slot: Slot | None = None
    pending: Pending | None = None
    began_ns: int = 0

    def release(self) -> None:
        self.frame.release()
        if self.slot is not None:
            self.slot.release()


def _repeat_last(result: Frame, frame: Frame) -> Frame:
    """Return ``result`` at the time of ``frame``, with the colours and sample aspect that the engine gave it."""
    repeated = frame.with_planes(result.planes, result.slot)
    return replace(repeated, color=result.color, sample_aspect=result.sample_aspect)


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
