"""From pictures to a measured model, by the commands of the README."""

import json
from pathlib import Path

import numpy as np
import pytest
from media_files import write_video
from PIL import Image

from stream_sr.cli import main
from stream_sr.inference.backends.openvino import precision
from stream_sr.inference.model import INT8_FILE, read_model

pytestmark = pytest.mark.long

RECIPE = """
[network]
kind = "PlainSR"
width = 4
depth = 1
[train]
iterations = 4
batch = 2
patch = 16
learning_rate = 1e-3
warmup = 1
l2_from = 0.5
round_from = 1.0
ema = 0.9
seed = 1
expand = true
shrinks = [1.0]
[validation]
every = 2
images = ["held"]
[weights.camera]
iterations = 3
"""


@pytest.fixture
def work(tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    for seed, name in enumerate(("one", "two", "held")):
        noise = np.random.default_rng(seed).integers(0, 256, (40, 45)).astype(np.uint8)
        Image.fromarray(np.kron(noise, np.ones((4, 4), np.uint8))).save(tmp_path / "pictures" / f"{name}.png")
    write_video(tmp_path / "film.mp4", width=256, height=192, count=8)
    (tmp_path / "small.toml").write_text(RECIPE)
    return tmp_path


def run(*words: str) -> None:
    assert main.main(words) == 0


def test_from_pictures_to_a_model_that_is_tuned_for_cameras(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("train", "small.toml", "--data", "pictures", "--threads", "1")
    run("clips", "clips", "--data", "pictures", "--video", "film.mp4", "--length", "4", "--validate", "held")
    assert "clips: 4 clips" in capsys.readouterr().out
    start = "runs/small-x2/checkpoint.pt"
    run("train", "small.toml", "--weights", "camera", "--data", "clips", "--from", start, "--threads", "1")
    run("export", "runs/small-camera-x2/checkpoint.pt", "model")
    model = read_model(work / "model" / "model.toml")
    assert (model.name, model.weights, model.scale) == ("small", "camera", 2)
    capsys.readouterr()
    onnx = "model/model.onnx"
    run("evaluate", "pictures", "--model", onnx, "--json", "pictures.json", "--sheet", "sheet.png")
    run("evaluate", "film.mp4", "--model", onnx, "--json", "film.json", "--crf", "20", "--crf", "40", "--frames", "3")
    assert "film.mp4 CRF 40" in capsys.readouterr().out
    assert len(json.loads((work / "pictures.json").read_text())["images"]) == 3
    rows = json.loads((work / "film.json").read_text())["clips"]
    assert [(row["crf"], row["frames"], row["model"]) for row in rows] == [(20, 3, "small"), (40, 3, "small")]
    assert rows[0]["psnr_y"] > rows[1]["psnr_y"]
    with Image.open(work / "sheet.png") as sheet:
        assert sheet.height > 3 * 90


def test_own_pictures_need_no_recipe_of_their_own(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("train", "tiny", "--data", "pictures", "--iterations", "1", "--threads", "1")
    assert main.main(words) == 2
    assert "--validate NAME (there are held, one, two, ...)" in capsys.readouterr().err
    run(*words, "--validate", "held")
    run("clips", "clips", "--data", "pictures")
    assert "clips: 3 clips" in (said := capsys.readouterr()).out
    assert "--validate (there are held, one, two)" in said.err
    assert main.main(["train", "small.toml", "--data", "clips", "--validate", "held", "--out", "other"]) == 2
    assert "--validate is for pictures" in capsys.readouterr().err


@pytest.mark.parametrize("data", ["pictures", "clips"])
def test_a_model_in_eight_bits(work: Path, data: str, capsys: pytest.CaptureFixture[str]) -> None:
    run("train", "small.toml", "--data", "pictures", "--threads", "1")
    run("export", "runs/small-x2/checkpoint.pt", "model")
    run("clips", "clips", "--data", "pictures", "--video", "film.mp4", "--length", "2", "--validate", "held")
    capsys.readouterr()
    run("quantize", "model", "--data", data)
    assert f"model/{INT8_FILE}: small x2, " in capsys.readouterr().out
    model = read_model(work / "model" / "model.toml")
    assert model.int8 is not None
    assert model.int8.onnx.is_file()
    if precision.cpu().int8:
        run("evaluate", "pictures", "--model", "model/model.onnx", "--precision", "int8", "--json", "int8.json")
        assert json.loads((work / "int8.json").read_text())["precision"] == "int8"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["clips", "out"], "nothing to make clips of"),
        (["clips", "out", "--data", "pictures", "--length", "0"], "a whole number from 1 to 100"),
        (["clips", "out", "--data", "pictures", "--scale", "1", "--weights", "clean"], "give --weights camera"),
        (["clips", "out", "--data", "nowhere"], "no folder nowhere"),
        (["clips", "out", "--video", "film.mp4", "--length", "9"], "no clip could be made: films need 9 pictures"),
        (["clips", "out", "--video", "film.mp4", "--validate", "flim"], "--validate flim: no such picture or film"),
        (["clips", "out", "--video", "film.mp4", "--video", "film.mp4"], "of the name film-00005; rename one"),
        (["train", "small.toml", "--data", "pictures", "--iterations", "0"], "--iterations: '0' is not a whole"),
        (
            ["train", "small.toml", "--data", "pictures", "--scale", "7"],
            "--scale: '7' is not a whole number from 1 to 4",
        ),
        (["train", "small.toml", "--data", "pictures", "--weights", "x"], "--weights: 'x' is not one of clean, camera"),
        (["train", "small.toml", "--data", "pictures", "--validate", "four"], "not found in the folders: four; name"),
        (["train", "small.toml", "--data", "pictures", "--sweep", "width=2", "--unlabelled", "x"], "--unlabelled"),
        (
            ["train", "small.toml", "--data", "pictures", "--weights", "camera"],
            "make clips with `stream-sr clips --weights camera",
        ),
        (["train", "small.toml", "--data", "pictures", "--sweep", "width"], "expected NAME=NUMBER"),
        (["quantize", "nowhere", "--data", "pictures"], "nowhere is no model folder: it has no model.toml"),
        (["train", "small.toml", "--data", "pictures", "--out", "film.mp4/run"], "film.mp4 is a file; give another"),
        (["clips", "film.mp4/clips", "--data", "pictures"], "film.mp4 is a file; give another"),
        (
            ["evaluate", "pictures", "--model", "fsrcnn", "--sheet", "none/s.png"],
            "--sheet none/s.png cannot be written",
        ),
        (["evaluate", "film.mp4", "pictures", "--model", "fsrcnn"], "give one kind at a time"),
        (["evaluate", "pictures", "--crf", "20", "--model", "fsrcnn"], "are for films"),
        (["evaluate", "film.mp4", "--crf", "60", "--model", "fsrcnn"], "--crf: '60' is not a number from 0 to 51"),
        (["evaluate", "film.mp4", "--frames", "1", "--model", "fsrcnn"], "a whole number from 2"),
    ],
)
def test_what_cannot_be_is_one_line(
    work: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(words) in (2, 3)
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 1
    assert message in errors[0]
