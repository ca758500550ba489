"""``evaluate``: the quality of a model on pictures or films."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stream_sr.cli.command import Command, ConfigOptions, JsonOptions
from stream_sr.cli.terminal import check_file, check_json, command_line, print_result
from stream_sr.config.kinds import FILE, number, whole
from stream_sr.config.option import Group, argument, option
from stream_sr.errors import ConfigError
from stream_sr.system.printable import printable

if TYPE_CHECKING:
    from stream_sr.evaluation.contact_sheet import Example
    from stream_sr.inference.model import ModelSpec
    from stream_sr.pipeline.engine import EngineOptions


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(ConfigOptions, JsonOptions):
    paths: tuple[Path, ...] = argument(FILE, "PATH", "a folder of pictures, or films", several=True)
    crfs: tuple[float, ...] = option(
        (),
        number(0, 51, "N"),
        "films: reduced, then through H.264 of this quality; may be repeated (the usual: 18 23 28 33)",
        name="crf",
        repeated=True,
    )
    frames: int | None = option(None, whole(2, 1_000_000), "films: only the first N pictures")
    sheet: Path | None = option(None, FILE, "crops of input, bicubic, ours and truth", metavar="FILE.png")


def evaluate_command(options: EvaluateOptions) -> int:
    from stream_sr.app.engine_setup import choose_model
    from stream_sr.evaluation.contact_sheet import Example, write_sheet
    from stream_sr.evaluation.films import is_film

    config = options.make_config()
    check_json(options.json)
    if options.sheet is not None:
        check_file("--sheet", options.sheet)
    model, scale = choose_model(config)
    engine, examples = config.engine_options(depth=1), list[Example]()
    evaluate = _evaluate_films if any(map(is_film, options.paths)) else _evaluate_pictures
    result, text = evaluate(options, model, scale or None, engine, examples.append)
    print_result(options.json, result, lambda _: text)
    if options.sheet is not None:
        print(printable(write_sheet(examples[:12], options.sheet), longest=None), file=sys.stderr)
    return 0


COMMAND = Command(
    "evaluate",
    "PSNR, SSIM and steadiness of a model on pictures or films",
    EvaluateOptions,
    evaluate_command,
    groups=(Group.ENGINE,),
)


def _evaluate_films(
    options: EvaluateOptions,
    model: ModelSpec | None,
    scale: int | None,
    engine: EngineOptions,
    show: Callable[[Example], None],
) -> tuple[dict[str, Any], str]:
    """The result, and the same as a table."""
    from stream_sr.evaluation.films import evaluate_clip, format_clips, is_film

    if not all(map(is_film, options.paths)):
        raise ConfigError("films and folders of pictures are measured differently; give one kind at a time")
    rows = [
        evaluate_clip(
            model, film, engine, scale=scale, crf=crf, frames=options.frames, command=command_line(), show=show
        )
        for film in options.paths
        for crf in options.crfs or [None]
    ]
    return {"clips": rows}, format_clips(rows)


def _evaluate_pictures(
    options: EvaluateOptions,
    model: ModelSpec | None,
    scale: int | None,
    engine: EngineOptions,
    show: Callable[[Example], None],
) -> tuple[dict[str, Any], str]:
    from stream_sr.evaluation.images import evaluate, format_table

    if len(options.paths) > 1:
        raise ConfigError(f"{len(options.paths)} folders; give one, each is a set of its own")
    if options.crfs or options.frames:
        raise ConfigError(f"--crf and --frames are for films, and {options.paths[0]} is none")
    result = evaluate(model, options.paths[0], engine, scale=scale, command=command_line(), show=show)
    return result, format_table(result)
