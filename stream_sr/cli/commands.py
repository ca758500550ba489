"""The commands behind the command line: each takes the parsed words and returns an exit code."""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stream_sr.cli.terminal import (
    Interrupts,
    Stopper,
    check_file,
    check_folder,
    check_json,
    command_line,
    flush,
    print_result,
    say,
    say_lines,
    write_json,
)
from stream_sr.config import RUN_OPTIONS, Config, Option, make_config, number, size, whole
from stream_sr.errors import ConfigError, PipelineStalled, StreamSRError
from stream_sr.inference.model import WEIGHTS
from stream_sr.system.machine import pip_install
from stream_sr.system.printable import printable, redact

if TYPE_CHECKING:
    from stream_sr.inference.model import BuildKey
    from stream_sr.pipeline.pipeline import Pipeline
    from stream_sr.training.recipe import Recipe

EXIT_ABORTED = 130


def _config(parsed: argparse.Namespace) -> Config:
    given = vars(parsed)
    flags = {
        option.key: option.read(given[option.key], f"--{option.name}")
        for option in RUN_OPTIONS
        if given.get(option.key) is not None
    }
    return make_config(flags | {"overwrite": given.get("overwrite")}, file=parsed.config)


def run_command(parsed: argparse.Namespace) -> int:
    return _filter(parsed, parsed.sinks)


def preview_command(parsed: argparse.Namespace) -> int:
    return _filter(parsed, ["window:" if parsed.web is None else f"web:{parsed.web}"])


def restream_command(parsed: argparse.Namespace) -> int:
    if not parsed.url.startswith("rtsp://"):
        raise ConfigError(
            f"'{parsed.url}' is not an RTSP address; give rtsp://@:8654/path to serve, rtsp://host/path to publish"
        )
    return _filter(parsed, [parsed.url])


def _filter(parsed: argparse.Namespace, sinks: Sequence[str]) -> int:
    from stream_sr.app.session import RunHooks, run

    if parsed.json == "-" and "-" in sinks:
        raise ConfigError("the picture and --json cannot both go to standard output; give --json a file")
    check_json(parsed.json)
    config = _config(parsed)
    if parsed.metrics_host is not None and parsed.metrics_port is None:
        raise ConfigError("--metrics-host would do nothing: there is no --metrics-port")
    with ExitStack() as stack:
        camera = None
        if parsed.metrics_port is not None:
            from stream_sr.app.metrics import CameraCollector, MetricsServer

            cameras = CameraCollector()
            camera = cameras.add("main")
            port = _metrics_port(parsed.metrics_port)
            stack.enter_context(MetricsServer(cameras, port, parsed.metrics_host or "127.0.0.1"))
        interrupts = stack.enter_context(Interrupts())

        def started(pipeline: Pipeline) -> None:
            interrupts.attach(pipeline)
            if camera is not None:
                camera.attach(pipeline)

        ticked = camera.tick if camera is not None else lambda stats: None
        outcome = run(parsed.source, sinks, config, RunHooks(started=started, ticked=ticked))
    code = _end_of_run(parsed.json, outcome.report, outcome.error, interrupts)
    if code == 0 and "-" not in sinks and parsed.json != "-":
        logging.getLogger("stream_sr").info("%s", _closing_line(outcome.report))
    return code


def _end_of_run(json_to: str | None, report: Any, error: StreamSRError | None, interrupts: Interrupts) -> int:
    """Write the report, whatever happened; then raise the run's error, or return its exit code."""
    try:
        write_json(json_to, report)
    except ConfigError as failure:
        if error is None:
            raise
        logging.getLogger("stream_sr").error("%s", failure)  # the run's own error counts more
    if interrupts.count > 1:
        if isinstance(error, PipelineStalled):
            flush()
            os._exit(EXIT_ABORTED)  # a thread hangs in a library; the user wants to be gone
        return EXIT_ABORTED
    if error is not None:
        raise error
    return 0


def _closing_line(report: Mapping[str, Any]) -> str:
    from stream_sr.app.status import describe

    sizes = " > ".join(f"{report[side]['width']}x{report[side]['height']}" for side in ("source", "output"))
    text = describe(sizes, report["fps"], dict(report), live=report["source"]["live"])
    return f"{report['frames_out']} of {report['frames_in']} frames  {text}"


