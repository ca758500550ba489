"""How good an engine's pictures are: PSNR and SSIM over a folder, beside bicubic, the way the literature measures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from stream_sr.errors import ConfigError, SourceOpenError
from stream_sr.evaluation.contact_sheet import Example
from stream_sr.inference.engines import open_engine
from stream_sr.inference.model import ModelSpec
from stream_sr.pipeline.engine import Engine, EngineOptions
from stream_sr.system.machine import describe
from stream_sr.video.frame import Frame, StreamInfo
from stream_sr.video.planes import Plane, chroma_shape, read_only
from stream_sr.video.quality import psnr, ssim
from stream_sr.video.resample import bicubic, find_images, load_luma, make_pair, to_uint8

SMALLEST = 11  # side of SSIM's window: what is left of a picture without its border must hold it
TIME_BASE = Fraction(1, 25)


def evaluate(
    model: ModelSpec | None,
    folder: Path,
    options: EngineOptions,
    *,
    scale: int | None = None,
    command: str = "",
    show: Callable[[Example], None] = lambda _: None,
) -> dict[str, Any]:
    """Reduce every picture of ``folder``, enlarge it with the engine, and compare with the truth.

    Luma by BT.601 limited range (a grey file as it is), cropped to a multiple of the scale and reduced by MATLAB-style
    bicubic; uint8 in and out of the real engine; the border cut by the scale. ``scale`` None is the model's own.
    Returns ``psnr_y`` in dB and ``ssim_y`` (means over the pictures), ``bicubic`` with the same two, ``images`` (each
    with ``name``, the same figures and its ``bicubic``, sorted by name), ``model``, ``scale``, ``backend``,
    ``precision``, ``machine`` and ``command``. A picture that comes out exactly has no PSNR: it is None and left
    out of the mean. ``show`` is handed every picture. Raises SourceOpenError for a missing folder, an unreadable or a
    too small picture; ConfigError for a scale that is 1 or not the model's; what `open_engine` raises.
    """
    options = replace(options, keep=False)  # a picture's size hardly comes again
    scale = _scale(model, options, scale)
    if scale == 1:
        raise ConfigError("at scale 1 a picture is its own truth; give a film and --crf to measure what a codec took")
    pairs = {path: _pair(path, scale) for path in find_images([folder])}
    outputs, engine = _enlarge({path: low for path, (low, _) in pairs.items()}, model, options, scale)
    images: list[dict[str, Any]] = []
    for path, (low, truth) in pairs.items():
        reference = to_uint8(bicubic(low.astype(np.float32), truth.shape))
        figures = _figures(outputs[path], truth, scale)
        name = path.relative_to(folder).as_posix()
        show(Example(name, low, reference, outputs[path], truth))
        images.append({"name": name, **figures, "bicubic": _figures(reference, truth, scale)})
    return _means(images) | {
        "bicubic": _means([image["bicubic"] for image in images]),
        "images": images,
        "model": engine.spec.model,
        "scale": scale,
        "backend": engine.spec.backend,
        "precision": engine.spec.precision,
        "machine": describe(),
        "command": command,
    }


def upscale_luma(engine: Engine, luma: Plane, *, number: int = 0) -> Plane:
    """One luma plane ``[H, W]`` through an open engine of that size, with neutral chroma: ``[sH, sW]`` uint8.

    ``number`` is its place in a film; 0 stands alone or begins one, and a recurrent model begins anew.
    """
    height, width = luma.shape
    grey = np.full(chroma_shape(width, height), 128, np.uint8)
    planes = read_only((luma, grey, grey.copy()))
    frame = Frame(planes, pts=number, time_base=TIME_BASE, number=number, discontinuity=number == 0)
    return np.array(engine.submit(frame).wait().planes[0])


def format_table(results: Mapping[str, Any]) -> str:
    """What `evaluate` returned, as a table of plain text: a line per picture, the means below."""
    wide = max(7, *(len(image["name"]) for image in results["images"]))
    head = f"{'':{wide}}  {'PSNR dB':>8} {'bicubic':>8} {'gain':>6}  {'SSIM':>7} {'bicubic':>8}"
    rows = [_row(image["name"], image, wide) for image in results["images"]]
    mean = _row("mean", results, wide)
    title = f"{results['model']} x{results['scale']}, {results['backend']} {results['precision']}"
    return "\n".join([title, head, *rows, "-" * len(head), mean])


def _row(name: str, figures: Mapping[str, Any], wide: int) -> str:
    return f"{name:{wide}}  {decibels(figures)}  {figures['ssim_y']:7.4f} {figures['bicubic']['ssim_y']:8.4f}"


def decibels(figures: Mapping[str, Any]) -> str:
    """PSNR, bicubic's and what is between them, as cells of a table."""
    ours, theirs = figures["psnr_y"], figures["bicubic"]["psnr_y"]
    gain = "" if ours is None or theirs is None else f"{round(ours - theirs, 2) + 0:+.2f}"
    return f"{_decibel(ours):>8} {_decibel(theirs):>8} {gain:>6}"


def _decibel(value: float | None) -> str:
    return "exact" if value is None else f"{value:.2f}"


def _scale(model: ModelSpec | None, options: EngineOptions, scale: int | None) -> int:
    if model is None or options.backend == "bicubic":
        found = scale or (model.scale if model is not None else 0)
        if not found:
            raise ConfigError("bicubic has no scale of its own; give --scale 2, 3 or 4")
        return found
    if not model.scale:  # a bare ONNX file: only a trial run can tell
        engine = open_engine(model, StreamInfo(64, 64, TIME_BASE), options, scale=scale)
        found = engine.spec.scale
        engine.close()
    else:
        found = model.scale
    if scale is not None and scale != found:
        raise ConfigError(f"model '{model.name}' enlarges x{found}, x{scale} was asked for")
    return found


def _pair(path: Path, scale: int) -> tuple[Plane, Plane]:
    luma = load_luma(path)
    least = -(-(SMALLEST + 2 * scale) // scale) * scale
    if min(luma.shape) < least:
        size = f"{luma.shape[1]}x{luma.shape[0]}"
        raise SourceOpenError(f"{path} is {size}; to measure x{scale} a side needs at least {least} pixels")
    return make_pair(luma, scale)


def _enlarge(
    planes: Mapping[Path, Plane], model: ModelSpec | None, options: EngineOptions, scale: int
) -> tuple[dict[Path, Plane], Engine]:
    """Every plane enlarged; an engine is opened once per size. Also returns the last engine, closed, for its spec."""
    outputs: dict[Path, Plane] = {}
    for height, width in sorted({plane.shape for plane in planes.values()}):
        engine = open_engine(model, StreamInfo(width, height, TIME_BASE), options, scale=scale)
        try:
            for path in (path for path, plane in planes.items() if plane.shape == (height, width)):
                outputs[path] = upscale_luma(engine, planes[path])
        finally:
            engine.close()
    return outputs, engine


def _figures(output: Plane, truth: Plane, border: int) -> dict[str, float | None]:
    decibel = psnr(output, truth, border=border)
    return {
        "psnr_y": None if math.isinf(decibel) else round(decibel, 4),
        "ssim_y": round(ssim(output, truth, border=border), 6),
    }


def _means(figures: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    return {key: mean(one[key] for one in figures) for key in ("psnr_y", "ssim_y")}


def mean(values: Iterable[float | None]) -> float | None:
    """Of those that are known; None where none is."""
    known = [value for value in values if value is not None]
    return round(sum(known) / len(known), 6) if known else None
