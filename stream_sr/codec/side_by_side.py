"""Both sides of a comparison as one picture: the source by bicubic, ours below it or to its right, always in step."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from stream_sr.codec.swscale import Scaler, fit_area
from stream_sr.video.color import ColorInfo, Matrix, Range
from stream_sr.video.frame import Frame, StreamInfo
from stream_sr.video.orientation import Orientation
from stream_sr.video.planes import Plane, Planes, empty_planes

LONGEST_SIDE = 4096  # what decoders in hardware take
MOST_MACROBLOCKS = 36_864  # in a picture, and a second, of H.264 level 5.2 (table A-1)
MOST_MACROBLOCKS_A_SECOND = 2_073_600
MOST_FPS = 480  # a file that claims more counts ticks, not pictures
BLOCK = 16
LEAST_GAP = 4  # lines: two of each side's own, so that neither deblocking nor chroma interpolation mixes the sides


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the two panes, ``width`` x ``height`` each, lie: the source's at the corner, ours at (``x``, ``y``)."""

    width: int
    height: int
    x: int
    y: int

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the picture that holds both."""
        return self.x + self.width, self.y + self.height

    @property
    def words(self) -> str:
        """For the log."""
        return f"{self.width}x{self.height} each, {'one above the other' if self.y else 'side by side'}"


def arrange(width: int, height: int, fps: Fraction | None) -> Layout:
    """The layout for two pictures of a size: the nearer to a square, of those that decoders take.

    Sizes are even. Where neither fits into H.264 level 5.2 and 4096 lines and columns, both panes are shrunk.
    """
    limit = min(MOST_MACROBLOCKS, int(MOST_MACROBLOCKS_A_SECOND / min(fps or 30, MOST_FPS)))
    shrink = 1.0
    while True:
        w, h = (max(2, int(side * shrink) & ~1) for side in (width, height))
        below, beside = Layout(w, h, 0, _next(h)), Layout(w, h, _next(w), 0)
        for layout in (below, beside) if w >= h else (beside, below):
            if max(layout.size) <= LONGEST_SIDE and math.prod(-(-side // BLOCK) for side in layout.size) <= limit:
                return layout
        shrink *= 0.98


def _next(side: int) -> int:
    return -(-(side + LEAST_GAP) // BLOCK) * BLOCK


def shown_color(color: ColorInfo) -> ColorInfo:
    """The colours that a browser is told, for pixels of ``color`` at full range: only what makes it compute ours.

    Full range, because browsers convert BT.709 of limited range with eight bits and miss blue by up to 12 levels;
    primaries and transfer as BT.709, because they would map BT.601's primaries to the screen's, which players do not.
    """
    matrix = Matrix.SMPTE170M if color.matrix == Matrix.BT470BG else color.matrix
    return replace(color, matrix=matrix, range=Range.FULL, primaries=1, transfer=1)


PairShape = tuple[int, int, Fraction, ColorInfo, int, int]  # of the source, and the size of the result


def pair_shape(frame: Frame) -> PairShape:
    """What a frame and its source must have in common with others to be composed alike."""
    source = frame.source
    assert source is not None
    return source.width, source.height, source.sample_aspect, source.color, frame.width, frame.height


class Bicubic:
    """The source as a player would enlarge it, at a given size. One thread; the planes are used again.

    Made for frames of the form of ``frame``. A source of another shape or of other colours than its result (a camera
    that came back with another picture) is fitted and converted as the result was, with black beside it. ``size`` may
    lack the last column or row of an odd result.
    """

    def __init__(self, frame: Frame, size: tuple[int, int]) -> None:
        source = frame.source
        assert source is not None
        self.planes = empty_planes(*size)
        for plane, black in zip(self.planes, (0 if frame.color.full_range else 16, 128, 128), strict=True):
            plane.fill(black)
        whole = (frame.width, frame.height)
        self._inside = self.planes
        if not _same_shape(source, frame):
            left, top, *rest = fit_area((source.width, source.height), source.sample_aspect, size, frame.sample_aspect)
            whole = (rest[0], rest[1])
            self._inside = _part(self.planes, left, top, *whole)
        elif size != (frame.width & ~1, frame.height & ~1):
            whole = size
        colors = None if source.color == frame.color else (source.color, frame.color)
        self._scaler = Scaler((source.width, source.height), whole, frame.color.siting, colors=colors)

    def __call__(self, frame: Frame) -> Planes:
        """The frame's source, valid until the next call. Raises EngineRunError when swscale fails."""
        assert frame.source is not None
        self._scaler(frame.source.planes, self._inside)
        return self.planes


