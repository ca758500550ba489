"""Recipes: the packaged ones are whole, overrides apply, nonsense is refused with one line."""

from pathlib import Path
from typing import Any

import pytest

from stream_sr.errors import ConfigError
from stream_sr.training.loop import make_network
from stream_sr.training.recipe import RECIPES, load_recipe, recipe_names

SMALL = """
[network]
kind = "FSRCNN"
[train]
iterations = 10
batch = 2
patch = 8
learning_rate = 1e-3
warmup = 1
l2_from = 1.0
round_from = 0.9
ema = 0.9
seed = 1
shrinks = [1.0]
[validation]
every = 5
images = ["a"]
[scale.3]
from_scale = 2
iterations = 4
network = { m = 1 }
"""


def test_the_packaged_recipes() -> None:
    assert {"fsrcnn", "fsrcnn-s"} <= set(recipe_names())


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("name", ["fsrcnn", "fsrcnn-s", "tiny", "fast", "balanced", "quality"])
def test_a_packaged_recipe_is_whole_and_holds_ten_pictures_back(name: str, scale: int) -> None:
    recipe = load_recipe(name, scale=scale)
    assert (recipe.name, recipe.scale, recipe.weights) == (name, scale, "clean")
    assert recipe.iterations > recipe.warmup
    assert len(set(recipe.validation_images)) == 10
    assert recipe.from_scale == (None if scale == 2 else 2)


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("name", ["tiny", "fast"])
def test_camera_weights_start_from_the_clean_ones(name: str, scale: int) -> None:
    recipe = load_recipe(name, scale=scale, weights="camera")
    assert (recipe.weights, recipe.from_scale) == ("camera", 2 if scale == 1 else scale)
    assert recipe.network == load_recipe(name, scale=2 if scale == 1 else scale).network


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize(("name", "most"), [("tiny", 5), ("fast", 15), ("balanced", 60), ("quality", 150)])
def test_a_preset_stays_in_its_class_at_every_scale(name: str, most: int, scale: int) -> None:
    network = make_network(load_recipe(name, scale=scale))
    assert sum(one.numel() for one in network.parameters() if one.requires_grad) < 1000 * most


def test_every_packaged_recipe_holds_the_same_ten_pictures_back() -> None:
    held = {load_recipe(name, scale=2).validation_images for name in recipe_names()}
    assert len(held) == 1
    assert len(held.pop()) == 10


def test_the_reference_designs_are_trained_from_nothing() -> None:
    assert load_recipe("autoencoder", scale=1, weights="camera").from_scale is None
    assert load_recipe("bare-deconv", scale=2).l2_from == 0


def test_the_recurrent_recipe_learns_from_sequences() -> None:
    for scale in (2, 4):
        recipe = load_recipe("recurrent", scale=scale)
        assert recipe.frames > 1
        assert recipe.network | {"kind": "PlainSR"} == load_recipe("fast", scale=2).network  # which it starts from


def test_the_paper_s_networks() -> None:
    big, small = (load_recipe(name, scale=2).network for name in ("fsrcnn", "fsrcnn-s"))
    assert [big[k] for k in ("kind", "d", "s", "m")] == ["FSRCNN", 56, 12, 4]
    assert [small[k] for k in ("kind", "d", "s", "m")] == ["FSRCNN", 32, 5, 1]


def test_a_file_with_a_table_of_its_scale_and_overrides(tmp_path: Path) -> None:
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    two, three = (load_recipe(str(path), scale=scale) for scale in (2, 3))
    assert (two.name, two.iterations, two.from_scale) == ("small", 10, None)
    assert (three.iterations, three.from_scale) == (4, 2)
    assert two.shrinks == (1.0,)
    assert (two.network, three.network) == ({"kind": "FSRCNN"}, {"kind": "FSRCNN", "m": 1})
    override = load_recipe(str(path), scale=3, iterations=7, seed=None)
    assert (override.iterations, override.seed) == (7, 1)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("batch = 2", "", "batch"),
        ("batch = 2", "batch = 2\nlearnrate = 1", "learnrate"),
        ("[validation]", "[validatio", "small.toml"),
        ('[network]\nkind = "FSRCNN"', "", "network"),
    ],
)
def test_a_bad_file_is_refused_and_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "small.toml"
    path.write_text(SMALL.replace(old, new))
    with pytest.raises(ConfigError, match=message):
        load_recipe(str(path), scale=2)


def test_unknown_names_and_scales_are_refused_with_what_there_is() -> None:
    with pytest.raises(ConfigError, match="fsrcnn-s"):
        load_recipe("nothing", scale=2)
    with pytest.raises(ConfigError, match="1, 2, 3 or 4"):
        load_recipe("fsrcnn", scale=5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iterations": 0}, "iterations is 0, it must be a whole number from 1"),
        ({"settled": -1}, "settled is -1, it must be a whole number from 0"),
        ({"noise": -1.0}, "noise is -1.0, it must be a number from 0"),
        ({"still": 1.5}, "still is 1.5, it must be a number from 0 to 1"),
        ({"clip": "no"}, "clip is 'no', it must be a number from 0"),
        ({"loss": "l3"}, "loss is 'l3', it must be l1 or bce"),
        ({"weights": "camera"}, r"has no \[weights.camera\]"),
    ],
)
def test_values_that_cannot_be_are_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_recipe("fsrcnn", scale=2, **options)


def test_the_old_name_of_the_weights_is_refused(tmp_path: Path) -> None:
    old = tmp_path / "old.toml"
    old.write_text((RECIPES / "fast.toml").read_text().replace("[weights.", "[tune."))
    with pytest.raises(ConfigError, match=r"the table \[tune\] is now called \[weights\]"):
        load_recipe(str(old), scale=2, weights="camera")
