"""``train``: one run, or with ``--sweep`` every combination."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stream_sr.cli.command import Command, CommandOptions
from stream_sr.cli.terminal import PollingLoop, StopSignals, check_folder, print_line, print_lines
from stream_sr.config.kinds import FILE, SWITCH, TEXT, choice, whole
from stream_sr.config.option import argument, option, required
from stream_sr.errors import ConfigError
from stream_sr.inference.model import WEIGHTS
from stream_sr.system.machine import pip_install

if TYPE_CHECKING:
    from stream_sr.training.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class TrainOptions(CommandOptions):
    recipe: str = argument(TEXT, "RECIPE", "fsrcnn, fast, tiny, ..., or a FILE.toml (see engines/*/card.md)")
    scale: int = option(2, whole(1, 4, "1|2|3|4"), "enlargement")
    weights: str = option(WEIGHTS[0], choice(*WEIGHTS), "pictures that it learns to enlarge")
    data: tuple[Path, ...] = required(FILE, "pictures; may be repeated", metavar="DIR", repeated=True)
    out: Path | None = option(None, FILE, "checkpoint and log", metavar="DIR", unset="runs/RECIPE-xSCALE")
    resume: bool = option(False, SWITCH, "go on from the checkpoint in --out")
    start_from: Path | None = option(None, FILE, "checkpoint to start from", name="from")
    teacher: Path | None = option(None, FILE, "checkpoint of a larger network to learn from as well")
    unlabelled: tuple[Path, ...] = option(
        (), FILE, "pictures for the teacher alone; may be repeated", metavar="DIR", repeated=True
    )
    sweep: tuple[str, ...] = option(
        (),
        TEXT,
        "train every combination, such as width=8,16 depth=2,4 kernel=3,5",
        metavar="NAME=N,N",
        several=True,
    )
    validate: tuple[str, ...] = option(
        (),
        TEXT,
        "picture in --data, without its ending, that chooses the best weights and is not learnt from; may be repeated",
        metavar="NAME",
        repeated=True,
        unset="those that the recipe names, and its shares of the folders that it names",
    )
    iterations: int | None = option(None, whole(1, 10**9), "instead of the recipe's")
    threads: int | None = option(None, whole(1, 1024), "CPU threads", unset="all cores")


def train_command(options: TrainOptions) -> int:
    need_training("torch", "onnx")
    from stream_sr.training.loop import train
    from stream_sr.training.material import holds_clips
    from stream_sr.training.plots import plot_curves
    from stream_sr.training.recipe import load_recipe

    recipe = load_recipe(
        options.recipe,
        scale=options.scale,
        weights=options.weights,
        iterations=options.iterations,
        validation_images=options.validate or None,
        shares={} if options.validate else None,  # they are of the folders of the recipe's own pictures
    )
    if options.validate and any(map(holds_clips, options.data)):
        raise ConfigError("--validate is for pictures; clips were told apart by `stream-sr clips --validate`")
    suffix = f"-{recipe.weights}" if recipe.weights != WEIGHTS[0] else ""
    out = options.out or Path("runs") / f"{recipe.name}{suffix}-x{recipe.scale}"
    check_folder(out)
    progress = _Progress(recipe)
    if options.sweep:
        out = options.out or Path("runs") / f"sweep-{recipe.name}{suffix}-x{recipe.scale}"
        return _sweep(options, recipe, out, progress.report)
    with StopSignals() as signals:
        signals.attach(PollingLoop())
        checkpoint = train(
            recipe,
            folders=options.data,
            out=out,
            resume=options.resume,
            start_from=options.start_from,
            teacher=options.teacher,
            unlabelled=options.unlabelled,
            threads=options.threads,
            stop=lambda: signals.count > 0,
            report=progress.report,
        )
    progress.close()
    print_line(checkpoint)
    if (out / "log.jsonl").exists():  # none before the first validation
        plot_curves(out / "log.jsonl", out / "curves.png")
        print_line(out / "curves.png")
    return 0


COMMAND = Command("train", "train a network; needs the extra [train]", TrainOptions, train_command)


class _Progress:
    """A progress bar on a terminal; elsewhere a line for each validation."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._bar: Any = None

    def report(self, row: dict[str, Any]) -> None:
        """An event of `training.loop.train`."""
        from tqdm import tqdm

        if row["event"] == "start":
            print_lines("\n".join(f"{key}: {value}" for key, value in row.items() if key != "event"))
            self._bar = tqdm(total=self._recipe.iterations, initial=row["first_iteration"], unit="it", disable=None)
        elif row["event"] == "validation":
            self._bar.update(row["iteration"] - self._bar.n)
            self._bar.set_postfix_str(f"PSNR {row['psnr']:.3f} dB, best {row['best_psnr']:.3f}")
            if self._bar.disable:
                text = f"loss {row['loss']:.6f}, PSNR {row['psnr']:.3f} dB"
                print_line(f"{row['iteration']} of {row['of']}: {text}")

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def _sweep(options: TrainOptions, recipe: Recipe, out: Path, report: Callable[[dict[str, Any]], None]) -> int:
    from stream_sr.training.sweep import format_sweep, parse_axes, plot_sweep, sweep

    axes = parse_axes(options.sweep)
    if options.resume or options.start_from or options.teacher or options.unlabelled:
        raise ConfigError(
            "a sweep goes on by itself and starts from nothing; leave out --resume, --from, --teacher and --unlabelled"
        )
    with StopSignals() as signals:
        signals.attach(PollingLoop())
        rows = sweep(
            recipe,
            axes,
            folders=options.data,
            out=out,
            threads=options.threads,
            stop=lambda: signals.count > 0,
            report=report,
        )
    print_lines(format_sweep(rows))
    if rows:
        print_line(plot_sweep(rows, out / "sweep.png"))
    return 0


def need_training(*names: str) -> None:
    """Raise ConfigError where one of these libraries is not installed."""
    from importlib.util import find_spec

    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise ConfigError(f"{' and '.join(missing)} not installed; training needs `{pip_install('stream-sr[train]')}`")
