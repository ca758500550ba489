"""Animated WebP through Pillow (libwebp): FFmpeg does not decode it. Animated PNG, GIF and AVIF are read by FFmpeg."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from stream_sr.codec.decode import FrameReader
from stream_sr.codec.picture import expect
from stream_sr.codec.still import webp_delays
from stream_sr.errors import DecodeError, SourceOpenError
from stream_sr.pipeline.interfaces import SourceOptions
from stream_sr.sources.stoppable import StoppableSource
from stream_sr.video.frame import Frame, StreamInfo
from stream_sr.video.frame_pool import FramePool

TIME_BASE = Fraction(1, 1000)
UNREADABLE = (OSError, ValueError, EOFError, SyntaxError, Image.DecompressionBombError)
NO_DELAY_MS = 100  # what browsers take for a picture that is shown for no time


class AnimatedWebpSource(StoppableSource):
    """The pictures of an animated WebP, each shown as long as the file says, once through. See `interfaces.Source`.

    Every picture is the whole canvas; where it is transparent it is black, as for every other input alpha is dropped.
    RGB becomes limited-range YUV. Raises SourceOpenError for a file that cannot be read, DecodeError for a damaged
    picture; the pictures before it are delivered.
    """

    def __init__(self, path: Path, options: SourceOptions | None = None) -> None:
        options = options or SourceOptions()
        super().__init__()
        self._path = path
        try:
            delays = [delay or NO_DELAY_MS for delay in webp_delays(path)]
            self._image = Image.open(path, formats=("WEBP",))
        except UNREADABLE as error:
            raise SourceOpenError(f"{path} cannot be read as WebP: {error}") from error
        if not delays:
            self._image.close()
            raise SourceOpenError(f"{path} is an animated WebP without a picture")
        begins = [0, *itertools.accumulate(delays)]
        start = _milliseconds(options.start) or Fraction(0)
        length = _milliseconds(options.duration)
        end = begins[-1] if length is None else start + length
        self._shift = int(start)
        self._shown = [(n, begins[n], delays[n]) for n in range(len(delays)) if start <= begins[n] < end]
        if not self._shown:
            self._image.close()
            raise SourceOpenError(f"{path} has no picture at or after the start, {float(start) / 1000:g} s")
        self._reader = FrameReader()
        try:
            self._first: av.VideoFrame | None = self._picture(self._shown[0][0])
        except DecodeError as error:
            self._image.close()
            raise SourceOpenError(str(error)) from error
        self.info = StreamInfo(
            width=self._first.width,
            height=self._first.height,
            time_base=TIME_BASE,
            fps=Fraction(1000 * len(delays), begins[-1]),
            color=self._reader.color(self._first),
            frame_count=len(self._shown),
            duration_seconds=sum(delay for _, _, delay in self._shown) / 1000,
            codec="webp",
            name=str(path),
        )

    def frames(self, pool: FramePool | None = None) -> Iterator[Frame]:
        """See `Source.frames`."""
        for number, (index, begin, delay) in enumerate(self._shown):
            if self._stopping.is_set():
                return
            first, self._first = self._first, None
            picture = first or self._picture(index)
            captured_ns = time.monotonic_ns()
            planes, slot = self._reader.read(picture, pool)
            yield Frame(
                planes,
                pts=begin - self._shift,
                time_base=TIME_BASE,
                duration=delay,
                number=number,
                captured_ns=captured_ns,
                color=self._reader.color(picture),
                slot=slot,
            )

    def close(self) -> None:
        """See `Source.close`."""
        super().close()
        self._image.close()

    def _picture(self, index: int) -> av.VideoFrame:
        try:
            self._image.seek(index)
            pixels = np.asarray(self._image.convert("RGB"), np.uint8)
        except UNREADABLE as error:
            raise DecodeError(f"picture {index} of {self._path} is damaged: {error}") from error
        return expect(av.VideoFrame.from_ndarray(pixels, "rgb24"), self._image.width, self._image.height, "rgb24")


def _milliseconds(seconds: float | None) -> Fraction | None:
    """As the decimal that the user wrote."""
    return None if seconds is None else Fraction(seconds).limit_denominator(1_000_000) * 1000
