"""The list of models that the command ``models`` gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stream_sr.model import ModelSpec

SETS = ("Set5", "Set14", "B100")


def models_table(models: Sequence[ModelSpec]) -> list[dict[str, Any]]:
    """One entry per model and scale: ``name``, ``scale``, ``parameters``, ``macs_per_pixel``, ``psnr_y``, ``default``.

    ``macs_per_pixel`` are multiplications per input pixel; ``psnr_y`` is in dB per set, empty where not measured.
    """
    return [
        {
            "name": model.name, "scale": model.scale, "parameters": model.parameters,
            "macs_per_pixel": model.macs_per_pixel, "psnr_y": dict(model.psnr_y), "default": model.default,
        }
        for model in models
    ]  # fmt: skip


def format_models(table: Sequence[Mapping[str, Any]]) -> str:
    """What `models_table` returned, as plain text; the default is marked by a star."""
    if not table:
        return "No models. Train one with `stream-sr train`, or give a FILE.onnx with --model."
    measured = [name for name in SETS if any(name in row["psnr_y"] for row in table)]
    wide = max(len("model"), *(len(row["name"]) for row in table))
    head = f"  {'model':{wide}}  scale  parameters  MAC/pixel" + "".join(f"  {name:>5}" for name in measured)
    lines = [head, *(_row(row, wide, measured) for row in table)]
    notes = "* default; MAC per input pixel" + ("; PSNR of luma in dB" if measured else "")
    return "\n".join([*lines, notes])


def _row(row: Mapping[str, Any], wide: int, measured: Sequence[str]) -> str:
    mark = "*" if row["default"] else " "
    figures = "".join(f"  {_decibel(row['psnr_y'].get(name)):>5}" for name in measured)
    return (
        f"{mark} {row['name']:{wide}}  {'x' + str(row['scale']):>5}  {row['parameters']:>10,}"
        f"  {row['macs_per_pixel']:>9,}" + figures
    )


def _decibel(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
