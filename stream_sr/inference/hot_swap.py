"""An engine that can be exchanged for another between two frames, without a gap: `SwapEngine`.

For a start that waits for nothing (a ready engine runs while a better one is built) and for changing the model of a
running filter.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

from stream_sr.errors import ConfigError, EngineError
from stream_sr.inference.wrapper import EngineWrapper
from stream_sr.pipeline.engine import Engine, EngineSpec, Pending
from stream_sr.video.frame import Frame
from stream_sr.video.frame_pool import Allocate, Slot

log = logging.getLogger("stream_sr")


class SwapEngine(EngineWrapper):
    """Runs on one engine; `offer` brings another, which takes over with the next frame that is submitted.

    What is in flight on the old engine comes back from it, in order. The old one is closed when the new one's first
    frame has come back. If that frame fails, the new engine is closed, its frames are computed again on the old one
    (the caller still holds them) and a note says why. So no frame is lost and none comes twice, whatever is offered.

    ``spec`` is the current engine's as it is now, with a note for every change. ``allocate`` may be given for engines
    to come (a pinned allocator). `offer` and `note` may be called by any thread, the rest by one at a time. Closes
    every engine that it was given.
    """

    def __init__(self, engine: Engine, *, allocate: Allocate | None = None) -> None:
        super().__init__([engine], allocate=allocate)
        self._notes: tuple[str, ...] = ()
        self._offered: Engine | None = None
        self._current = engine
        self._previous: Engine | None = None  # kept until the current engine has returned one frame
        self._submitted: list[_SubmittedFrame] = []  # and not waited for, oldest first

    @property
    def spec(self) -> EngineSpec:
        """May be read by any thread."""
        spec, notes = self._current.spec, self._notes
        # no duplicate frame is left out while an engine waits to take over
        is_deterministic = spec.is_deterministic and self._offered is None
        return replace(spec, notes=(*spec.notes, *notes), is_deterministic=is_deterministic)

    def offer(self, engine: Engine) -> None:
        """Let ``engine`` take over with the next frame. An engine offered before and not yet used is closed.

        It must be ready: its first frame should take no longer than any other (`warm_up`). Raises ConfigError,
        and leaves ``engine`` to the caller, where its sizes are others or its depth is smaller. After `close` the
        engine is closed at once.
        """
        self._check(engine)
        if not self._adopt(engine):
            return
        with self._lock:
            unused, self._offered = self._offered, engine
        if unused is not None:
            self._drop(unused)

    def note(self, text: str) -> None:
        """Add a note to ``spec``, now and for the engines to come: state that the user has to see."""
        log.info("%s", text)
        with self._lock:
            self._notes = (*self._notes, text)

    def _start(self, frame: Frame, slot: Slot | None) -> Callable[[], Frame]:
        self._take_offer(frame)
        submitted = self._submit(frame, slot)
        self._submitted.append(submitted)
        return lambda: self._complete(submitted)

    def _check(self, engine: Engine) -> None:
        ours, theirs = self.spec, engine.spec
        sizes = [(spec.width, spec.height, *spec.output_size) for spec in (ours, theirs)]
        if sizes[0] != sizes[1]:
            sizes_text = [f"{w}x{h} to {W}x{H}" for w, h, W, H in sizes]
            raise ConfigError(
                f"{theirs.model} on {theirs.backend} makes {sizes_text[1]}, the stream that runs is {sizes_text[0]}; "
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

    def _submit(self, frame: Frame, slot: Slot | None) -> _SubmittedFrame:
        try:
            return _SubmittedFrame(frame, slot, self._current, self._current.submit(frame, slot))
        except EngineError as error:
            if self._previous is None:
                raise
            self._return_to_previous(error)
            return _SubmittedFrame(frame, slot, self._current, self._current.submit(frame, slot))

    def _complete(self, submitted: _SubmittedFrame) -> Frame:
        try:
            result = self._wait(submitted)
        finally:
            self._submitted.remove(submitted)
        if submitted.engine is self._current:
            self._confirm()
        return result

    def _confirm(self) -> None:
        """Close the previous engine once it has returned all its frames: the current one has returned one."""
        previous = self._previous
        if previous is not None and all(one.engine is not previous for one in self._submitted):
            self._previous = None
            self._drop(previous)

    def _wait(self, submitted: _SubmittedFrame) -> Frame:
        try:
            return submitted.pending.wait()
        except EngineError as error:
            if self._previous is None or submitted.engine is not self._current:
                raise
            self._return_to_previous(error)
            return submitted.pending.wait()

    def _return_to_previous(self, error: EngineError) -> None:
        """Compute all that the current engine was given again, on the previous engine."""
        bad, previous = self._current, self._previous
        assert previous is not None
        again = [one for one in self._submitted if one.engine is bad]
        for one in again:
            with contextlib.suppress(EngineError):
                one.pending.wait()  # it may still write into the slot
        self._drop(bad)
        self._previous = None
        self._become(previous, f"{_name(bad.spec)} failed at its first frame ({error}); back to {_name(previous.spec)}")
        for one in again:
            one.engine = previous
            try:
                one.pending = previous.submit(one.frame, one.slot)
            except EngineError as failure:
                one.pending = _FailedFrame(failure)


@dataclass(slots=True, eq=False)
class _SubmittedFrame:
    """A frame in flight, and what is needed to compute it again."""

    frame: Frame
    slot: Slot | None
    engine: Engine
    pending: Pending


@dataclass(frozen=True, slots=True)
class _FailedFrame:
    """The `Pending` of a frame that could not be submitted again."""

    error: EngineError

    def wait(self) -> Frame:
        raise self.error


def _name(spec: EngineSpec) -> str:
    return f"{spec.model} x{spec.scale} on {spec.backend} ({spec.precision})"
