"""``export``: a checkpoint becomes a model folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stream_sr.cli.command import Command, CommandOptions
from stream_sr.cli.commands.train import need_training
from stream_sr.cli.terminal import check_folder, print_line
from stream_sr.config.kinds import FILE, SWITCH, TEXT
from stream_sr.config.option import argument, option
from stream_sr.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ExportOptions(CommandOptions):
    checkpoint: Path = argument(FILE, "CHECKPOINT", "checkpoint.pt, as `stream-sr train` left it")
    folder: Path = argument(FILE, "DIR", "becomes model.onnx and model.toml")
    average: tuple[Path, ...] = option(
        (),
        FILE,
        "average its weights with those of another run of the same network; may be repeated",
        metavar="CHECKPOINT",
        repeated=True,
    )
    name: str | None = option(None, TEXT, "of the model", metavar="NAME", unset="the recipe's")
    default: bool = option(False, SWITCH, "make it the model that is used when none is named")
    overwrite: bool = option(False, SWITCH, "replace the model that is there")


def export_command(options: ExportOptions) -> int:
    need_training("torch", "onnx")
    from stream_sr.training.export import export_checkpoint

    check_folder(options.folder)
    if (options.folder / "model.onnx").exists() and not options.overwrite:
        raise ConfigError(f"{options.folder} holds a model already; give --overwrite to replace it")
    model = export_checkpoint(
        options.checkpoint, options.folder, name=options.name, average=options.average, default=options.default
    )
    print_line(f"{model.onnx}: {model.name} x{model.scale}, {model.parameters} parameters")
    return 0


COMMAND = Command(
    "export", "turn a checkpoint into a model folder; needs the extra [train]", ExportOptions, export_command
)
