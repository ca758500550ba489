"""How others read RTSP, to measure our reader against: PyAV's demuxer and OpenCV's VideoCapture.

Each is opened as it comes, and with the options that are passed around for low delay. Benchmark code: a camera here is
H.264 over TCP, and never goes away.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import av
import cv2
import numpy as np
from av.codec.context import Flags

from stream_sr.codec.decode import FrameReader, color_of
from stream_sr.errors import SourceOpenError
from stream_sr.pipeline.interfaces import Source
from stream_sr.pipeline.packets import Passthrough
from stream_sr.sources import open_source
from stream_sr.video.color import ColorInfo, Matrix, Range
from stream_sr.video.frame import Frame, StreamInfo
from stream_sr.video.frame_pool import FramePool
from stream_sr.video.planes import empty_planes, read_only

TICKS = Fraction(1, 1_000_000)
LOW_DELAY = {
    "fflags": "nobuffer",
    "flags": "low_delay",
    "analyzeduration": "0",
    "probesize": "32",
    "max_delay": "0",
    "reorder_queue_size": "0",
}
OPENCV_OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"


class PyAVSource:
    """PyAV's demuxer and decoder. See `interfaces.Source`; ``captured_ns`` is when the demuxer gave the packet out."""

    passthrough: Passthrough | None = None

    def __init__(self, url: str, *, low_delay: bool) -> None:
        options = {"rtsp_transport": "tcp"} | (LOW_DELAY if low_delay else {})
        self._container: Any = av.open(url, options=options, timeout=(10.0, 10.0))
        self._stream = self._container.streams.video[0]
        if low_delay:
            self._stream.codec_context.flags |= Flags.low_delay
        context = self._stream.codec_context
        self._stopping = threading.Event()
        self._reader = FrameReader(codec="h264")
        self.info = StreamInfo(
            context.width,
            context.height,
            TICKS,
            self._stream.average_rate,
            color=color_of(context, codec="h264"),
            live=True,
            codec="h264",
            name=url,
        )

    def frames(self, pool: FramePool | None = None) -> Iterator[Frame]:
        """See `interfaces.Source`."""
        number = 0
        for packet in self._container.demux(self._stream):
            captured_ns = time.monotonic_ns()
            for picture in packet.decode():
                planes, slot = self._reader.read(picture, pool)
                yield Frame(
                    planes=planes,
                    pts=captured_ns // 1000 + number,
                    time_base=TICKS,
                    number=number,
                    captured_ns=captured_ns,
                    color=self.info.color,
                    slot=slot,
                )
                number += 1
            if self._stopping.is_set():
                return

    def stop(self) -> None:
        """See `interfaces.Source`: at the next picture."""
        self._stopping.set()

    def counters(self) -> dict[str, int]:
        """See `interfaces.Source`."""
        return {}

    def close(self) -> None:
        """See `interfaces.Source`."""
        self._container.close()


@contextmanager
def capture_options(text: str) -> Iterator[None]:
    """Give OpenCV options for FFmpeg, which it reads from the environment while it opens."""
    before = os.environ.get(OPENCV_OPTIONS)
    os.environ[OPENCV_OPTIONS] = text
    try:
        yield
    finally:
        if before is None:
            del os.environ[OPENCV_OPTIONS]
        else:
            os.environ[OPENCV_OPTIONS] = before


class OpenCVSource:
    """OpenCV's VideoCapture; its BGR becomes 4:2:0 again. See `interfaces.Source`; ``captured_ns`` is when `read`
    ended."""

    passthrough: Passthrough | None = None

    def __init__(self, url: str, *, low_delay: bool) -> None:
        words = {"rtsp_transport": "tcp"} | (LOW_DELAY if low_delay else {})
        with capture_options("|".join(f"{name};{value}" for name, value in words.items())):
            self._capture = cv2.VideoCapture(url, cv2.CAP_FFMPEG)
        if not self._capture.isOpened():
            raise SourceOpenError(f"OpenCV cannot open {url}")
        if low_delay:
            self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        width, height = (int(self._capture.get(key)) for key in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
        self._stopping = threading.Event()
        self.info = StreamInfo(
            width,
            height,
            TICKS,
            Fraction(self._capture.get(cv2.CAP_PROP_FPS)).limit_denominator(1001) or None,
            color=ColorInfo(matrix=Matrix.SMPTE170M, range=Range.LIMITED),
            live=True,
            codec="h264",
            name=url,
        )

    def frames(self, pool: FramePool | None = None) -> Iterator[Frame]:
        """See `interfaces.Source`."""
        height, width = self.info.height, self.info.width
        number = 0
        while not self._stopping.is_set():
            good, picture = self._capture.read()
            captured_ns = time.monotonic_ns()
            if not good:
                return
            packed = cv2.cvtColor(picture, cv2.COLOR_BGR2YUV_I420).reshape(-1)
            slot = pool.lease() if pool is not None else None
            planes = slot.planes if slot is not None else empty_planes(width, height)
            begin = 0
            for plane in planes:
                np.copyto(plane, packed[begin : begin + plane.size].reshape(plane.shape))
                begin += plane.size
            yield Frame(
                planes=read_only(planes),
                pts=captured_ns // 1000 + number,
                time_base=TICKS,
                number=number,
                captured_ns=captured_ns,
                color=self.info.color,
                slot=slot,
            )
            number += 1

    def stop(self) -> None:
        """See `interfaces.Source`: at the next picture."""
        self._stopping.set()

    def counters(self) -> dict[str, int]:
        """See `interfaces.Source`."""
        return {}

    def close(self) -> None:
        """See `interfaces.Source`."""
        self._capture.release()


READERS: dict[str, Callable[[str], Source]] = {
    "ours": open_source,
    "PyAV": lambda url: PyAVSource(url, low_delay=False),
    "PyAV, low delay": lambda url: PyAVSource(url, low_delay=True),
    "OpenCV": lambda url: OpenCVSource(url, low_delay=False),
    "OpenCV, low delay": lambda url: OpenCVSource(url, low_delay=True),
}
