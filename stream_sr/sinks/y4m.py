"""Raw pictures as YUV4MPEG2 on standard output, for ffmpeg, x264 and other programs behind a pipe."""

from __future__ import annotations

import logging
import os
import sys

from stream_sr.codec.y4m import FRAME, format_header
from stream_sr.errors import SinkOpenError, SinkWriteError
from stream_sr.pipeline.interfaces import ORIENTATION_LOST
from stream_sr.system.files import set_binary
from stream_sr.video.frame import Frame, StreamInfo
from stream_sr.video.orientation import Orientation

log = logging.getLogger("stream_sr")


class Y4mSink:
    """Writes y4m to a file descriptor, standard output unless another is given.

    Size (odd ones too), rate, sample aspect, chroma siting and range go into the header; matrix, primaries, transfer,
    orientation (which is logged) and the times of a variable frame rate have no place in the format: pictures are one
    tick apart. When the reader closes the pipe (``| head``), `write` returns False. Refuses to write to a terminal. The
    descriptor is not closed: it belongs to who opened it.
    """

    name = "-"
    paced = False
    with_source = False

    def __init__(self, descriptor: int | None = None) -> None:
        self._given = descriptor
        self._descriptor: int | None = None
        self._header, self._size = b"", (0, 0)
        self._pictures = 0

    def check(self) -> None:
        """Refuse a terminal, and a standard output that is closed. Raises SinkOpenError."""
        self._target()

    def open(self, info: StreamInfo) -> None:
        self._descriptor = self._target()
        if info.orientation != Orientation.UPRIGHT:
            log.warning(ORIENTATION_LOST, "y4m output (-)", "y4m", info.orientation)
        self._header, self._size = format_header(info), (info.width, info.height)

    def write(self, frame: Frame) -> bool:
        if self._descriptor is None:
            raise SinkWriteError("y4m output is not open")
        if (frame.width, frame.height) != self._size:
            raise SinkWriteError(f"{frame!r} came to a y4m stream of {self._size[0]}x{self._size[1]} pictures")
        header, self._header = self._header, b""
        try:
            # The planes are contiguous as a rule (a slot of the pool), and then written without a copy.
            _write_all(self._descriptor, header + FRAME + b"\n")
            for plane in frame.planes:
                _write_all(self._descriptor, plane.data if plane.flags.c_contiguous else plane.tobytes())
        except BrokenPipeError:
            log.info("y4m output (-): whoever read it has left, after %d pictures", self._pictures)
            return False
        except OSError as error:
            raise SinkWriteError(f"y4m output (-): standard output cannot be written: {error.strerror}") from error
        self._pictures += 1
        return True

    def close(self) -> None:
        self._descriptor = None

    def _target(self) -> int:
        try:
            descriptor = self._given if self._given is not None else sys.__stdout__.fileno()  # type: ignore[union-attr]
            os.fstat(descriptor)
            set_binary(descriptor)
        except (OSError, ValueError, AttributeError) as error:
            raise SinkOpenError(
                "y4m output (-): standard output is closed; pipe it into a program or a file"
            ) from error
        if os.isatty(descriptor):
            raise SinkOpenError(
                "y4m output (-) is binary and goes into a pipe or a file, not to a terminal: ... - | x264"
            )
        return descriptor


def _write_all(descriptor: int, data: bytes | memoryview) -> None:
    view = memoryview(data).cast("B")
    while view:
        view = view[os.write(descriptor, view) :]
