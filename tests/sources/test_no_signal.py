"""The picture of a lost signal."""

import numpy as np
import pytest

from stream_sr.sources.no_signal import NoSignalPicture, duration_text, glyph
from stream_sr.video import barcode
from stream_sr.video.planes import empty_planes


@pytest.mark.parametrize("size", [(640, 360), (64, 48), (33, 17), (2, 2), (360, 640)])
def test_it_is_dark_has_text_and_counts_up(size: tuple[int, int]) -> None:
    planes = empty_planes(*size)
    for plane, value in zip(planes, (200, 90, 180), strict=True):
        plane.fill(value)
    picture, one, two = NoSignalPicture(planes), empty_planes(*size), empty_planes(*size)
    picture.draw(one, 3)
    picture.draw(two, 3601)
    assert np.median(one[0]) < 100
    assert abs(int(np.median(one[1])) - 109) <= 19
    if size[0] >= 64:
        assert one[0].max() > 200
        assert (one[0] != two[0]).any()


def test_a_clock_in_the_picture_is_not_read_again() -> None:
    planes = empty_planes(640, 360)
    planes[0].fill(100)
    barcode.burn(planes[0], 1, 10**9)
    assert barcode.read(planes[0]) is not None
    target = empty_planes(640, 360)
    NoSignalPicture(planes).draw(target, 1)
    assert barcode.read(target[0]) is None


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (-1, "0:00"), (67.9, "1:07"), (3600, "1:00:00"), (90061, "1 d 01:01:01")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def test_glyphs_are_made_once() -> None:
    assert glyph("7", 20) is glyph("7", 20)
    assert glyph("7", 20).shape[0] == glyph("m", 20).shape[0]
