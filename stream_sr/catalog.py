"""The lists that the commands ``models`` and ``engine`` give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stream_sr.backends import cache
from stream_sr.model import ModelSpec, list_models

SETS = ("Set5", "Set14", "B100")


def models_table(models: Sequence[ModelSpec]) -> list[dict[str, Any]]:
    """One entry per model: ``name scale tune parameters macs_per_pixel psnr_y default``.

    ``macs_per_pixel`` are multiplications per input pixel; ``psnr_y`` is in dB per set, empty where not measured.
    """
    return [
        {
            "name": model.name, "scale": model.scale, "tune": model.tune, "parameters": model.parameters,
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
    head = f"  {'model':{wide}}  scale  tune    parameters  MAC/pixel" + "".join(f"  {name:>5}" for name in measured)
    lines = [head, *(_row(row, wide, measured) for row in table)]
    notes = "* default; MAC per input pixel" + ("; PSNR of luma in dB" if measured else "")
    return "\n".join([*lines, notes])


def _row(row: Mapping[str, Any], wide: int, measured: Sequence[str]) -> str:
    mark = "*" if row["default"] else " "
    figures = "".join(f"  {_decibel(row['psnr_y'].get(name)):>5}" for name in measured)
    return (
        f"{mark} {row['name']:{wide}}  {'x' + str(row['scale']):>5}  {row['tune']:<6}  {row['parameters']:>10,}"
        f"  {row['macs_per_pixel']:>9,}" + figures
    )


def _decibel(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def format_engines(entries: Sequence[cache.Entry], done: str = "") -> str:
    """Compiled engines, a line each: model, precision, profile, library, device, size and file."""
    if not entries:
        return "no compiled engines" if not done else f"nothing {done}"
    names = {model.sha256(): f"{model.name} x{model.scale}" for model in list_models()}
    lines = []
    for entry in entries:
        size = f"{entry.size_bytes / 1e6:.2f} MB"
        if entry.key is None:
            lines.append(f"{done} damaged file, {size}, {entry.path.name}".strip())
            continue
        key = entry.key
        name = names.get(key.onnx_sha256, f"another model {key.onnx_sha256[:8]}")
        lines.append(
            f"{done} {name}  {key.backend} {key.precision}  {key.profile}  {key.head}{_measured(entry.measured)}  "
            f"device {key.device}, {key.backend_version.split('-')[0]}, {size}, {entry.path.name}".strip()
        )
    return "\n".join(lines)


def _measured(measured: Mapping[str, Any]) -> str:
    """What was found out about an engine when it was built, where that was possible."""
    if "refused" in measured:
        return f"  REFUSED: {measured['refused']}"
    heads = measured.get("head_ms")
    if not heads:
        return ""
    times = ", ".join(f"{head} {took:g} ms" for head, took in heads.items())
    return f"  ({times}; {measured['psnr']:g} dB from the reference)"
