"""Names to models, and the key of what is compiled from them."""

from dataclasses import fields, replace
from fractions import Fraction
from pathlib import Path

import pytest

from stream_sr.app.engine_setup import choose_model
from stream_sr.config import Config
from stream_sr.errors import ModelError
from stream_sr.inference.model import (
    PRESETS,
    BuildKey,
    default_model,
    find_model,
    list_models,
    model_ladder,
    read_model,
)
from stream_sr.video.frame import StreamInfo

TOML = """name = "{name}"
scale = {scale}
default = {default}
parameters = 10
macs_per_pixel = 20
[network]
kind = "FSRCNN"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, scale, default in (("big", 2, False), ("small", 3, True), ("small", 2, True)):
        inside = tmp_path / f"{name}-x{scale}"
        inside.mkdir()
        (inside / "model.toml").write_text(TOML.format(name=name, scale=scale, default=str(default).lower()))
        (inside / "model.onnx").write_bytes(f"{name}{scale}".encode())
    return tmp_path


def test_models_are_listed_by_name_and_scale(folder: Path) -> None:
    assert [(model.name, model.scale) for model in list_models(folder)] == [("big", 2), ("small", 2), ("small", 3)]
    assert list_models(folder / "nowhere") == []


def test_names_and_scales_are_found(folder: Path) -> None:
    assert find_model("small", None, folder=folder).scale == 2
    assert find_model("small", 3, folder=folder).scale == 3
    assert find_model(None, 3, folder=folder).name == "small"
    assert default_model(folder=folder).default


def test_what_is_not_there_is_answered_with_what_is(folder: Path) -> None:
    with pytest.raises(ModelError, match="no model 'huge'; there are big, small"):
        find_model("huge", 2, folder=folder)
    with pytest.raises(ModelError, match="not trained for x3; there is x2"):
        find_model("big", 3, folder=folder)
    with pytest.raises(ModelError, match="there are none"):
        find_model("big", 2, folder=folder / "nowhere")
    with pytest.raises(ModelError, match="default"):
        default_model(folder=folder / "nowhere")
    with pytest.raises(ModelError, match=r"no model file nowhere\.onnx"):
        find_model("nowhere.onnx", 2)


def add_tuned(folder: Path, name: str, scale: int) -> None:
    inside = folder / f"{name}-camera-x{scale}"
    inside.mkdir()
    text = TOML.format(name=name, scale=scale, default="false").replace("default", 'weights = "camera"\ndefault')
    (inside / "model.toml").write_text(text)
    (inside / "model.onnx").write_bytes(b"camera")


def test_a_tune_is_preferred_or_demanded(folder: Path) -> None:
    add_tuned(folder, "small", 2)
    assert find_model("small", 2, folder=folder).weights == "clean"
    assert find_model("small", 2, prefer="camera", folder=folder).weights == "camera"
    assert find_model("small", 3, prefer="camera", folder=folder).weights == "clean"  # there is no other
    assert find_model("small", 2, "camera", folder=folder).weights == "camera"
    with pytest.raises(
        ModelError, match=r"x3 is not tuned for camera, only for clean; `stream-sr train small --scale 3"
    ):
        find_model("small", 3, "camera", folder=folder)
    assert [(one.name, one.weights, one.scale) for one in list_models(folder)] == [
        ("big", "clean", 2),
        ("small", "clean", 2),
        ("small", "clean", 3),
        ("small", "camera", 2),
    ]


def test_a_preset_that_is_not_trained_names_its_training(folder: Path) -> None:
    with pytest.raises(ModelError, match="preset 'quality' is not trained yet; `stream-sr train quality --scale 4`"):
        find_model("quality", 4, folder=folder)
    (folder / "quality-x2").mkdir()
    (folder / "quality-x2" / "model.toml").write_text(TOML.format(name="quality", scale=2, default="false"))
    (folder / "quality-x2" / "model.onnx").write_bytes(b"quality")
    with pytest.raises(ModelError, match="not trained for x4; there is x2; `stream-sr train quality --scale 4`"):
        find_model("quality", 4, folder=folder)


def test_files(folder: Path) -> None:
    inside = folder / "small-x3"
    assert find_model(str(inside / "model.onnx"), None).scale == 3
    with pytest.raises(ModelError, match="is a x3 model, x2 was asked for"):
        find_model(str(inside / "model.onnx"), 2)
    bare = inside / "bare.onnx"
    bare.write_bytes(b"")
    assert (find_model(str(bare), None).scale, find_model(str(bare), 4).scale) == (0, 4)
    assert find_model(str(bare), None).network == {}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("scale = 2", "scale = '2'"),
        ("scale = 2", ""),
        ("scale = 2", "scale = 2\nweights = 'night'"),
        ("[network]", ""),
        ("name = ", "name ="),
        ("scale = 2", "scale ="),
    ],
)
def test_a_broken_description_is_refused(folder: Path, old: str, new: str) -> None:
    path = folder / "big-x2" / "model.toml"
    text = path.read_text().replace(old, new)
    path.write_text(text if new != "name =" else "\xff")
    with pytest.raises(ModelError, match=r"model\.toml"):
        read_model(path)


def test_the_old_name_of_the_weights_is_refused(folder: Path) -> None:
    path = folder / "big-x2" / "model.toml"
    path.write_text('tune = "camera"\n' + path.read_text())
    with pytest.raises(ModelError, match=r"model\.toml: the key tune is now called weights"):
        read_model(path)


def test_a_missing_graph_is_refused(folder: Path) -> None:
    (folder / "big-x2" / "model.onnx").unlink()
    with pytest.raises(ModelError, match=r"model\.onnx is missing"):
        read_model(folder / "big-x2" / "model.toml")


def test_every_part_of_the_key_changes_its_digest() -> None:
    names = [field.name for field in fields(BuildKey)]
    key = BuildKey(**dict.fromkeys(names, "a"))
    digests = {replace(key, **{name: "b"}).digest() for name in names} | {key.digest()}
    assert len(digests) == len(names) + 1
    assert key.digest() == replace(key).digest()
    assert all(len(digest) == 32 for digest in digests)


def test_a_size_is_not_reached_by_restoring_what_is_clean(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With camera weights for scale 1: for a live stream or when asked for, else the clean ones that enlarge."""
    add_tuned(folder, "small", 1)
    monkeypatch.setattr("stream_sr.inference.model.engines_folder", lambda: folder)
    info = StreamInfo(64, 48, Fraction(1, 25))
    config = Config(model="small", size=(64, 48))
    assert choose_model(config, info)[1] == 2
    assert choose_model(config, replace(info, live=True))[1] == 1
    assert choose_model(replace(config, weights="camera"), info)[1] == 1
    assert choose_model(replace(config, weights="clean"), replace(info, live=True))[1] == 2
    assert choose_model(replace(config, size=(150, 100)), replace(info, live=True))[1] == 3
    with pytest.raises(ModelError, match="weights 'sharp' is none of clean, camera"):
        find_model("small", 2, "sharp")


