"""Contact sheets: the same detail of the input, of bicubic, of our output and of the truth, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from stream_sr.errors import ConfigError
from stream_sr.video.planes import Plane

DETAIL = 96  # pixels of the truth, a side
ZOOM = 3
GAP, HEAD = 6, 22
TITLES = ("input", "bicubic", "ours", "truth")


@dataclass(frozen=True, slots=True)
class Example:
    """One picture of a sheet; ``low`` is smaller than the other three planes by the scale."""

    name: str
    low: Plane
    bicubic: Plane
    ours: Plane
    truth: Plane


def write_sheet(examples: Sequence[Example], out: Path) -> Path:
    """Write a PNG with a row per example, and return ``out``. Raises ConfigError if it cannot be written."""
    if not examples:
        raise ConfigError("there is nothing to put on a contact sheet")
    side = DETAIL * ZOOM
    sheet = Image.new("L", (4 * side + 5 * GAP, len(examples) * (side + HEAD + GAP) + GAP), 24)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for row, example in enumerate(examples):
        y = GAP + row * (side + HEAD + GAP)
        for column, (title, detail) in enumerate(zip(TITLES, details(example), strict=True)):
            x = GAP + column * (side + GAP)
            label = f"{example.name}: {title}" if column == 0 else title
            pen.text((x, y + 2), label, fill=220, font=font)
            sheet.paste(Image.fromarray(detail).resize((side, side), Image.Resampling.NEAREST), (x, y + HEAD))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(out, "PNG")
    except OSError as error:
        raise ConfigError(f"{out} cannot be written: {error}; give another file") from error
    return out


def details(example: Example) -> tuple[Plane, Plane, Plane, Plane]:
    """The four crops, of equal size, from where ours and bicubic differ most; the input's pixels are repeated."""
    height, width = example.truth.shape
    scale = width // example.low.shape[1]
    side = min(DETAIL, height, width) // scale * scale
    difference = np.abs(example.ours.astype(np.float32) - example.bicubic)
    sums = np.pad(difference.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    boxes = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    y, x = (int(place) // scale * scale for place in np.unravel_index(boxes.argmax(), boxes.shape))
    low = example.low.repeat(scale, 0).repeat(scale, 1)
    planes = (low, example.bicubic, example.ours, example.truth)
    return tuple(np.ascontiguousarray(plane[y : y + side, x : x + side]) for plane in planes)  # type: ignore[return-value]
