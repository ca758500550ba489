"""What the engines that run on other engines have in common: `EngineWrapper`."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from stream_sr.inference.frames_in_flight import FramesInFlight
from stream_sr.pipeline.engine import Engine, EngineSpec, Pending
from stream_sr.video.frame import Frame
from stream_sr.video.frame_pool import Allocate, Slot


class EngineWrapper(ABC):
    """See `engine.Engine`. Runs on other engines, counts the frames in flight and closes the engines that it owns.

    ``depth`` is the smallest of the engines that it was made with; ``allocate`` is that of the first unless another is
    given. Both stay what they are, as rings are made for them. A subclass says what `spec` is, and starts a frame in
    `_start`. `_adopt` and `_drop` may be called by any thread, `submit` and `close` by one at a time.
    """

    def __init__(self, engines: Sequence[Engine], *, allocate: Allocate | None = None) -> None:
        self.depth = min(engine.depth for engine in engines)
        self.allocate: Allocate | None = allocate or engines[0].allocate
        self._in_flight = FramesInFlight(self.depth)
        self._lock = threading.Lock()
        self._owned = list(engines)

    @property
    @abstractmethod
    def spec(self) -> EngineSpec:
        """What computes now; may be read by any thread."""

    @abstractmethod
    def _start(self, frame: Frame, slot: Slot | None) -> Callable[[], Frame]:
        """Submit the frame to an engine; return the function that waits for the result."""

    @property
    def closed(self) -> bool:
        """Whether it was closed; may be read by any thread."""
        return self._in_flight.closed

    def submit(self, frame: Frame, slot: Slot | None = None) -> Pending:
        """See `engine.Engine`."""
        return self._in_flight.submit(lambda: self._start(frame, slot))

    def close(self) -> None:
        """Close all engines that it owns. Safe to call twice."""
        with self._lock:
            self._in_flight.closed = True
            owned, self._owned = self._owned, []
        with ExitStack() as stack:
            for engine in reversed(owned):
                stack.callback(engine.close)

    def _adopt(self, engine: Engine) -> bool:
        """Own another engine; after `close` it is closed at once, and False returned."""
        with self._lock:
            adopted = not self.closed
            if adopted:
                self._owned.append(engine)
        if not adopted:
            engine.close()
        return adopted

    def _drop(self, engine: Engine) -> None:
        """Close an engine that is not needed any more, unless `close` did."""
        with self._lock:
            owned = [one for one in self._owned if one is not engine]
            found, self._owned = len(owned) < len(self._owned), owned
        if found:
            engine.close()
