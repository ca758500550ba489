"""From a decoded picture of PyAV to our planes: its colours; one copy where it is 4:2:0 already, else swscale.

Formats of 8 bits become planar 4:2:0 like this (alpha is dropped, as players without a background do):

- yuv420p, yuvj420p, yuva420p, nv12, nv21: the samples as they are;
- gray, ya8: the samples as luma, chroma 128;
- other YUV (4:2:2, 4:4:4, yuyv...): chroma resized by swscale, matrix and range kept;
- RGB, palettes, 1-bit: limited range, BT.709 for HD and BT.601 below (the line that `guess_unknown` draws).

More than 8 bits are refused.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import av
import numpy as np
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter

from stream_sr.codec.picture import expect, samples
from stream_sr.errors import DecodeError
from stream_sr.video.color import ColorInfo, Matrix, Range, Siting, guess_unknown
from stream_sr.video.planes import Planes, empty_planes, read_only

if TYPE_CHECKING:
    from stream_sr.video.frame_pool import FramePool, Slot

PLANAR = {"yuv420p", "yuvj420p", "yuva420p"}
SEMIPLANAR = {"nv12": (0, 1), "nv21": (1, 0)}  # where U and V are in a pair
GREY = {"gray": 1, "ya8": 2}  # bytes a sample
CENTRED_CODECS = {"mjpeg", "mpeg1video", "jpeg2000", "webp"}  # JFIF 1.02 and MPEG-1 put chroma between the samples
SWSCALE_MATRIX: dict[int, int] = {  # the matrices that swscale has; both kinds of BT.601 and of BT.2020 are one to it
    Matrix.BT709: Colorspace.ITU709,
    Matrix.FCC: Colorspace.FCC,
    Matrix.BT470BG: Colorspace.ITU601,
    Matrix.SMPTE170M: Colorspace.ITU601,
    Matrix.SMPTE240M: Colorspace.SMPTE240M,
    Matrix.BT2020_NCL: Colorspace.BT2020,
    Matrix.BT2020_CL: Colorspace.BT2020,
}
FLAGS = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP


def swscale_matrix(matrix: int) -> int:
    """swscale's number of a matrix; BT.601, its own default, for one that it has not (YCgCo, ICtCp...)."""
    return SWSCALE_MATRIX.get(matrix, SWSCALE_MATRIX[Matrix.SMPTE170M])


def color_of(picture: av.VideoFrame | av.VideoCodecContext, *, codec: str = "") -> ColorInfo:
    """The colours of the planes that `FrameReader` makes of this picture (or of this decoder's pictures).

    What the stream does not say stays UNKNOWN. ``codec`` is the decoder's name: PyAV does not hand the chroma location
    on, so only the codecs that fix it are known. A decoder that has not seen its format yet is taken as YUV 4:2:0.
    """
    name = _format_name(picture)
    pixels = av.VideoFormat(name)
    stated = ColorInfo(
        matrix=_matrix(picture.colorspace),
        range=Range.FULL if name.startswith("yuvj") else _range(picture.color_range),
        primaries=int(picture.color_primaries),
        transfer=int(picture.color_trc),
        siting=Siting.CENTER if codec in CENTRED_CODECS else Siting.UNKNOWN,
    )
    if _from_rgb(pixels):
        matrix = guess_unknown(ColorInfo(), width=picture.width, height=picture.height).matrix
        return replace(stated, matrix=matrix, range=Range.LIMITED, siting=Siting.CENTER)
    if name not in PLANAR and name not in SEMIPLANAR and pixels.chroma_width(64) != 32:
        return replace(stated, siting=Siting.CENTER)  # swscale centres what it resizes; grey has no chroma to misplace
    return stated


