"""What viewers see while a camera is away: its last picture, darkened, with ``no signal`` and the time since."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from stream_sr.video.planes import Planes

DIMMED = 0.35  # of the luma that was
FADED = 0.5  # of the colour that was
TEXT = 235
BAR = 45  # a bar across top and bottom, 2/45 of the height: no clock that was burnt into the picture is read again
LINE = 0.11  # height of the larger line, of the picture's


class NoSignalPicture:
    """Made once from the last picture; `draw` writes it with another time as often as wanted. One thread."""

    def __init__(self, planes: Planes) -> None:
        """``planes`` are read here and not kept."""
        luma, u, v = planes
        self._base = np.clip(luma * np.float32(DIMMED) + 10, 0, 255).astype(np.uint8)
        self._chroma = tuple((128 + (plane - np.float32(128)) * FADED).astype(np.uint8) for plane in (u, v))
        bar = max(1, round(2 * luma.shape[0] / BAR))
        self._base[:bar] = self._base[-bar:] = 16
        for plane in self._chroma:
            plane[: (bar + 1) // 2] = plane[-((bar + 1) // 2) :] = 128
        self._stamp(self._base, "no signal", 0.42, LINE)

    def draw(self, target: Planes, seconds: float) -> None:
        """Write the picture into writable planes of its size; ``seconds`` is the time without a signal."""
        for plane, base in zip(target, (self._base, *self._chroma), strict=True):
            np.copyto(plane, base)
        self._stamp(target[0], duration_text(seconds), 0.58, LINE * 0.7)

    def _stamp(self, luma: npt.NDArray[np.uint8], text: str, centre: float, share: float) -> None:
        """Text across the middle, its centre at this share of the height; what does not fit is made smaller."""
        height, width = luma.shape
        size = max(8, min(round(height * share), round(1.6 * width / max(1, len(text)))))
        glyphs = [glyph(letter, size) for letter in text]
        row = np.concatenate(glyphs, axis=1)[:, :width]
        top = min(max(0, round(height * centre) - row.shape[0] // 2), max(0, height - row.shape[0]))
        left = (width - row.shape[1]) // 2
        area = luma[top : top + row.shape[0], left : left + row.shape[1]]
        mask = row[: area.shape[0]].astype(np.uint16)
        area[:] = (area * (255 - mask) + TEXT * mask + 127) // 255


@lru_cache(maxsize=256)
def glyph(letter: str, size: int) -> npt.NDArray[np.uint8]:
    """Coverage of one letter, ``[rows, advance]``, 0..255; all letters of a size have the same rows."""
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    above, below = font.getmetrics()
    wide = max(1, round(font.getlength(letter)))
    image = Image.new("L", (wide, above + below))
    ImageDraw.Draw(image).text((0, 0), letter, fill=255, font=font)
    return np.asarray(image, np.uint8).copy()


def duration_text(seconds: float) -> str:
    """``0:07``, ``12:34``, ``3:00:00``, ``2 d 03:00:00``."""
    whole = int(max(0.0, seconds))
    days, hours, minutes, rest = whole // 86400, whole // 3600 % 24, whole // 60 % 60, whole % 60
    if days:
        return f"{days} d {hours:02}:{minutes:02}:{rest:02}"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
