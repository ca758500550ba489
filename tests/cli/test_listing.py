"""The list of models, for people and for scripts."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from stream_sr.cli.listing import format_engines, format_models, measure_speed, models_table, size_class
from stream_sr.inference.cache import Entry
from stream_sr.inference.model import BuildKey, ModelSpec, Quantized, find_model, list_models

MODELS = [
    ModelSpec("big", 2, Path("a"), parameters=12809, macs_per_pixel=12464, psnr_y={"Set5": 37.0, "Set14": 32.63}),
    ModelSpec("a-small-one", 3, Path("b"), parameters=900, macs_per_pixel=880, psnr_y={"Set5": 32.5}, default=True),
]


pytestmark = pytest.mark.usefixtures("own_cache")


def test_the_table_is_for_scripts() -> None:
    table = models_table(MODELS)
    assert table[0] == {
        "name": "big", "scale": 2, "weights": "clean", "class": "<15K", "parameters": 12809, "macs_per_pixel": 12464,
        "psnr_y": {"Set5": 37.0, "Set14": 32.63}, "fps": None, "default": False, "int8": None,
    }  # fmt: skip
    json.dumps(table)
    there = Quantized(Path(__file__), "a", 0.03, 47.0, {"Set5": 36.9})
    (row,) = models_table([replace(MODELS[0], int8=there)])
    assert row["int8"] == {"loss": 0.03, "psnr_y": {"Set5": 36.9}}
    assert format_models([row]).splitlines()[1].startswith(" 8 big")
    (row,) = models_table([replace(MODELS[0], int8=replace(there, onnx=Path("not kept")))])
    assert row["int8"] is None


def test_the_print_marks_the_default_and_leaves_out_sets_that_nobody_was_measured_on() -> None:
    head, big, small, notes = format_models(models_table(MODELS)).splitlines()
    assert head.split() == ["model", "scale", "weights", "class", "params", "MACs", "Set5", "Set14"]
    assert big.split() == ["big", "x2", "clean", "<15K", "12.8K", "12.5K", "37.00", "32.63"]
    assert small.split() == ["*", "a-small-one", "x3", "clean", "<5K", "0.9K", "0.9K", "32.50", "-"]
    assert len({len(head), len(big), len(small)}) == 1
    assert "default" in notes


def test_speed_is_measured_once_and_holds_for_the_very_model() -> None:
    models = [find_model("fsrcnn-s", 2)]
    measure_speed(models, seconds=0.05)
    (row,) = models_table(models)
    assert row["fps"] > 0
    assert f"{row['fps']:.1f}" in format_models([row])
    other = replace(models[0], onnx=find_model("fsrcnn-s", 3).onnx)
    assert models_table([other])[0]["fps"] is None


def test_classes() -> None:
    assert [size_class(n) for n in (4_999, 5_000, 59_999, 150_000)] == ["<5K", "<15K", "<60K", "150K"]


def test_no_models() -> None:
    assert format_models([]).startswith("No models.")


def test_the_shipped_models_fit_a_terminal_and_one_is_the_default() -> None:
    models = list_models()
    assert {model.name for model in models if model.default} == {"fast"}
    assert all(len(line) <= 80 for line in format_models(models_table(models)).splitlines())


def test_an_engine_in_eight_bits_is_named_after_its_model_and_tune() -> None:
    model = find_model("fast", 2, weights="camera")
    (digest,) = model.digests() - {model.sha256()}
    key = BuildKey(
        onnx_sha256=digest,
        backend="openvino",
        backend_version="1",
        device="a CPU",
        compute_capability="",
        driver="",
        precision="int8",
        profile="64x48",
    )
    assert format_engines([Entry(Path("a.engine"), key, 1, {})]).startswith("fast x2, camera  openvino int8")
    smaller = replace(key, onnx_sha256=find_model("fast", 2).sha256())
    lines = format_engines(
        [Entry(Path("there/b"), key, 600_000, {}), Entry(Path("there/a"), smaller, 1, {})]
    ).splitlines()
    assert [line.split("  ")[0] for line in lines] == ["fast x2", "fast x2, camera", "2 in there, 0.60 MB"]
    other = replace(key, onnx_sha256="ab" * 32)
    assert format_engines([Entry(Path("a.engine"), other, 1, {})]).startswith("another model abababab")
