"""The command line: the parser, and the one place where errors become a line and an exit code."""

from __future__ import annotations

import argparse
import errno
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

from stream_sr.cli import bench, commands
from stream_sr.cli.parser import Parser, reading
from stream_sr.cli.terminal import StoppedEarly, complain, configure_log, flush, prepare_streams, say_lines
from stream_sr.config import (
    DISPLAY_OPTIONS,
    ENGINE_OPTIONS,
    OUTPUT_OPTIONS,
    RUN_OPTIONS,
    SOURCE_OPTIONS,
    Option,
    switch,
    whole,
)
from stream_sr.errors import PipelineStalled, SinkWriteError, StreamSRError
from stream_sr.inference.model import WEIGHTS
from stream_sr.system.machine import PROGRAM
from stream_sr.system.printable import printable, printable_lines

BENCH_COMPARE = "bench compare"  # a command of two words; a source named compare is ./compare
EXAMPLES = f"""\
to begin with:
  {PROGRAM} doctor                                        what this machine has
  {PROGRAM} preview 0 --web 8080                          a webcam, before and after in the browser
  {PROGRAM} restream rtsp://CAMERA/x rtsp://@:8654/sr     a camera, served at twice the size
  {PROGRAM} run FILM.mp4 LARGE.mp4                        a file, with its sound

`{PROGRAM} COMMAND --help` lists the options of a command."""
MODES = ("engine", "pipeline", "live")
SEE_BELOW = "an address: see below"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code. ``arguments`` are those of the process when None."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if " ".join(words[:2]) == BENCH_COMPARE:
        words[:2] = [BENCH_COMPARE]
    prepare_streams()
    try:
        parser = _parser()
        _answer_choices(words)
        parsed, unknown = parser.parse_known_args(words)
        parsed.parser.refuse_unknown(unknown)
        configure_log(parsed.verbose)
        return int(parsed.command(parsed))
    except _Said:
        return 0
    except StreamSRError as error:
        flush()
        complain(f"error: {error}")
        if isinstance(error, PipelineStalled):
            os._exit(error.exit_code)  # a thread hangs in a library; a normal exit would wait for it
        return error.exit_code
    except StoppedEarly:
        complain("stopped before the first frame")
        return 0
    except KeyboardInterrupt:
        complain("stopped")
        return commands.EXIT_ABORTED
    except BrokenPipeError:
        _forget_stdout()  # whoever read our output has left
        return 0
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EIO, errno.EBADF):
            return _report_internal_error(error, words)
        with suppress(OSError):
            complain(f"error: standard output cannot be written: {error.strerror}")
        _forget_stdout()
        return SinkWriteError.exit_code
    except Exception as error:
        return _report_internal_error(error, words)


