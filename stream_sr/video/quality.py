"""PSNR, SSIM and the luma they are measured on, as the literature defines them; a picture to measure. numpy only."""

import math

import numpy as np
import numpy.typing as npt

Plane = npt.NDArray[np.uint8]

FIDELITY_SIZE = (96, 160)  # height and width of the texture that one precision is compared with another on


def rgb_to_luma(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """BT.601 limited-range luma of RGB ``[H, W, 3]`` uint8: ``[H, W]`` float, 16 to 235 (MATLAB's rgb2ycbcr)."""
    r, g, b = (rgb[..., n].astype(np.float64) for n in range(3))
    return 16 + (65.481 * r + 128.553 * g + 24.966 * b) / 255


def psnr(a: Plane, b: Plane, *, border: int = 0) -> float:
    """Peak signal-to-noise ratio in dB (peak 255) of two planes ``[H, W]`` with ``border`` pixels cut; inf if equal.

    Raises ValueError for planes of different size.
    """
    x, y = _cut(a, b, border)
    error = float(np.mean((x - y) ** 2))
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def ssim(a: Plane, b: Plane, *, border: int = 0) -> float:
    """Structural similarity of two planes ``[H, W]`` (Wang et al., IEEE TIP 2004).

    11x11 Gaussian window of sigma 1.5, valid positions only, K1 = 0.01, K2 = 0.03, L = 255. Raises ValueError for
    planes of different size, or smaller than the window once the border is cut.
    """
    x, y = _cut(a, b, border)
    if min(x.shape) < 11:
        raise ValueError(f"{x.shape[1]}x{x.shape[0]} pixels are left of the planes; SSIM needs at least 11x11")
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_x, mean_y = _window(x), _window(y)
    var_x = _window(x * x) - mean_x**2
    var_y = _window(y * y) - mean_y**2
    covariance = _window(x * y) - mean_x * mean_y
    top = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    bottom = (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    return float(np.mean(top / bottom))


def _cut(a: Plane, b: Plane, border: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    if a.shape != b.shape:
        raise ValueError(f"the planes are {a.shape[1]}x{a.shape[0]} and {b.shape[1]}x{b.shape[0]}; they must be equal")
    inner = slice(border, -border or None)
    return a[inner, inner].astype(np.float64), b[inner, inner].astype(np.float64)


def _window(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    taps = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    taps /= taps.sum()
    height, width = x.shape
    rows = sum(taps[k] * x[k : height - 10 + k] for k in range(11))
    return np.asarray(sum(taps[k] * rows[:, k : width - 10 + k] for k in range(11)))


def texture(height: int, width: int) -> npt.NDArray[np.uint8]:
    """A fixed picture with the spectrum of photographs (amplitude 1/f) and a few hard edges, ``[height, width]``."""
    random = np.random.default_rng(1)
    f = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    spectrum = np.fft.rfft2(random.standard_normal((height, width))) / np.maximum(f, 1 / max(height, width))
    picture = np.fft.irfft2(spectrum, (height, width))
    picture = (picture - picture.mean()) / picture.std() * 45 + 125
    picture[height // 4 : height // 2, width // 4 : width // 2] = 225
    picture[height // 2 : height * 3 // 4, width // 2 : width * 3 // 4] = 25
    return np.clip(picture, 0, 255).astype(np.uint8)
