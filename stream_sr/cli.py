"""The command line: the only place that knows everybody, handles signals and turns errors into exit codes."""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

from stream_sr.config import (
    ENGINE_OPTIONS,
    OUTPUT_OPTIONS,
    RUN_OPTIONS,
    SOURCE_OPTIONS,
    Config,
    Option,
    make_config,
    number,
    size,
)
from stream_sr.errors import ConfigError, PipelineStalled, StreamSRError

if TYPE_CHECKING:
    from stream_sr.backends.cache import Entry

EXIT_ABORTED = 130
PROGRAM = "stream-sr"
T = TypeVar("T")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code. ``arguments`` are those of the process when None."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = _parser()
    try:
        _answer_choices(words)
        parsed = parser.parse_args(words)
        _configure_log(parsed.verbose)
        return int(parsed.command(parsed))
    except _Said:
        return 0
    except StreamSRError as error:
        _flush()
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        if isinstance(error, PipelineStalled):
            os._exit(error.exit_code)  # a thread hangs in a library; a normal exit would wait for it
        return error.exit_code
    except _StoppedEarly:
        print(f"{PROGRAM}: stopped before the first frame", file=sys.stderr)
        return 0
    except KeyboardInterrupt:
        print(f"{PROGRAM}: stopped", file=sys.stderr)
        return EXIT_ABORTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whoever read our output has left
        return 0
    except Exception as error:
        if {"-v", "--verbose"} & set(words):
            raise
        where = " ".join(getattr(error, "__notes__", []))
        text = f"{type(error).__name__}: {error}" + (f" ({where})" if where else "")
        print(f"{PROGRAM}: this is a defect of ours: {text}; -v shows where", file=sys.stderr)
        return 1


class _Said(Exception):
    """``--option=help`` was answered."""


class _StoppedEarly(KeyboardInterrupt):
    """The first Ctrl-C came before there was a run to stop."""


def _answer_choices(words: Sequence[str]) -> None:
    """``--backend=help`` or ``--backend help`` lists what the option takes."""
    for option in RUN_OPTIONS:
        flag = f"--{option.name}"
        asked = f"{flag}=help" in words or any(pair == (flag, "help") for pair in pairwise(words))
        if not asked:
            continue
        if option.name == "model":
            print(_models_text())
        elif option.choices:
            print("\n".join(option.choices))
        else:
            print(f"{flag} {option.metavar or 'VALUE'}: {option.help}")
        raise _Said


