"""PSNR, SSIM and the luma they are measured on, as the literature defines them. numpy only."""

import math

import numpy as np
import numpy.typing as npt

Plane = npt.NDArray[np.uint8]


def rgb_to_luma(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """BT.601 limited-range luma of RGB ``[H, W, 3]`` uint8: ``[H, W]`` float, 16 to 235 (MATLAB's rgb2ycbcr)."""
    r, g, b = (rgb[..., n].astype(np.float64) for n in range(3))
    return 16 + (65.481 * r + 128.553 * g + 24.966 * b) / 255


def psnr(a: Plane, b: Plane, *, border: int = 0) -> float:
    """Peak signal-to-noise ratio in dB (peak 255) of two planes ``[H, W]`` with ``border`` pixels cut; inf if equal."""
    x, y = _cut(a, border), _cut(b, border)
    error = float(np.mean((x - y) ** 2))
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def ssim(a: Plane, b: Plane, *, border: int = 0) -> float:
    """Structural similarity of two planes ``[H, W]`` (Wang et al., IEEE TIP 2004).

    11x11 Gaussian window of sigma 1.5, valid positions only, K1 = 0.01, K2 = 0.03, L = 255.
    """
    x, y = _cut(a, border), _cut(b, border)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_x, mean_y = _window(x), _window(y)
    var_x = _window(x * x) - mean_x**2
    var_y = _window(y * y) - mean_y**2
    covariance = _window(x * y) - mean_x * mean_y
    top = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    bottom = (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    return float(np.mean(top / bottom))


def _cut(plane: Plane, border: int) -> npt.NDArray[np.float64]:
    if border:
        plane = plane[border:-border, border:-border]
    return plane.astype(np.float64)


def _window(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    taps = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    taps /= taps.sum()
    height, width = x.shape
    rows = sum(taps[k] * x[k : height - 10 + k] for k in range(11))
    return np.asarray(sum(taps[k] * rows[:, k : width - 10 + k] for k in range(11)))
