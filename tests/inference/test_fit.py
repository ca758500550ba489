"""Fitting a picture into a box, and the engine that does it."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from doubles import DoublingEngine

from stream_sr.inference.fit import FitEngine, fit_into
from stream_sr.video.color import Siting
from stream_sr.video.frame import Frame, StreamInfo
from stream_sr.video.frame_pool import FramePool
from stream_sr.video.orientation import Orientation
from stream_sr.video.planes import empty_planes, read_only

INFO = StreamInfo(640, 360, Fraction(1, 25))


@pytest.mark.parametrize("box", [(853, 479), (1279, 719), (1280, 720), (200, 2000), (2000, 200), (1, 1), (3840, 2160)])
@pytest.mark.parametrize("size", [(640, 360), (1920, 1080), (853, 479), (64, 480)])
def test_the_largest_even_size_inside_the_box(size: tuple[int, int], box: tuple[int, int]) -> None:
    width, height = fit_into(StreamInfo(*size, Fraction(1, 25)), box)
    assert width % 2 == height % 2 == 0
    assert (width <= box[0] and height <= box[1]) or 2 in (width, height)
    if min(width, height) > 2:
        assert width + 2 > box[0] or height + 2 > box[1], "it could be larger"
        assert abs(width / height - size[0] / size[1]) < 3 * size[0] / size[1] / min(width, height)


def test_a_turned_picture_is_fitted_as_it_is_seen() -> None:
    assert fit_into(replace(INFO, orientation=Orientation.TURNED_90), (720, 1280)) == (1280, 720)


def test_a_flat_picture_stays_flat_and_in_its_slot() -> None:
    planes = empty_planes(16, 8)
    for plane, value in zip(planes, (70, 90, 200), strict=True):
        plane.fill(value)
    frame = Frame(read_only(planes), 3, Fraction(1, 25), number=5)
    engine = FitEngine(DoublingEngine(), (24, 12), Siting.LEFT)
    assert engine.spec.output_size == (24, 12)
    pool = FramePool(24, 12, 1, poison=True)
    result = engine.submit(frame, pool.lease()).wait()
    assert (result.width, result.height, result.pts, result.number) == (24, 12, 3, 5)
    assert [set(np.unique(plane).tolist()) for plane in result.planes] == [{70}, {90}, {200}]
    result.release()
    assert pool.held == 0
    engine.close()