def serve_command(parsed: argparse.Namespace) -> int:
    with ExitStack() as stack:
        interrupts = stack.enter_context(Interrupts(reloads=True))  # first: SIGHUP would end the program
        from stream_sr.app.fleet import check_fleet
        from stream_sr.app.metrics import CameraCollector, MetricsServer
        from stream_sr.app.supervisor import Supervisor

        if parsed.check:
            for plan in check_fleet(parsed.file).cameras:
                say(f"{plan.name}: {redact(plan.source)} > {', '.join(map(redact, plan.sinks))}")
            return 0
        cameras = CameraCollector()
        supervisor = Supervisor(parsed.file, cameras)
        fleet = supervisor.fleet
        interrupts.attach(supervisor)
        port = fleet.metrics_port if parsed.metrics_port is None else _metrics_port(parsed.metrics_port)
        if port is None and parsed.metrics_host is not None:
            raise ConfigError("--metrics-host would do nothing: there is no --metrics-port, nor one in the file")
        if port is not None:
            stack.enter_context(MetricsServer(cameras, port, parsed.metrics_host or fleet.metrics_host))
        try:
            supervisor.run()
        except PipelineStalled:
            if interrupts.count < 2:
                raise
            flush()
            os._exit(EXIT_ABORTED)  # a thread hangs in a library; the user wants to be gone
    return EXIT_ABORTED if interrupts.count > 1 else 0


def _metrics_port(text: str) -> int:
    return int(Option("metrics-port", "", whole(0, 65535)).read(text, "--metrics-port"))


def latency_command(parsed: argparse.Namespace) -> int:
    from stream_sr.cli.demo import free_port
    from stream_sr.cli.latency import SOURCE, format_latency, measure

    config = _config(parsed)
    check_json(parsed.json)
    seconds = Option("seconds", "", number(1, 86_400)).read(parsed.seconds, "--seconds")
    sink = parsed.sink or f"rtsp://@:{free_port()}/latency"
    with Interrupts() as interrupts:
        report = measure(parsed.source or SOURCE, sink, seconds, config, started=interrupts.attach)
    print_result(parsed.json, report | {"command": command_line()}, format_latency)
    return EXIT_ABORTED if interrupts.count > 1 else 0


def demo_command(parsed: argparse.Namespace) -> int:
    from stream_sr.cli.demo import demo

    seconds = Option("seconds", "", number(1, 86_400)).read(parsed.seconds, "--seconds")
    with Interrupts() as interrupts:
        text = demo(parsed.out, seconds, _config(parsed), started=interrupts.attach)
    say_lines(text)
    return EXIT_ABORTED if interrupts.count > 1 else 0


def models_command(parsed: argparse.Namespace) -> int:
    from stream_sr.cli.listing import measure_speed, models_table
    from stream_sr.inference.model import list_models

    if parsed.measure:
        measure_speed(list_models())
    print_result(parsed.json, {"models": models_table(list_models())}, lambda _: models_text())
    return 0


def models_text() -> str:
    from stream_sr.cli.listing import format_models, models_table
    from stream_sr.inference.model import list_models

    return format_models(models_table(list_models()))


def engine_command(parsed: argparse.Namespace) -> int:
    from stream_sr.cli.listing import format_engines
    from stream_sr.inference import cache

    if parsed.action == "list":
        entries = cache.engine_entries()
    elif parsed.action == "prune":
        entries = cache.prune()
    else:
        wanted = {cache.entry_path(key) for key in _build_engines(parsed)}
        entries = [entry for entry in cache.engine_entries() if entry.path in wanted]
    rows = [
        {
            "file": entry.path.name,
            "bytes": entry.size_bytes,
            "key": asdict(entry.key) if entry.key else None,
            "measured": dict(entry.measured),
        }
        for entry in entries
    ]
    done = {"build": "built", "list": "", "prune": "removed"}[parsed.action]
    print_result(parsed.json, {"action": parsed.action, "engines": rows}, lambda _: format_engines(entries, done))
    return 0


def _build_engines(parsed: argparse.Namespace) -> list[BuildKey]:
    from stream_sr.app.engine_setup import models_of_run
    from stream_sr.inference.backends.tensorrt import engine as tensorrt
    from stream_sr.video.frame import StreamInfo

    config = _config(parsed)
    if config.backend not in ("auto", "tensorrt"):
        raise ConfigError(f"--backend {config.backend} compiles when it opens; `engine build` is for tensorrt")
    config.refuse({"threads"}, "TensorRT builds as it likes")
    width, height = Option("input-size", "", size).read(parsed.input_size, "--input-size")
    keys: list[BuildKey] = []
    built: set[str] = set()
    for live in (False, True):  # a live input takes weights for cameras, and a precision that is less exact
        info = StreamInfo(width, height, Fraction(1, 30), live=live)
        for model in models_of_run(config, info):
            rebuild = parsed.rebuild and model.sha256() not in built
            built.add(model.sha256())
            keys += tensorrt.build(model, info, config.engine_options(depth=1, live=live), rebuild=rebuild)
    return keys


