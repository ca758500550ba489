"""Both sides in one picture: layouts that decoders take, pixels where they belong, nothing mixed."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from media_files import upright

from stream_sr.codec.side_by_side import (
    LEAST_GAP,
    LONGEST_SIDE,
    MOST_MACROBLOCKS,
    Bicubic,
    SideBySide,
    arrange,
    pair_shape,
)
from stream_sr.video.color import ColorInfo, Matrix, Range, Siting
from stream_sr.video.frame import Frame, StreamInfo
from stream_sr.video.orientation import Orientation
from stream_sr.video.planes import chroma_shape, read_only

BASE = Fraction(1, 30)
FULL = ColorInfo(Matrix.BT709, Range.FULL, siting=Siting.LEFT)


def plain(
    width: int,
    height: int,
    y: int,
    u: int = 128,
    v: int = 128,
    *,
    color: ColorInfo = FULL,
    aspect: Fraction = Fraction(1),
) -> Frame:
    rows, columns = chroma_shape(width, height)
    planes = np.full((height, width), y, np.uint8), np.full((rows, columns), u, np.uint8)
    return Frame(
        read_only((*planes, np.full((rows, columns), v, np.uint8))),
        pts=0,
        time_base=BASE,
        color=color,
        sample_aspect=aspect,
    )


def pair(source: Frame, result: Frame) -> Frame:
    return replace(result, source=source)


@given(st.integers(2, 9000), st.integers(2, 9000), st.sampled_from([None, Fraction(25), Fraction(60), Fraction(240)]))
def test_every_layout_is_one_that_decoders_take(width: int, height: int, fps: Fraction | None) -> None:
    layout = arrange(width, height, fps)
    across, down = layout.size
    blocks = -(-across // 16) * -(-down // 16)
    assert max(across, down) <= LONGEST_SIDE
    assert blocks <= MOST_MACROBLOCKS
    assert blocks * (fps or 30) <= 2_073_600
    assert all(side % 2 == 0 for side in (layout.width, layout.height, layout.x, layout.y))
    assert (layout.x == 0) != (layout.y == 0)
    assert layout.y >= layout.height + LEAST_GAP or layout.x >= layout.width + LEAST_GAP


@pytest.mark.parametrize(
    ("size", "whole"),
    [
        ((1280, 720), (1280, 1456)),
        ((720, 1280), (1456, 1280)),
        ((2560, 1440), (2560, 2896)),
        ((1281, 721), (1280, 1456)),
    ],
)
def test_usual_sizes_are_not_shrunk(size: tuple[int, int], whole: tuple[int, int]) -> None:
    assert arrange(*size, Fraction(30)).size == whole


def test_a_rate_that_no_video_has_leaves_a_picture_to_look_at() -> None:
    assert arrange(640, 360, Fraction(1_200_000)).width > 400


def test_a_picture_too_large_for_two_is_shrunk() -> None:
    layout = arrange(3840, 2160, Fraction(30))
    assert 2500 < layout.width < 3840
    assert layout.width / layout.height == pytest.approx(16 / 9, rel=0.01)


@pytest.mark.parametrize("size", [(64, 48), (48, 64), (65, 49)], ids=str)
def test_each_side_is_where_the_layout_says_and_no_line_between_mixes_them(size: tuple[int, int]) -> None:
    source = plain(32, 24, 60, 100, 150) if size[0] > size[1] else plain(24, 32, 60, 100, 150)
    frame = pair(source, plain(*size, 200, 90, 30))
    stack = SideBySide(frame, StreamInfo(*size, BASE))
    planes = stack.compose(frame)
    layout = stack.layout
    for plane, left, right, part in zip(planes, (60, 100, 150), (200, 90, 30), (1, 2, 2), strict=True):
        x, y, w, h = (side // part for side in (layout.x, layout.y, layout.width, layout.height))
        assert (plane[:h, :w] == left).all()
        assert (plane[y:, x:] == right).all()
        assert set(np.unique(plane)) == {left, right}
    assert (stack.stream.width, stack.stream.height) == layout.size
    assert not stack.shrunk


def test_limited_range_becomes_full() -> None:
    color = ColorInfo(Matrix.BT470BG, Range.LIMITED, 5, 6, Siting.LEFT)
    frame = pair(plain(32, 24, 16, 16, 240, color=color), plain(64, 48, 235, 128, 1, color=color))
    stack = SideBySide(frame, StreamInfo(64, 48, BASE))
    planes = stack.compose(frame)
    assert [int(plane[0, 0]) for plane in planes] == [0, 0, 255]
    assert [int(plane[-1, -1]) for plane in planes] == [255, 128, 0]
    assert stack.stream.color == ColorInfo(Matrix.SMPTE170M, Range.FULL, 1, 1, Siting.LEFT)


@pytest.mark.parametrize("orientation", Orientation)
def test_a_turned_picture_is_shown_upright(orientation: Orientation) -> None:
    random = np.random.default_rng(3)
    planes = tuple(random.integers(0, 255, shape).astype(np.uint8) for shape in ((48, 64), (24, 32), (24, 32)))
    frame = replace(plain(64, 48, 0, aspect=Fraction(4, 3)), planes=read_only((planes[0], planes[1], planes[2])))
    stack = SideBySide(pair(frame, frame), StreamInfo(64, 48, BASE, orientation=orientation))
    both = stack.compose(pair(frame, frame))
    layout = stack.layout
    for plane, original, part in zip(both, planes, (1, 2, 2), strict=True):
        ours = plane[layout.y // part :, layout.x // part :]
        assert (ours == upright(original, orientation)).all()
    assert stack.stream.sample_aspect == (Fraction(3, 4) if orientation >= 5 else Fraction(4, 3))
    assert stack.stream.orientation == Orientation.UPRIGHT


def test_a_pair_too_large_is_shrunk_on_both_sides() -> None:
    frame = pair(plain(64, 2880, 50), plain(128, 5760, 90))
    stack = SideBySide(frame, StreamInfo(128, 5760, BASE))
    assert stack.shrunk
    assert set(np.unique(stack.compose(frame)[0])) == {50, 90}


def test_a_source_of_another_shape_and_colour_is_shown_as_its_result_is() -> None:
    """What comes back from a camera that now sends 4:3 in limited range, into a run that began with 16:9."""
    told = ColorInfo(Matrix.BT709, Range.LIMITED, siting=Siting.LEFT)
    frame = pair(plain(32, 24, 126, color=told), plain(128, 72, 90))
    left = Bicubic(frame, (128, 72))(frame)
    assert (left[0][:, :16] == 0).all()
    assert (left[0][:, -16:] == 0).all()
    assert np.abs(left[0][:, 20:-20].astype(int) - 128).max() <= 1
    assert pair_shape(frame) != pair_shape(pair(plain(64, 36, 126), plain(128, 72, 90)))
