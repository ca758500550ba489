"""Cuts are found; motion, light and noise are none."""

import numpy as np
import numpy.typing as npt
import pytest

from stream_sr.video.scene_cut import SceneCut

Plane = npt.NDArray[np.uint8]


def scene(seed: int, height: int = 180, width: int = 320) -> npt.NDArray[np.float64]:
    """Smooth blobs and an edge, 16 to 235."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x * a / width + y * b / height + c) for a, b, c in random.uniform(-9, 9, (6, 3))]
    picture = sum(waves) + 2 * (x > random.uniform(0.2, 0.8) * width)
    return 16 + 219 * (picture - picture.min()) / np.ptp(picture)


def plane(picture: npt.NDArray[np.floating]) -> Plane:
    return np.clip(picture, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("seed", range(8))
def test_another_scene_is_a_cut_and_the_same_is_none(seed: int) -> None:
    cuts = SceneCut()
    a, b = plane(scene(seed)), plane(scene(seed + 100))
    assert [cuts.is_cut(one) for one in (a, a, b, b, a)] == [True, False, True, False, True]


@pytest.mark.parametrize("seed", range(4))
def test_motion_light_and_noise_are_no_cut(seed: int) -> None:
    cuts, still = SceneCut(), scene(seed)
    random = np.random.default_rng(seed)
    assert cuts.is_cut(plane(still))
    assert not cuts.is_cut(plane(np.roll(still, 6, 1)))  # a pan
    assert not cuts.is_cut(plane(np.roll(still, 6, 1) * 0.7 + 30))  # a lamp
    assert not cuts.is_cut(plane(np.roll(still, 6, 1) * 0.7 + 30 + random.normal(0, 8, still.shape)))


def test_noise_on_a_flat_picture_is_no_cut() -> None:
    cuts, random = SceneCut(), np.random.default_rng(1)
    found = [cuts.is_cut(plane(60 + random.normal(0, 4, (120, 160)))) for _ in range(20)]
    assert found == [True] + [False] * 19


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (33, 64), (1080, 1920)])
def test_any_size(size: tuple[int, int]) -> None:
    cuts = SceneCut()
    black, white = np.full(size, 16, np.uint8), np.full(size, 235, np.uint8)
    assert [cuts.is_cut(one) for one in (black, black, white)] == [True, False, False]  # a flash is no cut


def test_the_whole_of_a_small_picture_is_looked_at() -> None:
    cuts, still = SceneCut(), plane(scene(1, 60, 62))
    other = still.copy()
    other[32:] = plane(scene(7, 60, 62))[:28]
    assert cuts.is_cut(still)
    assert cuts.is_cut(other)
