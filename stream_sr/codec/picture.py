"""Our planes in FFmpeg's own memory and back, and the size at which a picture is shown.

A picture of PyAV is padded, and its planes are seen without a copy. Whatever crosses into a library or comes back is
compared with the size that it must have: a library that infers another one would shift chroma without an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import av
import av.filter
import numpy as np
from av.sidedata.sidedata import Type as SideDataType
from av.video.plane import VideoPlane

from stream_sr.errors import PictureShapeError
from stream_sr.video.frame import Frame, StreamInfo
from stream_sr.video.orientation import Orientation, from_matrix
from stream_sr.video.planes import Plane, Planes

SIDE_DATA_KINDS = 64  # more than FFmpeg 8 has


def picture_planes(picture: av.VideoFrame) -> tuple[Plane, ...]:
    """Writable views on the planes of a yuv420p (or yuvj420p) picture, cut to its size, without a copy."""
    return tuple(samples(picture, n, (plane.height, plane.width)) for n, plane in enumerate(picture.planes))


def samples(picture: av.VideoFrame, index: int, shape: tuple[int, int]) -> Plane:
    """A view on one plane without the padding of its rows: ``shape`` is (rows, bytes in a row), the top row first.

    It keeps the memory alive, not the picture. Raises PictureShapeError where the plane is not of this shape.
    """
    plane: VideoPlane = picture.planes[index]
    stride, (rows, columns) = abs(plane.line_size), shape
    if plane.height != rows or stride < columns:
        raise PictureShapeError(
            f"plane {index} of {_words(picture)} has {plane.height} rows of {stride} bytes; it must have {rows} rows "
            f"of at least {columns}"
        )
    memory: Plane = np.frombuffer(plane, np.uint8)  # type: ignore[call-overload]
    whole = memory[: rows * stride].reshape(rows, stride)
    return (whole if plane.line_size >= 0 else whole[::-1])[:, :columns]  # FFmpeg stores some pictures bottom-up


def expect(picture: av.VideoFrame, width: int, height: int, *formats: str) -> av.VideoFrame:
    """The picture, if it has this size, and one of ``formats`` where any are given. Raises PictureShapeError."""
    if (picture.width, picture.height) != (width, height) or (formats and picture.format.name not in formats):
        wanted = f"{width}x{height} {' or '.join(formats)}".rstrip()
        raise PictureShapeError(f"FFmpeg has {_words(picture)} where {wanted} was expected")
    return picture


def check_picture(picture: av.VideoFrame, planes: Sequence[Plane], *, in_place: bool = False) -> av.VideoFrame:
    """The picture, if each of its planes has the shape of ours; with ``in_place`` also its address and stride.

    Raises PictureShapeError.
    """
    views = picture_planes(picture)
    for index, (view, plane) in enumerate(zip(views, planes, strict=False)):
        same = not in_place or (_address(view) == _address(plane) and view.strides == plane.strides)
        if view.shape != plane.shape or not same:
            raise PictureShapeError(
                f"plane {index} of {_words(picture)} is {view.shape} with strides {view.strides}; it must be "
                f"{plane.shape}" + (f" with strides {plane.strides}, at the same address" if in_place else "")
            )
    if len(views) != len(planes):
        raise PictureShapeError(f"{_words(picture)} has {len(views)} planes; it must have {len(planes)}")
    return picture


def fill(picture: av.VideoFrame, planes: Planes) -> av.VideoFrame:
    """Copy the planes into a yuv420p picture of their size, or of one column or row less (an odd last one is cut).

    Returns the picture. Raises PictureShapeError for any other size.
    """
    if (picture.width // 2, picture.height // 2) != (planes[0].shape[1] // 2, planes[0].shape[0] // 2):
        raise PictureShapeError(f"a frame of {planes[0].shape[1]}x{planes[0].shape[0]} came to {_words(picture)}")
    views = picture_planes(picture)
    cut = [plane[: view.shape[0], : view.shape[1]] for view, plane in zip(views, planes, strict=True)]
    check_picture(picture, cut)
    for view, plane in zip(views, cut, strict=True):
        np.copyto(view, plane)
    return picture


def picture_of(planes: Planes) -> av.VideoFrame:
    """A fresh yuv420p picture with a copy of the planes; odd sizes as they are. Its colours are not set."""
    return fill(av.VideoFrame(planes[0].shape[1], planes[0].shape[0], "yuv420p"), planes)


def picture_in_place(frame: Frame) -> av.VideoFrame | None:
    """The frame's own memory as a picture, valid while the frame is held; None where it is no whole slot.

    The result of an engine lies in a slot. Sizes are even: FFmpeg would read beyond an odd one.
    """
    slot, (height, width) = frame.slot, frame.planes[0].shape
    if slot is None or height % 2 or width % 2 or slot.planes[0].shape != (height, width):
        return None
    if any(_address(mine) != _address(theirs) for mine, theirs in zip(frame.planes, slot.planes, strict=True)):
        return None
    # Plane by plane: from one buffer PyAV infers the height, and wrongly where it is 2 modulo 4.
    picture = av.VideoFrame.from_dlpack(slot.planes, format="yuv420p", width=width, height=height)
    return check_picture(picture, slot.planes, in_place=True)


def _address(plane: Plane) -> int:
    return int(plane.__array_interface__["data"][0])


def _words(picture: av.VideoFrame) -> str:
    return f"a picture of {picture.width}x{picture.height} {picture.format.name}"


def orientation_of(picture: av.VideoFrame) -> Orientation | None:
    """What the display matrix of a decoded picture states (upright without one); None where it is no quarter turn."""
    data: Any = _side_data(picture).get("DISPLAYMATRIX")
    if data is not None:
        cells: list[int] = np.frombuffer(data, np.int32).tolist()
        return from_matrix(cells)
    return Orientation.UPRIGHT


def _side_data(picture: av.VideoFrame) -> Any:
    """PyAV's side data, without the kinds that it does not know: it refuses the whole picture for one of them.

    FFmpeg 8 gives EXIF data along with stills, for which PyAV 18 has no name.
    """
    try:
        return picture.side_data
    except ValueError:
        unknown = set(range(SIDE_DATA_KINDS)) - {kind.value for kind in SideDataType}
    graph = av.filter.Graph()
    last = source = graph.add_buffer(
        width=picture.width, height=picture.height, format=picture.format, time_base=Fraction(1)
    )
    for name in [("sidedata", f"mode=delete:type={kind}") for kind in sorted(unknown)] + [("buffersink", "")]:
        following = graph.add(*name)
        last.link_to(following)
        last = following
    graph.configure()
    source.push(picture)
    return graph.vpull().side_data


def shown_size(info: StreamInfo) -> tuple[int, int]:
    """Width and height of the picture in square pixels, upright. The wider side grows, none shrinks."""
    width, height = square_size(info.width, info.height, info.sample_aspect)
    return (height, width) if info.orientation.swaps_sides else (width, height)


def square_size(width: int, height: int, aspect: Fraction) -> tuple[int, int]:
    """The size with square pixels of a picture whose pixels are ``aspect`` times as wide as high."""
    return (round(width * aspect), height) if aspect >= 1 else (width, round(height / aspect))
