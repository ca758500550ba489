"""Training pictures: luma as the literature takes it, MATLAB's bicubic, pairs that fit, patches that are seeded."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from stream_sr.errors import ConfigError, SourceOpenError
from stream_sr.training.data import Patches
from stream_sr.video.quality import rgb_to_luma
from stream_sr.video.resample import bicubic, find_images, load_luma, make_pair, to_uint8


def keys(x: np.ndarray) -> np.ndarray:
    """Keys' cubic, a = -0.5, as MATLAB's imresize has it."""
    x = np.abs(x)
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def resize_row(row: np.ndarray, size: int) -> np.ndarray:
    """MATLAB's imresize of one row, antialiased, borders renormalised."""
    ratio = size / len(row)
    stretch = min(ratio, 1.0)
    u = (np.arange(size) + 0.5) / ratio - 0.5
    weights = stretch * keys(stretch * (np.arange(len(row))[None] - u[:, None]))
    return (weights / weights.sum(1, keepdims=True)) @ row


@pytest.mark.parametrize("size", [15, 20, 30, 60, 120, 240])
def test_bicubic_is_that_of_matlab(size: int) -> None:
    rows = np.random.default_rng(5).uniform(0, 255, (60, 60))
    expected = np.stack([resize_row(row, size) for row in rows])
    expected = np.stack([resize_row(column, size) for column in expected.T]).T
    np.testing.assert_allclose(bicubic(rows, (size, size)), expected, atol=2e-3)


def test_rounding_is_half_up_and_clamped() -> None:
    assert to_uint8(np.array([[-3.0, 0.49, 0.5, 1.5, 254.5, 300.0]])).tolist() == [[0, 0, 1, 2, 255, 255]]


@settings(deadline=None, max_examples=40)
@given(st.integers(4, 40), st.integers(4, 40), st.sampled_from([1, 2, 3, 4]))
def test_a_pair_fits_exactly(width: int, height: int, scale: int) -> None:
    luma = np.random.default_rng(width * height).uniform(0, 255, (height, width))
    low, truth = make_pair(luma, scale)
    assert low.shape == (height // scale, width // scale)
    assert truth.shape == (low.shape[0] * scale, low.shape[1] * scale)
    assert low.dtype == truth.dtype == np.uint8
    np.testing.assert_array_equal(truth, to_uint8(luma[: truth.shape[0], : truth.shape[1]]))


def test_a_picture_smaller_than_the_scale_has_no_pair() -> None:
    with pytest.raises(ValueError, match="3x9 picture"):
        make_pair(np.zeros((9, 3)), 4)


def test_a_grey_file_is_luma_and_a_colour_file_goes_through_bt601(tmp_path: Path) -> None:
    grey = np.random.default_rng(1).integers(0, 256, (9, 7), np.uint8)
    rgb = np.stack([grey, grey[::-1], grey[:, ::-1]], axis=2)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(np.stack([grey] * 3, axis=2)).save(tmp_path / "grey_as_rgb.png")
    Image.fromarray(rgb).save(tmp_path / "colour.png")
    np.testing.assert_array_equal(load_luma(tmp_path / "grey.png"), grey)
    np.testing.assert_allclose(load_luma(tmp_path / "grey_as_rgb.png"), 16 + grey * (219 / 255))
    np.testing.assert_array_equal(load_luma(tmp_path / "colour.png"), rgb_to_luma(rgb))


def test_what_is_no_8_bit_picture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not a picture")
    Image.fromarray(np.full((9, 9), 40_000, np.uint16)).save(tmp_path / "deep.png")
    whole = tmp_path / "whole.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)).save(whole)
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[:900])
    for name, reason in (("text", "cannot be read"), ("deep", "more than 8 bits"), ("cut", "cannot be read")):
        with pytest.raises(SourceOpenError, match=reason):
            load_luma(tmp_path / f"{name}.png")


