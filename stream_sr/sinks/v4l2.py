"""A virtual camera: the pictures go into a video device of the system, from which calls and OBS take them.

On Linux such a device is made by the kernel module v4l2loopback; this sink writes into it through FFmpeg's v4l2 muxer.
"""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
from av.error import FFmpegError

from stream_sr.codec.picture import fill, shown_size, square_size
from stream_sr.codec.swscale import Scaler
from stream_sr.errors import SinkOpenError, SinkWriteError
from stream_sr.system.video_devices import IS_LINUX, takes_pictures
from stream_sr.video.color import ColorInfo, Range
from stream_sr.video.frame import Frame, StreamInfo
from stream_sr.video.orientation import Orientation
from stream_sr.video.planes import Planes, empty_planes

MAKE = "sudo modprobe v4l2loopback exclusive_caps=1 card_label=stream_sr"


class V4l2Sink:
    """Writes planar 4:2:0 to ``v4l2:/dev/videoN``. See `interfaces.FrameSink` and `interfaces.CheckedSink`.

    Who takes pictures from there is told nothing but their size. So they are given upright, with square pixels, in
    limited range and even sizes.
    """

    paced = True
    with_source = False
    muxer = "v4l2"

    def __init__(self, address: str) -> None:
        """Opens nothing. Raises SinkOpenError for an address without a device."""
        self.name = address
        self._path = Path(address.removeprefix("v4l2:"))
        if not self._path.is_absolute():
            raise SinkOpenError(f"'{address}' names no device; write v4l2:/dev/videoN")
        self._container: Any = None
        self._stream: Any = None
        self._picture: Any = None
        self._info: StreamInfo | None = None
        self._scaler: tuple[ColorInfo, Scaler | None] | None = None
        self._scaled: Planes | None = None
        self._count = 0

    def check(self) -> None:
        """Raises SinkOpenError unless the device takes pictures."""
        if not IS_LINUX:
            raise SinkOpenError(f"{self.name}: virtual cameras of this kind need Linux; see it in a browser: web:8080")
        if not self._path.exists():
            raise SinkOpenError(f"{self.name}: there is no such device; make a virtual camera: {MAKE}")
        if not stat.S_ISCHR(self._path.stat().st_mode):
            raise SinkOpenError(f"{self.name} is no device; give /dev/videoN")
        try:
            is_output = takes_pictures(self._path)
        except OSError as error:
            hint = "; add yourself to the group video" if error.errno == 13 else ""
            raise SinkOpenError(f"{self.name} cannot be opened: {error.strerror}{hint}") from error
        except ValueError as error:
            raise SinkOpenError(f"{self.name} is no video device; give /dev/videoN") from error
        if not is_output:
            raise SinkOpenError(f"{self.name} is a camera, which gives pictures; a virtual one takes them: {MAKE}")

    def open(self, info: StreamInfo) -> None:
        """Tell the device size and rate. Raises SinkOpenError."""
        width, height = upright_size(info)
        try:
            self._container = av.open(str(self._path), "w", format=self.muxer)
            self._stream = self._container.add_stream("rawvideo", rate=info.fps or 30)
            self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
            self._container.start_encoding()
        except (FFmpegError, OSError, ValueError) as error:
            self.close()
            raise SinkOpenError(f"{self.name} does not take pictures of {width}x{height}: {error}") from error
        self._picture = av.VideoFrame(width, height, "yuv420p")
        self._info = info

    def write(self, frame: Frame) -> bool:
        if self._container is None or self._info is None:
            raise SinkWriteError(f"{self.name} is not open")
        planes = self._upright(frame, self._info)
        fill(self._picture, planes)
        self._picture.pts, self._count = self._count, self._count + 1
        try:
            self._container.mux(self._stream.encode(self._picture))
        except (FFmpegError, OSError) as error:
            raise SinkWriteError(f"{self.name}: the device takes no more pictures: {error}") from error
        return True

    def close(self) -> None:
        container, self._container, self._info = self._container, None, None
        if container is not None:
            try:
                container.close()
            except (FFmpegError, OSError) as error:
                raise SinkWriteError(f"{self.name}: {error}") from error

    def _upright(self, frame: Frame, info: StreamInfo) -> Planes:
        if self._scaler is None or self._scaler[0] != frame.color:
            self._scaler = frame.color, self._make_scaler(frame)
        scaler, planes = self._scaler[1], frame.planes
        if scaler is not None and self._scaled is not None:
            scaler(planes, self._scaled)
            planes = self._scaled
        if info.orientation != Orientation.UPRIGHT:
            height, width = (side & ~1 for side in planes[0].shape)  # the last line goes, as for every other output
            y, u, v = planes[0][:height, :width], *(plane[: height // 2, : width // 2] for plane in planes[1:])
            planes = info.orientation.upright(y), info.orientation.upright(u), info.orientation.upright(v)
        return planes

    def _make_scaler(self, frame: Frame) -> Scaler | None:
        size = square_size(frame.width, frame.height, frame.sample_aspect)
        if size == (frame.width, frame.height) and not frame.color.full_range:
            return None
        self._scaled = empty_planes(*size)
        limited = replace(frame.color, range=Range.LIMITED)
        return Scaler((frame.width, frame.height), size, frame.color.siting, colors=(frame.color, limited))


def upright_size(info: StreamInfo) -> tuple[int, int]:
    """Even width and height with square pixels, turned for the eye."""
    width, height = shown_size(info)
    return width & ~1, height & ~1
