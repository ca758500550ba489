"""`python -m benchmarks NAME [options]`, from the root of the checkout: run one benchmark and write its record.

`python -m benchmarks --list` names them all, `python -m benchmarks NAME --help` the options of one. The exit code is 0,
1 where a target is missed or nothing could be measured, and that of the error where stream_sr raised one.
"""

from __future__ import annotations

import argparse
import ast
import sys
import time
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.interface import Benchmark, MeasurementFailed, Task
from benchmarks.record import DOCS, RESULTS, ROOT, make_record, read_record, write_record
from stream_sr.errors import StreamSRError
from stream_sr.system.machine import command_line

MODULES = {  # name: module; imported when it is run, so that each needs only its own libraries
    "overlap": "speed.overlap",
    "overhead": "speed.overhead",
    "precision": "speed.precision",
    "auto": "speed.auto",
    "quality": "quality.images",
    "cameras": "quality.cameras",
    "films": "quality.films",
    "tradeoff": "quality.tradeoff",
    "live": "latency.live",
    "page": "latency.page",
    "soak": "robustness.soak",
    "viewers": "robustness.viewers",
    "overload": "robustness.overload",
    "memory": "robustness.memory",
    "fuzz": "robustness.fuzz",
    "peers": "peers.benchmark",
    "gpu": "nvidia.suite",
    "gpu-layers": "nvidia.layers",
    "sweep": "training.sweep",
    "train-models": "training.train_models",
    "cards": "training.cards",
    "render": "render",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what ``arguments`` (those of the process) name; returns the exit code."""
    name, *words = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "--help", "--list"):
        print("\n".join([*([] if name == "--list" else [str(__doc__)]), *listing()]))
        return 0
    if name not in MODULES:
        print(f"error: no benchmark is named '{name}'; there are {', '.join(MODULES)}", file=sys.stderr)
        return 2
    try:
        entry, parser = open_entry(name)
        parsed = parser.parse_args(words)
        parsed.words = words
        return entry.run(parsed) if isinstance(entry, Task) else run_benchmark(name, entry, parsed)
    except ModuleNotFoundError as error:
        print(f"error: {name} needs the module {error.name}, which is not installed", file=sys.stderr)
        return 1
    except MeasurementFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except StreamSRError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def listing() -> Iterator[str]:
    """A line for each benchmark: its name and the first line of its module's docstring. Nothing is imported."""
    for name, module in MODULES.items():
        source = ROOT / "benchmarks" / f"{module.replace('.', '/')}.py"
        text = ast.get_docstring(ast.parse(source.read_text())) or ""
        yield f"{name:14}{text.splitlines()[0]}"


def open_entry(name: str) -> tuple[Benchmark | Task, argparse.ArgumentParser]:
    """The benchmark of this name and the parser of its options. Raises ModuleNotFoundError for a missing library."""
    module = import_module(f"benchmarks.{MODULES[name]}")
    entry: Benchmark | Task = module.ENTRY
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks {name}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    entry.add_options(parser)
    if isinstance(entry, Benchmark):
        parser.add_argument("--out", type=Path, default=RESULTS / f"{name}.json", metavar="FILE", help="of the record")
        if entry.plot is not None:
            parser.add_argument("--plot", type=Path, default=DOCS / entry.image, metavar="FILE")
            parser.add_argument("--redraw", action="store_true", help="only the plot, from the record that is there")
    return entry, parser


def run_benchmark(name: str, benchmark: Benchmark, parsed: argparse.Namespace) -> int:
    """Measure, write the record and the plot, and say which targets are missed."""
    if benchmark.plot is not None and parsed.redraw:
        try:
            record = read_record(parsed.out)
        except (OSError, ValueError) as error:
            raise MeasurementFailed(f"--redraw needs a record: {error}; run {name} without it first") from error
        benchmark.plot(record["result"], parsed.plot)
        return 0
    began = time.monotonic()
    measurement = benchmark.measure(parsed)
    if measurement is None:
        return 0
    command = shown_command(name, parsed)
    record = make_record(name, command, measurement.result, wall_seconds=time.monotonic() - began)
    write_record(parsed.out, record)
    print(f"wrote {parsed.out.name}; `make readme` renders the tables from it")
    if benchmark.plot is not None:
        benchmark.plot(measurement.result, parsed.plot)
    for missed in measurement.missed:
        print(f"missed: {missed}", file=sys.stderr)
    return 1 if measurement.missed else 0


def shown_command(name: str, parsed: argparse.Namespace) -> str:
    """The command as one would type it again, without passwords and without the paths of this machine.

    Input files and folders become FILE and DIR, so do other paths unless they are relative.
    """
    outputs = {"out", "plot"}
    private = [
        path
        for key, value in vars(parsed).items()
        for path in (value if isinstance(value, list) else [value])
        if isinstance(path, Path) and (key not in outputs or path.is_absolute())
    ]

    def shown(word: str) -> str:
        option, mark, value = word.partition("=") if word.startswith("--") else ("", "", word)
        if value and Path(value) in private:
            return f"{option}{mark}{'DIR' if Path(value).is_dir() else 'FILE'}"
        return word

    words: list[Any] = [shown(word) for word in parsed.words]
    return command_line(["python", "-m", "benchmarks", name, *words])
