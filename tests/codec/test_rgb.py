"""Planes as RGB: every matrix by its published coefficients, both ranges, and no second guess."""

from fractions import Fraction

import numpy as np
import pytest
from av.video.reformatter import Interpolation, VideoReformatter

from stream_sr.codec.decode import FLAGS, SWSCALE_MATRIX, swscale_matrix
from stream_sr.codec.rgb import QUICK, to_rgb
from stream_sr.video.color import ColorInfo, Matrix, Range, guess_unknown
from stream_sr.video.frame import Frame
from stream_sr.video.planes import Planes, empty_planes, read_only

# Kr and Kb: H.273, table 4.
COEFFICIENTS = {
    Matrix.BT709: (0.2126, 0.0722),
    Matrix.FCC: (0.30, 0.11),
    Matrix.BT470BG: (0.299, 0.114),
    Matrix.SMPTE170M: (0.299, 0.114),
    Matrix.SMPTE240M: (0.212, 0.087),
    Matrix.BT2020_NCL: (0.2627, 0.0593),
}
COLORS = [(200, 40, 60), (20, 180, 90), (60, 70, 220), (250, 250, 250), (0, 0, 0)]


def planes_of(rgb: tuple[int, int, int], color: ColorInfo, width: int = 32, height: int = 16) -> Planes:
    """One colour everywhere, by the formulas of H.273 8.3."""
    kr, kb = COEFFICIENTS[Matrix(color.matrix)]
    red, green, blue = (value / 255 for value in rgb)
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    u, v = (blue - luma) / (2 - 2 * kb), (red - luma) / (2 - 2 * kr)
    full = color.range == Range.FULL
    values = (
        255 * luma if full else 16 + 219 * luma,
        128 + (255 if full else 224) * u,
        128 + (255 if full else 224) * v,
    )
    planes = empty_planes(width, height)
    for plane, value in zip(planes, values, strict=True):
        plane.fill(round(min(255, value)))
    return read_only(planes)


def frame_of(planes: Planes, color: ColorInfo) -> Frame:
    return Frame(planes, 0, Fraction(1, 25), color=color)


@pytest.mark.parametrize("flags", [FLAGS, QUICK], ids=["exact", "quick"])
@pytest.mark.parametrize("range_", [Range.LIMITED, Range.FULL])
@pytest.mark.parametrize("matrix", COEFFICIENTS)
def test_every_matrix_gives_its_colours_back(matrix: Matrix, range_: Range, flags: Interpolation) -> None:
    color = ColorInfo(matrix=matrix, range=range_)
    reformatter = VideoReformatter()
    for rgb in COLORS:
        frame = frame_of(planes_of(rgb, color), color)
        for order, expected in (("rgb24", rgb), ("bgr24", rgb[::-1])):
            pixels = to_rgb(frame, order, flags=flags, reformatter=reformatter)
            assert pixels.shape == (16, 32, 3)
            assert np.abs(pixels.astype(int) - expected).max() <= 3, (order, rgb)


def test_what_is_resized_keeps_its_colours() -> None:
    color = ColorInfo(matrix=Matrix.BT709, range=Range.LIMITED)
    pixels = to_rgb(frame_of(planes_of((200, 40, 60), color, 33, 17), color), size=(45, 17))
    assert pixels.shape == (17, 45, 3)
    assert np.abs(pixels.astype(int) - (200, 40, 60)).max() <= 3


def test_matrices_that_swscale_has_not_are_its_default() -> None:
    assert swscale_matrix(8) == swscale_matrix(Matrix.SMPTE170M) == SWSCALE_MATRIX[Matrix.BT470BG]
    assert set(SWSCALE_MATRIX) == set(Matrix) - {Matrix.UNKNOWN}


@pytest.mark.parametrize("told", [Matrix.UNKNOWN, Matrix.BT709, Matrix.SMPTE170M])
def test_a_small_picture_that_was_enlarged_has_the_colours_of_the_small_one(told: Matrix) -> None:
    """320x180 to 1280x720: an untagged one is BT.601, though a player would take BT.709 for the larger size."""
    meant = Matrix.SMPTE170M if told == Matrix.UNKNOWN else told
    guessed = guess_unknown(ColorInfo(matrix=told), width=320, height=180)
    small = frame_of(planes_of((200, 40, 60), ColorInfo(matrix=meant), 320, 180), guessed)
    large = small.with_planes(planes_of((200, 40, 60), ColorInfo(matrix=meant), 1280, 720))
    for frame in (small, large):
        assert np.abs(to_rgb(frame).astype(int) - (200, 40, 60)).max() <= 3


def test_a_frame_that_says_nothing_is_guessed_by_its_size() -> None:
    for (width, height), matrix in (((320, 180), Matrix.SMPTE170M), ((1280, 720), Matrix.BT709)):
        planes = planes_of((200, 40, 60), ColorInfo(matrix=matrix), width, height)
        assert np.abs(to_rgb(frame_of(planes, ColorInfo())).astype(int) - (200, 40, 60)).max() <= 3