def _same_shape(source: Frame, result: Frame) -> bool:
    """Whether the one is the other enlarged, but for the rounding to even sizes: up to two samples of a side."""
    shapes = [frame.width * frame.sample_aspect / frame.height for frame in (source, result)]
    return abs(shapes[0] / shapes[1] - 1) < max(0.01, 2 / min(result.width, result.height))


def _part(planes: Planes, left: int, top: int, width: int, height: int) -> Planes:
    y, u, v = planes
    rows, columns = slice(top // 2, (top + height) // 2), slice(left // 2, (left + width) // 2)
    return y[top : top + height, left : left + width], u[rows, columns], v[rows, columns]


class SideBySide:
    """Composes frames that hold their source into one picture of full range. One thread; the planes are used again.

    Made for frames of the ``form`` of ``frame``; ``info`` says how they are turned for the eye, and how fast they come.
    ``stream`` describes what is composed, ``shrunk`` whether it is smaller than the results.
    """

    def __init__(self, frame: Frame, info: StreamInfo) -> None:
        self.shape = pair_shape(frame)
        turned = info.orientation.swaps_sides
        whole = (frame.width, frame.height)
        self.layout = arrange(whole[turned], whole[not turned], info.fps)
        width, height = self.layout.width, self.layout.height
        pane = (height, width) if turned else (width, height)
        self.shrunk = pane != (whole[0] & ~1, whole[1] & ~1)
        self._orientation = info.orientation
        self._bicubic = Bicubic(frame, pane)
        self._shrink = Scaler(whole, pane, frame.color.siting) if self.shrunk else None
        self._small = empty_planes(*pane)
        self._planes = empty_planes(*self.layout.size)
        self._levels = None if frame.color.full_range else (_stretched(16, 219), _stretched(128, 224))
        aspect = 1 / frame.sample_aspect if turned else frame.sample_aspect
        self.stream = replace(
            info.scaled(*self.layout.size),
            orientation=Orientation.UPRIGHT,
            sample_aspect=aspect,
            color=shown_color(frame.color),
        )

    def compose(self, frame: Frame) -> Planes:
        """Both sides of a frame, valid until the next call. Raises EngineRunError when swscale fails."""
        self._place(self._bicubic(frame), 0, 0)
        planes = frame.planes
        if self._shrink is not None:
            self._shrink(planes, self._small)
            planes = self._small
        self._place(planes, self.layout.x, self.layout.y)
        self._fill_gap()
        return self._planes

    def _place(self, planes: Planes, x: int, y: int) -> None:
        for index, (plane, small, target) in enumerate(zip(planes, self._small, self._planes, strict=True)):
            part = 2 if index else 1
            turned: Plane = self._orientation.upright(plane[: small.shape[0], : small.shape[1]])
            rows, columns = turned.shape
            view = target[y // part : y // part + rows, x // part : x // part + columns]
            if self._levels is None:
                np.copyto(view, turned)
            else:
                np.take(self._levels[min(index, 1)], turned, out=view, mode="clip")

    def _fill_gap(self) -> None:
        across = self.layout.x > 0
        for index, plane in enumerate(self._planes):
            part = 2 if index else 1
            lines = plane.T if across else plane
            end, begin = (
                side // part
                for side in ((self.layout.width, self.layout.x) if across else (self.layout.height, self.layout.y))
            )
            middle = (end + begin) // 2
            lines[end:middle] = lines[end - 1]
            lines[middle:begin] = lines[begin]


def _stretched(zero: int, span: int) -> npt.NDArray[np.uint8]:
    """Limited range to full, by level (BT.601 and BT.709, quantisation): luma from 16, chroma around 128."""
    levels = (np.arange(256) - zero) * (255 / span) + (0 if zero == 16 else 128)
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)
