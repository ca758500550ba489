"""The library's front door, with the shipped default model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from media_files import write_video

import stream_sr
from stream_sr import Upscaler
from stream_sr.errors import ConfigError, ModelError
from stream_sr.video.color import ColorInfo, Siting


def rgb_picture(height: int, width: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], axis=2).astype(np.uint8)


def test_rgb_keeps_its_colours_at_every_size() -> None:
    with Upscaler(scale=2) as upscale:
        for height, width in ((40, 64), (31, 47)):
            picture = rgb_picture(height, width)
            large = upscale(picture)
            assert large.shape == (2 * height, 2 * width, 3)
            reduced = large.reshape(height, 2, width, 2, 3).mean(axis=(1, 3))
            assert np.abs(reduced[4:-4, 4:-4, :2] - picture[4:-4, 4:-4, :2]).mean() < 3


def test_planes_and_luma_agree() -> None:
    luma = rgb_picture(36, 52)[:, :, 2]
    u, v = np.full((18, 26), 100, np.uint8), np.full((18, 26), 180, np.uint8)
    with Upscaler() as upscale:
        y2, u2, v2 = upscale.planes(luma, u, v)
        assert (y2.shape, u2.shape, v2.shape) == ((72, 104), (36, 52), (36, 52))
        assert np.array_equal(upscale.luma(luma), y2)
    assert set(np.unique(u2)) == {100}
    assert set(np.unique(v2)) == {180}


def test_bicubic_needs_no_model() -> None:
    with Upscaler(backend="bicubic", scale=3) as upscale:
        assert upscale.luma(np.full((10, 12), 77, np.uint8)).shape == (30, 36)


@pytest.mark.parametrize(
    "bad", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((4, 4, 4), np.uint8)]
)
def test_arrays_that_are_no_pictures(bad: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
    with Upscaler() as upscale, pytest.raises(ConfigError, match=r"expected uint8 \[H, W, 3\]"):
        upscale(bad)


def test_chroma_of_the_wrong_size() -> None:
    with Upscaler() as upscale, pytest.raises(ConfigError, match="4:2:0 chroma of"):
        upscale.planes(np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8))


@pytest.mark.parametrize("bad", [np.zeros((4, 4)), np.zeros((4, 4, 1), np.uint8)])
def test_planes_that_are_none(bad: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
    chroma = np.zeros((2, 2), np.uint8)
    with Upscaler() as upscale, pytest.raises(ConfigError, match=r"expected planes of uint8 \[H, W\]"):
        upscale.planes(bad, chroma, chroma)


def test_another_chroma_siting_is_another_engine() -> None:
    luma, ramp = np.full((16, 32), 90, np.uint8), np.tile(np.arange(0, 240, 15, dtype=np.uint8), (8, 1))
    with Upscaler() as upscale:
        left = upscale.planes(luma, ramp, ramp, ColorInfo(siting=Siting.LEFT))[1].copy()
        centre = upscale.planes(luma, ramp, ramp, ColorInfo(siting=Siting.CENTER))[1]
    assert not np.array_equal(left, centre)


def test_the_whole_filter_is_a_function_after_the_upscaler(tmp_path: Path) -> None:
    write_video(tmp_path / "film.mp4", width=64, height=48, count=3)
    code = (
        "from stream_sr import Upscaler, Config, run; from stream_sr import run\n"
        "outcome = run('film.mp4', ['null:'], Config(backend='bicubic'))\n"
        "assert outcome.report['frames_out'] == 3 and outcome.error is None"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=60)


def test_an_unknown_model() -> None:
    with pytest.raises(ModelError, match="no model 'none'"):
        Upscaler("none")


def test_the_package_is_light_and_names_what_it_lacks() -> None:
    assert set(stream_sr.__all__) <= set(dir(stream_sr)) | set(stream_sr._HOME)
    with pytest.raises(AttributeError, match="nothing"):
        stream_sr.nothing  # noqa: B018


def test_the_readmes_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = Path(__file__).parent.parent / "README.md"
    block = readme.read_text().split("```python\n")[1].split("```")[0]
    write_video(tmp_path / "film.mp4", width=64, height=48, count=3)
    monkeypatch.chdir(tmp_path)
    names = {"rgb": rgb_picture(40, 64)}
    exec(block, names)
    assert names["large"].shape == (80, 128, 3)
    assert names["y"].shape == (96, 128)


def test_a_tune_is_asked_for() -> None:
    with pytest.raises(ModelError, match="weights 'sharp' is none of"):
        Upscaler(weights="sharp")
    assert Upscaler(weights="clean").scale == 2
