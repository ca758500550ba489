"""What happens to frames on their way: generators from frames to frames, without a thread or a clock of their own.

Each takes over the hold on the frames it is given and hands on a hold on those it yields. A stage that is closed early
releases what it still has.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from stream_sr import barcode
from stream_sr.engine import Engine, Pending
from stream_sr.errors import EngineError
from stream_sr.frame import Frame
from stream_sr.ring import Slot
from stream_sr.stats import Stats
from stream_sr.timing import Clock, Pacer, to_ns


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
    pairs: bool = False,
) -> Iterator[Frame]:
    """Run every frame through the engine, in order, with up to ``engine.depth`` in flight.

    ``lease`` gives the memory of each result; without it every result owns its own. At depth 1 a frame is handed on
    before the next is asked for; at depth n it leaves when n - 1 later ones were submitted. Records the stage
    ``infer``, from submission to result. ``seen`` is shown each pair of input and result, both
    borrowed. With ``pairs`` each result holds its input as `Frame.source`. Raises EngineRunError.
    """
    flying: deque[tuple[Frame, Slot | None, Pending, int]] = deque()

    def give_back(frame: Frame, slot: Slot | None) -> None:
        frame.release()
        if slot is not None:
            slot.release()

    def land() -> Frame:
        frame, slot, pending, began = flying.popleft()
        try:
            result = pending.wait()
            stats.stage("infer", clock.now_ns() - began)
            seen(frame, result)
        except BaseException:
            give_back(frame, slot)
            raise
        if pairs:
            return replace(result, source=frame)  # the hold on the input goes on with it
        frame.release()
        return result

    try:
        for frame in frames:
            slot = None
            try:
                slot = lease() if lease else None
                began = clock.now_ns()
                pending = engine.submit(frame, slot)
            except BaseException:
                give_back(frame, slot)
                raise
            flying.append((frame, slot, pending, began))
            if len(flying) >= engine.depth:
                yield land()
        while flying:
            yield land()
    finally:
        for frame, slot, pending, _ in flying:
            with contextlib.suppress(EngineError):
                pending.wait()  # the engine may still write into the slot
            give_back(frame, slot)


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
