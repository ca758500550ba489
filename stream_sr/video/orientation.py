"""How a decoded picture must be turned and mirrored to be upright: the eight cases that files can state."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

FIXED = 1 << 16  # 1.0 in the first two columns of a display matrix
LEAST = 1e-3  # a smaller part of a matrix is rounding


class Orientation(enum.IntEnum):
    """What is done to a picture for display, by the numbers of EXIF 2.32 (tag 0x0112).

    Each is mirroring left to right or not, and then a turn of ``degrees`` clockwise. ISO/IEC 14496-12 states the same
    as the matrix of a track, Matroska as a projection, HEIF as the properties ``irot`` and ``imir``.
    """

    UPRIGHT = 1
    MIRRORED = 2
    TURNED_180 = 3
    FLIPPED = 4  # top to bottom
    TRANSPOSED = 5
    TURNED_90 = 6
    TRANSVERSED = 7
    TURNED_270 = 8

    @property
    def mirrored(self) -> bool:
        """Whether the picture is mirrored left to right before it is turned."""
        return self in (Orientation.MIRRORED, Orientation.FLIPPED, Orientation.TRANSPOSED, Orientation.TRANSVERSED)

    @property
    def degrees(self) -> int:
        """The turn, clockwise: 0, 90, 180 or 270."""
        return (0, 0, 180, 180, 270, 90, 90, 270)[self - 1]

    @property
    def swaps_sides(self) -> bool:
        """Whether width becomes height."""
        return self.degrees in (90, 270)

    @property
    def matrix(self) -> tuple[int, ...]:
        """The display matrix, nine cells in FFmpeg's order and units, without a translation."""
        turn, mirror = math.radians(self.degrees), -1 if self.mirrored else 1
        cos, sin = round(math.cos(turn)), round(math.sin(turn))
        return (mirror * cos * FIXED, mirror * sin * FIXED, 0, -sin * FIXED, cos * FIXED, 0, 0, 0, 1 << 30)

    def upright(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """A view on ``pixels``, ``[H, W]`` or ``[H, W, C]``, turned and mirrored for display."""
        return np.rot90(pixels[:, ::-1] if self.mirrored else pixels, -(self.degrees // 90))

    def __str__(self) -> str:
        """For messages."""
        words = (["mirrored"] if self.mirrored else []) + (
            [f"turned by {self.degrees} degrees"] if self.degrees else []
        )
        return " and ".join(words) or "upright"


def from_matrix(matrix: Sequence[int]) -> Orientation | None:
    """The orientation that a display matrix states, its scale and translation left out.

    None for one that turns by another angle than quarter turns, shears, or is singular.
    """
    a, b, c, d = (float(matrix[index]) for index in (0, 1, 3, 4))
    largest = max(map(abs, (a, b, c, d)))
    signs = tuple(0 if abs(cell) <= LEAST * largest else int(math.copysign(1, cell)) for cell in (a, b, c, d))
    for orientation in Orientation:
        cells = orientation.matrix
        if signs == tuple(int(np.sign(cells[index])) for index in (0, 1, 3, 4)):
            return orientation
    return None
