"""Write ``card.md`` of every shipped model from its run's log and ``results/quality.json``.

    python benchmarks/cards.py --runs runs

The runs lie in ``runs/MODEL-xSCALE``, as `stream-sr train` leaves them, with a ``history.txt`` where one went another
way than its recipe; the commands of a card are those that the
recipe means, with the pictures in ``data/train`` and ``data/photos``.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from stream_sr.errors import StreamSRError
from stream_sr.model import ModelSpec, list_models
from stream_sr.train.card import write_card
from stream_sr.train.recipe import Recipe, load_recipe

QUALITY = Path(__file__).parent / "results" / "quality.json"


def commands(model: ModelSpec, recipe: Recipe) -> list[str]:
    """What made the model, in order."""
    run = f"runs/{model.name}-x{model.scale}"
    train = f"stream-sr train {recipe.name} --scale {model.scale} --data data/train --data data/photos --out {run}"
    if recipe.from_scale:
        train += f" --from runs/{model.name}-x{recipe.from_scale}/checkpoint.pt"
    folder = f"engines/{model.onnx.parent.name}"
    default = " --default" if model.default else ""
    return [
        train,
        f"stream-sr export {run}/checkpoint.pt {folder} --overwrite{default}",
        "python benchmarks/evaluate.py --data data/eval --record",
    ]


def evaluations(model: ModelSpec, quality: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The rows of this very ONNX file, by set."""
    digest = model.sha256()
    found: dict[str, list[dict[str, Any]]] = {}
    for row in quality["rows"]:
        if (row["model"], row["scale"], row["onnx_sha256"]) == (model.name, model.scale, digest):
            found.setdefault(row["set"], []).append(row | {"machine": quality["machine"]})
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR")
    parser.add_argument("--quality", type=Path, default=QUALITY, metavar="FILE")
    parsed = parser.parse_args()
    try:
        quality = json.loads(parsed.quality.read_text())
        for model in list_models():
            recipe = load_recipe(model.name, scale=model.scale)
            log = parsed.runs / f"{model.name}-x{model.scale}" / "log.jsonl"
            measured = evaluations(model, quality)
            history = log.with_name("history.txt")  # by hand, where a run went another way than its recipe
            card = write_card(
                model, recipe, log=log, evaluations=measured, commands=commands(model, recipe),
                history=history.read_text() if history.exists() else "",
            )  # fmt: skip
            print(f"{card.parent.name}/{card.name}" + ("" if measured else ": not measured yet"))
    except OSError as error:
        print(f"error: {error}; run python benchmarks/evaluate.py first", file=sys.stderr)
        return 1
    except StreamSRError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
