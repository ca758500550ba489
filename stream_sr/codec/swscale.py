"""FFmpeg's scale filter as a function from planes to planes: the bicubic engine, fitting a size, previews."""

from __future__ import annotations

from fractions import Fraction

import av
import av.filter
import numpy as np

from stream_sr.codec.picture import expect, picture_planes
from stream_sr.errors import EngineBuildError, EngineRunError
from stream_sr.system.limits import codec_threads
from stream_sr.video.color import ColorInfo, Matrix, Siting
from stream_sr.video.planes import Planes

# position of a chroma sample in 1/256 of a luma sample, across and down: FFmpeg's scale filter
ENDS = ("in", "out")
MATRIX: dict[int, str] = {
    Matrix.BT709: "bt709",
    Matrix.FCC: "fcc",
    Matrix.BT470BG: "bt470",
    Matrix.SMPTE170M: "smpte170m",
    Matrix.SMPTE240M: "smpte240m",
    Matrix.BT2020_NCL: "bt2020",
    Matrix.BT2020_CL: "bt2020",
}
CHROMA_POSITION = {Siting.LEFT: (0, 128), Siting.UNKNOWN: (0, 128), Siting.CENTER: (128, 128), Siting.TOPLEFT: (0, 0)}


class Scaler:
    """Resizes 4:2:0 planes by Keys' cubic with a = -0.5, exactly rounded, chroma sited as given. One thread at a time.

    ``old`` and ``new`` are (width, height). With ``colors`` the samples are converted from the first's matrix, range
    and siting (which replaces ``siting``) to the second's; primaries and transfer stay. An odd input size is made even
    by repeating its last line, and an odd output cut from the even one: swscale would stretch chroma by another factor
    than luma; the targets may lack the last column or row of ``new``. Raises EngineBuildError.
    """

    def __init__(
        self,
        old: tuple[int, int],
        new: tuple[int, int],
        siting: int,
        *,
        colors: tuple[ColorInfo, ColorInfo] | None = None,
    ) -> None:
        self._width, self._height = (side + side % 2 for side in old)
        # the even input is enlarged by the same factor as the odd one would be
        grown = [
            round(even * large / small)
            for even, small, large in zip((self._width, self._height), old, new, strict=True)
        ]
        width, height = self._grown = grown[0] + grown[0] % 2, grown[1] + grown[1] % 2
        self._new = new
        sitings = (siting, siting) if colors is None else (colors[0].siting, colors[1].siting)
        ends = [(end, *CHROMA_POSITION.get(Siting(site), (0, 128))) for end, site in zip(ENDS, sitings, strict=True)]
        settings = ":".join(f"{end}_h_chr_pos={across}:{end}_v_chr_pos={down}" for end, across, down in ends)
        if colors is not None:
            settings += "".join(f":{end}_{words}" for end, c in zip(ENDS, colors, strict=True) for words in _words(c))
        try:
            self._graph = av.filter.Graph()
            self._graph.threads = codec_threads()
            head = self._graph.add_buffer(
                width=self._width, height=self._height, format=av.VideoFormat("yuv420p"), time_base=Fraction(1)
            )
            scale = self._graph.add(
                "scale", f"w={width}:h={height}:flags=bicubic+accurate_rnd:param0=0:param1=0.5:{settings}"
            )
            tail = self._graph.add("buffersink")
            head.link_to(scale)
            scale.link_to(tail)
            self._graph.configure()
        except av.FFmpegError as error:
            raise EngineBuildError(
                f"swscale refuses {self._width}x{self._height} to {width}x{height}: {error}"
            ) from error

    def __call__(self, planes: Planes, targets: Planes) -> None:
        """Resize ``planes`` into the writable ``targets``. Raises EngineRunError."""
        picture = av.VideoFrame(self._width, self._height, "yuv420p")
        picture.pts = 0
        self._check(planes, targets)
        for plane, memory in zip(planes, picture_planes(picture), strict=True):
            height, width = plane.shape
            memory[:height, :width] = plane
            memory[height:, :width] = plane[-1:]
            memory[:, width:] = memory[:, width - 1 : width]
        try:
            self._graph.push(picture)
            larger = self._graph.vpull()
        except av.FFmpegError as error:
            raise EngineRunError(f"swscale could not resize a picture: {error}") from error
        expect(larger, *self._grown, "yuv420p")
        for plane, target in zip(picture_planes(larger), targets, strict=True):
            np.copyto(target, plane[: target.shape[0], : target.shape[1]])

    def _check(self, planes: Planes, targets: Planes) -> None:
        (height, width), (rows, columns) = planes[0].shape, targets[0].shape
        if (width + width % 2, height + height % 2) != (self._width, self._height):
            raise EngineRunError(f"a {width}x{height} picture came to a scaler for {self._width}x{self._height}")
        if self._new[0] - columns not in (0, 1) or self._new[1] - rows not in (0, 1):
            raise EngineRunError(f"a scaler to {self._new[0]}x{self._new[1]} was given planes for {columns}x{rows}")


def fit_area(
    size: tuple[int, int], aspect: Fraction, output: tuple[int, int], output_aspect: Fraction
) -> tuple[int, int, int, int]:
    """Left, top, width and height, all even, of the largest picture of this shape in the middle of the output."""
    shape = size[0] * aspect / size[1] / output_aspect  # width / height in samples of the output
    width = min(Fraction(output[0]), output[1] * shape)
    height = width / shape
    across, down = (
        max(2, min(int(most) & ~1, round(side / 2) * 2)) for side, most in zip((width, height), output, strict=True)
    )
    return (output[0] - across) // 4 * 2, (output[1] - down) // 4 * 2, across, down


def _words(color: ColorInfo) -> tuple[str, str]:
    """Matrix and range in the filter's words; BT.601 for a matrix that it has not."""
    matrix = MATRIX.get(color.matrix, "smpte170m")
    return f"color_matrix={matrix}", f"range={'pc' if color.full_range else 'tv'}"
