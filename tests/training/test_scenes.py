"""Stills that become films: a pan is cut out pixel for pixel, a scene shows a camera and things that move."""

from itertools import pairwise

import numpy as np
import pytest

from stream_sr.training import scenes
from stream_sr.training.scenes import FASTEST, pan, scene
from stream_sr.video.optical_flow import PARTS, flows
from stream_sr.video.quality import texture


def noise(height: int, width: int) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    return np.random.default_rng(2).integers(0, 256, (height, width)).astype(np.uint8)


def test_a_pan_is_cut_out_of_its_still_pixel_for_pixel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenes, "SHRINKS", (1.0,))
    still = noise(300, 420)
    frames = pan(still.astype(float), 4, 12, np.random.default_rng(3))
    assert {frame.shape for frame in frames} == {(256, 384)}
    places = []
    for frame in frames:
        ys, xs = np.nonzero(
            np.lib.stride_tricks.sliding_window_view(still, (4, 4))[:45, :37]
            .reshape(45, 37, 16)
            .__eq__(frame[:4, :4].reshape(16))
            .all(2)
        )
        places.append((int(ys[0]), int(xs[0])))
    steps = np.abs(np.diff(places, axis=0))
    assert steps.max() <= FASTEST + 1
    assert steps.sum() > 0
    assert {frame.shape for frame in pan(still.astype(float), 3, 2, np.random.default_rng(3))} == {(252, 384)}
    assert pan(noise(100, 90).astype(float), 2, 4, np.random.default_rng(1)) == []


def test_what_is_seen_of_a_still_where_nothing_moves_is_the_still_reduced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenes, "CALM", 1.0)
    monkeypatch.setattr(scenes, "THINGS", 1)
    monkeypatch.setattr(scenes, "_put", lambda *_: None)
    still = texture(420, 520).astype(float)
    frames = scene(still, still, 4, 3, np.random.default_rng(1))
    assert all((frame == frames[0]).all() for frame in frames)
    means = still.reshape(210, 2, 260, 2).mean((1, 3))
    assert abs(frames[0].mean() - means.mean()) < 4
    assert frames[0].std() > means.std() * 0.6


@pytest.mark.parametrize("seed", range(4))
def test_a_scene_moves_as_a_hand_does_and_holds_things_that_do_not(seed: int) -> None:
    random = np.random.default_rng(seed)
    frames = scene(texture(420, 520).astype(float), 255 - texture(300, 300).astype(float), 4, 12, random)
    assert len(frames) == 12
    assert {frame.shape for frame in frames} == {frames[0].shape}
    assert all(side % 8 == 0 for side in frames[0].shape)
    moved = np.median(flows(frames, 1)[1:], axis=(2, 3)) / PARTS
    assert np.abs(moved).max() < 8
    assert any((a != b).any() for a, b in pairwise(frames))


def test_a_still_that_is_too_small_gives_no_scene_and_a_seed_always_the_same() -> None:
    small, still = noise(150, 150).astype(float), noise(300, 300).astype(float)
    assert scene(small, still, 2, 4, np.random.default_rng(1)) == []
    one, two = (scene(still, small, 2, 4, np.random.default_rng(6)) for _ in range(2))
    assert len(one) == 4
    assert all((a == b).all() for a, b in zip(one, two, strict=True))