def doctor_command(parsed: argparse.Namespace) -> int:
    from stream_sr.cli import doctor

    report = doctor.examine()
    width = min(100, max(60, shutil.get_terminal_size().columns))
    color = doctor.wants_color(sys.stdout)
    print_result(
        parsed.json, report, lambda found: doctor.format_findings(found, color=color, width=width), escaped=True
    )
    return 0


def train_command(parsed: argparse.Namespace) -> int:
    _need_training("torch", "onnx")
    from tqdm import tqdm

    from stream_sr.training.loop import train
    from stream_sr.training.material import holds_clips
    from stream_sr.training.plots import plot_curves
    from stream_sr.training.recipe import load_recipe

    recipe = load_recipe(
        parsed.recipe,
        scale=parsed.scale,
        weights=parsed.weights,
        iterations=parsed.iterations,
        validation_images=tuple(parsed.validate) if parsed.validate else None,
        shares={} if parsed.validate else None,  # they are of the folders of the recipe's own pictures
    )
    if parsed.validate and any(map(holds_clips, parsed.data)):
        raise ConfigError("--validate is for pictures; clips were told apart by `stream-sr clips --validate`")
    weights = f"-{recipe.weights}" if recipe.weights != WEIGHTS[0] else ""
    out = parsed.out or Path("runs") / f"{recipe.name}{weights}-x{recipe.scale}"
    check_folder(out)
    bar: Any = None

    def report(row: dict[str, Any]) -> None:
        nonlocal bar
        if row["event"] == "start":
            say_lines("\n".join(f"{key}: {value}" for key, value in row.items() if key != "event"))
            bar = tqdm(total=recipe.iterations, initial=row["first_iteration"], unit="it", disable=None)
        elif row["event"] == "validation":
            bar.update(row["iteration"] - bar.n)
            bar.set_postfix_str(f"PSNR {row['psnr']:.3f} dB, best {row['best_psnr']:.3f}")
            if bar.disable:
                say(f"{row['iteration']} of {row['of']}: loss {row['loss']:.6f}, PSNR {row['psnr']:.3f} dB")

    if parsed.sweep:
        return _sweep(
            parsed, recipe, parsed.out or Path("runs") / f"sweep-{recipe.name}{weights}-x{recipe.scale}", report
        )
    with Interrupts() as interrupts:
        interrupts.attach(Stopper())
        checkpoint = train(
            recipe,
            folders=parsed.data,
            out=out,
            resume=parsed.resume,
            start_from=parsed.start_from,
            teacher=parsed.teacher,
            unlabelled=parsed.unlabelled,
            threads=parsed.threads,
            stop=lambda: interrupts.count > 0,
            report=report,
        )
    if bar is not None:
        bar.close()
    say(checkpoint)
    if (out / "log.jsonl").exists():  # none before the first validation
        plot_curves(out / "log.jsonl", out / "curves.png")
        say(out / "curves.png")
    return 0


def _sweep(parsed: argparse.Namespace, recipe: Recipe, out: Path, report: Callable[[dict[str, Any]], None]) -> int:
    from stream_sr.training.sweep import format_sweep, parse_axes, plot_sweep, sweep

    axes = parse_axes(parsed.sweep)
    if parsed.resume or parsed.start_from or parsed.teacher or parsed.unlabelled:
        raise ConfigError(
            "a sweep goes on by itself and starts from nothing; leave out --resume, --from, --teacher and --unlabelled"
        )
    with Interrupts() as interrupts:
        interrupts.attach(Stopper())
        rows = sweep(
            recipe,
            axes,
            folders=parsed.data,
            out=out,
            threads=parsed.threads,
            stop=lambda: interrupts.count > 0,
            report=report,
        )
    say_lines(format_sweep(rows))
    if rows:
        say(plot_sweep(rows, out / "sweep.png"))
    return 0


