"""What a degraded picture has lost: each step does what it says, and nothing else."""

import numpy as np
import pytest

from stream_sr.evaluation.codec_roundtrip import h264_roundtrip
from stream_sr.training.degrade import Degradation, draw
from stream_sr.video.planes import Plane
from stream_sr.video.quality import psnr
from stream_sr.video.resample import bicubic, to_uint8


def truth(level: int = 128, height: int = 64, width: int = 96) -> Plane:
    return np.full((height, width), level, np.uint8)


def stripes() -> Plane:
    return (np.indices((64, 96))[1] // 4 % 2 * 150 + 50).astype(np.uint8)


def apply(kind: Degradation, pictures: list[Plane], scale: int = 2, seed: int = 1) -> list[Plane]:
    return kind.apply(pictures, scale, random=np.random.default_rng(seed), roundtrip=h264_roundtrip)


def test_nothing_is_the_bicubic_reduction() -> None:
    (low,) = apply(Degradation(), [stripes()])
    assert (low == to_uint8(bicubic(stripes().astype(np.float32), (32, 48)))).all()
    (same,) = apply(Degradation(), [stripes()], scale=1)
    assert (same == stripes()).all()


def test_noise_has_the_deviation_that_it_says_and_grows_with_the_light() -> None:
    dark, bright = (apply(Degradation(shot=4, read=1), [truth(level, 400, 400)])[0] for level in (16, 235))
    assert dark.std() == pytest.approx(1, abs=0.1)
    assert bright.std() == pytest.approx(np.hypot(4, 1), abs=0.2)
    a, b = apply(Degradation(read=2), [truth(), truth()])
    assert (a != b).any()  # another picture, other noise


def test_blur_takes_contrast_and_keeps_the_mean() -> None:
    sharp, soft = (apply(Degradation(blur=blur), [stripes()], scale=1)[0].astype(float) for blur in (0, 1.5))
    assert soft.std() < 0.8 * sharp.std()
    assert soft[:, 8:-8].mean() == pytest.approx(sharp[:, 8:-8].mean(), abs=1)


def test_a_soft_scene_is_soft_in_the_truth_too() -> None:
    sharp = stripes()
    (same,), (soft,) = Degradation().soften([sharp]), Degradation(soft=1.0).soften([sharp])
    assert np.array_equal(same, sharp)
    assert soft.dtype == np.uint8
    assert soft.shape == sharp.shape
    assert soft.astype(float).std() < 0.9 * sharp.astype(float).std()


@pytest.mark.parametrize(
    "kinds",
    [
        [Degradation(codec="h264", crf=crf) for crf in (18, 34)],
        [Degradation(codec="jpeg", quality=quality) for quality in (95, 40)],
    ],
)
def test_codecs_lose_more_the_less_they_are_given(kinds: list[Degradation]) -> None:
    clean = apply(Degradation(), [stripes()] * 3)
    found = [np.mean([psnr(a, b) for a, b in zip(apply(kind, [stripes()] * 3), clean, strict=True)]) for kind in kinds]
    assert found[0] > found[1]


def test_the_same_seed_draws_the_same_camera() -> None:
    a, b = ([draw(random, 2) for _ in range(200)] for random in (np.random.default_rng(3), np.random.default_rng(3)))
    assert a == b
    assert {one.codec for one in a} == {"h264", "jpeg", ""}
    assert all(18 <= one.crf <= 34 for one in a)
    assert 0.03 < np.mean([one.read > 0 for one in a]) < 0.2
    assert 0.3 < np.mean([one.soft > 0 for one in a]) < 0.7


def test_at_scale_1_nothing_is_blurred() -> None:
    drawn = [draw(np.random.default_rng(seed), 1) for seed in range(200)]
    assert {one.blur for one in drawn} == {one.soft for one in drawn} == {0.0}
    assert {one.codec for one in drawn} == {"h264", "jpeg", ""}
