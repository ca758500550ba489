"""The one guess, and the chroma filter."""

import numpy as np
import pytest

from stream_sr.video.color import ColorInfo, Matrix, Range, Siting, chroma_kernel, chroma_taps, guess_unknown


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (720, 576, (Matrix.SMPTE170M, 5, 6)),
        (640, 480, (Matrix.SMPTE170M, 6, 6)),
        (1024, 576, (Matrix.SMPTE170M, 5, 6)),
        (1025, 576, (Matrix.BT709, 1, 1)),
        (640, 577, (Matrix.BT709, 1, 1)),
        (1280, 720, (Matrix.BT709, 1, 1)),
    ],
)
def test_the_unsaid_is_guessed_by_size(width: int, height: int, expected: tuple[int, int, int]) -> None:
    guessed = guess_unknown(ColorInfo(), width=width, height=height)
    assert (guessed.matrix, guessed.primaries, guessed.transfer) == expected
    assert (guessed.range, guessed.siting) == (Range.LIMITED, Siting.LEFT)


def test_the_said_is_kept() -> None:
    said = ColorInfo(matrix=Matrix.BT2020_NCL, range=Range.FULL, primaries=9, transfer=14, siting=Siting.TOPLEFT)
    assert guess_unknown(said, width=320, height=240) == said
    only_matrix = guess_unknown(ColorInfo(matrix=Matrix.BT709), width=320, height=240)
    assert (only_matrix.matrix, only_matrix.primaries, only_matrix.transfer) == (Matrix.BT709, 2, 2)
    again = guess_unknown(ColorInfo(primaries=9), width=320, height=240)
    assert again.primaries == 9
    assert guess_unknown(again, width=1920, height=1080) == again  # what was guessed is not guessed again


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("offset", [-0.25, 0.0])
def test_taps_reproduce_lines_where_the_samples_lie(scale: int, offset: float) -> None:
    taps = chroma_taps(scale, offset)
    np.testing.assert_allclose(taps.sum(axis=1), 1, atol=1e-6)
    position = (np.arange(scale) + 0.5 + offset) / scale - 0.5 - offset
    np.testing.assert_allclose(taps @ np.arange(-2, 3), position, atol=1e-6)


def test_scale_one_is_the_identity() -> None:
    np.testing.assert_array_equal(chroma_taps(1, -0.25), [[0, 0, 1, 0, 0]])


def test_centred_taps_are_symmetric_and_keys() -> None:
    taps = chroma_taps(2, 0.0)
    np.testing.assert_allclose(taps[0], taps[1][::-1], atol=1e-7)
    np.testing.assert_allclose(taps[0], np.array([-3, 29, 111, -9, 0]) / 128, atol=1e-6)  # Keys at -1/4, a = -0.5


def test_the_kernel_is_separable_and_sited() -> None:
    left, top, centre = (chroma_kernel(2, siting) for siting in (Siting.LEFT, Siting.TOPLEFT, Siting.CENTER))
    assert left.shape == (4, 1, 5, 5)
    across, down = chroma_taps(2, -0.25), chroma_taps(2, 0.0)
    np.testing.assert_allclose(left[2, 0], np.outer(down[1], across[0]), atol=1e-7)
    np.testing.assert_array_equal(chroma_kernel(2, Siting.UNKNOWN), left)
    assert not np.allclose(left, centre)
    np.testing.assert_allclose(top[1, 0], np.outer(across[0], across[1]), atol=1e-7)