def _forget_stdout() -> None:
    """What is still buffered cannot be written; the interpreter must not try it again when it ends."""
    with suppress(OSError, AttributeError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _report_internal_error(error: Exception, words: Sequence[str]) -> int:
    """An error of ours: one line, or with -v where."""
    if {"-v", "--verbose"} & set(words):
        print(printable_lines("".join(traceback.format_exception(error)).rstrip()), file=sys.stderr)
        return 1
    where = " ".join(getattr(error, "__notes__", []))
    text = printable(f"{type(error).__name__}: {error}" + (f" ({where})" if where else ""))
    print(f"{PROGRAM}: internal error: {text}; -v shows where", file=sys.stderr)
    return 1


class _Said(Exception):
    """``--option=help`` was answered."""


def _answer_choices(words: Sequence[str]) -> None:
    """``--backend=help`` or ``--backend help`` lists what the option takes."""
    for option in RUN_OPTIONS:
        flag = f"--{option.name}"
        asked = f"{flag}=help" in words or any(pair == (flag, "help") for pair in pairwise(words))
        if not asked:
            continue
        if option.name == "model":
            say_lines(commands.models_text())
        elif option.choices:
            print("\n".join(option.choices))
        else:
            print(f"{flag} {option.metavar or 'VALUE'}: {option.help}")
        raise _Said


def _parser() -> argparse.ArgumentParser:
    source = _forms("SOURCE")
    parser = Parser(prog=PROGRAM, description="Real-time video super-resolution filter.", epilog=EXAMPLES)
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {_version()}")
    names = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", parser_class=Parser)

    def command(name: str, function: Callable[[argparse.Namespace], int], text: str, more: str = "") -> Parser:
        sub: Parser = names.add_parser(name, help=text, description=text, epilog=more)
        sub.set_defaults(command=function)
        _add_verbose(sub, default=False)
        return sub

    sub = command(
        "run", commands.run_command, "upscale a source into one or more sinks", source + "\n" + _forms("SINK")
    )
    sub.add_argument("source", metavar="SOURCE", help=SEE_BELOW)
    sub.add_argument("sinks", metavar="SINK", nargs="+", help="one or more, encoded once")
    _add_run_options(sub)
    _add_metrics(sub)

    sub = command("preview", commands.preview_command, "show a source upscaled in a window, or in the browser", source)
    sub.add_argument("source", metavar="SOURCE", help=SEE_BELOW)
    sub.add_argument("--web", metavar="[HOST:]PORT", help="serve a page for browsers instead of a window")
    _add_run_options(sub)
    _add_metrics(sub)

    sub = command("restream", commands.restream_command, "serve or publish a source at a higher resolution", source)
    sub.add_argument("source", metavar="SOURCE", help=SEE_BELOW)
    sub.add_argument("url", metavar="URL", help="rtsp://@:8654/path (served here) or rtsp://host/path (published)")
    _add_run_options(sub)
    _add_metrics(sub)

    sub = command("serve", commands.serve_command, "many streams in one process; SIGHUP reads the file again")
    sub.add_argument("file", type=Path, metavar="FILE.toml", help="[camera.NAME] with source, sinks and options each")
    sub.add_argument("--check", action="store_true", help="read the file, say what it means, and end")
    _add_metrics(sub)

    sub = command(
        "latency", commands.latency_command, "glass to glass through a camera, the filter and a viewer, stage by stage"
    )
    sub.add_argument("source", metavar="SOURCE", nargs="?", help="synthetic:..., or a camera that shows its clock")
    sub.add_argument("sink", metavar="SINK", nargs="?", help="rtsp://@:PORT/PATH, rtsp://HOST/PATH or null:")
    sub.add_argument("--seconds", default="10", help="how long (default 10)")
    _add_run_options(sub)

    sub = command("demo", commands.demo_command, "camera, filter and viewer on this machine, over real RTSP")
    sub.add_argument("--seconds", default="20", help="how long (default 20)")
    sub.add_argument(
        "--out", type=Path, default=Path("out"), metavar="DIR", help="for demo.mp4, before_after.png, report.json"
    )
    _add(sub, *ENGINE_OPTIONS)

    sub = command(
        "bench",
        bench.bench_command,
        "measure the engine, the whole filter, or a live picture",
        "--model, --scale, --backend, --precision and --size take lists: --model tiny,fast --size 640x360,1280x720\n\n"
        "Two results of --json are compared by `stream-sr bench compare A.json B.json`.\n\n" + source,
    )
    sub.add_argument("source", metavar="SOURCE", nargs="?", help="without it the engine alone, or --mode")
    sub.add_argument("sink", metavar="SINK", nargs="?", default="null:", help="null: (the default) or a file")
    sub.add_argument(
        "--mode",
        type=reading("mode", choices=MODES),
        metavar="|".join(MODES),
        help="pipeline: a file as fast as it goes; live: by the clock, with latency and drops; without SOURCE on a "
        "test picture (default: what suits SOURCE)",
    )
    sub.add_argument("--size", dest="sizes", metavar="WxH", help="of the input, without SOURCE (default 640x360)")
    sub.add_argument("--rounds", metavar="N", help="in turns, after a warm-up (default: engine 5, else 3)")
    sub.add_argument("--seconds", help="of a round (default: engine 1, live 5, else to the end of SOURCE)")
    sub.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the figures; needs the extra [plot]")
    _add(sub, *(option for option in ENGINE_OPTIONS + SOURCE_OPTIONS + OUTPUT_OPTIONS if option.name != "size"))
    sub.add_argument("--overwrite", action="store_true", default=None, help="replace an existing output file")
    _add_json(sub)

    sub = command(BENCH_COMPARE, bench.compare_command, "two results of `bench --json`, side by side")
    sub.add_argument("first", type=Path, metavar="A.json", help="the measurement to judge by")
    sub.add_argument("second", type=Path, metavar="B.json", help="the one to judge")
    sub.add_argument(
        "--fail-over",
        metavar="PERCENT",
        help="exit with 7 where B is slower by more (fps; of live results later, p99), or lacks what A has",
    )
    sub.add_argument("--force", action="store_true", help="judge even between different machines or settings")
    _add_json(sub)

    sub = command("models", commands.models_command, "list the models")
    sub.add_argument(
        "--measure", action="store_true", help="time each of them on this machine first, half a second each"
    )
    _add_json(sub)

    group = command("engine", commands.engine_command, "build, list or prune compiled engines")
    actions = group.add_subparsers(title="actions", required=True, metavar="ACTION", parser_class=Parser)
    for action, text in (
        ("build", "compile TensorRT engines for one picture size; with TensorRT-RTX that needs no GPU"),
        ("list", "the compiled engines in the cache"),
        ("prune", "remove what nothing will ask for again"),
    ):
        sub = actions.add_parser(action, help=text, description=text)
        sub.set_defaults(action=action)
        _add_verbose(sub, default=argparse.SUPPRESS)
        if action == "build":
            sub.add_argument("--input-size", metavar="WxH", default="640x360", help="of the frames (default 640x360)")
            sub.add_argument("--rebuild", action="store_true", help="even if it is in the cache")
            _add(sub, *ENGINE_OPTIONS)
        _add_json(sub)

    sub = command("doctor", commands.doctor_command, "what this machine has, what is missing and what mends it")
    _add_json(sub)

    sub = command("train", commands.train_command, "train a network; needs the extra [train]")
    sub.add_argument("recipe", metavar="RECIPE", help="fsrcnn, fast, tiny, ..., or a FILE.toml (see engines/*/card.md)")
    _add_scale_and_weights(sub, WEIGHTS[0], "pictures that it learns to enlarge (default clean)")
    sub.add_argument(
        "--data", type=Path, action="append", required=True, metavar="DIR", help="pictures; may be repeated"
    )
    sub.add_argument("--out", type=Path, metavar="DIR", help="checkpoint and log (default runs/RECIPE-xSCALE)")
    sub.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    sub.add_argument("--from", dest="start_from", type=Path, metavar="FILE", help="checkpoint to start from")
    sub.add_argument(
        "--teacher", type=Path, metavar="FILE", help="checkpoint of a larger network to learn from as well"
    )
    sub.add_argument(
        "--unlabelled", type=Path, action="append", default=[], metavar="DIR", help="pictures for the teacher alone"
    )
    sub.add_argument(
        "--sweep",
        nargs="+",
        metavar="NAME=N,N",
        help="train every combination, such as width=8,16 depth=2,4 kernel=3,5",
    )
    sub.add_argument(
        "--validate",
        action="append",
        metavar="NAME",
        help="picture in --data, without its ending, that chooses the best weights and is not learnt from; "
        "may be repeated (default: those that the recipe names, and its shares of the folders that it names)",
    )
    sub.add_argument(
        "--iterations", type=reading("iterations", whole(1, 10**9)), metavar="N", help="instead of the recipe's"
    )
    sub.add_argument(
        "--threads", type=reading("threads", whole(1, 1024)), metavar="N", help="CPU threads (default: all cores)"
    )

    sub = command("clips", commands.clips_command, "make clips to train on: moving, degraded, with their truth")
    sub.add_argument("out", type=Path, metavar="DIR", help="where the clips go")
    sub.add_argument("--data", type=Path, action="append", default=[], metavar="DIR", help="pictures; may be repeated")
    sub.add_argument(
        "--video", type=Path, action="append", default=[], metavar="FILE", help="reduced to half; may be repeated"
    )
    _add_scale_and_weights(sub, WEIGHTS[1], "camera: blur, noise, H.264, JPEG (default camera)")
    sub.add_argument(
        "--length",
        type=reading("length", whole(1, 100)),
        default=6,
        metavar="N",
        help="pictures of a clip (default 6; recurrent networks want 12)",
    )
    sub.add_argument(
        "--motion",
        choices=("pan", "scene", "both"),
        default="pan",
        help="how a picture moves: pan, by whole pixels; scene, a turning camera and things before it; both, two clips "
        "(default pan; recurrent networks want both)",
    )
    sub.add_argument(
        "--validate",
        action="append",
        default=[],
        metavar="NAME",
        help="picture or video, without its ending, that chooses the best weights; may be repeated "
        "(default: the ten pictures of the packaged recipes)",
    )

    sub = command("export", commands.export_command, "turn a checkpoint into a model folder; needs the extra [train]")
    sub.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="checkpoint.pt, as `stream-sr train` left it")
    sub.add_argument("folder", type=Path, metavar="DIR", help="becomes model.onnx and model.toml")
    sub.add_argument(
        "--average",
        type=Path,
        action="append",
        default=[],
        metavar="CHECKPOINT",
        help="average its weights with those of another run of the same network; may be repeated",
    )
    sub.add_argument("--name", help="of the model (default: the recipe's)")
    sub.add_argument("--default", action="store_true", help="make it the model that is used when none is named")
    sub.add_argument("--overwrite", action="store_true", help="replace the model that is there")

    sub = command(
        "quantize", commands.quantize_command, "give a model folder an eight-bit form for OpenVINO; needs [train]"
    )
    sub.add_argument("folder", type=Path, metavar="DIR", help="gets model.int8.onnx beside its model.onnx")
    sub.add_argument(
        "--data", type=Path, action="append", required=True, metavar="DIR", help="pictures or clips; may be repeated"
    )

    sub = command("evaluate", commands.evaluate_command, "PSNR, SSIM and steadiness of a model on pictures or films")
    sub.add_argument("paths", type=Path, nargs="+", metavar="PATH", help="a folder of pictures, or films")
    sub.add_argument(
        "--crf",
        dest="crfs",
        action="append",
        default=[],
        metavar="N",
        help="films: reduced, then through H.264 of this quality; may be repeated (the usual: 18 23 28 33)",
    )
    sub.add_argument("--frames", metavar="N", help="films: only the first N pictures")
    sub.add_argument("--sheet", type=Path, metavar="FILE.png", help="crops of input, bicubic, ours and truth")
    _add(sub, *ENGINE_OPTIONS)
    _add_json(sub)
    return parser


