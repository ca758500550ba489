"""``bench``: what is measured, the progress bar, Ctrl-C, and where the figures go."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count, product
from pathlib import Path
from typing import Any

from stream_sr.bench.defaults import DEFAULT_SIZE, KINDS, ROUNDS, SECONDS, SWEPT
from stream_sr.cli.command import EXIT_ABORTED, Command, ConfigOptions, JsonOptions
from stream_sr.cli.terminal import (
    PollingLoop,
    StoppedBeforeStart,
    StopSignals,
    check_file,
    check_json,
    command_line,
    print_result,
)
from stream_sr.config import Config, make_config
from stream_sr.config.kinds import ADDRESS, FILE, SIZE, choice, number, whole
from stream_sr.config.option import Group, argument, option
from stream_sr.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class BenchOptions(ConfigOptions, JsonOptions):
    """``flags`` holds a tuple for each option in `SWEPT`."""

    source: str | None = argument(ADDRESS, "SOURCE", "without it the engine alone, or --mode", default=None)
    sink: str = argument(ADDRESS, "SINK", "a file, or nowhere", default="null:")
    mode: str | None = option(
        None,
        choice(*KINDS),
        "pipeline: a file as fast as it goes; live: by the clock, with latency and drops; without SOURCE on a test "
        "picture",
        unset="what suits SOURCE",
    )
    sizes: tuple[tuple[int, int], ...] = option(
        (),
        SIZE,
        "of the input, without SOURCE",
        name="size",
        comma_list=True,
        unset=f"{DEFAULT_SIZE[0]}x{DEFAULT_SIZE[1]}",
    )
    rounds: int | None = option(
        None, whole(1, 1000), "in turns, after a warm-up", unset=f"{ROUNDS['engine']} for engine, else {ROUNDS['live']}"
    )
    seconds: float | None = option(
        None,
        number(0.05, 86_400),
        "of a round",
        unset=f"{SECONDS['engine']:g} for engine, {SECONDS['live']:g} for live, else to the end of SOURCE",
    )
    plot: Path | None = option(None, FILE, "draw the figures; needs the extra [plot]", metavar="FILE.png")


def bench_command(options: BenchOptions) -> int:
    from stream_sr.bench.report import format_result
    from stream_sr.bench.sweep import Sweep, choose_kind, run_sweep

    check_json(options.json)
    kind = choose_kind(options.mode, options.source, options.sink)
    if options.sizes and options.source is not None:
        raise ConfigError("--size is of the pictures that bench makes itself; SOURCE brings its own")
    sweep = Sweep(
        kind=kind,
        configs=sweep_configs(options),
        source=options.source,
        sink=options.sink,
        sizes=options.sizes or [DEFAULT_SIZE],
        rounds=options.rounds,
        command=command_line(),
        seconds=options.seconds,
    )
    if options.plot is not None:
        check_plot(options.plot)
    with StopSignals() as signals, tempfile.TemporaryDirectory() as folder, quiet(options.verbose), bar() as begin:
        signals.attach(PollingLoop())
        result = run_sweep(sweep, Path(folder), stop=lambda: signals.count > 0, attach=signals.attach, begin=begin)
    if not result["rows"]:
        raise StoppedBeforeStart
    print_result(options.json, result, format_result)
    if options.plot is not None:
        from stream_sr.bench.plot import plot_result

        plot_result(result, options.plot)
    failed = [int(row["exit_code"]) for row in result["rows"] if "error" in row]
    return EXIT_ABORTED if signals.count > 1 else next(iter(failed), 0)


COMMAND = Command(
    "bench",
    "measure the engine, the whole filter, or a live picture",
    BenchOptions,
    bench_command,
    groups=(Group.ENGINE, Group.INPUT, Group.OUTPUT),
    without=("size",),
    lists=SWEPT,
    notes="--model, --scale, --backend, --precision and --size take lists:\n"
    "--model tiny,fast --size 640x360,1280x720\n\n"
    "Two results of --json are compared by `stream-sr bench compare A.json B.json`.\n",
    addresses=("SOURCE",),
)


def sweep_configs(options: BenchOptions) -> list[Config]:
    """A config for every combination of the lists that were given; bicubic, which knows no model, only once."""
    swept = {key: value for key, value in options.flags.items() if key in SWEPT}
    several = max(map(len, swept.values()), default=1) > 1
    configs: list[Config] = []
    for chosen in product(*swept.values()):
        flags = dict(options.flags) | dict(zip(swept, chosen, strict=True))
        if several and flags.get("backend") == "bicubic":
            flags = {key: value for key, value in flags.items() if key not in ("model", "precision", "weights")}
        config = make_config(flags, file=options.config)
        if config not in configs:
            configs.append(config)
    return configs


def check_plot(out: Path) -> None:
    """Refuse a plot that could not be drawn, before a long run rather than after it. Raises ConfigError."""
    from stream_sr.evaluation.plots import new_figure

    new_figure(1, 1)
    check_file("--plot", out)


@contextmanager
def bar() -> Iterator[Callable[[int], Callable[[str], None]]]:
    """A progress bar with the time left, on a terminal; nothing elsewhere."""
    from tqdm import tqdm

    shown: list[Any] = []

    def begin(steps: int) -> Callable[[str], None]:
        progress = tqdm(total=steps, unit=" rounds", disable=None, leave=False, dynamic_ncols=True)
        shown.append(progress)
        counts = count(-1)  # a step is announced when it begins, so that the one before is done

        def step(label: str) -> None:
            progress.update(min(1, next(counts) + 1))
            progress.set_description(label)

        return step

    try:
        yield begin
    finally:
        for progress in shown:
            progress.close()


@contextmanager
def quiet(verbose: bool) -> Iterator[None]:
    """Each run announces itself in the log, which many rounds would fill; with -v it does."""
    log = logging.getLogger("stream_sr")
    level = log.level
    if not verbose:
        log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        log.setLevel(level)
