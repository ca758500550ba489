"""Pictures as luma, and their reduction: how a low-resolution picture is made from a true one."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from stream_sr.errors import SourceOpenError
from stream_sr.video.planes import Plane
from stream_sr.video.quality import rgb_to_luma

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
