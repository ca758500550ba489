"""``quantize``: a model folder gets an eight-bit form."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stream_sr.cli.command import Command, CommandOptions
from stream_sr.cli.commands.train import need_training
from stream_sr.cli.terminal import check_folder, print_line
from stream_sr.config.kinds import FILE
from stream_sr.config.option import argument, required


@dataclass(frozen=True, kw_only=True)
class QuantizeOptions(CommandOptions):
    folder: Path = argument(FILE, "DIR", "gets model.int8.onnx beside its model.onnx")
    data: tuple[Path, ...] = required(FILE, "pictures or clips; may be repeated", metavar="DIR", repeated=True)


def quantize_command(options: QuantizeOptions) -> int:
    need_training("onnx", "onnxruntime", "nncf")
    from stream_sr.inference.model import MAX_INT8_LOSS
    from stream_sr.training.quantize import quantize_model

    check_folder(options.folder)
    model = quantize_model(options.folder, options.data)
    assert model.int8 is not None
    found = f"{model.name} x{model.scale}, {model.int8.loss:.3f} dB lost, {model.int8.fidelity:.1f} dB from fp32"
    kept = model.int8.onnx.is_file()
    print_line(f"{model.int8.onnx}: {found}" + ("" if kept else f"; not kept, the limit is {MAX_INT8_LOSS:g} dB"))
    return 0


COMMAND = Command(
    "quantize",
    "give a model folder an eight-bit form for OpenVINO; needs [train]",
    QuantizeOptions,
    quantize_command,
)
