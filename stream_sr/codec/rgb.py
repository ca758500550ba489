"""Our planes as RGB for eyes: windows, PNGs. Never on the way from source to sink."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from av.video.reformatter import Interpolation, VideoReformatter

from stream_sr.codec.decode import FLAGS, swscale_matrix
from stream_sr.codec.picture import expect, picture_of
from stream_sr.errors import PictureShapeError
from stream_sr.system.limits import codec_threads
from stream_sr.video.color import Range, guess_unknown
from stream_sr.video.frame import Frame

QUICK = Interpolation.BICUBIC  # a level off here and there, chroma repeated, a quarter of the time


def to_rgb(
    frame: Frame,
    order: str = "rgb24",
    *,
    size: tuple[int, int] | None = None,
    flags: Interpolation = FLAGS,
    reformatter: VideoReformatter | None = None,
) -> npt.NDArray[np.uint8]:
    """``[H, W, 3]`` uint8, by the frame's own matrix and range. ``bgr24`` for OpenCV.

    Frames of a run say their colours, guessed from the input's size where it did not; those that still do not are
    guessed here from their own. ``size`` (width, height) resizes in the same step; ``flags`` are swscale's, exact
    unless `QUICK` is asked for; a ``reformatter`` that is kept saves swscale its tables for every next frame.
    """
    color = guess_unknown(frame.color, width=frame.width, height=frame.height)
    width, height = size or (frame.width, frame.height)
    matrix = swscale_matrix(color.matrix)
    picture = (reformatter or VideoReformatter()).reformat(
        picture_of(frame.planes),
        width,
        height,
        order,
        src_colorspace=matrix,
        dst_colorspace=matrix,
        src_color_range=color.range,
        dst_color_range=Range.FULL,
        interpolation=flags,
        threads=codec_threads(),
    )
    pixels = expect(picture, width, height, order).to_ndarray().astype(np.uint8, copy=False)
    if pixels.shape != (height, width, 3):
        raise PictureShapeError(f"PyAV made an array of {pixels.shape} of {width}x{height} pixels")
    return pixels
