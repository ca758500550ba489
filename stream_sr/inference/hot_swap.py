"""An engine that can be exchanged for another between two frames, without a gap: `SwapEngine`.

For a start that waits for nothing (a ready engine runs while a better one is built) and for changing the model of a
running filter.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from dataclasses import replace

from stream_sr.errors import ConfigError, EngineError, EngineRunError
from stream_sr.inference.results import InFlight
from stream_sr.pipeline.engine import Engine, EngineSpec, Pending
from stream_sr.video.frame import Frame
from stream_sr.video.frame_pool import Allocate, Slot

log = logging.getLogger("stream_sr")


class SwapEngine:
    """Runs on one engine; `offer` brings another, which takes over with the next frame that is submitted.

    What is in flight on the old engine comes back from it, in order. The old one is closed when the new one's first
    frame has come back; fails that frame, the new engine is closed, its frames are computed again on the old one (the
    caller still holds them) and a note says why. So no frame is lost and none comes twice, whatever is offered.

    ``spec`` is the current engine's as it is now, with a note for every change. ``depth`` and ``allocate`` stay what
    they were, as rings were made for them: ``allocate`` may be given for engines to come (a pinned allocator). `offer`
    and `note` may be called by any thread, the rest by one at a time. Closes every engine that it was given.
    """

    def __init__(self, engine: Engine, *, allocate: Allocate | None = None) -> None:
        self.depth = engine.depth
        self.allocate: Allocate | None = allocate or engine.allocate
        self._lock = threading.Lock()  # of notes, the offer and closed
        self._notes: tuple[str, ...] = ()
        self._offered: Engine | None = None
        self._closed = False
        self._current = engine
        self._previous: Engine | None = None  # kept until the current engine has shown one frame
        self._flying: list[_Flight] = []  # oldest first
        self._in_flight = InFlight(engine.depth)

    @property
    def spec(self) -> EngineSpec:
        """May be read by any thread."""
        spec, notes = self._current.spec, self._notes
        is_deterministic = (
            spec.is_deterministic and self._offered is None
        )  # a picture that stands still must not keep it waiting
        return replace(spec, notes=(*spec.notes, *notes), is_deterministic=is_deterministic)

    @property
    def closed(self) -> bool:
        """Whether it runs no more; thread-safe."""
        return self._closed

    def offer(self, engine: Engine) -> None:
        """Let ``engine`` take over with the next frame. An engine offered before and not yet used is closed.

        It must be ready: its first frame should take no longer than any other (`warm_up`). Raises ConfigError,
        and leaves ``engine`` to the caller, where its sizes are others or its depth is smaller. After `close` the
        engine is closed at once.
        """
        self._check(engine)
        with self._lock:
            unused, self._offered = self._offered, engine
            if self._closed:
                unused, self._offered = engine, None
        if unused is not None:
            unused.close()

    def note(self, text: str) -> None:
        """Add a note to ``spec``, now and for the engines to come: state that the user has to see."""
        log.info("%s", text)
        with self._lock:
            self._notes = (*self._notes, text)

    def submit(self, frame: Frame, slot: Slot | None = None) -> Pending:
        """See `engine.Engine`."""
        self._in_flight.enter()
        try:
            self._take_offer(frame)
            flight = self._start(frame, slot)
        except BaseException:
            self._in_flight.leave()
            raise
        self._flying.append(flight)
        return flight

    def close(self) -> None:
        """Close all engines. Safe to call twice."""
        with self._lock:
            if self._closed:
                return
            offered, self._offered = self._offered, None
            self._closed = True
        self._in_flight.closed = True
        previous, self._previous = self._previous, None
        for engine in (previous, self._current, offered):
            if engine is not None:
                engine.close()

    def _check(self, engine: Engine) -> None:
        ours, theirs = self.spec, engine.spec
        sizes = [(spec.width, spec.height, *spec.output_size) for spec in (ours, theirs)]
        if sizes[0] != sizes[1]:
            words = [f"{w}x{h} to {W}x{H}" for w, h, W, H in sizes]
            raise ConfigError(
                f"{theirs.model} on {theirs.backend} makes {words[1]}, the picture that runs is {words[0]}; "
                "only an engine of the same sizes can take over"
            )
        if engine.depth < self.depth:
            raise ConfigError(f"the engine takes {engine.depth} frames in flight, {self.depth} are needed to take over")

    def _take_offer(self, frame: Frame) -> None:
        if self._previous is not None:  # one change at a time
            return
        with self._lock:
            engine, self._offered = self._offered, None
        if engine is not None:
            self._previous, old = self._current, self.spec
            self._become(engine, f"frame {frame.number}: {_name(engine.spec)} took over from {_name(old)}")

    def _become(self, engine: Engine, note: str) -> None:
        self._current = engine
        self.note(note)

    def _start(self, frame: Frame, slot: Slot | None) -> _Flight:
        try:
            return _Flight(self, self._current, self._current.submit(frame, slot), frame, slot)
        except EngineError as error:
            if self._previous is None:
                raise
            self._reject(error)
            return _Flight(self, self._current, self._current.submit(frame, slot), frame, slot)

    def _complete(self, flight: _Flight) -> Frame:
        if flight not in self._flying:
            raise EngineRunError("a result was waited for twice; it is handed out once")
        try:
            result = self._result(flight)
        finally:
            self._flying.remove(flight)
            self._in_flight.leave()
        if flight.engine is self._current:
            self._confirm()
        return result

    def _confirm(self) -> None:
        previous = self._previous
        if previous is not None and all(flight.engine is not previous for flight in self._flying):
            self._previous = None
            previous.close()

    def _result(self, flight: _Flight) -> Frame:
        try:
            return flight.pending.wait()
        except EngineError as error:
            if self._previous is None or flight.engine is not self._current:
                raise
            self._reject(error)
            return flight.pending.wait()

    def _reject(self, error: EngineError) -> None:
        """Back to the previous engine, with all that the current one was given."""
        bad, previous = self._current, self._previous
        assert previous is not None
        again = [flight for flight in self._flying if flight.engine is bad]
        for flight in again:
            with contextlib.suppress(EngineError):
                flight.pending.wait()  # it may still write into the slot
        bad.close()
        self._previous = None
        self._become(previous, f"{_name(bad.spec)} failed at its first frame ({error}); back to {_name(previous.spec)}")
        for flight in again:
            flight.engine = previous
            try:
                flight.pending = previous.submit(flight.frame, flight.slot)
            except EngineError as failure:
                flight.pending = _Failed(failure)


class _Flight:
    """A frame in flight, and what is needed to compute it again."""

    def __init__(self, owner: SwapEngine, engine: Engine, pending: Pending, frame: Frame, slot: Slot | None) -> None:
        self.owner, self.engine, self.pending = owner, engine, pending
        self.frame, self.slot = frame, slot

    def wait(self) -> Frame:
        return self.owner._complete(self)


class _Failed:
    """The result of a frame that could not be submitted again."""

    def __init__(self, error: EngineError) -> None:
        self._error = error

    def wait(self) -> Frame:
        raise self._error


def _name(spec: EngineSpec) -> str:
    return f"{spec.model} x{spec.scale} on {spec.backend} ({spec.precision})"
