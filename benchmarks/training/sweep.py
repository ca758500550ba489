"""Kernel, width and depth of a recipe in every combination, equally short: the experiment behind the shipped form.

    python -m benchmarks sweep --data DIR [--recipe fast] [--scale 2] [--iterations 2500]
        [--axes width=8,16 depth=2,4,6 kernel=3,5] [--runs runs/sweep]

The same as `stream-sr train RECIPE --sweep`, with a record. It goes on where it stopped.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.interface import Benchmark, Measurement
from stream_sr.training.recipe import load_recipe
from stream_sr.training.sweep import format_sweep, parse_axes, plot_sweep, sweep


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, action="append", required=True, metavar="DIR")
    parser.add_argument("--recipe", default="fast")
    parser.add_argument("--scale", type=int, default=2)
    parser.add_argument("--iterations", type=int, default=2500)
    parser.add_argument("--axes", nargs="+", default=["width=8,16", "depth=2,4,6", "kernel=3,5"], metavar="NAME=N,...")
    parser.add_argument("--runs", type=Path, default=Path("runs") / "sweep", metavar="DIR")


def measure(parsed: argparse.Namespace) -> Measurement:
    recipe = load_recipe(parsed.recipe, scale=parsed.scale, iterations=parsed.iterations)
    rows = sweep(recipe, parse_axes(parsed.axes), folders=parsed.data, out=parsed.runs)
    print(format_sweep(rows))
    return Measurement({"recipe": recipe.name, "scale": recipe.scale, "rows": rows})


def plot(result: Mapping[str, Any], out: Path) -> Path:
    return plot_sweep(result["rows"], out)


ENTRY = Benchmark(add_options=add_options, measure=measure, plot=plot, image="sweep.png")
