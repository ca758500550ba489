"""The before/after sheet."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from stream_sr.codec.rgb import to_rgb
from stream_sr.evaluation.before_after import ExampleFrames, compose
from stream_sr.video.color import ColorInfo, Matrix, Range
from stream_sr.video.frame import Frame
from stream_sr.video.planes import empty_planes, read_only


def flat(width: int, height: int, values: tuple[int, int, int], color: ColorInfo) -> Frame:
    planes = empty_planes(width, height)
    for plane, value in zip(planes, values, strict=True):
        plane.fill(value)
    return Frame(read_only(planes), 0, Fraction(1), color=color)


def test_rgb_follows_matrix_and_range() -> None:
    """BT.601 and BT.709 red, limited and full range (ITU-R BT.601-7 and BT.709-6, rounded to 8 bits)."""
    cases = {
        (81, 90, 240): ColorInfo(matrix=Matrix.SMPTE170M, range=Range.LIMITED),
        (63, 102, 240): ColorInfo(matrix=Matrix.BT709, range=Range.LIMITED),
        (76, 85, 255): ColorInfo(matrix=Matrix.SMPTE170M, range=Range.FULL),
    }
    for values, color in cases.items():
        rgb = to_rgb(flat(32, 16, values, color))[8, 16].astype(int)
        assert np.abs(rgb - [255, 0, 0]).max() <= 3, (values, rgb)


def test_the_sheet_holds_both_pictures_and_a_detail_of_each() -> None:
    left = np.zeros((160, 240, 3), np.uint8)
    left[60:100, 100:140] = np.random.default_rng(1).integers(0, 255, (40, 40, 3), np.uint8)
    right = np.full_like(left, 200)
    sheet = np.asarray(compose(left, right, ("before", "after")))
    assert sheet.shape == (2 * 160 + 8, 2 * 240 + 8, 3)
    assert np.array_equal(sheet[110:150, 150:235], left[110:150, 150:235])
    assert sheet[300, 400].tolist() == [200, 200, 200]
    assert sheet[168 + 80, 120].max() > 0  # the detail shows the busy part


def test_a_pair_is_kept_by_copy_and_saved(tmp_path: Path) -> None:
    color = ColorInfo(matrix=Matrix.BT709, range=Range.LIMITED)
    before, after = flat(64, 48, (100, 128, 128), color), flat(128, 96, (100, 128, 128), color)
    memory = before.planes[0].base
    worker = ExampleFrames(wanted=5)
    worker.see(before, after)
    assert isinstance(memory, np.ndarray)
    memory.fill(0)  # the pipeline reuses the memory
    worker.save(tmp_path / "sheet.png", model="test x2")
    with Image.open(tmp_path / "sheet.png") as file:
        picture = np.asarray(file)
    assert picture.shape == (2 * 96 + 8, 2 * 128 + 8, 3)
    assert picture[80, 100].min() > 80