# -- parser ------------------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """Errors as one line and exit code 2."""

    def error(self, message: str) -> Any:
        raise ConfigError(f"{message} (see `{self.prog} --help`)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog=PROGRAM, description="Real-time video super-resolution filter.")
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {_version()}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", parser_class=_Parser)

    def command(name: str, function: Callable[[argparse.Namespace], int], text: str, more: str = "") -> _Parser:
        sub: _Parser = commands.add_parser(
            name, help=text, description=text, epilog=more, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        sub.set_defaults(command=function)
        sub.add_argument("-v", "--verbose", action="store_true", help="more log lines, and tracebacks of defects")
        return sub

    sub = command("run", _run, "upscale a source into one or more sinks", _forms("SOURCE") + "\n" + _forms("SINK"))
    sub.add_argument("source", metavar="SOURCE")
    sub.add_argument("sinks", metavar="SINK", nargs="+")
    _add_run_options(sub)

    sub = command("preview", _preview, "show a source upscaled in a window", _forms("SOURCE"))
    sub.add_argument("source", metavar="SOURCE")
    _add_run_options(sub)

    sub = command("restream", _restream, "serve or publish a source at a higher resolution", _forms("SOURCE"))
    sub.add_argument("source", metavar="SOURCE")
    sub.add_argument("url", metavar="URL", help="rtsp://@:8654/path (served here) or rtsp://host/path (published)")
    _add_run_options(sub)

    sub = command("demo", _demo, "camera, filter and viewer on this machine, over real RTSP")
    sub.add_argument("--seconds", default="20", help="how long (default 20)")
    sub.add_argument(
        "--out", type=Path, default=Path("out"), metavar="DIR", help="for demo.mp4, before_after.png, report.json"
    )
    _add(sub, *ENGINE_OPTIONS)

    sub = command("bench", _bench, "measure the engine, or with SOURCE the whole filter", _forms("SOURCE"))
    sub.add_argument(
        "source", metavar="SOURCE", nargs="?", help="measure the pipeline on this; without it the engine alone"
    )
    sub.add_argument("sink", metavar="SINK", nargs="?", default="null:")
    sub.add_argument("--input-size", metavar="WxH", help="of the frames of the engine alone (default 640x360)")
    sub.add_argument("--seconds", help="how long (default 5 for the engine alone, else to the end of SOURCE)")
    _add_run_options(sub)

    sub = command("models", _models, "list the models")
    _add_json(sub)

    group = command("engine", _engine, "build, list or prune compiled engines")
    actions = group.add_subparsers(title="actions", required=True, metavar="ACTION", parser_class=_Parser)
    for action, text in (
        ("build", "compile a TensorRT engine, which needs no GPU"),
        ("list", "the compiled engines in the cache"),
        ("prune", "remove what nothing will ask for again"),
    ):
        sub = actions.add_parser(action, help=text, description=text)
        sub.set_defaults(action=action)
        if action == "build":
            sub.add_argument("--profile", metavar="WxH", default="640x360", help="usual input size (default 640x360)")
            sub.add_argument("--rebuild", action="store_true", help="even if it is in the cache")
            _add(sub, *ENGINE_OPTIONS)
        _add_json(sub)

    sub = command("doctor", _doctor, "what was found on this machine, what is missing and what mends it")
    _add_json(sub)

    sub = command("train", _train, "train a network; needs the extra [train]")
    sub.add_argument("recipe", metavar="RECIPE", help="fsrcnn, fsrcnn-s, or a FILE.toml")
    sub.add_argument("--scale", type=int, choices=(2, 3, 4), default=2)
    sub.add_argument(
        "--data", type=Path, action="append", required=True, metavar="DIR", help="pictures; may be repeated"
    )
    sub.add_argument("--out", type=Path, metavar="DIR", help="checkpoint and log (default runs/RECIPE-xSCALE)")
    sub.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    sub.add_argument(
        "--from", dest="start_from", type=Path, metavar="FILE", help="checkpoint of another scale to start from"
    )
    sub.add_argument("--iterations", type=int, help="instead of the recipe's")
    sub.add_argument("--threads", type=int, help="CPU threads")

    sub = command("export", _export, "turn a checkpoint into a model folder; needs the extra [train]")
    sub.add_argument("checkpoint", type=Path, metavar="CHECKPOINT")
    sub.add_argument("folder", type=Path, metavar="DIR", help="becomes model.onnx and model.toml")
    sub.add_argument("--name", help="of the model (default: the recipe's)")
    sub.add_argument("--default", action="store_true", help="make it the model that is used when none is named")
    sub.add_argument("--overwrite", action="store_true")

    sub = command("evaluate", _evaluate, "PSNR and SSIM of a model on folders of pictures")
    sub.add_argument("folder", type=Path, metavar="DIR")
    _add(sub, *ENGINE_OPTIONS)
    _add_json(sub)
    return parser


def _forms(word: str) -> str:
    """The address forms of SOURCE or SINK, for the end of a help text."""
    from stream_sr import sinks, sources

    forms = sources.ADDRESSES if word == "SOURCE" else sinks.ADDRESSES
    width = max(len(form) for form, _ in forms)
    return f"{word} is one of\n" + "\n".join(f"  {form:<{width}}  {text}" for form, text in forms) + "\n"


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    _add(parser, *RUN_OPTIONS)
    parser.add_argument("--overwrite", action="store_true", default=None, help="replace an existing output file")
    _add_json(parser)


def _add(parser: argparse.ArgumentParser, *options: Option) -> None:
    for group, title in ((ENGINE_OPTIONS, "engine"), (SOURCE_OPTIONS, "input"), (OUTPUT_OPTIONS, "output")):
        chosen = [option for option in options if option in group]
        if chosen:
            box = parser.add_argument_group(title)
            for option in chosen:
                metavar = option.metavar or "|".join(option.choices)
                box.add_argument(f"--{option.name}", dest=option.key, metavar=metavar, help=option.help)
    parser.add_argument("--config", type=Path, metavar="FILE.toml", help="options from a file")


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", metavar="FILE", help="write the report there (- for standard output)")


def _config(parsed: argparse.Namespace) -> Config:
    given = vars(parsed)
    flags = {
        option.key: option.read(given[option.key], f"--{option.name}")
        for option in RUN_OPTIONS
        if given.get(option.key) is not None
    }
    return make_config(flags | {"overwrite": given.get("overwrite")}, file=parsed.config)


# -- commands ----------------------------------------------------------------------------------------------------


def _run(parsed: argparse.Namespace) -> int:
    return _filter(parsed, parsed.sinks)


def _preview(parsed: argparse.Namespace) -> int:
    return _filter(parsed, ["window:"])


def _restream(parsed: argparse.Namespace) -> int:
    if not parsed.url.startswith("rtsp://"):
        raise ConfigError(
            f"'{parsed.url}' is not an RTSP address; give rtsp://@:8654/path to serve, rtsp://host/path to publish"
        )
    return _filter(parsed, [parsed.url])


def _filter(parsed: argparse.Namespace, sinks: Sequence[str]) -> int:
    from stream_sr.session import Hooks, run

    if parsed.json == "-" and "-" in sinks:
        raise ConfigError("the picture and --json cannot both go to standard output; give --json a file")
    _check_json(parsed.json)
    with _Interrupts() as interrupts:
        outcome = run(parsed.source, sinks, _config(parsed), Hooks(started=interrupts.attach))
    code = _end_of_run(parsed.json, outcome.report, outcome.error, interrupts)
    if code == 0 and "-" not in sinks and parsed.json != "-":
        logging.getLogger("stream_sr").info("%s", _closing_line(outcome.report))
    return code


def _end_of_run(json_to: str | None, report: Any, error: StreamSRError | None, interrupts: _Interrupts) -> int:
    """Write the report, whatever happened; then raise the run's error, or return its exit code."""
    _write_json(json_to, report)
    if interrupts.count > 1:
        if isinstance(error, PipelineStalled):
            _flush()
            os._exit(EXIT_ABORTED)  # a thread hangs in a library; the user wants to be gone
        return EXIT_ABORTED
    if error is not None:
        raise error
    return 0


def _closing_line(report: Mapping[str, Any]) -> str:
    from stream_sr.status import describe

    sizes = " > ".join(f"{report[side]['width']}x{report[side]['height']}" for side in ("source", "output"))
    return f"{report['frames_out']} of {report['frames_in']} frames  " + describe(sizes, report["fps"], dict(report))


class _Interrupts:
    """Ctrl-C and SIGTERM: the first stops softly, the second aborts. The handler takes no lock."""

    def __init__(self) -> None:
        self.count = 0
        self._pipeline: Any = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> _Interrupts:
        for which in (signal.SIGINT, signal.SIGTERM):
            self._before[which] = signal.signal(which, self._handle)
        return self

    def attach(self, pipeline: Any) -> None:
        self._pipeline = pipeline

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        if self._pipeline is None:
            raise _StoppedEarly if self.count == 1 else KeyboardInterrupt
        if self.count == 1:
            with suppress(OSError):
                os.write(2, b"\nstopping: what was captured is finished (Ctrl-C again stops now)\n")
            self._pipeline.stop()
        else:
            self._pipeline.abort()

    def __exit__(self, *error: object) -> None:
        for which, handler in self._before.items():
            signal.signal(which, handler)


def _demo(parsed: argparse.Namespace) -> int:
    from stream_sr.demo import demo

    seconds = Option("seconds", "", number(1, 86_400)).read(parsed.seconds, "--seconds")
    with _Interrupts() as interrupts:
        text = demo(parsed.out, seconds, _config(parsed), started=interrupts.attach)
    print(text)
    return EXIT_ABORTED if interrupts.count > 1 else 0


def _bench(parsed: argparse.Namespace) -> int:
    from stream_sr import bench
    from stream_sr.session import Hooks, choose_model, run

    config = _config(parsed)
    _check_json(parsed.json)
    seconds = Option("seconds", "", number(0.05, 86_400)).read(parsed.seconds or "5", "--seconds")
    if parsed.source is None:
        config.refuse(
            {option.key for option in SOURCE_OPTIONS + OUTPUT_OPTIONS} | {"overwrite"},
            "without SOURCE the engine alone runs",
        )
        width, height = Option("input-size", "", size).read(parsed.input_size or "640x360", "--input-size")
        model, scale = choose_model(config)
        result = bench.bench_engine(
            model, width, height, config.engine_options(depth=2), scale=scale or None, seconds=seconds,
            command=_command_line(),
        )  # fmt: skip
        _print_result(parsed.json, result, bench.format_trtexec)
        return 0
    if parsed.sink == "-":
        raise ConfigError("bench prints to standard output, so the picture cannot go there; use null: or a file")
    if parsed.input_size is not None:
        raise ConfigError("--input-size is for the engine alone; SOURCE brings its own size")
    if parsed.seconds is not None and config.duration is None:
        config = replace(config, duration=seconds)
    with _Interrupts() as interrupts:
        outcome = run(parsed.source, [parsed.sink], config, Hooks(started=interrupts.attach))
    report = outcome.report | {"command": _command_line()}
    if parsed.json != "-":
        print(bench.format_stages(report))
    return _end_of_run(parsed.json, report, outcome.error, interrupts)


def _models(parsed: argparse.Namespace) -> int:
    from stream_sr.catalog import models_table
    from stream_sr.model import list_models

    _print_result(parsed.json, {"models": models_table(list_models())}, lambda _: _models_text())
    return 0


def _models_text() -> str:
    from stream_sr.catalog import format_models, models_table
    from stream_sr.model import list_models

    return format_models(models_table(list_models()))


def _engine(parsed: argparse.Namespace) -> int:
    from stream_sr.backends import cache
    from stream_sr.catalog import format_engines

    if parsed.action == "list":
        entries = cache.engine_entries()
    elif parsed.action == "prune":
        entries = cache.prune()
    else:
        entries = [_build_engine(parsed)]
    rows = [
        {"file": entry.path.name, "bytes": entry.size_bytes, "key": asdict(entry.key) if entry.key else None}
        for entry in entries
    ]
    done = {"build": "built", "list": "", "prune": "removed"}[parsed.action]
    _print_result(parsed.json, {"action": parsed.action, "engines": rows}, lambda _: format_engines(entries, done))
    return 0


def _build_engine(parsed: argparse.Namespace) -> Entry:
    from stream_sr.backends import cache, tensorrt
    from stream_sr.session import choose_model

    config = _config(parsed)
    if config.backend not in ("auto", "tensorrt"):
        raise ConfigError(f"--backend {config.backend} compiles when it opens; `engine build` is for tensorrt")
    config.refuse({"threads"}, "TensorRT builds as it likes")
    usual = Option("profile", "", size).read(parsed.profile, "--profile")
    model, _ = choose_model(config)
    if model is None:
        raise ConfigError("`engine build` needs a model")
    precision = "fp16" if config.precision == "auto" else config.precision
    key, engine = tensorrt.build(
        model, precision, tensorrt.Profile(usual=usual), device=config.device, rebuild=parsed.rebuild
    )
    return cache.Entry(cache.entry_path(key), key, len(engine))


def _doctor(parsed: argparse.Namespace) -> int:
    from stream_sr import doctor

    report = doctor.examine()
    width = min(100, max(60, shutil.get_terminal_size().columns))
    color = doctor.wants_color(sys.stdout)
    _print_result(parsed.json, report, lambda found: doctor.format_findings(found, color=color, width=width))
    return 0


def _train(parsed: argparse.Namespace) -> int:
    _need_torch()
    from tqdm import tqdm

    from stream_sr.train.loop import train
    from stream_sr.train.plots import plot_curves
    from stream_sr.train.recipe import load_recipe

    recipe = load_recipe(parsed.recipe, scale=parsed.scale, iterations=parsed.iterations)
    out = parsed.out or Path("runs") / f"{recipe.name}-x{recipe.scale}"
    bar: Any = None

    def report(row: dict[str, Any]) -> None:
        nonlocal bar
        if row["event"] == "start":
            print("\n".join(f"{key}: {value}" for key, value in row.items() if key != "event"))
            bar = tqdm(total=recipe.iterations, initial=row["first_iteration"], unit="it", disable=None)
        elif row["event"] == "validation":
            bar.update(row["iteration"] - bar.n)
            bar.set_postfix_str(f"PSNR {row['psnr']:.3f} dB, best {row['best_psnr']:.3f}")
            if bar.disable:
                print(f"{row['iteration']} of {row['of']}: loss {row['loss']:.6f}, PSNR {row['psnr']:.3f} dB")

    with _Interrupts() as interrupts:
        interrupts.attach(_Stopper())
        checkpoint = train(
            recipe, folders=parsed.data, out=out, resume=parsed.resume, start_from=parsed.start_from,
            threads=parsed.threads, stop=lambda: interrupts.count > 0, report=report,
        )  # fmt: skip
    if bar is not None:
        bar.close()
    print(checkpoint)
    if (out / "log.jsonl").exists():  # none before the first validation
        plot_curves(out / "log.jsonl", out / "curves.png")
        print(out / "curves.png")
    return 0


class _Stopper:
    """Stands where a pipeline would: the training loop asks the interrupt count itself."""

    def stop(self) -> None:
        pass

    def abort(self) -> None:
        raise KeyboardInterrupt


def _export(parsed: argparse.Namespace) -> int:
    _need_torch()
    from stream_sr.train.export import export_checkpoint

    if (parsed.folder / "model.onnx").exists() and not parsed.overwrite:
        raise ConfigError(f"{parsed.folder} holds a model already; give --overwrite to replace it")
    model = export_checkpoint(parsed.checkpoint, parsed.folder, name=parsed.name, default=parsed.default)
    print(f"{model.onnx}: {model.name} x{model.scale}, {model.parameters} parameters")
    return 0


def _need_torch() -> None:
    from importlib.util import find_spec

    missing = [name for name in ("torch", "onnx") if find_spec(name) is None]
    if missing:
        raise ConfigError(f"{' and '.join(missing)} not installed; training needs `pip install 'stream-sr[train]'`")


def _evaluate(parsed: argparse.Namespace) -> int:
    from stream_sr.evaluate import evaluate, format_table
    from stream_sr.session import choose_model

    config = _config(parsed)
    model, scale = choose_model(config)
    result = evaluate(
        model, parsed.folder, config.engine_options(depth=1), scale=scale or None, command=_command_line()
    )
    _print_result(parsed.json, result, format_table)
    return 0


# -- output ------------------------------------------------------------------------------------------------------


def _print_result(json_to: str | None, result: T, text: Callable[[T], str]) -> None:
    """Text to standard output, unless the JSON goes there."""
    _write_json(json_to, result)
    if json_to != "-":
        print(text(result))


def _check_json(to: str | None) -> None:
    """Refuse a place that cannot be written, before a long run rather than after it. Raises ConfigError."""
    if to in (None, "-"):
        return
    path = Path(to)
    if path.is_dir() or not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
        raise ConfigError(f"--json {to} cannot be written; give a file in a folder that exists")


def _write_json(to: str | None, result: Any) -> None:
    if to is None:
        return
    text = json.dumps(result, indent=2) + "\n"
    if to == "-":
        sys.stdout.write(text)
        return
    _check_json(to)
    try:
        Path(to).write_text(text)
    except OSError as error:  # the disk may be full by now: the run's own outcome counts more
        logging.getLogger("stream_sr").error("--json %s cannot be written: %s", to, error.strerror)


def _command_line() -> str:
    """The command as a person would type it again, for reports."""
    from stream_sr.machine import command_line

    return command_line([PROGRAM, *sys.argv[1:]])


def _configure_log(verbose: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    logging.getLogger("stream_sr").setLevel(logging.DEBUG if verbose else logging.INFO)


class _Formatter(logging.Formatter):
    """``stream-sr: warning: text``; plain for information."""

    def format(self, record: logging.LogRecord) -> str:
        kind = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        return f"{PROGRAM}: {kind}{record.getMessage()}"


def _flush() -> None:
    with _ignore_broken_pipe():
        sys.stdout.flush()


@contextmanager
def _ignore_broken_pipe() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("stream-sr")
    except PackageNotFoundError:
        return "(not installed)"


if __name__ == "__main__":
    sys.exit(main())
