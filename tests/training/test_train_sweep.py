"""A sweep trains every combination once, goes on where it stopped, and says what each cost and gave."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stream_sr.errors import ConfigError
from stream_sr.training.recipe import Recipe
from stream_sr.training.sweep import format_sweep, parse_axes, plot_sweep, sweep

RECIPE = Recipe(
    name="small", scale=2, weights="clean", network={"kind": "PlainSR", "width": 2, "depth": 1}, iterations=2, batch=1,
    patch=8, learning_rate=1e-3, warmup=1, l2_from=0.5, round_from=1.0, ema=0.9, seed=1, shrinks=(1.0,),
    validation_every=2, validation_images=("held",),
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for seed, name in enumerate(("one", "held")):
        noise = np.random.default_rng(seed).integers(0, 255, (40, 44)).astype(np.uint8)
        Image.fromarray(noise).save(folder / f"{name}.png")
    return folder


def test_every_combination_is_trained_once(folder: Path, tmp_path: Path) -> None:
    axes = {"width": [2, 4], "kernel": [3, 5]}
    starts: list[object] = []
    rows = sweep(RECIPE, axes, folders=[folder], out=tmp_path, threads=1, report=starts.append)
    assert {(row["width"], row["kernel"]) for row in rows} == {(2, 3), (2, 5), (4, 3), (4, 5)}
    assert [row["psnr"] for row in rows] == sorted(row["psnr"] for row in rows)
    small = next(row for row in rows if (row["width"], row["kernel"]) == (2, 3))
    assert small["macs_per_pixel"] == 9 * 2 + 9 * 4 + 36 * 2 + 4  # the anchor's ones too
    assert small["parameters"] == (9 * 2 + 2) + (9 * 4 + 2) + (36 * 2 + 1)
    count = len(starts)
    again = sweep(RECIPE, axes, folders=[folder], out=tmp_path, threads=1, report=starts.append)
    assert (again, len(starts)) == (rows, count)  # nothing was trained anew
    assert json.loads((tmp_path / "sweep.json").read_text())["rows"] == rows
    text = format_sweep(rows)
    assert f"{rows[-1]['psnr']:.3f}" in text
    with Image.open(plot_sweep(rows, tmp_path / "sweep.png")) as plot:
        assert plot.size == (800, 500)


def test_runs_of_another_sweep_are_not_taken_for_ours(folder: Path, tmp_path: Path) -> None:
    sweep(RECIPE, {"width": [2]}, folders=[folder], out=tmp_path, threads=1)
    for other, message in (
        (replace(RECIPE, scale=3), "trained with scale 2, the recipe says 3"),
        (replace(RECIPE, network=RECIPE.network | {"kernel": 5}), "trained with network"),
        (replace(RECIPE, iterations=1), "has had 2 iterations, the sweep asks for 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            sweep(other, {"width": [2]}, folders=[folder], out=tmp_path, threads=1)


def test_an_interrupted_sweep_leaves_out_what_is_not_complete(folder: Path, tmp_path: Path) -> None:
    rows = sweep(replace(RECIPE, iterations=4), {"width": [2, 4]}, folders=[folder], out=tmp_path, stop=lambda: True)
    assert rows == []
    assert format_sweep(rows) == "no run of the sweep is complete"
    assert len(sweep(replace(RECIPE, iterations=4), {"width": [2, 4]}, folders=[folder], out=tmp_path)) == 2


@pytest.mark.parametrize("text", ["width", "width=", "width=a", "=3", "depth=-1", "width=8,"])
def test_axes_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match="expected NAME=NUMBER"):
        parse_axes([text])


def test_what_the_network_has_not_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be built with"):
        sweep(RECIPE, parse_axes(["colour=3"]), folders=[folder], out=tmp_path)
    with pytest.raises(ConfigError, match="must be odd"):
        sweep(RECIPE, {"kernel": [3, 4]}, folders=[folder], out=tmp_path)
    assert not list(tmp_path.iterdir())  # nothing was trained before
    with pytest.raises(ConfigError, match="twice"):
        parse_axes(["width=2", "width=4"])


def test_a_sweep_starts_from_nothing(folder: Path, tmp_path: Path) -> None:
    assert len(sweep(replace(RECIPE, scale=3, from_scale=2), {"width": [2]}, folders=[folder], out=tmp_path)) == 1
