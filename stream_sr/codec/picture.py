"""Our planes in FFmpeg's own memory and back, and the size at which a picture is shown.

A picture of PyAV is padded, and its planes are seen without a copy.
"""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
from av.video.plane import VideoPlane

from stream_sr.frame import Frame, Plane, Planes, StreamInfo


def picture_planes(picture: av.VideoFrame) -> tuple[Plane, ...]:
    """Writable views on the planes of a yuv420p (or yuvj420p) picture, cut to its size, without a copy."""
    return tuple(_rows(plane)[: plane.height, : plane.width] for plane in picture.planes)


def _rows(plane: VideoPlane) -> Plane:
    samples: Plane = np.frombuffer(plane, np.uint8)  # type: ignore[call-overload]
    return samples.reshape(-1, plane.line_size)


def picture_of(planes: Planes) -> av.VideoFrame:
    """A fresh yuv420p picture with a copy of the planes; odd sizes as they are. It says nothing of its colours."""
    picture = av.VideoFrame(planes[0].shape[1], planes[0].shape[0], "yuv420p")
    for view, plane in zip(picture_planes(picture), planes, strict=True):
        np.copyto(view, plane)
    return picture


def picture_in_place(frame: Frame) -> av.VideoFrame | None:
    """The frame's own memory as a picture, valid while the frame is held; None where it is no I420 in one buffer.

    That it is for the result of an engine, which lies in a slot, and of even size.
    """
    slot, (height, width) = frame.slot, frame.planes[0].shape
    if slot is None or height % 2 or width % 2 or slot.planes[0].shape != (height, width):
        return None
    if any(_address(mine) != _address(theirs) for mine, theirs in zip(frame.planes, slot.planes, strict=True)):
        return None
    return av.VideoFrame.from_numpy_buffer(slot.buffer.reshape(height * 3 // 2, width), format="yuv420p")


def _address(plane: Plane) -> int:
    return int(plane.__array_interface__["data"][0])


def shown_size(info: StreamInfo) -> tuple[int, int]:
    """Width and height of the picture in square pixels, after rotation. The wider side grows, none shrinks."""
    width, height = square_size(info.width, info.height, info.sample_aspect)
    return (height, width) if info.rotation in (90, 270) else (width, height)


def square_size(width: int, height: int, aspect: Fraction) -> tuple[int, int]:
    """The size with square pixels of a picture whose pixels are ``aspect`` times as wide as high."""
    return (round(width * aspect), height) if aspect >= 1 else (width, round(height / aspect))
