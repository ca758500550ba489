"""Write ``card.md`` of every shipped model from its run's log and ``results/quality.json``.

    python -m benchmarks cards --runs runs

The runs lie in ``runs/MODEL[-camera]-xSCALE``, as `stream-sr train` leaves them, with a ``history.txt`` where one went
another way than its recipe; the commands of a card are those that the recipe means, with the pictures in ``data/train``
and ``data/photos``, the films in ``data/video``.
"""

import argparse
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

from benchmarks.interface import Task
from benchmarks.record import RESULTS, read_record
from stream_sr.inference.model import ModelSpec, list_models
from stream_sr.training.card import write_card
from stream_sr.training.plots import read_log, summary
from stream_sr.training.recipe import Recipe, load_recipe

FILMS = " ".join(
    f"--video data/video/{name}"
    for name in (
        "street_traffic_1080p.mkv",
        "cactus_flower_720p.mkv",
        "park_juggle_720p.mp4",
        "sidewalk_gopro_480p.mp4",
        "carpark_432p.mp4",
        "webcam_sign_a_480p.mkv",
        "webcam_sign_b_480p.mkv",
        "street_dog_720p.mp4",
    )
)
JUDGES = " ".join(f"--validate {name}" for name in (*load_recipe("fast", scale=2).validation_images, "street_dog_720p"))
MEASURED = ("quality", "cameras", "films")  # benchmarks whose figures stand in a card


def run_of(model: ModelSpec) -> str:
    """Name of the folder of its run, and of the model's own."""
    return f"{model.name}{'-camera' if model.weights == 'camera' else ''}-x{model.scale}"


def commands(model: ModelSpec, recipe: Recipe, iterations: int) -> list[str]:
    """What made the model, in order."""
    run, made = f"runs/{run_of(model)}", []
    data = "--data data/train --data data/photos"
    if recipe.frames > 1 or model.weights == "camera":
        length = f" --length {recipe.frames + 2} --motion both" if recipe.frames > 1 else ""
        clips = f"clips/{'moving-' if recipe.frames > 1 else ''}{model.weights}-x{model.scale}"
        made.append(
            f"stream-sr clips {clips} {data} {FILMS} --scale {model.scale} --weights {model.weights}{length} {JUDGES}"
        )
        data = f"--data {clips}"
    train = f"stream-sr train {recipe.name} --scale {model.scale} --weights {model.weights} {data} --out {run}"
    train += f" --iterations {iterations}" if iterations != recipe.iterations else ""
    if recipe.from_scale or recipe.frames > 1:
        start = replace(model, scale=recipe.from_scale or model.scale)
        start = replace(start, name="fast") if recipe.frames > 1 else replace(start, weights="clean")
        train += f" --from runs/{run_of(start)}/checkpoint.pt"
    folder = f"engines/{model.onnx.parent.name}"
    default = " --default" if model.default else ""
    quantize = f"stream-sr quantize {folder} {data}"
    benchmark = "films" if recipe.frames > 1 else "cameras" if model.weights == "camera" else "quality"
    return [
        *made,
        train,
        f"stream-sr export {run}/checkpoint.pt {folder} --overwrite{default}",
        *([quantize] if model.int8 else []),
        f"python -m benchmarks {benchmark} --data data/{'eval --record' if benchmark == 'quality' else 'video'}",
    ]


def as_trained(recipe: Recipe, model: ModelSpec) -> Recipe:
    """The recipe with what its ``model.toml`` says of the run, which may be older, or have been another."""
    toml = tomllib.loads(model.onnx.with_name("model.toml").read_text())["training"]
    given = {one.name: one.default for one in fields(Recipe) if one.default is not MISSING} | toml
    kept = {"from_scale", "name", "scale", "weights", "network"}
    changes: dict[str, Any] = {one.name: given[one.name] for one in fields(Recipe) if one.name in given.keys() - kept}
    changes |= {key: tuple(changes[key]) for key in ("shrinks", "validation_images")}
    return replace(recipe, **changes)


def evaluations(model: ModelSpec, records: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The rows of these very ONNX files, by set, or by film and CRF."""
    digests = model.digests()
    found: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        for row in (row for row in record["result"]["rows"] if row["onnx_sha256"] in digests):
            crf = "" if row.get("crf") is None else f" CRF {row['crf']:g}"
            found.setdefault(row.get("set") or f"{row['film']}{crf}", []).append(row | {"machine": record["machine"]})
    return found


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR")


def run(parsed: argparse.Namespace) -> int:
    paths = [RESULTS / f"{name}.json" for name in MEASURED]
    try:
        records = [read_record(path) for path in paths if path.exists()]
        for model in list_models():
            write_card_of(model, parsed.runs / run_of(model) / "log.jsonl", records)
    except OSError as error:
        print(f"error: {error}; run `python -m benchmarks quality` first", file=sys.stderr)
        return 1
    return 0


def write_card_of(model: ModelSpec, log: Path, records: Sequence[dict[str, Any]]) -> None:
    """Write the card from this log; a model without one keeps its card, which was written where it was trained."""
    if not log.exists() and model.onnx.with_name("card.md").exists():
        return
    recipe = load_recipe(model.name, scale=model.scale, weights=model.weights)
    measured = evaluations(model, records)
    history = log.with_name("history.txt")  # by hand, where a run went another way than its recipe
    card = write_card(
        model,
        as_trained(recipe, model),
        log=log,
        evaluations=measured,
        commands=commands(model, recipe, int(summary(read_log(log))["of"])),
        history=history.read_text() if history.exists() else "",
    )
    print(f"{card.parent.name}/{card.name}" + ("" if measured else ": not measured yet"))


ENTRY = Task(add_options=add_options, run=run)
