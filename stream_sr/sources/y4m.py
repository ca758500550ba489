"""Raw pictures from another program through a pipe: ``ffmpeg ... -f yuv4mpegpipe - | stream-sr run - SINK``."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import numpy as np

from stream_sr.codec import y4m
from stream_sr.codec.decode import FrameReader, color_of
from stream_sr.codec.picture import picture_planes
from stream_sr.errors import DecodeError, SourceOpenError
from stream_sr.pipeline.interfaces import SourceOptions
from stream_sr.sources.stoppable import StoppableSource
from stream_sr.system.files import read_within, set_binary
from stream_sr.video.frame import Frame, StreamInfo
from stream_sr.video.frame_pool import FramePool, Slot
from stream_sr.video.planes import Plane, Planes, chroma_shape, read_only

POLL_SECONDS = 0.2  # how soon a reader that waits for the other program notices `stop`


class Y4mSource(StoppableSource):
    """y4m from a file descriptor (stdin by default), which stays open. 4:2:0 is read straight into the slot.

    The pipe holds the other program back, so nothing is lost: ``live`` is False. Input that ends inside a picture
    delivers the whole ones and then raises DecodeError.
    """

    def __init__(self, options: SourceOptions | None = None, *, descriptor: int | None = None) -> None:
        options = options or SourceOptions()
        if descriptor is None and sys.stdin is None:
            raise SourceOpenError("standard input: it is closed; pipe y4m into it")
        self._descriptor = sys.stdin.fileno() if descriptor is None else descriptor
        super().__init__()
        try:
            set_binary(self._descriptor)
            line = self._line()
            if not line:
                raise DecodeError("nothing came on the standard input; pipe y4m into it")
            self._header = y4m.parse_header(line)
            self._reader = FrameReader()
            color = self._header.color
            if self._header.pixels != "yuv420p":
                color = color_of(self._picture(None))
        except (DecodeError, OSError) as error:
            raise SourceOpenError(f"standard input: {error}") from error
        info = self._header.info
        seconds = options.duration
        self._count = None if seconds is None else _pictures(seconds, self._header.fps)
        self.info = StreamInfo(
            width=info.width,
            height=info.height,
            time_base=info.time_base,
            fps=info.fps,
            color=color,
            sample_aspect=info.sample_aspect,
            duration_seconds=seconds,
            codec="rawvideo",
            name="standard input",
        )

    def frames(self, pool: FramePool | None = None) -> Iterator[Frame]:
        """See `Source.frames`."""
        number = 0
        while number != self._count and not self._stopping.is_set():
            line = self._line()
            if not line or self._stopping.is_set():
                return
            if line.split(b" ")[0].rstrip(b"\n") != y4m.FRAME:
                raise DecodeError(f"picture {number} of the y4m input does not begin with FRAME but with {line[:12]!r}")
            picture = self._next(pool, number)
            if picture is None:
                return
            planes, slot = picture
            yield Frame(
                read_only(planes),
                pts=number,
                time_base=self.info.time_base,
                duration=1,
                number=number,
                captured_ns=time.monotonic_ns(),
                color=self.info.color,
                sample_aspect=self.info.sample_aspect,
                slot=slot,
            )
            number += 1

    def _next(self, pool: FramePool | None, number: int) -> tuple[Planes, Slot | None] | None:
        """The planes of one picture; None when stopped in the middle of it."""
        native = self._header.pixels == "yuv420p"
        slot = pool.lease() if native and pool is not None else None
        buffer: Any = slot.buffer if slot is not None else np.empty(self._picture_bytes(), np.uint8)
        try:
            got = self._fill(memoryview(buffer))
            if got < len(buffer) and not self._stopping.is_set():
                raise DecodeError(
                    f"the y4m input is truncated: it ended inside picture {number}, "
                    f"after {got} of its {len(buffer)} bytes"
                )
        except BaseException:
            if slot is not None:
                slot.release()
            raise
        if got < len(buffer):
            if slot is not None:
                slot.release()
            return None
        if not native:
            return self._reader.read(self._picture(buffer), pool)
        return (slot.planes if slot is not None else _cut(buffer, self.info.width, self.info.height)), slot

    def _picture(self, samples: Plane | None) -> av.VideoFrame:
        """The raw samples as a picture of PyAV (an empty one for None), for the formats that swscale converts."""
        header = self._header
        picture = av.VideoFrame(header.width, header.height, header.pixels)
        picture.color_range = header.color.range
        done = 0
        for view in picture_planes(picture) if samples is not None else ():
            assert samples is not None
            np.copyto(view, samples[done : done + view.size].reshape(view.shape))
            done += view.size
        return picture

    def _picture_bytes(self) -> int:
        return sum(plane.width * plane.height for plane in self._picture(None).planes)

    def _line(self) -> bytes:
        """Up to the next line feed, byte by byte (headers are short, and nothing behind them may be swallowed)."""
        line = bytearray()
        while not line.endswith(b"\n") and len(line) < y4m.LONGEST_LINE:
            byte = bytearray(1)
            if self._fill(memoryview(byte)) == 0:
                break
            line += byte
        return bytes(line)

    def _fill(self, view: memoryview) -> int:
        """Read until the view is full, the input ends or `stop`; the number of bytes that came."""
        done = 0
        while done < len(view) and not self._stopping.is_set():
            count = read_within(self._descriptor, view[done:], POLL_SECONDS)
            if count == 0:
                break
            done += count or 0
        return done


def _cut(buffer: Plane, width: int, height: int) -> Planes:
    rows, columns = chroma_shape(width, height)
    luma, chroma = width * height, rows * columns
    return (
        buffer[:luma].reshape(height, width),
        buffer[luma : luma + chroma].reshape(rows, columns),
        buffer[luma + chroma :].reshape(rows, columns),
    )


def _pictures(seconds: float, fps: Fraction) -> int:
    """How many pictures begin within so many seconds."""
    exact = Fraction(seconds).limit_denominator(1_000_000) * fps
    return -(-exact.numerator // exact.denominator)
