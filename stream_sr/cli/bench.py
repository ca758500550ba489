"""``bench`` and ``bench compare``: what the words mean, the progress bar, Ctrl-C, and where the figures go."""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count, product
from pathlib import Path
from typing import Any

from stream_sr.cli.commands import EXIT_ABORTED
from stream_sr.cli.terminal import Interrupts, StoppedEarly, Stopper, check_file, check_json, command_line, print_result
from stream_sr.config import RUN_OPTIONS, Config, Option, make_config, number, size, whole
from stream_sr.errors import ConfigError

EXIT_MISSED = 7


def bench_command(parsed: argparse.Namespace) -> int:
    from stream_sr.bench.report import format_result
    from stream_sr.bench.sweep import DEFAULT_SIZE, Sweep, choose_kind, run_sweep

    check_json(parsed.json)
    kind = choose_kind(parsed.mode, parsed.source, parsed.sink)
    if parsed.sizes is not None and parsed.source is not None:
        raise ConfigError("--size is of the pictures that bench makes itself; SOURCE brings its own")
    sweep = Sweep(
        kind=kind,
        configs=sweep_configs(parsed),
        source=parsed.source,
        sink=parsed.sink,
        sizes=[Option("size", "", size).read(text, "--size") for text in split(parsed.sizes)] or [DEFAULT_SIZE],
        rounds=_read("rounds", parsed.rounds, whole(1, 1000)),
        command=command_line(),
        seconds=_read("seconds", parsed.seconds, number(0.05, 86_400)),
    )
    if parsed.plot is not None:
        check_plot(parsed.plot)
    with Interrupts() as interrupts, tempfile.TemporaryDirectory() as folder, quiet(parsed.verbose), bar() as begin:
        interrupts.attach(Stopper())
        result = run_sweep(
            sweep, Path(folder), stop=lambda: interrupts.count > 0, attach=interrupts.attach, begin=begin
        )
    if not result["rows"]:
        raise StoppedEarly
    print_result(parsed.json, result, format_result)
    if parsed.plot is not None:
        from stream_sr.bench.plot import plot_result

        plot_result(result, parsed.plot)
    failed = [int(row["exit_code"]) for row in result["rows"] if "error" in row]
    return EXIT_ABORTED if interrupts.count > 1 else next(iter(failed), 0)


def compare_command(parsed: argparse.Namespace) -> int:
    from stream_sr.bench.comparison import compare, format_comparison, missed, read_result

    check_json(parsed.json)
    limit = _read("fail-over", parsed.fail_over, number(0, 1e6))
    comparison = compare(read_result(parsed.first), read_result(parsed.second))
    apart = comparison["machines"] + comparison["settings"]
    if limit is not None and apart and not parsed.force:
        raise ConfigError(
            f"--fail-over means nothing between different machines or settings ({'; '.join(apart)}); "
            "measure again under the same, leave --fail-over out, or give --force"
        )
    worse = [] if limit is None else missed(comparison, limit)
    print_result(parsed.json, comparison | {"missed": worse}, format_comparison)
    if not worse:
        return 0
    logging.getLogger("stream_sr").error("worse by more than %g %%, or no longer there: %s", limit, "; ".join(worse))
    return EXIT_MISSED


def sweep_configs(parsed: argparse.Namespace) -> list[Config]:
    """A config for every combination of the lists that were given; bicubic, which knows no model, only once."""
    from stream_sr.bench.sweep import SWEPT

    given = vars(parsed)
    options = {option.key: option for option in RUN_OPTIONS if given.get(option.key) is not None}
    lists = [
        [(key, option.read(word, f"--{option.name}")) for word in split(given[key])]
        for key, option in options.items()
        if key in SWEPT
    ]
    fixed = {key: one.read(given[key], f"--{one.name}") for key, one in options.items() if key not in SWEPT}
    fixed["overwrite"] = given.get("overwrite")
    several = max(map(len, lists), default=1) > 1
    configs: list[Config] = []
    for chosen in product(*lists):
        flags = fixed | dict(chosen)
        if several and flags.get("backend") == "bicubic":
            flags = {key: value for key, value in flags.items() if key not in ("model", "precision", "weights")}
        config = make_config(flags, file=parsed.config)
        if config not in configs:
            configs.append(config)
    return configs


def split(text: str | None) -> list[str]:
    """The parts of a comma list; none for none. Raises ConfigError for an empty part."""
    parts = [] if text is None else [part.strip() for part in text.split(",")]
    if "" in parts:
        raise ConfigError(f"'{text}' has an empty part; write a list like tiny,fast")
    return parts


def _read(name: str, text: str | None, parse: Callable[[str], Any]) -> Any:
    return None if text is None else Option(name, "", parse).read(text, f"--{name}")


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
