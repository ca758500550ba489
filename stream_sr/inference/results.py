"""What the backends share: the frame's size checked, the memory of a result, the counting of frames in flight."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stream_sr.errors import ConfigError, EngineRunError
from stream_sr.pipeline.engine import EngineOptions, EngineSpec
from stream_sr.system import machine
from stream_sr.video.frame import Frame
from stream_sr.video.frame_pool import Slot
from stream_sr.video.planes import Planes, chroma_shape


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether a backend can be used here, and if not, why and what mends it."""

    usable: bool
    version: str = ""
    reason: str = ""  # what was found or is missing
    mend: str = ""  # a command


@dataclass(frozen=True, slots=True)
class Output:
    """Memory of one result: I420 in one buffer, and its planes. Writable."""

    buffer: npt.NDArray[np.uint8]
    planes: Planes
    chroma: npt.NDArray[np.uint8]  # both chroma planes, [2, 1, h, w]
    slot: Slot | None


def make_output(frame: Frame, spec: EngineSpec, slot: Slot | None) -> Output:
    """The memory for ``frame`` enlarged: the slot's, or fresh. Raises EngineRunError for a wrong size of either."""
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
    return Output(buffer, (buffer[:luma].reshape(height, width), chroma[0, 0], chroma[1, 0]), chroma, slot)


class InFlight:
    """Counts submissions that were not waited for. One thread."""

    def __init__(self, depth: int) -> None:
        if depth < 1:
            raise ConfigError(f"depth is {depth}; at least one frame must be in flight")
        self.depth, self.count, self.closed = depth, 0, False

    def enter(self) -> None:
        """Raises EngineRunError when the engine is closed or ``depth`` frames are in flight."""
        if self.closed:
            raise EngineRunError("a frame was submitted to a closed engine")
        if self.count >= self.depth:
            raise EngineRunError(f"{self.count} frames are in flight, the engine's depth; wait for one first")
        self.count += 1

    def leave(self) -> None:
        self.count -= 1


class Result:
    """A `Pending` that runs ``finish`` once."""

    __slots__ = ("_finish",)

    def __init__(self, finish: Callable[[], Frame]) -> None:
        self._finish: Callable[[], Frame] | None = finish

    def wait(self) -> Frame:
        if self._finish is None:
            raise EngineRunError("a result was waited for twice; it is handed out once")
        finish, self._finish = self._finish, None
        return finish()


def cpu_threads(options: EngineOptions) -> int:
    """The threads to compute with: as asked for, or all cores that this process may use."""
    if options.threads is not None:
        if options.threads < 1:
            raise ConfigError(f"threads is {options.threads}; it must be at least 1")
        return options.threads
    return machine.cores()
