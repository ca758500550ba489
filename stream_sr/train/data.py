"""Pictures for training and measuring: luma, reduced by the MATLAB-style antialiased bicubic of the literature."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from stream_sr.errors import ConfigError, SourceOpenError
from stream_sr.motion import Flow
from stream_sr.quality import rgb_to_luma

Plane = npt.NDArray[np.uint8]
Samples = TypeVar("Samples", np.uint8, np.int16)
ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"}


def find_images(folders: Iterable[Path]) -> list[Path]:
    """All picture files below the folders, sorted by path. Raises SourceOpenError if a folder is missing or empty."""
    found: list[Path] = []
    for folder in folders:
        if not folder.is_dir():
            raise SourceOpenError(f"no folder {folder}; give a folder of pictures ({', '.join(sorted(ENDINGS))})")
        images = [path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS]
        if not images:
            raise SourceOpenError(f"no pictures in {folder}; looked for {', '.join(sorted(ENDINGS))}")
        found += images
    return sorted(found)


def load_luma(path: Path) -> npt.NDArray[np.float64]:
    """Luma of a picture, ``[H, W]`` float. A grey file is taken as luma as it is; others by BT.601, limited range.

    Raises SourceOpenError for a file that is no picture, is damaged, or has more than 8 bits per channel (Pillow would
    clip those).
    """
    try:
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):
                raise SourceOpenError(f"{path} has more than 8 bits per channel; convert it to 8 bits")
            if image.mode in ("L", "1", "LA"):
                return np.asarray(image.convert("L"), np.float64)
            return rgb_to_luma(np.asarray(image.convert("RGB")))
    except (OSError, SyntaxError, ValueError) as error:
        raise SourceOpenError(f"{path} cannot be read as a picture: {error}") from error


def to_uint8(plane: npt.NDArray[np.floating]) -> Plane:
    """Rounded to nearest (half up, as MATLAB does) and clamped to 0..255."""
    return np.clip(np.floor(plane + 0.5), 0, 255).astype(np.uint8)


def bicubic(plane: npt.NDArray[np.floating], size: tuple[int, int]) -> npt.NDArray[np.float64]:
    """Resize to ``size`` = (height, width) by cubic convolution with a = -0.5, antialiased when it reduces.

    Keys, "Cubic convolution interpolation", IEEE TASSP 1981; the same filter as MATLAB's imresize but for the border,
    where Pillow renormalises instead of mirroring.
    """
    image = Image.fromarray(np.ascontiguousarray(plane, np.float32))
    return np.asarray(image.resize((size[1], size[0]), Image.Resampling.BICUBIC), np.float64)


def make_pair(luma: npt.NDArray[np.floating], scale: int) -> tuple[Plane, Plane]:
    """(low resolution, truth), both uint8, the truth cropped to a multiple of ``scale``.

    A picture with a side shorter than ``scale`` raises ValueError.
    """
    if min(luma.shape) < scale:
        raise ValueError(f"a {luma.shape[1]}x{luma.shape[0]} picture cannot be reduced by {scale}")
    height, width = (side // scale * scale for side in luma.shape)
    truth = luma[:height, :width]
    return to_uint8(bicubic(truth, (height // scale, width // scale))), to_uint8(truth)


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
    """`motion.Flow`, ``[..., 2, h, w]``, of what `turn` has turned."""
    right, down = turn(flow[..., 0, :, :], turns, flip), turn(flow[..., 1, :, :], turns, flip)
    for _ in range(turns):  # counter-clockwise: what went right goes up
        right, down = down, -right
    return np.stack([-right if flip else right, down], -3)


def still(count: int) -> Flow:
    """The motion of ``count`` single pictures: none, ``[count, 0]``."""
    return np.zeros((count, 0), np.int16)
