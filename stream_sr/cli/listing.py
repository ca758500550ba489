"""The lists that the commands ``models`` and ``engine`` give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stream_sr.errors import ConfigError
from stream_sr.inference import cache, measurements
from stream_sr.inference.model import ModelSpec, list_models
from stream_sr.system import machine

SETS = ("Set5", "Set14", "B100")
CLASSES = (5_000, 15_000, 60_000, 150_000)  # parameters, the limits of the literature's classes
MEASURED_AT = (640, 360)
SPEED = "speed"  # kind of what is remembered


def models_table(models: Sequence[ModelSpec]) -> list[dict[str, Any]]:
    """One entry per model: ``name scale weights class parameters macs_per_pixel psnr_y int8 fps default``.

    ``macs_per_pixel`` are multiplications per input pixel; ``psnr_y`` is in dB per set, empty where not measured;
    ``int8`` is what its eight-bit form loses (``loss``, dB) and reaches (``psnr_y``), None where it has none; ``fps``
    is what `measure_speed` found on this machine, None where it was not asked.
    """
    speed, here = measurements.load(SPEED), _here()
    return [
        {
            "name": model.name,
            "scale": model.scale,
            "weights": model.weights,
            "class": size_class(model.parameters),
            "fps": speed.get(f"{model.sha256()} {here}") if speed else None,
            "parameters": model.parameters,
            "macs_per_pixel": model.macs_per_pixel,
            "psnr_y": dict(model.psnr_y),
            "default": model.default,
            "int8": _int8(model),
        }
        for model in models
    ]


def _int8(model: ModelSpec) -> dict[str, Any] | None:
    if model.int8 is None or not model.int8.onnx.is_file():
        return None
    return {"loss": model.int8.loss, "psnr_y": dict(model.int8.psnr_y)}


def size_class(parameters: int) -> str:
    """Such as ``<15K``; the parameters themselves above the last class."""
    return next((f"<{limit // 1000}K" for limit in CLASSES if parameters < limit), f"{parameters / 1000:.0f}K")


def measure_speed(models: Sequence[ModelSpec], *, seconds: float = 0.5) -> None:
    """Time every model on this machine, 640x360 in the live precision, two in flight, and keep the frames per second.

    The figures lie in the cache folder, under the model's digest, the machine and the library's version.
    """
    from stream_sr.bench.engine import bench_engine
    from stream_sr.inference.engines import choose_backend
    from stream_sr.pipeline.engine import LIVE_FIDELITY, EngineOptions

    speed, here = dict[str, float](), _here()
    options = EngineOptions(backend=choose_backend().name, depth=2, fidelity=LIVE_FIDELITY)
    for model in models:
        result = bench_engine(model, *MEASURED_AT, options, seconds=seconds)
        speed[f"{model.sha256()} {here}"] = round(result["fps"], 1)
    try:
        measurements.store(SPEED, speed)
    except OSError as error:
        place = measurements.path_of(SPEED)
        raise ConfigError(f"the figures cannot be kept in {place}: {error}; set STREAM_SR_CACHE") from error


def _here() -> str:
    """What a measured speed holds for, besides the model."""
    from stream_sr.inference.backends.openvino.engine import cache_version

    return f"{machine.cpu_name()} {machine.cores()} {cache_version()}"


def format_models(table: Sequence[Mapping[str, Any]]) -> str:
    """What `models_table` returned, as plain text of at most 80 columns.

    The default is marked by a star, and what is there in eight bits by an 8.
    """
    if not table:
        return "No models. Train one with `stream-sr train`, or give a FILE.onnx with --model."
    measured = [name for name in SETS if any(name in row["psnr_y"] for row in table)]
    wide = max(len("model"), *(len(row["name"]) for row in table))
    timed = any(row["fps"] is not None for row in table)
    head = f"   {'model':{wide}}  scale  weights  class   params   MACs" + ("    fps" if timed else "")
    lines = [head + "".join(f"  {name:>5}" for name in measured)]
    lines += [_row(row, wide, measured, timed) for row in table]
    notes = ["* default", "8 int8", "MACs per input pixel"]
    notes.append(f"fps at {MEASURED_AT[0]}x{MEASURED_AT[1]}" if timed else "--measure adds fps")
    notes += ["PSNR of luma in dB"] if measured else []
    return "\n".join([*lines, "; ".join(notes)])


def _row(row: Mapping[str, Any], wide: int, measured: Sequence[str], timed: bool) -> str:
    mark = ("*" if row["default"] else " ") + ("8" if row["int8"] else " ")
    cells = [
        f"{mark} {row['name']:{wide}}",
        f"{'x' + str(row['scale']):>5}",
        f"{row['weights']:<7}",
        f"{row['class']:>5}",
    ]
    cells += [f"{_thousands(row['parameters']):>7}", f"{_thousands(row['macs_per_pixel']):>5}"]
    cells += [f"{'-' if row['fps'] is None else format(row['fps'], '.1f'):>5}"] if timed else []
    cells += [f"{_decibel(row['psnr_y'].get(name)):>5}" for name in measured]
    return "  ".join(cells)


def _thousands(value: int) -> str:
    return f"{value / 1000:.1f}K"


def _decibel(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def format_engines(entries: Sequence[cache.Entry], done: str = "") -> str:
    """Compiled engines by model, a line each: precision, profile, library, device, size and file; then how many."""
    if not entries:
        return "no compiled engines" if not done else f"nothing {done}"
    names = {digest: model.label() for model in list_models() for digest in model.digests()}

    def order(entry: cache.Entry) -> tuple[str, ...]:
        key = entry.key
        return (names.get(key.onnx_sha256, "~"), key.backend, key.precision, key.profile) if key else ("~",)

    lines = []
    for entry in sorted(entries, key=order):
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
    total = sum(entry.size_bytes for entry in entries) / 1e6
    lines += [] if done else [f"{len(entries)} in {entries[0].path.parent}, {total:.2f} MB"]
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
