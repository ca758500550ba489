"""Motion of the whole picture: by how much a pan or a shaking hand has moved it since the picture before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from stream_sr.frame import Plane
from stream_sr.scene import CUT, SceneCut, change, grid

Samples = npt.NDArray[np.float32]
Shift = tuple[int, int]  # rows and columns, quarters of a pixel of the larger picture
Shares = npt.NDArray[np.float32]

PARTS = 4  # of a pixel, to which motion is told; by finer ones noise would move what stands still
ANEW = 1 << 20  # for a shift: farther than any picture is large
MOST = 320 * 180  # samples: a larger picture is measured on means of 2x2 of its pixels, until it is that small
LEAST = 48  # smallest side of the coarsest level
LEVELS = 4
STEPS = 4  # at each level at most
STEP = 1.5  # samples: so far at a time, for the gradient reaches no further
SETTLED = 0.02  # samples
MOVING = 8.0  # levels: what differs by more does not move with the rest, and counts for less than half
STIFF = 1e-3  # added to the mean squared gradient, levels squared per sample: a flat picture stands still


class Motion:
    """Follows a stream of luma planes of one size; one thread."""

    def __init__(self, scale: int) -> None:
        self.scale = scale
        self._scene = SceneCut()
        self._before: list[Samples] | None = None

    def follow(self, luma: Plane, *, anew: bool = False) -> Shift | None:
        """By how many quarters of a pixel of the enlarged picture ``luma`` (``[H, W]``) has moved down and right.

        None where what came before says nothing of it: the first picture, a scene cut, and where ``anew`` says so.
        """
        cut = self._scene.is_cut(luma)
        now = pyramid(luma)
        before, self._before = self._before, now
        if before is None or anew:
            return None
        moved = displacement(before, now)
        if cut and _differs(before[-1], now[-1], moved / 2 ** (len(now) - 1)):
            return None
        pixels = luma.shape[0] / now[0].shape[0]  # of the picture, to a sample
        down, right = np.rint(moved * pixels * self.scale * PARTS).astype(int)
        return int(down), int(right)


def shifts(planes: Sequence[Plane], scale: int) -> list[Shift]:
    """What `Motion` says of each of consecutive planes ``[H, W]``; `ANEW` in both directions where it says None."""
    motion = Motion(scale)
    found = [motion.follow(plane) for plane in planes]
    return [(ANEW, ANEW) if shift is None else shift for shift in found]


def pyramid(luma: Plane) -> list[Samples]:
    """A picture ``[H, W]`` and its halves in levels, float32, the smallest last. A large one begins with a half."""
    found: npt.NDArray[Any] = luma
    while found.size > MOST:
        found = _half(found)
    halves = [found.astype(np.float32, copy=False)]
    while len(halves) < LEVELS and min(halves[-1].shape) >= LEAST:
        halves.append(_half(halves[-1]))
    return halves


def displacement(before: Sequence[Samples], now: Sequence[Samples]) -> npt.NDArray[np.float64]:
    """By how many samples of the finest level of two `pyramid`s the picture has moved, ``[2]``: down, right.

    Least squares on the gradient (Lucas and Kanade, IJCAI 1981), coarse to fine, for one displacement of all; what
    does not move with the rest counts little. The error on textured pictures is about 0.03 samples.
    """
    found = np.zeros(2)
    for level, (one, other) in enumerate(zip(reversed(before), reversed(now), strict=True)):
        found = found * 2 if level else found
        for _ in range(STEPS):
            whole = np.rint(found).astype(int)
            margin = int(abs(whole).max()) + 1
            if min(one.shape) <= 4 * margin + 4:  # hardly anything is in both
                return np.zeros(2)
            last, found = found, whole + _step(one, other, whole, margin)
            if abs(found - last).max() < SETTLED:
                break
    return found


def _differs(before: Samples, now: Samples, moved: npt.NDArray[np.float64]) -> bool:
    """Whether it is a cut where both are: a fast pan looks like one until it is taken out."""
    down, right = np.rint(moved).astype(int)
    (height, width), (top, left), (low, far) = overlap((int(down), int(right)), (now.shape[0], now.shape[1]))
    if min(height, width) < min(now.shape) / 2:
        return True
    old, new = before[top : top + height, left : left + width], now[low : low + height, far : far + width]
    return change(grid(old), grid(new)) > CUT


def _step(before: Samples, now: Samples, whole: npt.NDArray[np.int_], margin: int) -> npt.NDArray[np.float64]:
    """What is left of the displacement after ``whole`` samples of it, by one step of least squares."""
    height, width = now.shape
    down, right = whole
    old = before[margin - down : height - margin - down, margin - right : width - margin - right]
    new = now[margin : height - margin, margin : width - margin]
    middle = (old + new) * 0.5
    y = (middle[2:, 1:-1] - middle[:-2, 1:-1]) * 0.5
    x = (middle[1:-1, 2:] - middle[1:-1, :-2]) * 0.5
    difference = (old - new)[1:-1, 1:-1]
    weight = 1 / (1 + (difference * (1 / MOVING)) ** 2)
    wy, wx = weight * y, weight * x
    stiff = STIFF * difference.size
    matrix = np.array([[np.vdot(wy, y) + stiff, np.vdot(wy, x)], [np.vdot(wy, x), np.vdot(wx, x) + stiff]])
    found = np.linalg.solve(matrix, np.array([np.vdot(wy, difference), np.vdot(wx, difference)]))
    return np.clip(found, -STEP, STEP)


def _half(samples: npt.NDArray[Any]) -> Samples:
    height, width = (side // 2 * 2 for side in samples.shape)
    even, odd = samples[:height:2, :width], samples[1:height:2, :width]
    rows = np.add(even, odd, dtype=np.float32)
    return (rows[:, ::2] + rows[:, 1::2]) * np.float32(0.25)


def split(shift: Shift) -> tuple[tuple[int, int], Shares]:
    """A shift as whole pixels, and as what a pixel then has from itself, its left, its upper and its upper left one.

    Bilinear: the shares, ``[4]``, are not negative and add up to 1. For devices; `register` does both.
    """
    (rows, down), (columns, right) = (divmod(by, PARTS) for by in shift)
    y, x = down / PARTS, right / PARTS
    return (rows, columns), np.array([(1 - y) * (1 - x), (1 - y) * x, y * (1 - x), y * x], np.float32)


def overlap(shift: tuple[int, int], size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """The rectangle that is both in a plane of ``size`` and in it moved by ``shift`` whole pixels.

    Its size, its upper left corner before, and after; all (rows, columns); of no size where nothing is in both.
    """
    height, width = (max(0, side - abs(by)) for side, by in zip(size, shift, strict=True))
    return (height, width), (max(0, -shift[0]), max(0, -shift[1])), (max(0, shift[0]), max(0, shift[1]))


def register(before: Plane, shift: Shift, out: Plane) -> None:
    """Write ``before`` ``[H, W]``, moved, into ``out``; what would come from outside stays as it was.

    By whole pixels, then by quarters of one, bilinear, the borders repeated; rounded half up.
    """
    (rows, down_part), (columns, right_part) = (divmod(by, PARTS) for by in shift)
    (height, width), (top, left), (down, right) = overlap((rows, columns), before.shape)
    np.copyto(out, before)
    if rows or columns:
        out[down : down + height, right : right + width] = before[top : top + height, left : left + width]
    if down_part or right_part:
        sums = _lerp(_lerp(out.astype(np.uint16), right_part).T, down_part).T
        out[:] = (sums + PARTS * PARTS // 2) // (PARTS * PARTS)


def _lerp(plane: npt.NDArray[np.uint16], part: int) -> npt.NDArray[np.uint16]:
    """`PARTS` times each sample of a row, ``part`` of them from its left neighbour."""
    mixed = plane * np.uint16(PARTS - part)
    mixed[:, 1:] += plane[:, :-1] * np.uint16(part)
    mixed[:, 0] += plane[:, 0] * np.uint16(part)
    return mixed


def repeat(luma: Plane, out: Plane) -> None:
    """Write each pixel of ``luma`` ``[H, W]`` as often as it takes to fill ``out`` ``[sH, sW]``."""
    height, width = luma.shape
    cells = out.reshape(height, out.shape[0] // height, width, out.shape[1] // width)
    cells[:] = luma[:, None, :, None]


class LastOutput:
    """What a recurrent network is given beside each picture: its last output, moved to where the picture is now.

    Each pixel of the picture repeated where nothing came before. One thread.
    """

    def __init__(self, scale: int) -> None:
        self._motion = Motion(scale)
        self._last: Plane | None = None
        self._kept = False  # of the picture before

    def write(self, luma: Plane, out: Plane, *, anew: bool = False) -> None:
        """Fill ``out`` ``[sH, sW]`` for the picture ``luma`` ``[H, W]``; ``anew`` as in `Motion.follow`."""
        shift = self._motion.follow(luma, anew=anew or not self._kept)
        self._kept = False
        if shift is None or self._last is None:
            repeat(luma, out)
        else:
            register(self._last, shift, out)

    def keep(self, output: Plane) -> None:
        """Remember the output ``[sH, sW]`` of the picture that was written last; it is copied.

        Where that did not come, for it failed, the next picture begins anew.
        """
        self._kept = True
        if self._last is None:
            self._last = output.copy()
        else:
            np.copyto(self._last, output)
