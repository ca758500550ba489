"""The sheet shows the same place four times, where the difference is."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stream_sr.errors import ConfigError
from stream_sr.evaluation.contact_sheet import DETAIL, GAP, HEAD, ZOOM, Example, details, write_sheet


def example(height: int = 240, width: int = 320) -> Example:
    """Ours differs from bicubic in one corner; every plane has a level of its own there."""
    low, flat = np.full((height // 2, width // 2), 10, np.uint8), np.full((height, width), 20, np.uint8)
    ours = flat.copy()
    ours[-100:, -100:] = 30
    return Example("picture", low, flat, ours, np.full((height, width), 40, np.uint8))


def test_the_crops_lie_where_the_difference_is() -> None:
    low, bicubic, ours, truth = details(example())
    assert {crop.shape for crop in (low, bicubic, ours, truth)} == {(DETAIL, DETAIL)}
    assert [float(crop.mean()) for crop in (low, bicubic, ours, truth)] == [10, 20, 30, 40]


def test_a_picture_smaller_than_the_crop() -> None:
    assert {crop.shape for crop in details(example(40, 60))} == {(40, 40)}


def test_the_sheet(tmp_path: Path) -> None:
    out = write_sheet([example(), example()], tmp_path / "new" / "sheet.png")
    with Image.open(out) as sheet:
        side = DETAIL * ZOOM
        assert sheet.size == (4 * side + 5 * GAP, 2 * (side + HEAD + GAP) + GAP)
        row = [sheet.getpixel((GAP + n * (side + GAP) + side // 2, GAP + HEAD + side // 2)) for n in range(4)]
    assert row == [10, 20, 30, 40]
    with pytest.raises(ConfigError, match="nothing"):
        write_sheet([], out)
    with pytest.raises(ConfigError, match="give another file"):
        write_sheet([example()], tmp_path)
