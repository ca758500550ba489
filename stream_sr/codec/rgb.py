"""Our planes as RGB for eyes: windows, PNGs. Never on the way from source to sink."""

from __future__ import annotations

import av
import numpy as np
import numpy.typing as npt

from stream_sr.codec.decode import FLAGS
from stream_sr.color import Matrix, guess_unknown
from stream_sr.frame import Frame


def to_picture(frame: Frame) -> av.VideoFrame:
    """A copy of the frame in FFmpeg's own memory, yuv420p or yuvj420p."""
    picture = av.VideoFrame(frame.width, frame.height, "yuvj420p" if frame.color.full_range else "yuv420p")
    for plane, samples in zip(picture.planes, frame.planes, strict=True):
        rows, columns = samples.shape
        target = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)  # type: ignore[call-overload]
        np.copyto(target[:rows, :columns], samples)
    return picture


def to_rgb(frame: Frame, order: str = "rgb24") -> npt.NDArray[np.uint8]:
    """``[H, W, 3]`` uint8, by the frame's own matrix and range, guessed where unsaid. ``bgr24`` for OpenCV."""
    color = guess_unknown(frame.color, width=frame.width, height=frame.height)
    matrix = 1 if color.matrix == Matrix.BT709 else 9 if color.matrix in (9, 10) else 5
    picture = to_picture(frame).reformat(
        format=order, src_colorspace=matrix, dst_colorspace=matrix,
        src_color_range=color.range, dst_color_range=2, interpolation=FLAGS,
    )  # fmt: skip
    return picture.to_ndarray().astype(np.uint8, copy=False)
