"""Optical flow, and what a recurrent network is given for it."""

import numpy as np
import pytest

from stream_sr.video.optical_flow import (
    MOST,
    NO_REFERENCE,
    PARTS,
    Motion,
    PreviousOutput,
    flow_size,
    flows,
    register,
    repeat,
)
from stream_sr.video.quality import psnr, texture
from stream_sr.video.resample import bicubic, to_uint8

SCENE = to_uint8(bicubic(texture(75, 100).astype(np.float64), (900, 1200)))  # smooth, as photographs are


def large(down: int, right: int, size: tuple[int, int] = (240, 320)) -> np.ndarray:
    """The scene after it moved by so many pixels."""
    y, x = 200 - down, 300 - right
    return SCENE[y : y + size[0], x : x + size[1]].copy()


def view(down: int, right: int, size: tuple[int, int] = (240, 320), scale: int = 4) -> np.ndarray:
    """The same, reduced by ``scale``."""
    return to_uint8(bicubic(large(down, right, size).astype(np.float64), (size[0] // scale, size[1] // scale)))


def moved(before: np.ndarray, flow: np.ndarray) -> np.ndarray:
    out = np.empty_like(before)
    register(before, flow, out)
    return out


def of_all(right: float, down: float, size: tuple[int, int]) -> np.ndarray:
    flow = np.empty((2, *size), np.int16)
    flow[0], flow[1] = right * PARTS, down * PARTS
    return flow


@pytest.mark.parametrize("shift", [(1, 0), (0, -1), (3, -2), (-5, 4), (7, 7), (-11, 2)], ids=str)
def test_a_pan_is_followed_by_parts_of_a_pixel(shift: tuple[int, int]) -> None:
    motion = Motion(4)
    assert motion.follow(view(0, 0)) is None
    found = motion.follow(view(*shift))
    assert found is not None
    before, now = large(0, 0), large(*shift)
    assert psnr(moved(before, found), now, border=16) > max(45, psnr(before, now, border=16) + 15)


def test_a_large_picture_is_measured_on_a_smaller_one() -> None:
    assert flow_size((180, 320)) == (180, 320)
    assert flow_size((181, 321)) == (91, 161)
    assert flow_size((2160, 3840)) == (135, 240)
    one, other = view(0, 0, (600, 800), 1), view(6, -4, (600, 800), 1)
    motion = Motion(2)
    motion.follow(one)
    found = motion.follow(other)
    assert found is not None
    assert found.shape == (2, *flow_size(one.shape))
    assert found[0].size <= MOST
    assert psnr(moved(one, found // 2), other, border=16) > psnr(one, other, border=16) + 6


def test_things_before_a_camera_that_stands_move_alone() -> None:
    before, now = view(0, 0).copy(), view(0, 0).copy()
    thing = to_uint8(bicubic(texture(8, 8).astype(np.float64), (24, 24)))
    before[18:42, 18:42] = thing
    now[18:42, 21:45] = thing  # by 12 pixels of the large picture
    found = flows([before, now], 4)[1]
    assert np.median(found[0, 24:36, 27:39]) / PARTS == pytest.approx(12, abs=1)
    assert np.median(np.abs(found[:, :, 55:])) == 0
    assert np.median(np.abs(found[:, 50:])) == 0


def test_a_flat_picture_and_a_tiny_one_stand_still() -> None:
    for plane in (np.full((90, 160), 77, np.uint8), texture(4, 6), texture(11, 200)):
        assert np.abs(flows([plane, plane], 2)[1]).max() == 0
    for size in ((12, 12), (12, 300), (16, 16)):
        assert flows([texture(*size), texture(*size)], 2).shape == (2, 2, *size)


def test_a_cut_and_a_break_say_that_nothing_came_before() -> None:
    motion = Motion(4)
    assert motion.follow(view(0, 0)) is None
    assert motion.follow(view(1, 0)) is not None
    assert motion.follow(view(1, 0), reset=True) is None
    assert motion.follow(255 - view(1, 0)) is None
    found = flows([view(0, 0), view(0, 1), 255 - view(0, 1)], 4)
    assert [(flow == NO_REFERENCE).all() for flow in found] == [True, False, True]


def test_registered_pixels_lie_where_they_went_and_beyond_the_border_lies_what_is_on_it() -> None:
    before = np.arange(30, dtype=np.uint8).reshape(5, 6)
    out = moved(before, of_all(-2, 1, (5, 6)))
    assert (out[1:, :4] == before[:4, 2:]).all()
    assert (out[0, :4] == before[0, 2:]).all()
    assert (out[1:, 4:] == before[:4, 5:]).all()
    assert (moved(before, of_all(0, 0, (5, 6))) == before).all()
    half = moved(before, of_all(0.5, 0, (5, 6)))  # 0.5, 1.5 and so on: to either side
    assert np.abs(half[:, 1:] - (before[:, 1:] - 0.5)).max() == 0.5


def test_a_coarse_flow_moves_every_pixel_of_a_larger_picture() -> None:
    """A zoom: how far a pixel moves grows with its place, to parts of a pixel."""
    middle, factor = 59.5, 1.05
    plane = large(0, 0, (120, 120))
    wanted = (np.arange(120) - middle) * (1 - 1 / factor)
    coarse = np.arange(30) * 4 + 1.5
    right = np.rint((coarse - middle) * (1 - 1 / factor) * PARTS).astype(np.int16)
    flow = np.stack(np.broadcast_arrays(right[None, :], right[:, None])).astype(np.int16)
    got = moved(plane, flow)
    rows = np.clip(np.rint(np.arange(120) - wanted), 0, 119).astype(int)
    near = plane[np.ix_(rows, rows)]
    assert psnr(got, near, border=8) > 35
    assert psnr(got, near, border=8) > psnr(plane, near, border=8) + 6


def test_the_last_output_is_the_picture_repeated_until_there_is_one() -> None:
    last, given = PreviousOutput(4), np.empty((240, 320), np.uint8)
    first, second = view(0, 0), view(4, 0)
    last.write(first, given)
    repeated = np.empty_like(given)
    repeat(first, repeated)
    assert (given == repeated).all()
    assert (repeated == first.repeat(4, 0).repeat(4, 1)).all()
    output = large(0, 0)
    last.keep(output)
    kept = output.copy()
    output[:] = 0  # its memory belongs to somebody else
    last.write(second, given)
    assert psnr(given, large(4, 0), border=16) > psnr(kept, large(4, 0), border=16) + 10
    last.write(second, given)  # the output before did not come
    assert (given == second.repeat(4, 0).repeat(4, 1)).all()
    last.keep(kept)
    last.write(second, given, reset=True)
    assert (given == second.repeat(4, 0).repeat(4, 1)).all()