def clips_command(parsed: argparse.Namespace) -> int:
    from stream_sr.evaluation.codec_roundtrip import h264_roundtrip, read_luma
    from stream_sr.training.clips import VALIDATION, make_clips
    from stream_sr.training.recipe import load_recipe
    from stream_sr.video.resample import find_images

    if not parsed.data and not parsed.video:
        raise ConfigError("nothing to make clips of; give folders with --data, films with --video")
    if parsed.scale == 1 and parsed.weights == WEIGHTS[0]:
        raise ConfigError("at scale 1 a clean clip is its own truth; give --weights camera")
    validation = parsed.validate or load_recipe("fast", scale=2).validation_images
    names = {path.stem for path in [*(find_images(parsed.data) if parsed.data else []), *parsed.video]}
    if unknown := sorted(set(parsed.validate) - names):
        raise ConfigError(f"--validate {', '.join(unknown)}: no such picture or film; give names without their ending")
    check_folder(parsed.out)
    count = make_clips(
        parsed.out,
        pictures=parsed.data,
        scale=parsed.scale,
        length=parsed.length,
        weights=parsed.weights,
        videos=[(path.stem, partial(read_luma, path)) for path in parsed.video],
        motion=parsed.motion,
        validation=validation,
        roundtrip=h264_roundtrip,
        report=logging.getLogger("stream_sr").debug,
    )
    say(f"{parsed.out}: {count} clips")
    if not any((parsed.out / VALIDATION).iterdir()):
        logging.getLogger("stream_sr").warning(
            "none of them chooses the best weights, as `stream-sr train` wants; name some pictures with --validate "
            "(there are %s)",
            ", ".join(sorted(names)[:5]) + (", ..." if len(names) > 5 else ""),
        )
    return 0


def export_command(parsed: argparse.Namespace) -> int:
    _need_training("torch", "onnx")
    from stream_sr.training.export import export_checkpoint

    check_folder(parsed.folder)
    if (parsed.folder / "model.onnx").exists() and not parsed.overwrite:
        raise ConfigError(f"{parsed.folder} holds a model already; give --overwrite to replace it")
    model = export_checkpoint(
        parsed.checkpoint, parsed.folder, name=parsed.name, average=parsed.average, default=parsed.default
    )
    say(f"{model.onnx}: {model.name} x{model.scale}, {model.parameters} parameters")
    return 0


def quantize_command(parsed: argparse.Namespace) -> int:
    _need_training("onnx", "onnxruntime", "nncf")
    from stream_sr.inference.model import MAX_INT8_LOSS
    from stream_sr.training.quantize import quantize_model

    check_folder(parsed.folder)
    model = quantize_model(parsed.folder, parsed.data)
    assert model.int8 is not None
    found = f"{model.name} x{model.scale}, {model.int8.loss:.3f} dB lost, {model.int8.fidelity:.1f} dB from fp32"
    kept = model.int8.onnx.is_file()
    say(f"{model.int8.onnx}: {found}" + ("" if kept else f"; not kept, the limit is {MAX_INT8_LOSS:g} dB"))
    return 0


def _need_training(*names: str) -> None:
    from importlib.util import find_spec

    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise ConfigError(f"{' and '.join(missing)} not installed; training needs `{pip_install('stream-sr[train]')}`")


def evaluate_command(parsed: argparse.Namespace) -> int:
    from stream_sr.app.engine_setup import choose_model
    from stream_sr.evaluation.contact_sheet import Example, write_sheet
    from stream_sr.evaluation.films import evaluate_clip, format_clips, is_film
    from stream_sr.evaluation.images import evaluate, format_table

    config = _config(parsed)
    check_json(parsed.json)
    if parsed.sheet is not None:
        check_file("--sheet", parsed.sheet)
    model, scale = choose_model(config)
    options, examples = config.engine_options(depth=1), list[Example]()
    films = [path for path in parsed.paths if is_film(path)]
    result: dict[str, Any]
    if films:
        if len(films) < len(parsed.paths):
            raise ConfigError("films and folders of pictures are measured differently; give one kind at a time")
        crfs = [Option("crf", "", number(0, 51)).read(text, "--crf") for text in parsed.crfs]
        frames = Option("frames", "", whole(2, 1_000_000)).read(parsed.frames, "--frames") if parsed.frames else None
        rows = [
            evaluate_clip(
                model,
                film,
                options,
                scale=scale or None,
                crf=crf,
                frames=frames,
                command=command_line(),
                show=examples.append,
            )
            for film in films
            for crf in crfs or [None]
        ]
        result = {"clips": rows}
        text = format_clips(rows)
    else:
        if len(parsed.paths) > 1:
            raise ConfigError(f"{len(parsed.paths)} folders; give one, each is a set of its own")
        if parsed.crfs or parsed.frames:
            raise ConfigError(f"--crf and --frames are for films, and {parsed.paths[0]} is none")
        result = evaluate(
            model, parsed.paths[0], options, scale=scale or None, command=command_line(), show=examples.append
        )
        text = format_table(result)
    print_result(parsed.json, result, lambda _: text)
    if parsed.sheet is not None:
        print(printable(write_sheet(examples[:12], parsed.sheet), longest=None), file=sys.stderr)
    return 0
