"""A sweep: the same recipe for every combination of kernel, width and depth, so that the choice is an experiment."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from stream_sr.errors import ConfigError
from stream_sr.evaluation.plots import new_figure, save_figure
from stream_sr.networks.layers import collapse
from stream_sr.system.machine import describe
from stream_sr.training.export import count_macs, count_parameters
from stream_sr.training.loop import CHECKPOINT, check_same, load_checkpoint, make_network, train
from stream_sr.training.recipe import Recipe


def parse_axes(texts: Sequence[str]) -> dict[str, list[int]]:
    """``["width=8,16", "depth=2,4"]`` as values by argument of the network. Raises ConfigError."""
    axes: dict[str, list[int]] = {}
    for text in texts:
        name, _, values = text.partition("=")
        if not (name and re.fullmatch(r"\d+(,\d+)*", values)):
            raise ConfigError(f"--sweep {text}: expected NAME=NUMBER,NUMBER,... such as width=8,16")
        if name in axes:
            raise ConfigError(f"--sweep {name} is given twice; give all its values at once, with commas")
        axes[name] = list(dict.fromkeys(int(value) for value in values.split(",")))
    return axes


def sweep(
    recipe: Recipe,
    axes: Mapping[str, Sequence[int]],
    *,
    folders: Sequence[Path],
    out: Path,
    threads: int | None = None,
    stop: Callable[[], bool] = lambda: False,
    report: Callable[[dict[str, Any]], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """Train every combination of ``axes`` (arguments of the recipe's network) in a folder of ``out``; resumable.

    Returns a row each: the arguments, ``parameters``, ``macs_per_pixel`` (per input pixel) and ``psnr`` (best on the
    validation set, dB), best PSNR last; also written to ``out/sweep.json``. Rows of runs that ``stop`` cut short are
    left out. Each starts from fresh weights, whatever the recipe says. Raises ConfigError for a combination that cannot
    be built, before the first is trained.
    """
    recipe = replace(recipe, from_scale=None)  # each combination starts from nothing
    chosen_all = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
    recipes = [replace(recipe, network=recipe.network | chosen) for chosen in chosen_all]
    networks = [make_network(changed) for changed in recipes]  # before hours are spent on the first
    rows = []
    for chosen, changed, network in zip(chosen_all, recipes, networks, strict=True):
        collapse(network)
        folder = out / "-".join(f"{name}{value}" for name, value in chosen.items())
        checkpoint = folder / CHECKPOINT
        if not checkpoint.exists() or _iterations(checkpoint) < changed.iterations:
            train(
                changed,
                folders=folders,
                out=folder,
                resume=checkpoint.exists(),
                threads=threads,
                stop=stop,
                report=report,
            )
        state = load_checkpoint(checkpoint)
        check_same(state["recipe"], changed, checkpoint)
        if state["iteration"] > changed.iterations:
            raise ConfigError(
                f"{checkpoint} has had {state['iteration']:,} iterations, the sweep asks for {changed.iterations:,}; "
                "give another --out"
            )
        if state["iteration"] < changed.iterations:
            break
        figures = {"parameters": count_parameters(network), "macs_per_pixel": count_macs(network)}
        rows.append(chosen | figures | {"psnr": round(state["best_psnr"], 4)})
    rows.sort(key=lambda row: row["psnr"])
    words = [f"{name}={','.join(map(str, values))}" for name, values in axes.items()]
    command = f"stream-sr train {recipe.name} --scale {recipe.scale} --weights {recipe.weights} --data DIR"
    command += f" --iterations {recipe.iterations} --sweep {' '.join(words)}"
    result = {"recipe": recipe.name, "scale": recipe.scale, "command": command, "machine": describe(), "rows": rows}
    (out / "sweep.json").write_text(json.dumps(result, indent=1) + "\n")
    return rows


def format_sweep(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as a table of plain text; a star marks those that nothing with fewer MACs reaches."""
    if not rows:
        return "no run of the sweep is complete"
    names = list(rows[0])
    lines = ["  " + "  ".join(f"{name:>{max(8, len(name))}}" for name in names)]
    for row in rows:
        best = all(row["psnr"] > other["psnr"] for other in rows if other["macs_per_pixel"] < row["macs_per_pixel"])
        cells = [f"{row[name]:.3f}" if name == "psnr" else f"{row[name]:,}" for name in names]
        lines.append(
            ("* " if best else "  ")
            + "  ".join(f"{cell:>{max(8, len(name))}}" for name, cell in zip(names, cells, strict=True))
        )
    return "\n".join([*lines, "* no run with fewer multiplications per input pixel is better"])


def plot_sweep(rows: Sequence[Mapping[str, Any]], out: Path) -> Path:
    """PSNR against multiplications per input pixel, as a PNG. Raises ConfigError without matplotlib."""

    figure = new_figure(8, 5)
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter  # there: new_figure says if not

    axes = figure.subplots()
    axes.scatter([row["macs_per_pixel"] for row in rows], [row["psnr"] for row in rows])
    names = [name for name in rows[0] if name not in ("parameters", "macs_per_pixel", "psnr")] if rows else []
    short = {name: name[0] if len({other[0] for other in names}) == len(names) else f"{name} " for name in names}
    for row in rows:
        words = " ".join(f"{short[name]}{row[name]}" for name in names)
        place = (row["macs_per_pixel"], row["psnr"])
        axes.annotate(words, place, xytext=(6, 3), textcoords="offset points", fontsize=8)
    axes.set_title(", ".join(f"{short[name].strip()}: {name}" for name in names), fontsize=9, loc="left")
    axes.set_xscale("log")
    axes.margins(x=0.12)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("multiplications per input pixel")
    axes.set_ylabel("PSNR on the validation set, dB")
    axes.grid(visible=True, alpha=0.3)
    return save_figure(figure, out)


def _iterations(checkpoint: Path) -> int:
    return int(load_checkpoint(checkpoint)["iteration"])
