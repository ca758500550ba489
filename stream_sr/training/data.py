"""Pictures for training and measuring: luma, reduced by the MATLAB-style antialiased bicubic of the literature."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from stream_sr.errors import ConfigError, SourceOpenError
from stream_sr.video.optical_flow import Flow
from stream_sr.video.planes import Plane
from stream_sr.video.resample import bicubic, load_luma, make_pair

Samples = TypeVar("Samples", np.uint8, np.int16)


class Patches:
    """Random patches from pictures held in memory, one of the eight flips and rotations each. Seeded, endless.

    Every place of every picture is equally likely, but for the folders named in ``shares``: of the patches, that share
    comes from pictures in a folder of that name (a small folder of good pictures would else hardly be seen).
    """

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        scale: int,
        patch: int,
        shrinks: Sequence[float],
        seed: int,
        shares: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        self.scale, self.patch = scale, patch
        self.random = np.random.default_rng(seed)
        self.pairs: list[tuple[Plane, Plane]] = []
        folders: list[str] = []
        for path in paths:
            luma = load_luma(path)
            for shrink in shrinks:
                size = tuple(round(side * shrink) for side in luma.shape)
                smaller = luma if shrink == 1 else bicubic(luma, (size[0], size[1]))
                low, truth = make_pair(smaller, scale)
                if min(low.shape) >= patch:
                    self.pairs.append((low, truth))
                    folders.append(path.parent.name if path.parent.name in shares else "")
        if not self.pairs:
            raise SourceOpenError(f"no picture is large enough for {patch * scale}x{patch * scale} patches")
        areas = np.array([low.size for low, _ in self.pairs], np.float64)
        rest = 1 - sum(shares.values())
        for folder, share in (dict(shares) | {"": rest}).items():
            chosen = np.array([name == folder for name in folders])
            if chosen.any() != (share > 0):
                raise ConfigError(
                    f"share {share:g} of the patches from '{folder or 'other folders'}' cannot be had; "
                    "change `shares` in the recipe, or train on your own pictures with --validate NAME"
                )
            areas[chosen] *= share / max(areas[chosen].sum(), 1)
        self.chance = np.cumsum(areas)

    def batch(self, count: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], Flow]:
        """``[count, 1, p, p]`` low-resolution patches and ``[count, 1, s*p, s*p]`` truths, uint8; no motion."""
        p, s = self.patch, self.scale
        lows = np.empty((count, 1, p, p), np.uint8)
        truths = np.empty((count, 1, s * p, s * p), np.uint8)
        for n in range(count):
            which, _, y, x, turns, flip = self.place()
            low, truth = self.pairs[which]
            lows[n, 0] = turn(low[y : y + p, x : x + p], turns, flip)
            truths[n, 0] = turn(truth[s * y : s * (y + p), s * x : s * (x + p)], turns, flip)
        return lows, truths, still(count)

    def place(self) -> tuple[int, int, int, int, int, bool]:
        """Where the next example lies: picture, 0, row, column, quarter turns, mirrored."""
        which = min(int(np.searchsorted(self.chance, self.random.random())), len(self.pairs) - 1)
        low, _ = self.pairs[which]
        y = int(self.random.integers(low.shape[0] - self.patch + 1))
        x = int(self.random.integers(low.shape[1] - self.patch + 1))
        return which, 0, y, x, int(self.random.integers(4)), bool(self.random.integers(2))

    def planes(self, which: int) -> tuple[Plane, Plane]:
        """Low and truth of a picture, ``[1, H, W]``."""
        low, truth = self.pairs[which]
        return low[None], truth[None]


def turn(planes: npt.NDArray[Samples], turns: int, flip: bool) -> npt.NDArray[Samples]:
    """A quarter ``turns`` times, then mirrored; the last two axes are the picture's."""
    planes = np.rot90(planes, turns, (-2, -1))
    return planes[..., ::-1] if flip else planes


def turn_flow(flow: Flow, turns: int, flip: bool) -> Flow:
    """`optical_flow.Flow`, ``[..., 2, h, w]``, of what `turn` has turned."""
    right, down = turn(flow[..., 0, :, :], turns, flip), turn(flow[..., 1, :, :], turns, flip)
    for _ in range(turns):  # counter-clockwise: what went right goes up
        right, down = down, -right
    return np.stack([-right if flip else right, down], -3)


def still(count: int) -> Flow:
    """The motion of ``count`` single pictures: none, ``[count, 0]``."""
    return np.zeros((count, 0), np.int16)
