"""The motion of the whole picture, and what a recurrent network is given for it."""

import numpy as np
import pytest

from stream_sr.motion import (
    ANEW,
    PARTS,
    LastOutput,
    Motion,
    displacement,
    overlap,
    pyramid,
    register,
    repeat,
    shifts,
    split,
)
from stream_sr.quality import texture
from stream_sr.train.data import bicubic, to_uint8

SCENE = to_uint8(bicubic(texture(75, 100).astype(np.float64), (900, 1200)))  # smooth, as photographs are


def view(down: int, right: int, size: tuple[int, int] = (240, 320), scale: int = 4) -> np.ndarray:
    """The scene after it moved by so many pixels of the large picture, reduced by ``scale``."""
    y, x = 200 - down, 300 - right
    window = SCENE[y : y + size[0], x : x + size[1]].astype(np.float64)
    return to_uint8(bicubic(window, (size[0] // scale, size[1] // scale)))


@pytest.mark.parametrize("shift", [(0, 0), (1, 0), (0, -1), (3, -2), (-5, 4), (7, 7), (-11, 2)], ids=str)
def test_a_pan_is_measured_to_a_pixel_of_the_larger_picture(shift: tuple[int, int]) -> None:
    motion = Motion(4)
    assert motion.follow(view(0, 0)) is None
    found = motion.follow(view(*shift))
    assert found is not None
    assert np.abs(np.array(found) / PARTS - shift).max() <= (0.25 if max(map(abs, shift)) < 4 else 1)


def test_a_large_picture_is_measured_on_a_smaller_one() -> None:
    one, other = view(0, 0, (600, 800), 1), view(6, -4, (600, 800), 1)
    assert pyramid(one)[0].size <= 320 * 180
    motion = Motion(2)
    motion.follow(one)
    assert motion.follow(other) == pytest.approx((12 * PARTS, -8 * PARTS), abs=2 * PARTS)


def test_things_that_move_do_not_carry_the_picture_along() -> None:
    before, now = view(0, 0).copy(), view(2, 1).copy()
    before[10:20, 10:20] = texture(10, 10)
    now[10:20, 14:24] = texture(10, 10)  # by 16 pixels of the large picture
    motion = Motion(4)
    motion.follow(before)
    assert motion.follow(now) == pytest.approx((2 * PARTS, PARTS), abs=PARTS)


def test_a_flat_picture_and_a_tiny_one_stand_still() -> None:
    for plane in (np.full((90, 160), 77, np.uint8), texture(4, 6)):
        assert np.abs(displacement(pyramid(plane), pyramid(plane))).max() == 0
    noise = np.random.default_rng(1).integers(76, 79, (2, 90, 160)).astype(np.uint8)
    assert np.abs(displacement(pyramid(noise[0]), pyramid(noise[1]))).max() < 0.1


def test_a_cut_and_a_break_say_that_nothing_came_before() -> None:
    motion = Motion(4)
    assert motion.follow(view(0, 0)) is None
    assert motion.follow(view(1, 0)) == (PARTS, 0)
    assert motion.follow(view(1, 0), anew=True) is None
    assert motion.follow(255 - view(1, 0)) is None
    assert shifts([view(0, 0), view(0, 1), 255 - view(0, 1)], 4) == [(ANEW, ANEW), (0, PARTS), (ANEW, ANEW)]


def test_registered_pixels_lie_where_they_went_and_the_border_stays() -> None:
    before = np.arange(30, dtype=np.uint8).reshape(5, 6)
    out = np.empty_like(before)
    register(before, (PARTS, -2 * PARTS), out)
    assert (out[1:, :4] == before[:4, 2:]).all()
    assert (out[0] == before[0]).all()
    assert (out[:, 4:] == before[:, 4:]).all()
    for shift in ((0, 0), (5 * PARTS, 0), (0, -6 * PARTS), (ANEW, ANEW)):
        register(before, shift, out)
        assert (out == before).all()
    assert overlap((1, -2), (5, 6)) == ((4, 4), (0, 2), (1, 0))


@pytest.mark.parametrize("shift", [(1, 0), (0, 3), (2, 1), (-1, -2), (7, -9)], ids=str)
def test_parts_of_a_pixel_are_bilinear(shift: tuple[int, int]) -> None:
    before = texture(40, 50)
    whole, shares = split(shift)
    out, moved = np.empty_like(before), np.empty_like(before)
    register(before, shift, out)
    register(before, (whole[0] * PARTS, whole[1] * PARTS), moved)
    wide = np.pad(moved, ((1, 0), (1, 0)), mode="edge").astype(np.float64)
    right = (
        shares[0] * wide[1:, 1:] + shares[1] * wide[1:, :-1] + shares[2] * wide[:-1, 1:] + shares[3] * wide[:-1, :-1]
    )
    assert (out == np.floor(right + 0.5)).all()


def test_the_last_output_is_the_picture_repeated_until_there_is_one() -> None:
    last, given = LastOutput(4), np.empty((240, 320), np.uint8)
    first, second = view(0, 0), view(2, 0)
    last.write(first, given)
    repeated = np.empty_like(given)
    repeat(first, repeated)
    assert (given == repeated).all()
    assert (repeated == first.repeat(4, 0).repeat(4, 1)).all()
    output = SCENE[200:440, 300:620].copy()
    last.keep(output)
    kept = output.copy()
    output[:] = 0  # its memory belongs to somebody else
    last.write(second, given)
    assert (given[2:] == kept[:-2]).all()
    last.write(second, given)  # the output before did not come
    assert (given == second.repeat(4, 0).repeat(4, 1)).all()
    last.keep(kept)
    last.write(second, given, anew=True)
    assert (given == second.repeat(4, 0).repeat(4, 1)).all()


def test_shares_are_bilinear_and_whole_pixels_are_exact() -> None:
    assert split((8, -4))[0] == (2, -1)
    assert split((8, -4))[1].tolist() == [1, 0, 0, 0]
    whole, shares = split((-1, 2))
    assert whole == (-1, 0)  # a whole pixel up, and three quarters of one down again
    assert shares.tolist() == [0.125, 0.125, 0.375, 0.375]
    plane = bicubic(texture(20, 30).astype(np.float64), (200, 300))
    here, left, up, corner = (plane[1 - y : 199 - y, 1 - x : 299 - x] for y in (0, 1) for x in (0, 1))
    moved = sum(share * part for share, part in zip(shares, (here, left, up, corner), strict=True))
    exact = bicubic(plane, (800, 1200))[4 - 3 : 800 - 4 - 3 : 4, 4 - 2 : 1200 - 4 - 2 : 4][: len(moved)]
    assert np.abs(moved - exact[:, : moved.shape[1]]).mean() < 3