def _forms(word: str) -> str:
    """The address forms of SOURCE or SINK, for the end of a help text."""
    from stream_sr import sinks, sources

    forms = sources.ADDRESSES if word == "SOURCE" else sinks.ADDRESSES
    width = max(len(form) for form, _ in forms)
    return f"{word} is one of\n" + "\n".join(f"  {form:<{width}}  {text}" for form, text in forms) + "\n"


def _add_verbose(parser: argparse.ArgumentParser, default: object) -> None:
    text = "more log lines, and tracebacks of defects"
    parser.add_argument("-v", "--verbose", action="store_true", default=default, help=text)


def _add_scale_and_weights(parser: argparse.ArgumentParser, weights: str, help: str) -> None:
    scale = reading("scale", whole(1, 4))
    parser.add_argument("--scale", type=scale, default=2, metavar="1|2|3|4", help="enlargement (default 2)")
    parser.add_argument(
        "--weights", type=reading("weights", choices=WEIGHTS), default=weights, metavar="|".join(WEIGHTS), help=help
    )


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    _add(parser, *RUN_OPTIONS)
    parser.add_argument("--overwrite", action="store_true", default=None, help="replace an existing output file")
    _add_json(parser)


def _add(parser: argparse.ArgumentParser, *options: Option) -> None:
    for group, title in (
        (ENGINE_OPTIONS, "engine"),
        (SOURCE_OPTIONS, "input"),
        (OUTPUT_OPTIONS, "output"),
        (DISPLAY_OPTIONS, "page and window"),
    ):
        chosen = [option for option in options if option in group]
        if chosen:
            box = parser.add_argument_group(title)
            for option in chosen:
                if option.parse is switch:
                    box.add_argument(
                        f"--{option.name}", dest=option.key, action="store_const", const="true", help=option.help
                    )
                    continue
                metavar = option.metavar or "|".join(option.choices)
                box.add_argument(f"--{option.name}", dest=option.key, metavar=metavar, help=option.help)
    parser.add_argument("--config", type=Path, metavar="FILE.toml", help="options from a file")


def _add_metrics(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--metrics-port", metavar="PORT", help="serve /metrics (Prometheus) and /healthz there")
    parser.add_argument("--metrics-host", metavar="HOST", help="... at this address (default 127.0.0.1)")


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", metavar="FILE", help="write the report there (- for standard output)")


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("stream-sr")
    except PackageNotFoundError:
        return "(not installed)"


if __name__ == "__main__":
    sys.exit(main())