def write_model(folder: Path, name: str, macs: int, psnr: float | None, *, weights: str = "clean") -> None:
    place = folder / f"{name}-{weights}"
    place.mkdir()
    (place / "model.onnx").write_bytes(b"")
    measured = f"[psnr_y]\nSet5 = {psnr}\n" if psnr else ""
    (place / "model.toml").write_text(
        f'name = "{name}"\nscale = 2\nweights = "{weights}"\nparameters = 1\n'
        f"macs_per_pixel = {macs}\n[network]\n{measured}"
    )


def test_the_ladder_is_made_of_what_each_costs_and_gains(tmp_path: Path) -> None:
    write_model(tmp_path, "small", 4000, 36.8)
    write_model(tmp_path, "twin", 4100, 36.5)  # dearer and worse
    write_model(tmp_path, "nearly", 12_000, 37.0)  # hardly cheaper than the next
    write_model(tmp_path, "large", 14_000, 37.2)
    write_model(tmp_path, "large", 14_000, None, weights="camera")
    write_model(tmp_path, "waste", 60_000, 37.1)  # dear and no better
    write_model(tmp_path, "unknown", 90_000, None)

    def ladder(weights: str | None = None, prefer: str = "clean") -> list[tuple[str, str]]:
        return [(model.name, model.weights) for model in model_ladder(2, weights, prefer=prefer, folder=tmp_path)]

    assert ladder() == [("small", "clean"), ("large", "clean")]
    assert ladder(prefer="camera") == [("small", "clean"), ("large", "camera")]
    assert ladder(weights="camera") == [("large", "camera")]
    write_model(tmp_path, "largest", 60_000, 37.4)
    assert ladder()[-1] == ("largest", "clean")
    assert ladder(prefer="camera") == [("small", "clean"), ("large", "camera")]  # it was not tuned for cameras
    with pytest.raises(ModelError, match="auto has no measured model for x3"):
        model_ladder(3, folder=tmp_path)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_shipped_ladder_is_of_presets(scale: int) -> None:
    names = [model.name for model in model_ladder(scale)]
    assert names == [name for name in PRESETS if name in names]
    assert len(names) >= 2


def test_auto_is_the_largest_where_nothing_is_live() -> None:
    film = StreamInfo(64, 48, Fraction(1, 25))
    for config, info in ((Config(model="auto"), None), (Config(model="auto", scale=3), film)):
        model, scale = choose_model(config, info)
        assert model == model_ladder(scale)[-1]
    model, scale = choose_model(Config(model="auto", size=(180, 140)), film)
    assert (model, scale) == (model_ladder(3)[-1], 3)
