"""A model's card says what was done, with the figures of the run and the measurement, and nothing of a machine."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_plots import write_log

from stream_sr.errors import ConfigError, ModelError
from stream_sr.inference.model import ModelSpec, Quantized
from stream_sr.system.machine import describe
from stream_sr.training.card import record_quality, write_card
from stream_sr.training.recipe import load_recipe

TOML = """name = "m"
scale = 2
parameters = 10
macs_per_pixel = 20

[network]
kind = "FSRCNN"

[psnr_y]
Set5 = 1.0

[training]
seed = 1
"""
RESULT: dict[str, Any] = {
    "psnr_y": 37.006,
    "ssim_y": 0.95581,
    "bicubic": {"psnr_y": 33.64, "ssim_y": 0.9294},
    "backend": "openvino",
    "precision": "fp32",
    "machine": describe(),
}


@pytest.fixture
def model(tmp_path: Path) -> ModelSpec:
    (tmp_path / "model.onnx").touch()
    return ModelSpec("fsrcnn", 3, tmp_path / "model.onnx", parameters=12809, macs_per_pixel=12464)


def card_text(model: ModelSpec, commands: list[str], evaluations: Any = None, recipe: str = "fsrcnn") -> str:
    log = write_log(model.onnx.with_name("log.jsonl"), [(10, "l1", 30.0), (20, "l2", 31.25), (30, "l2", 31.0)])
    loaded = load_recipe(recipe, scale=3)
    return write_card(model, loaded, log=log, evaluations=evaluations or {}, commands=commands).read_text()


def test_a_card_has_the_recipe_the_figures_and_the_commands(model: ModelSpec) -> None:
    command = "stream-sr train --recipe fsrcnn --scale 3 --data data/train --from runs/fsrcnn-x2/checkpoint.pt"
    text = card_text(model, [command], {"Set5": [RESULT, RESULT | {"backend": "torch"}], "Set14": [RESULT]})
    assert text.startswith("# fsrcnn x3\n")
    assert "| Set5 | openvino fp32 | 37.01 | 0.9558 | 33.64 | 0.9294 |" in text
    assert "| Set5 | torch fp32 |" in text
    assert "| Set14 |" in text
    for part in (
        "12,809 parameters",
        "ECCV 2016",
        "x2 body",
        "iteration 20,",
        "31.25 dB",
        "(30 of them done)",
        "1029604",
    ):
        assert part in " ".join(text.split())
    assert f"\n    {command}\n" in text
    assert all(len(line) <= 120 for line in text.splitlines())
    assert str(model.onnx.parent) not in text


def test_a_card_of_a_recurrent_network_says_what_its_sequences_were(model: ModelSpec) -> None:
    text = " ".join(card_text(model, [], recipe="recurrent").split())
    recipe = load_recipe("recurrent", scale=3)
    assert f"Each example is {recipe.frames} consecutive pictures" in text
    assert f"its own result after it stood still for {recipe.settled}." in text
    assert f"In {recipe.still:.0%} of the examples the first picture stands still throughout." in text
    assert f"of at most {recipe.noise:g} levels" in text


def test_a_card_of_an_unmeasured_model_says_so(model: ModelSpec) -> None:
    assert "Not measured yet." in card_text(model, [])


@pytest.mark.parametrize("path", ["/data/train", "~/train", "--data=/data", r"C:\data"])
def test_a_path_of_this_machine_is_refused(model: ModelSpec, path: str) -> None:
    with pytest.raises(ConfigError, match="relative"):
        card_text(model, [f"stream-sr train {path}"])
    assert not model.onnx.with_name("card.md").exists()


def test_quality_is_written_into_the_model_and_nothing_else_is_touched(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").touch()
    (tmp_path / "model.toml").write_text(TOML)
    model = record_quality(tmp_path, {"Set5": 37.012, "Set14": 32.6})
    assert dict(model.psnr_y) == {"Set5": 37.01, "Set14": 32.6}
    expected = TOML.replace("Set5 = 1.0", "Set5 = 37.01\nSet14 = 32.60")
    assert (tmp_path / "model.toml").read_text() == expected
    record_quality(tmp_path, {"Set5": 1.0})
    assert (tmp_path / "model.toml").read_text() == TOML.replace("1.0", "1.00")


def test_the_quality_in_eight_bits_is_a_table_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").touch()
    text = TOML + '\n[int8]\nonnx_sha256 = "a"\nloss = 0.03\nfidelity = 47.0\n\n[int8.psnr_y]\n'
    (tmp_path / "model.toml").write_text(text)
    model = record_quality(tmp_path, {"Set5": 36.987}, table="int8.psnr_y")
    assert model.int8 is not None
    assert dict(model.int8.psnr_y) == {"Set5": 36.99}
    assert (tmp_path / "model.toml").read_text() == text + "Set5 = 36.99\n"


def test_a_card_tells_of_eight_bits(model: ModelSpec, tmp_path: Path) -> None:
    lost = Quantized(tmp_path / "model.int8.onnx", "a", 0.7, 35.0)
    text = " ".join(card_text(replace(model, int8=lost), []).split())
    assert "In eight bits it would lose too much: 0.700 dB" in text
    lost.onnx.touch()
    text = " ".join(card_text(replace(model, int8=lost), []).split())
    assert "`model.int8.onnx` is the same network in eight bits" in text
    assert "it loses 0.700 dB" in text


def test_a_model_without_the_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        record_quality(tmp_path, {"Set5": 1.0})
    (tmp_path / "model.toml").write_text(TOML.replace("[psnr_y]", "[other]"))
    with pytest.raises(ModelError, match="0 tables"):
        record_quality(tmp_path, {"Set5": 1.0})
