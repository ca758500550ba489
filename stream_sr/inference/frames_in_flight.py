"""What every engine needs for a submitted frame: the count of frames in flight, and the memory of the result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stream_sr.errors import ConfigError, EngineRunError
from stream_sr.pipeline.engine import EngineSpec, Pending
from stream_sr.video.frame import Frame
from stream_sr.video.frame_pool import Slot
from stream_sr.video.planes import Planes, chroma_shape


class FramesInFlight:
    """Count the frames that were submitted to an engine and not waited for. One thread."""

    def __init__(self, depth: int) -> None:
        if depth < 1:
            raise ConfigError(f"depth is {depth}; at least one frame must be in flight")
        self.depth, self.count, self.closed = depth, 0, False

    def submit(self, start: Callable[[], Callable[[], Frame]]) -> Pending:
        """Count a frame and start it: ``start`` returns the function that waits for its result.

        Raises EngineRunError when the engine is closed or ``depth`` frames are in flight, and what ``start`` raises;
        the frame is not counted then.
        """
        if self.closed:
            raise EngineRunError("a frame was submitted to a closed engine")
        if self.count >= self.depth:
            raise EngineRunError(f"{self.count} frames are in flight, the engine's depth; wait for one first")
        self.count += 1
        try:
            return _PendingFrame(self, start())
        except BaseException:
            self.count -= 1
            raise


class _PendingFrame:
    """A `Pending` that runs ``finish`` once and then counts the frame as done, whether it succeeded or not."""

    __slots__ = ("_finish", "_in_flight")

    def __init__(self, in_flight: FramesInFlight, finish: Callable[[], Frame]) -> None:
        self._in_flight = in_flight
        self._finish: Callable[[], Frame] | None = finish

    def wait(self) -> Frame:
        if self._finish is None:
            raise EngineRunError("a result was waited for twice; it is handed out once")
        finish, self._finish = self._finish, None
        try:
            return finish()
        finally:
            self._in_flight.count -= 1


@dataclass(frozen=True, slots=True)
class OutputMemory:
    """Memory of one result: I420 in one buffer, and its planes. Writable."""

    buffer: npt.NDArray[np.uint8]
    planes: Planes
    chroma: npt.NDArray[np.uint8]  # both chroma planes, [2, 1, h, w]
    slot: Slot | None


def output_memory(frame: Frame, spec: EngineSpec, slot: Slot | None) -> OutputMemory:
    """Return the memory of the result for ``frame``: the slot's, or fresh. Raises EngineRunError for a wrong size."""
    if (frame.width, frame.height) != (spec.width, spec.height):
        raise EngineRunError(
            f"a frame of {frame.width}x{frame.height} came to an engine made for {spec.width}x{spec.height}; "
            "open an engine for the new size"
        )
    width, height = spec.width * spec.scale, spec.height * spec.scale
    rows, columns = chroma_shape(width, height)
    if slot is not None and slot.planes[0].shape != (height, width):
        got_height, got_width = slot.planes[0].shape
        raise EngineRunError(f"the slot for the result is {got_width}x{got_height}; it must be {width}x{height}")
    luma = width * height
    buffer = np.empty(luma + 2 * rows * columns, np.uint8) if slot is None else slot.buffer
    chroma = buffer[luma:].reshape(2, 1, rows, columns)
    return OutputMemory(buffer, (buffer[:luma].reshape(height, width), chroma[0, 0], chroma[1, 0]), chroma, slot)
