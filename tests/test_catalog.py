"""The list of models, for people and for scripts."""

import json
from pathlib import Path

from stream_sr.catalog import format_models, models_table
from stream_sr.model import ModelSpec, list_models

MODELS = [
    ModelSpec("big", 2, Path("a"), parameters=12809, macs_per_pixel=12464, psnr_y={"Set5": 37.0, "Set14": 32.63}),
    ModelSpec("a-small-one", 3, Path("b"), parameters=900, macs_per_pixel=880, psnr_y={"Set5": 32.5}, default=True),
]


def test_the_table_is_for_scripts() -> None:
    table = models_table(MODELS)
    assert table[0] == {
        "name": "big", "scale": 2, "parameters": 12809, "macs_per_pixel": 12464,
        "psnr_y": {"Set5": 37.0, "Set14": 32.63}, "default": False,
    }  # fmt: skip
    json.dumps(table)


def test_the_print_marks_the_default_and_leaves_out_sets_that_nobody_was_measured_on() -> None:
    head, big, small, notes = format_models(models_table(MODELS)).splitlines()
    assert head.split() == ["model", "scale", "parameters", "MAC/pixel", "Set5", "Set14"]
    assert big.split() == ["big", "x2", "12,809", "12,464", "37.00", "32.63"]
    assert small.split() == ["*", "a-small-one", "x3", "900", "880", "32.50", "-"]
    assert len({len(head), len(big), len(small)}) == 1
    assert "default" in notes


def test_no_models() -> None:
    assert format_models([]).startswith("No models.")


def test_the_shipped_models_fit_a_terminal_and_one_is_the_default() -> None:
    models = list_models()
    assert {model.name for model in models if model.default} == {"fsrcnn-s"}
    assert all(len(line) <= 80 for line in format_models(models_table(models)).splitlines())
