"""Turning and mirroring a decoded picture before it becomes planes, for stills: their consumers know no orientation."""

from __future__ import annotations

from fractions import Fraction

import av
import av.filter
from av.video.reformatter import Interpolation, VideoReformatter

from stream_sr.codec.picture import expect
from stream_sr.video.orientation import Orientation

FILTERS: dict[Orientation, tuple[tuple[str, str], ...]] = {
    Orientation.UPRIGHT: (),
    Orientation.MIRRORED: (("hflip", ""),),
    Orientation.TURNED_180: (("hflip", ""), ("vflip", "")),
    Orientation.FLIPPED: (("vflip", ""),),
    Orientation.TRANSPOSED: (("transpose", "cclock_flip"),),
    Orientation.TURNED_90: (("transpose", "clock"),),
    Orientation.TRANSVERSED: (("transpose", "clock_flip"),),
    Orientation.TURNED_270: (("transpose", "cclock"),),
}
EXACT = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP


def upright(picture: av.VideoFrame, orientation: Orientation, *, centred: bool) -> av.VideoFrame:
    """The picture turned and mirrored for display, in its own format where that can hold it.

    ``centred`` says that chroma lies between the luma samples, where it stays. Subsampled chroma that lies elsewhere,
    or at an odd size, would not: it is enlarged first (4:4:4). Palettes become RGB.
    """
    if orientation == Orientation.UPRIGHT:
        return picture
    picture = _with_whole_chroma(picture, centred=centred)
    pixels = picture.format.name
    graph = av.filter.Graph()
    last = source = graph.add(
        "buffer",
        f"video_size={picture.width}x{picture.height}:pix_fmt={pixels}:time_base=1:"
        f"colorspace={int(picture.colorspace)}:range={int(picture.color_range)}",
    )
    for name in (*FILTERS[orientation], ("buffersink", "")):
        following = graph.add(*name)
        last.link_to(following)
        last = following
    graph.configure()
    picture.pts, picture.time_base = 0, Fraction(1)
    source.push(picture)
    size = (picture.width, picture.height)
    turned = expect(graph.vpull(), *(size[::-1] if orientation.swaps_sides else size), pixels)
    return _with_colors(turned, picture)


def _with_whole_chroma(picture: av.VideoFrame, *, centred: bool) -> av.VideoFrame:
    pixels = picture.format
    if pixels.has_palette or pixels.name.startswith("mono"):
        return VideoReformatter().reformat(picture, format="rgb24")
    subsampled = (pixels.chroma_width(64), pixels.chroma_height(64))
    if pixels.is_rgb or len(pixels.components) < 3 or subsampled == (64, 64):
        return picture
    if centred and subsampled == (32, 32) and picture.width % 2 == 0 and picture.height % 2 == 0:
        return picture
    whole = VideoReformatter().reformat(
        picture,
        format="yuvj444p" if pixels.name.startswith("yuvj") else "yuv444p",
        src_color_range=picture.color_range,
        dst_color_range=picture.color_range,
        interpolation=EXACT,
    )
    return _with_colors(whole, picture)


def _with_colors(picture: av.VideoFrame, other: av.VideoFrame) -> av.VideoFrame:
    picture.colorspace, picture.color_range = other.colorspace, other.color_range
    picture.color_primaries, picture.color_trc = other.color_primaries, other.color_trc
    return picture
