"""The measuring protocol: border, rounding, grey files and bicubic as the literature has them, through real engines."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_models import RECURRENT, small_model

from stream_sr.errors import ConfigError, SourceOpenError, StreamSRError
from stream_sr.evaluation.images import evaluate, format_table
from stream_sr.inference.model import find_model
from stream_sr.pipeline.engine import EngineOptions
from stream_sr.video.resample import bicubic, load_luma, to_uint8

BICUBIC = EngineOptions(backend="bicubic")


def texture(height: int, width: int, seed: int) -> np.ndarray:
    """Edges in all directions, one pixel soft, over slow waves: ``[H, W, 3]``."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    picture = np.stack([128 + 30 * np.sin(x / (9 + n) + y / 15) for n in range(3)], axis=2)
    for _ in range(12):
        angle, level = random.uniform(0, 2 * np.pi), random.uniform(-60, 60)
        across = (x - random.uniform(0, width)) * np.cos(angle) + (y - random.uniform(0, height)) * np.sin(angle)
        picture += level * np.clip(across, -0.5, 0.5)[..., None]
    return np.clip(picture, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sizes, odd sides, a grey file and one in a folder below."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "below").mkdir()
    Image.fromarray(texture(67, 83, 1)).save(folder / "b.png")
    Image.fromarray(texture(67, 83, 2)).save(folder / "below" / "c.png")
    Image.fromarray(texture(50, 61, 3)[..., 0]).save(folder / "a.png")
    return folder


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_bicubic_row_is_what_scikit_image_measures(folder: Path, scale: int) -> None:
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity  # two seconds: not while collecting

    results = evaluate(None, folder, BICUBIC, scale=scale)
    for image in results["images"]:
        luma = load_luma(folder / image["name"])
        height, width = (side // scale * scale for side in luma.shape)
        low = to_uint8(bicubic(luma[:height, :width], (height // scale, width // scale)))
        larger = to_uint8(bicubic(low.astype(np.float32), (height, width)))
        inner = slice(scale, -scale)
        pair = to_uint8(luma)[:height, :width][inner, inner], larger[inner, inner]
        expected = peak_signal_noise_ratio(*pair, data_range=255)
        assert image["bicubic"]["psnr_y"] == pytest.approx(expected, abs=1e-3)
        similar = structural_similarity(
            *pair, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255
        )
        assert image["bicubic"]["ssim_y"] == pytest.approx(similar, abs=2e-3)  # it mirrors at the border, we cut


def test_the_keys_and_the_means(folder: Path) -> None:
    results = evaluate(None, folder, BICUBIC, scale=2, command="stream-sr evaluate pictures")
    assert set(results) == {
        "psnr_y", "ssim_y", "bicubic", "images", "model", "scale", "backend", "precision", "machine", "command",
    }  # fmt: skip
    assert [image["name"] for image in results["images"]] == ["a.png", "b.png", "below/c.png"]
    for key in ("psnr_y", "ssim_y"):
        assert results[key] == pytest.approx(np.mean([image[key] for image in results["images"]]), abs=1e-5)
        assert results["bicubic"][key] == pytest.approx(
            np.mean([image["bicubic"][key] for image in results["images"]]), abs=1e-5
        )
    assert (results["scale"], results["backend"], results["command"]) == (2, "bicubic", "stream-sr evaluate pictures")
    assert str(folder) not in json.dumps(results, allow_nan=False)


def test_the_bicubic_engine_agrees_with_the_bicubic_row(folder: Path) -> None:
    """Another program's cubic (a = -0.5 as well), through the engine's frame: 0.1 dB for its fixed-point taps."""
    results = evaluate(None, folder, BICUBIC, scale=2)
    assert results["psnr_y"] == pytest.approx(results["bicubic"]["psnr_y"], abs=0.1)


@pytest.mark.parametrize("name", ["fsrcnn", "fsrcnn-s"])
def test_a_network_beats_bicubic_and_the_backends_agree(folder: Path, name: str) -> None:
    model = find_model(name, 2)
    shipped = evaluate(model, folder, EngineOptions(backend="openvino", precision="fp32"))
    reference = evaluate(model, folder, EngineOptions(backend="torch"), scale=2)
    assert shipped["psnr_y"] == pytest.approx(reference["psnr_y"], abs=0.02)
    assert shipped["psnr_y"] > shipped["bicubic"]["psnr_y"]
    assert shipped["bicubic"] == reference["bicubic"]
    assert (shipped["model"], shipped["scale"], shipped["backend"]) == (name, 2, "openvino")


def test_a_picture_that_comes_out_exactly_has_no_psnr_and_leaves_the_mean_alone(tmp_path: Path, folder: Path) -> None:
    Image.fromarray(np.full((40, 40), 77, np.uint8)).save(tmp_path / "flat.png")
    alone = evaluate(None, tmp_path, BICUBIC, scale=2)
    assert (alone["psnr_y"], alone["ssim_y"]) == (None, pytest.approx(1))
    assert "exact" in format_table(alone)
    (tmp_path / "a.png").write_bytes((folder / "a.png").read_bytes())
    both = evaluate(None, tmp_path, BICUBIC, scale=2)
    assert both["psnr_y"] == both["images"][0]["psnr_y"]
    json.dumps(both, allow_nan=False)


def test_what_cannot_be_measured_is_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(SourceOpenError, match="no folder"):
        evaluate(None, tmp_path / "missing", BICUBIC, scale=2)
    with pytest.raises(ConfigError, match="its own truth"):
        evaluate(None, folder, BICUBIC, scale=1)
    with pytest.raises(ConfigError, match="give --scale"):
        evaluate(None, folder, BICUBIC)
    with pytest.raises(StreamSRError, match="x3 was asked for"):
        evaluate(find_model("fsrcnn", 2), folder, EngineOptions(backend="openvino"), scale=3)
    Image.fromarray(np.zeros((40, 15), np.uint8)).save(tmp_path / "narrow.png")
    with pytest.raises(SourceOpenError, match="is 15x40; to measure x2 a side needs at least 16 pixels"):
        evaluate(None, tmp_path, BICUBIC, scale=2)


def test_the_smallest_picture_that_is_taken(tmp_path: Path) -> None:
    for scale in (2, 3, 4):
        side = -(-(11 + 2 * scale) // scale) * scale
        Image.fromarray(texture(side, side, 5)).save(tmp_path / "least.png")
        assert 0 < evaluate(None, tmp_path, BICUBIC, scale=scale)["ssim_y"] < 1


def test_the_table_has_a_line_per_picture_and_the_mean(folder: Path) -> None:
    results = evaluate(None, folder, BICUBIC, scale=2)
    lines = format_table(results).splitlines()
    assert lines[0] == "bicubic x2, bicubic uint8"
    assert [line.split()[0] for line in lines[2:-2]] == ["a.png", "b.png", "below/c.png"]
    assert lines[-1].split()[:2] == ["mean", f"{results['psnr_y']:.2f}"]
    assert len({len(line) for line in lines[1:]}) == 1


def test_a_recurrent_model_sees_each_picture_alone(tmp_path: Path) -> None:
    """Two that are alike, as the detector of cuts has it, after each other and each by itself."""
    model = small_model(tmp_path / "model", RECURRENT, 2)
    for folder, names in (("both", "ab"), ("b", "b")):
        (tmp_path / folder).mkdir()
        for name in names:
            Image.fromarray(texture(48, 64, 5) // 2 + (name == "b") * 90).save(tmp_path / folder / f"{name}.png")
    options = EngineOptions(backend="torch")
    both, alone = (evaluate(model, tmp_path / folder, options)["images"] for folder in ("both", "b"))
    assert both[1] == alone[0]
