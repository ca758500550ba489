"""Steadiness: what moves as the truth moves is steady, what shimmers is not."""

import numpy as np
import numpy.typing as npt
import pytest

from stream_sr.evaluation.temporal import flicker, flow, gradient_energy, tof, warping_error

Plane = npt.NDArray[np.uint8]


def pan(length: int, step: int, *, noise: float = 0.0) -> list[Plane]:
    """Smooth texture that moves right by ``step`` pixels a picture."""
    random = np.random.default_rng(4)
    y, x = np.mgrid[:96, :160]
    waves = sum(np.sin(x * a + y * b + c) for a, b, c in random.uniform(-0.4, 0.4, (8, 3)) * [1, 1, 8])
    still = 128 + 12 * np.asarray(waves)
    moved = [np.roll(still, step * n, 1) + random.normal(0, noise, still.shape) for n in range(length)]
    return [np.clip(one, 0, 255).astype(np.uint8) for one in moved]


def test_the_flow_is_the_motion() -> None:
    a, b = pan(2, 3)
    inner = flow(a, b)[20:-20, 30:-30]
    assert np.median(inner[..., 0]) == pytest.approx(3, abs=0.2)
    assert np.median(inner[..., 1]) == pytest.approx(0, abs=0.2)


def test_the_truth_is_steady_and_noise_is_not() -> None:
    truth, noisy = pan(3, 2), pan(3, 2, noise=6)
    assert tof(truth, truth) == 0
    assert tof(noisy, truth) > 0.1
    assert warping_error(truth, truth) < 3
    assert warping_error(noisy, truth) > 7


def test_another_motion_shows_in_tof() -> None:
    assert tof(pan(3, 0), pan(3, 2)) > 1


def test_flicker_is_the_deviation_over_time() -> None:
    random = np.random.default_rng(2)
    still = [np.full((64, 64), 100, np.uint8)] * 5
    assert flicker(still) == 0
    noisy = [np.rint(100 + random.normal(0, 3, (64, 64))).astype(np.uint8) for _ in range(200)]
    assert flicker(noisy) == pytest.approx(3, rel=0.05)


def test_blurring_lowers_the_gradient_energy() -> None:
    sharp = (np.indices((32, 32)).sum(0) % 2 * 100).astype(np.uint8)
    assert gradient_energy(sharp) == 2 * 100**2
    assert gradient_energy(np.full((8, 8), 9, np.uint8)) == 0