def test_find_images(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name in ("b/2.PNG", "1.jpg", "notes.txt"):
        (tmp_path / name).touch()
    assert find_images([tmp_path]) == [tmp_path / "1.jpg", tmp_path / "b" / "2.PNG"]
    with pytest.raises(SourceOpenError, match="no folder"):
        find_images([tmp_path / "missing"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceOpenError, match="no pictures"):
        find_images([tmp_path, tmp_path / "empty"])


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    random = np.random.default_rng(7)
    for n in range(3):
        Image.fromarray(random.integers(0, 256, (48 + 12 * n, 60), np.uint8)).save(tmp_path / f"{n}.png")
    return find_images([tmp_path])


def test_a_patch_is_a_piece_of_the_reduced_picture_and_of_its_truth(pictures: list[Path]) -> None:
    patches = Patches(pictures[:1], scale=2, patch=10, shrinks=[1.0], seed=3)
    low, truth = patches.pairs[0]
    spots = {
        (rotated[y : y + 10, x : x + 10].tobytes(), full[2 * y : 2 * y + 20, 2 * x : 2 * x + 20].tobytes())
        for turns in range(4)
        for flip in (slice(None), slice(None, None, -1))
        for rotated, full in [(np.rot90(low, turns)[:, flip], np.rot90(truth, turns)[:, flip])]
        for y in range(rotated.shape[0] - 9)
        for x in range(rotated.shape[1] - 9)
    }
    lows, truths, _ = patches.batch(50)
    assert lows.shape == (50, 1, 10, 10)
    assert truths.shape == (50, 1, 20, 20)
    assert all((a.tobytes(), b.tobytes()) in spots for a, b in zip(lows[:, 0], truths[:, 0], strict=True))


def test_patches_are_seeded_and_go_on_from_a_state(pictures: list[Path]) -> None:
    def make(seed: int) -> Patches:
        return Patches(pictures, scale=3, patch=8, shrinks=[1.0, 0.8], seed=seed)

    one, two, other = make(1), make(1), make(2)
    for ours, again in zip(one.batch(4), two.batch(4), strict=True):
        np.testing.assert_array_equal(ours, again)
    assert not np.array_equal(one.batch(4)[0], other.batch(4)[0])
    state = one.random.bit_generator.state
    later = one.batch(4)
    other.random.bit_generator.state = state
    np.testing.assert_array_equal(later[0], other.batch(4)[0])


def test_pictures_that_are_too_small_for_a_patch_are_left_out(pictures: list[Path]) -> None:
    assert len(Patches(pictures, scale=2, patch=26, shrinks=[1.0], seed=1).pairs) == 2
    with pytest.raises(SourceOpenError, match="64x64 patches"):
        Patches(pictures, scale=2, patch=32, shrinks=[1.0], seed=1)


def test_pictures_need_no_torch() -> None:
    code = "import sys, stream_sr.training.data, stream_sr.training.recipe; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_share_of_the_patches_comes_from_the_named_folder(tmp_path: Path) -> None:
    for folder, grey, side in (("small", 50, 40), ("large", 200, 160)):
        (tmp_path / folder).mkdir()
        Image.new("L", (side, side), grey).save(tmp_path / folder / "flat.png")

    def make(shares: dict[str, float]) -> Patches:
        return Patches(find_images([tmp_path]), scale=2, patch=8, shrinks=[1.0], seed=1, shares=shares)

    def part(shares: dict[str, float]) -> float:
        return float((make(shares).batch(400)[0][:, 0, 0, 0] == 50).mean())

    assert part({}) < 0.12  # 1600 of 27200 pixels
    assert part({"small": 0.5}) == pytest.approx(0.5, abs=0.1)
    for wrong in ({"small": 1.5}, {"absent": 0.5}, {"small": 0.5, "large": 0.4}):
        with pytest.raises(ConfigError, match="cannot be had"):
            make(wrong)