class FrameReader:
    """Copies the pictures of one stream, all of one size, into leased slots or fresh memory. One thread at a time."""

    def __init__(self, *, codec: str = "") -> None:
        self.codec = codec
        self.size: tuple[int, int] | None = None  # of the first picture
        self._format = ""
        self._reformatter = VideoReformatter()

    def color(self, picture: av.VideoFrame) -> ColorInfo:
        """`color_of` the picture."""
        return color_of(picture, codec=self.codec)

    def check(self, picture: av.VideoFrame) -> None:
        """Raise DecodeError for a format that cannot be read, or another size than the first picture had."""
        if picture.format.name != self._format:
            check_format(picture.format)
            self._format = picture.format.name
        size = (picture.width, picture.height)
        if self.size is None:
            self.size = size
        elif size != self.size:
            raise DecodeError(
                f"the picture changes its size from {self.size[0]}x{self.size[1]} to {size[0]}x{size[1]} in "
                "mid-stream, which is not supported: cut the input there, or scale it to one size first"
            )

    def read(self, picture: av.VideoFrame, pool: FramePool | None = None) -> tuple[Planes, Slot | None]:
        """The picture's planes, read-only; in a slot of ``pool`` (held once, for the caller) when there is one.

        The result does not refer to the picture's memory. Raises what `check` raises.
        """
        self.check(picture)
        width, height = picture.width, picture.height
        if pool is None:
            planes, slot = empty_planes(width, height), None
        else:
            if (pool.width, pool.height) != (width, height):
                raise DecodeError(f"the pool holds {pool.width}x{pool.height}, the picture is {width}x{height}")
            slot = pool.lease()
            planes = slot.planes
        try:
            self._fill(planes, picture)
        except BaseException:
            if slot is not None:
                slot.release()
            raise
        return read_only(planes), slot

    def _fill(self, planes: Planes, picture: av.VideoFrame) -> None:
        name = picture.format.name
        luma, u, v = planes
        if name in SEMIPLANAR:
            np.copyto(luma, samples(picture, 0, luma.shape))
            pairs = samples(picture, 1, (u.shape[0], 2 * u.shape[1]))
            first, second = SEMIPLANAR[name]
            np.copyto(u, pairs[:, first::2])
            np.copyto(v, pairs[:, second::2])
        elif name in GREY:
            step = GREY[name]
            np.copyto(luma, samples(picture, 0, (luma.shape[0], step * luma.shape[1]))[:, ::step])
            u.fill(128)
            v.fill(128)
        else:
            source = picture if name in PLANAR else self._convert(picture)
            for index, plane in enumerate(planes):
                np.copyto(plane, samples(source, index, plane.shape))

    def _convert(self, picture: av.VideoFrame) -> av.VideoFrame:
        color = guess_unknown(color_of(picture, codec=self.codec), width=picture.width, height=picture.height)
        same = not _from_rgb(picture.format)
        planar = "yuvj420p" if color.full_range else "yuv420p"
        converted = self._reformatter.reformat(
            picture,
            format=planar,
            src_colorspace=swscale_matrix(color.matrix) if same else None,
            dst_colorspace=swscale_matrix(color.matrix),
            src_color_range=color.range if same else Range.FULL,
            dst_color_range=color.range,
            interpolation=FLAGS,
            threads=1,
        )
        return expect(converted, picture.width, picture.height, planar)


def check_format(pixels: av.VideoFormat) -> None:
    """Raise DecodeError, naming the way out, for pictures of more than 8 bits or in a device's memory."""
    bits = max((component.bits for component in pixels.components), default=0)
    if bits > 8:
        raise DecodeError(
            f"{bits}-bit video ({pixels.name}) is not supported yet; "
            "convert it to 8 bits first, e.g. ffmpeg -i INPUT -pix_fmt yuv420p OUTPUT"
        )
    if bits == 0:
        raise DecodeError(
            f"pictures of the format {pixels.name} cannot be read; convert them first, "
            "e.g. ffmpeg -i INPUT -pix_fmt yuv420p OUTPUT"
        )


def _format_name(picture: av.VideoFrame | av.VideoCodecContext) -> str:
    if isinstance(picture, av.VideoFrame):
        return picture.format.name
    return picture.pix_fmt or "yuv420p"


def _from_rgb(pixels: av.VideoFormat) -> bool:
    return pixels.is_rgb or pixels.has_palette or pixels.name.startswith("mono")


def _matrix(code: int) -> int:
    return Matrix.UNKNOWN if int(code) == 0 else int(code)  # 0 is RGB: no matrix


def _range(code: int) -> int:
    return int(code) if int(code) in (Range.LIMITED, Range.FULL) else Range.UNKNOWN
