"""Interlaced pictures to progressive ones, through FFmpeg's bwdif (yadif's motion test, w3fdif's interpolation)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from typing import Generic, TypeVar

import av

from stream_sr.codec.picture import expect
from stream_sr.system.limits import codec_threads

T = TypeVar("T")


class Deinterlacer(Generic[T]):
    """bwdif over the frames marked as interlaced: as many pictures out as in, each with what was put in with it.

    Progressive frames pass unchanged. One thread at a time.
    """

    def __init__(self, picture: av.VideoFrame, time_base: Fraction) -> None:
        self._waiting: deque[T] = deque()
        self._base = time_base
        self._frame_shape = _frame_shape(picture)
        self._graph = av.filter.Graph()
        self._graph.threads = codec_threads()
        source = self._graph.add(
            "buffer",
            f"video_size={picture.width}x{picture.height}:pix_fmt={picture.format.name}:time_base={time_base}:"
            f"colorspace={int(picture.colorspace)}:range={int(picture.color_range)}",
        )
        bwdif = self._graph.add("bwdif", "mode=send_frame:deint=interlaced")
        sink = self._graph.add("buffersink")
        source.link_to(bwdif)
        bwdif.link_to(sink)
        self._graph.configure()

    def takes(self, picture: av.VideoFrame) -> bool:
        """Whether the picture has the size, format and colours of the first: the filter takes no others."""
        return _frame_shape(picture) == self._frame_shape

    def put(self, picture: av.VideoFrame, pts: int, companion: T) -> Iterator[tuple[av.VideoFrame, T]]:
        """Push one picture, its pts in the time base; yields those that are ready (one picture later)."""
        expect(picture, *self._frame_shape[:3])
        self._waiting.append(companion)
        picture.pts, picture.time_base = pts, self._base
        self._graph.vpush(picture)
        yield from self._ready()

    def flush(self) -> Iterator[tuple[av.VideoFrame, T]]:
        """The last pictures."""
        self._graph.vpush(None)
        yield from self._ready()

    def _ready(self) -> Iterator[tuple[av.VideoFrame, T]]:
        while self._waiting:
            try:
                picture = self._graph.vpull()
            except (av.BlockingIOError, av.EOFError):
                return
            yield expect(picture, *self._frame_shape[:3]), self._waiting.popleft()


def _frame_shape(picture: av.VideoFrame) -> tuple[int, int, str, int, int]:
    return picture.width, picture.height, picture.format.name, int(picture.colorspace), int(picture.color_range)
