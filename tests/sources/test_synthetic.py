"""The synthetic camera: paced, exact, and with the clock in its picture."""

from __future__ import annotations

import itertools
import sys
from fractions import Fraction

import numpy as np
import pytest

from stream_sr.errors import SourceOpenError
from stream_sr.pipeline.interfaces import SourceOptions
from stream_sr.sources.synthetic import Canvas, Scene, SyntheticSource, parse_scene
from stream_sr.video import barcode
from stream_sr.video.color import Matrix, Range, Siting
from stream_sr.video.timing import NS, ManualClock, MonotonicClock

SMALL = Scene(width=128, height=96, fps=Fraction(30))


@pytest.mark.parametrize(
    ("address", "scene"),
    [
        ("synthetic:", Scene(False, 640, 360, Fraction(30))),
        ("synthetic:photos", Scene(True, 640, 360, Fraction(30))),
        ("synthetic:1280x720", Scene(False, 1280, 720, Fraction(30))),
        ("synthetic:@59.94", Scene(False, 640, 360, Fraction("59.94"))),
        ("synthetic:photos,320x180@30000/1001", Scene(True, 320, 180, Fraction(30000, 1001))),
    ],
)
def test_addresses(address: str, scene: Scene) -> None:
    assert parse_scene(address) == scene


def test_frames_come_by_the_clock_with_exact_pts() -> None:
    clock = ManualClock(7 * NS)
    frames = list(itertools.islice(SyntheticSource(SMALL, clock=clock).frames(), 31))
    assert [frame.pts for frame in frames] == list(range(31))
    assert frames[0].captured_ns == 7 * NS
    assert all(abs(frame.captured_ns - 7 * NS - frame.pts * NS / 30) < 1000 for frame in frames)
    assert all(frame.time_base == Fraction(1, 30) for frame in frames)


def test_a_late_consumer_gets_the_frame_of_the_moment() -> None:
    clock = ManualClock()
    source = SyntheticSource(SMALL, clock=clock)
    frames = source.frames()
    assert next(frames).number == 0
    clock.ns += NS  # away for a second
    late = next(frames)
    assert late.number == late.pts == 30
    assert source.counters() == {"skipped": 29}
    assert next(frames).number == 31


def test_the_barcode_holds_the_number_and_the_moment() -> None:
    clock = ManualClock(12345 * NS)
    for frame in itertools.islice(SyntheticSource(SMALL, clock=clock).frames(), 3):
        reading = barcode.read(frame.planes[0])
        assert reading is not None
        assert reading.sequence == frame.number
        assert 0 <= reading.age_ns(frame.captured_ns) <= barcode.UNIT_NS
        grey = -(-barcode.rows_used(96) // 2)
        assert (frame.planes[1][:grey] == 128).all()
        assert (frame.planes[2][:grey] == 128).all()


def test_by_the_real_clock() -> None:
    source = SyntheticSource(Scene(width=128, height=96, fps=Fraction(200)), SourceOptions(duration=0.2))
    before = MonotonicClock().now_ns()
    frames = list(source.frames())
    took = (MonotonicClock().now_ns() - before) / NS
    assert 0.19 <= took < 5
    assert len(frames) + source.counters().get("skipped", 0) >= 39


def test_the_picture_moves_and_has_detail() -> None:
    clock = ManualClock()
    frames = list(itertools.islice(SyntheticSource(Scene(), clock=clock).frames(), 3))
    a, b = (frame.planes[0][16:].astype(int) for frame in frames[:2])
    assert np.abs(a - b).mean() > 2
    assert np.array_equal(a[:, 1:], b[:, :-1])  # the view moves on by one pixel a frame
    assert np.abs(np.diff(a, axis=1)).mean() > 8


def test_colours_by_size() -> None:
    small = SyntheticSource(SMALL).info.color
    assert (small.matrix, small.range, small.siting) == (Matrix.SMPTE170M, Range.LIMITED, Siting.LEFT)
    assert SyntheticSource(Scene(width=1280, height=720)).info.color.matrix == Matrix.BT709


@pytest.mark.parametrize(
    ("matrix", "green"), [(Matrix.SMPTE170M, (144.6, 53.8, 34.2)), (Matrix.BT709, (172.6, 41.7, 26.0))]
)
def test_canvas_of_one_colour(matrix: int, green: tuple[float, float, float]) -> None:
    """BT.601-7 and BT.709-6, limited range."""
    canvas = Canvas(np.full((20, 20, 3), (0, 255, 0), np.uint8), matrix)
    planes = np.empty((9, 9), np.uint8), np.empty((5, 5), np.uint8), np.empty((5, 5), np.uint8)
    for left, top in itertools.product((0, 1, 5), (0, 3)):
        canvas.cut(planes, left, top)
        assert np.allclose([plane.mean() for plane in planes], green, atol=0.6)
        assert all(len(np.unique(plane)) == 1 for plane in planes)


def test_chroma_moves_with_luma_and_is_left_sited() -> None:
    """A blue edge between columns 20 and 21: chroma at column c is [1 2 1]/4 about luma column 2c + left."""
    rgb = np.zeros((40, 60, 3), np.uint8)
    rgb[:, 21:, 2] = 255
    canvas = Canvas(rgb, Matrix.SMPTE170M)
    for left in range(6):
        planes = np.empty((16, 32), np.uint8), np.empty((8, 16), np.uint8), np.empty((8, 16), np.uint8)
        canvas.cut(planes, left, left)
        blue = np.array([1.0 if x >= 21 else 0.0 for x in range(60)])
        centre = left + 2 * np.arange(16)
        share = (blue[np.maximum(centre - 1, 0)] + 2 * blue[centre] + blue[centre + 1]) / 4
        assert np.allclose(planes[1][4], 128 + 112 * share, atol=1)


def test_photographs_need_scikit_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(SourceOpenError, match=r"install 'stream-sr\[demo\]'"):
        SyntheticSource(Scene(photos=True))
