"""FFmpeg's scale filter as a function from planes to planes: the bicubic engine, fitting a size, previews."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import av
import av.filter
import numpy as np

from stream_sr.color import ColorInfo, Matrix, Siting
from stream_sr.errors import EngineBuildError, EngineRunError
from stream_sr.frame import Plane, Planes
from stream_sr.limits import codec_threads

# position of a chroma sample in 1/256 of a luma sample, across and down: FFmpeg's scale filter
ENDS = ("in", "out")
MATRIX: dict[int, str] = {
    Matrix.BT709: "bt709", Matrix.FCC: "fcc", Matrix.BT470BG: "bt470", Matrix.SMPTE170M: "smpte170m",
    Matrix.SMPTE240M: "smpte240m", Matrix.BT2020_NCL: "bt2020", Matrix.BT2020_CL: "bt2020",
}  # fmt: skip
CHROMA_POSITION = {Siting.LEFT: (0, 128), Siting.UNKNOWN: (0, 128), Siting.CENTER: (128, 128), Siting.TOPLEFT: (0, 0)}


class Scaler:
    """Resizes 4:2:0 planes by Keys' cubic with a = -0.5, exactly rounded, chroma sited as given. One thread at a time.

    ``old`` and ``new`` are (width, height). With ``colors`` the samples are converted from the first's matrix, range
    and siting (which replaces ``siting``) to the second's; primaries and transfer stay. An odd input size is made even
    by repeating its last line, and an odd output cut from the even one: swscale would stretch chroma by another factor
    than luma. Raises EngineBuildError.
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
        width, height = (side + side % 2 for side in grown)
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
        for plane, memory in zip(planes, _views(picture.planes), strict=True):
            height, width = plane.shape
            memory[:height, :width] = plane
            memory[height:, :width] = plane[-1:]
            memory[:, width:] = memory[:, width - 1 : width]
        try:
            self._graph.push(picture)
            larger: Any = self._graph.pull()
        except av.FFmpegError as error:
            raise EngineRunError(f"swscale could not resize a picture: {error}") from error
        for plane, target in zip(_views(larger.planes), targets, strict=True):
            np.copyto(target, plane[: target.shape[0], : target.shape[1]])


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


def _views(planes: Sequence[Any]) -> list[Plane]:
    """The planes of a PyAV picture as arrays on its memory, without the padding of the rows."""
    return [np.frombuffer(p, np.uint8).reshape(-1, p.line_size)[: p.height, : p.width] for p in planes]
