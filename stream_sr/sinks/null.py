"""The sink that takes every picture and keeps none: for measuring, and for tests."""

from __future__ import annotations

from stream_sr.errors import SinkWriteError
from stream_sr.video.frame import Frame, StreamInfo


class NullSink:
    """Counts the frames in ``frames`` and remembers nothing else."""

    name = "null:"
    paced = False
    with_source = False

    def __init__(self) -> None:
        self.frames = 0
        self._open = False

    def open(self, info: StreamInfo) -> None:
        self._open = True

    def write(self, frame: Frame) -> bool:
        if not self._open:
            raise SinkWriteError("null: is not open")
        self.frames += 1
        return True

    def close(self) -> None:
        self._open = False
