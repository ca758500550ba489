"""Scene cuts: whether a picture has nothing to do with the one before it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

SIDE = 32  # cells across and down
CUT = 0.35  # share of the pictures' contrast that must have changed
FLAT = 4.0  # levels: so much contrast may be noise


class SceneCut:
    """Finds cuts in a stream of luma planes of one size, on a grid of 32 by 32 samples; one thread.

    The measure is the root mean square of the grids' difference after the change of brightness is taken out, over
    that of the contrast within both: near 0 for a still camera, 1 for two pictures that have nothing in common. A fade
    or a flash is no cut by it, a fast pan is.
    """

    def __init__(self) -> None:
        self._before: npt.NDArray[np.float32] | None = None

    def is_cut(self, luma: npt.NDArray[np.uint8]) -> bool:
        """Whether ``luma`` (``[H, W]``) begins a new scene. The first picture does."""
        now = grid(luma)
        before, self._before = self._before, now
        return before is None or change(before, now) > CUT


def change(before: npt.NDArray[np.float32], now: npt.NDArray[np.float32]) -> float:
    """How much of two grids differs, 0 (nothing), 1 (unrelated) to 1.4 (inverted); near 0 where both are flat."""
    a, b = before - before.mean(), now - now.mean()
    contrast = float(np.sqrt((a * a).mean() + (b * b).mean()))
    return float(np.sqrt(((a - b) ** 2).mean())) / (contrast + FLAT)


def grid(luma: npt.NDArray[np.uint8 | np.float32]) -> npt.NDArray[np.float32]:
    """Means over cells that cover the whole picture, each of some of its rows and columns."""
    rows, columns = (_samples(side) for side in luma.shape)
    thin = luma[np.ix_(rows, columns)].astype(np.float32)
    return thin.reshape(SIDE, len(rows) // SIDE, SIDE, len(columns) // SIDE).mean((1, 3))


def _samples(side: int) -> npt.NDArray[np.intp]:
    """Indices along a side, spread evenly: up to four of a cell; where there are fewer pixels than cells some twice."""
    count = SIDE * min(4, max(1, side // SIDE))
    return np.arange(count) * side // count
