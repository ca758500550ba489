"""PSNR, SSIM and luma against their definitions, published constants and scikit-image."""

import math

import numpy as np
import pytest

from stream_sr.video.quality import psnr, rgb_to_luma, ssim


def _pair(height: int = 47, width: int = 61) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(3)
    y, x = np.mgrid[:height, :width]
    truth = np.clip(128 + 60 * np.sin(x / 5) + 40 * np.cos(y / 7) + random.normal(0, 5, (height, width)), 0, 255)
    other = np.clip(truth * 0.97 + random.normal(0, 6, truth.shape), 0, 255)
    return truth.astype(np.uint8), other.astype(np.uint8)


@pytest.mark.parametrize("border", [0, 2, 4])
def test_ssim_is_that_of_scikit_image(border: int) -> None:
    from skimage.metrics import structural_similarity

    a, b = _pair()
    cut = slice(border, -border or None)
    theirs = structural_similarity(
        a[cut, cut].astype(np.float64),
        b[cut, cut].astype(np.float64),
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
    )
    assert ssim(a, b, border=border) == pytest.approx(theirs, abs=1e-9)


@pytest.mark.parametrize("border", [0, 3])
def test_psnr_is_that_of_scikit_image(border: int) -> None:
    from skimage.metrics import peak_signal_noise_ratio

    a, b = _pair()
    cut = slice(border, -border or None)
    theirs = peak_signal_noise_ratio(a[cut, cut], b[cut, cut], data_range=255)
    assert psnr(a, b, border=border) == pytest.approx(theirs, abs=1e-9)


def test_one_level_everywhere_is_48_13_dB() -> None:
    a, _ = _pair()
    assert psnr(a, a ^ np.uint8(1)) == pytest.approx(20 * math.log10(255))


def test_equal_planes() -> None:
    a, _ = _pair()
    assert psnr(a, a) == math.inf
    assert ssim(a, a) == pytest.approx(1)


def test_the_border_does_not_count() -> None:
    a, _ = _pair()
    b = a.copy()
    b[:2], b[-2:], b[:, :2], b[:, -2:] = 0, 0, 0, 0
    assert psnr(a, b, border=2) == math.inf
    assert psnr(a, b, border=1) < 40


def test_luma_of_black_white_and_the_primaries_is_that_of_bt601() -> None:
    colours = np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    assert rgb_to_luma(colours)[0] == pytest.approx([16, 235, 81.481, 144.553, 40.966])


def test_planes_of_different_size_are_refused() -> None:
    a, b = _pair()
    with pytest.raises(ValueError, match="61x47 and 1x47"):
        psnr(a, b[:, :1])  # numpy would broadcast it
    with pytest.raises(ValueError, match="61x47 and 61x1"):
        ssim(a, b[:1])


def test_a_plane_smaller_than_the_window_has_no_ssim() -> None:
    a, b = _pair(14, 40)
    with pytest.raises(ValueError, match="at least 11"):
        ssim(a, b, border=2)
    assert 0 < ssim(a, b, border=1) < 1
