"""How good an engine is on films: PSNR, SSIM and steadiness, clean or after a codec, beside bicubic."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from stream_sr.errors import ConfigError, SourceOpenError
from stream_sr.evaluation import temporal
from stream_sr.evaluation.codec_roundtrip import h264_roundtrip, read_luma
from stream_sr.evaluation.contact_sheet import Example
from stream_sr.evaluation.images import SMALLEST, TIME_BASE, decibels, mean, upscale_luma
from stream_sr.inference.engines import open_engine
from stream_sr.inference.model import ModelSpec
from stream_sr.pipeline.engine import Engine, EngineOptions
from stream_sr.system.machine import describe
from stream_sr.video.frame import StreamInfo
from stream_sr.video.planes import Plane
from stream_sr.video.quality import psnr, ssim
from stream_sr.video.resample import bicubic, make_pair, to_uint8

FILMS = {".mkv", ".mp4", ".mov", ".avi", ".webm", ".ts", ".y4m", ".m4v"}
NOISE = 2.0  # levels, on the still scene that flicker is measured on
STILL_FRAMES = 16


def is_film(path: Path) -> bool:
    """Whether `evaluate_clip` rather than `evaluate` takes it, be it there or not."""
    return not path.is_dir() and path.suffix.lower() in FILMS


def evaluate_clip(
    model: ModelSpec | None,
    film: Path,
    options: EngineOptions,
    *,
    scale: int | None = None,
    crf: float | None = None,
    frames: int | None = None,
    steadiness: bool = True,
    command: str = "",
    show: Callable[[Example], None] = lambda _: None,
) -> dict[str, Any]:
    """Reduce a film, enlarge it with the engine frame by frame, and compare with itself.

    Luma as it is coded, cropped to a multiple of the scale (and to even sides), reduced by MATLAB-style bicubic. With
    ``crf`` the reduced film goes through libx264 (veryfast, zerolatency) at that quality first. ``frames`` are taken
    from its beginning, all of them when None. Returns ``psnr_y``, ``ssim_y``, ``tof``, ``warping_error``,
    ``gradient_energy`` (over that of the truth) and the same of ``bicubic``; ``flicker`` is that of the first picture
    standing still under noise of 2 levels, over bicubic's. A picture that comes out exactly has no PSNR; where all
    do, it is None. Flat pictures (black) count for the figures over time alone.
    Without ``steadiness`` the figures over time (``tof``,
    ``warping_error``, ``flicker``), which take most of the time, are left out. ``show`` is handed the middle picture.
    Raises SourceOpenError for a film that is too short, too small, of changing size or flat throughout, ConfigError for
    a model without a scale and for scale 1 without ``crf`` (input and truth are the same), what `open_engine` raises.
    """
    scale = scale or (model.scale if model is not None else 0)
    if not scale:
        raise ConfigError("the model does not say its scale; give --scale")
    footage = load_footage(film, scale, crf=crf, frames=frames)
    return evaluate_footage(model, footage, options, steadiness=steadiness, command=command, show=show)


class Footage:
    """Pictures of a film, true and degraded, and what bicubic makes of them, computed once for all models."""

    def __init__(self, name: str, scale: int, crf: float | None, truth: list[Plane], low: list[Plane]) -> None:
        self.name, self.scale, self.crf, self.truth, self.low = name, scale, crf, truth, low
        self.plain = [_larger(one, scale) for one in low]
        self._bicubic: dict[bool, dict[str, float | None]] = {}

    def bicubic(self, steadiness: bool) -> dict[str, float | None]:
        """Its figures."""
        if steadiness not in self._bicubic:
            self._bicubic[steadiness] = _figures(self.plain, self.truth, self.scale, steadiness)
        return self._bicubic[steadiness]


def load_footage(film: Path, scale: int, *, crf: float | None = None, frames: int | None = None) -> Footage:
    """The first ``frames`` pictures of a film (all: None), reduced and through the codec as `evaluate_clip` says."""
    if scale == 1 and crf is None:
        raise ConfigError("at scale 1 a film is its own truth; give --crf to measure what a codec took")
    truth, low = _pairs(film, scale, crf, frames)
    return Footage(film.name, scale, crf, truth, low)


def evaluate_footage(
    model: ModelSpec | None,
    footage: Footage,
    options: EngineOptions,
    *,
    steadiness: bool = True,
    command: str = "",
    show: Callable[[Example], None] = lambda _: None,
) -> dict[str, Any]:
    """As `evaluate_clip`, on pictures that are there already."""
    truth, low, scale = footage.truth, footage.low, footage.scale
    engine = _open(model, low[0], replace(options, keep=False, depth=1), scale)
    try:
        ours = upscale_all(engine, low)
        flicker = _flicker(engine, low[0], scale) if steadiness else {}
    finally:
        engine.close()
    middle = len(truth) // 2
    title = _title(footage.name, footage.crf)
    show(Example(title, low[middle], footage.plain[middle], ours[middle], truth[middle]))
    return _figures(ours, truth, scale, steadiness) | flicker | {
        "bicubic": footage.bicubic(steadiness),
        "film": footage.name, "frames": len(truth), "crf": footage.crf,
        "model": engine.spec.model, "scale": scale, "backend": engine.spec.backend, "precision": engine.spec.precision,
        "machine": describe(), "command": command,
    }  # fmt: skip


def format_clips(rows: Sequence[Mapping[str, Any]]) -> str:
    """What `evaluate_clip` returned for some films, as a table of plain text."""
    wide = max(len("film"), *(len(_name(row)) for row in rows))
    first = rows[0]
    lines = [
        f"{first['model']} x{first['scale']}, {first['backend']} {first['precision']}",
        f"{'film':{wide}}  {'PSNR dB':>8} {'bicubic':>8} {'gain':>6}  {'SSIM':>6}  {'tOF':>6} {'bicubic':>7}"
        f"  {'warping':>7} {'bicubic':>7}  {'flicker':>7}  {'gradients':>9} {'bicubic':>7}",
    ]
    for row in rows:
        theirs = row["bicubic"]
        lines.append(
            f"{_name(row):{wide}}  {decibels(row)}  {row['ssim_y']:6.4f}  {row['tof']:6.3f} {theirs['tof']:7.3f}"
            f"  {row['warping_error']:7.2f} {theirs['warping_error']:7.2f}  {row['flicker']:7.2f}"
            f"  {row['gradient_energy']:9.2f} {theirs['gradient_energy']:7.2f}"
        )
    if len(rows) > 1:
        ours, theirs = (mean(one["psnr_y"] for one in part) for part in (rows, [row["bicubic"] for row in rows]))
        lines.append(f"{'mean':{wide}}  {decibels({'psnr_y': ours, 'bicubic': {'psnr_y': theirs}})}")
    notes = "tOF and warping: lower is steadier; flicker: over bicubic's; gradients: over the truth's"
    return "\n".join([*lines, notes])


def upscale_all(engine: Engine, planes: Iterable[Plane]) -> list[Plane]:
    """Luma planes ``[H, W]`` in their order through an open engine; a recurrent one begins anew."""
    return [upscale_luma(engine, luma, number=n) for n, luma in enumerate(planes)]


def _pairs(film: Path, scale: int, crf: float | None, frames: int | None) -> tuple[list[Plane], list[Plane]]:
    truth: list[Plane] = []
    low: list[Plane] = []
    for plane in islice(read_luma(film), frames):
        height, width = (side // (2 * scale) * 2 * scale for side in plane.shape)
        if min(height, width) < SMALLEST + 2 * scale:
            size, least = f"{plane.shape[1]}x{plane.shape[0]}", -(-(SMALLEST + 2 * scale) // (2 * scale)) * 2 * scale
            raise SourceOpenError(f"{film} is {size}; to measure x{scale} a side needs at least {least} pixels")
        small, whole = make_pair(plane[:height, :width].astype(np.float32), scale)
        if truth and whole.shape != truth[0].shape:
            raise SourceOpenError(f"{film} changes its size after {len(truth)} pictures; give --frames {len(truth)}")
        truth.append(whole)
        low.append(small)
    if len(truth) < 2:
        raise SourceOpenError(f"{film} has {len(truth)} pictures; a film has two at least")
    if all(_is_flat(one, scale) for one in truth):
        raise SourceOpenError(
            f"{film} shows nothing in its first {len(truth)} pictures; give more --frames, or another"
        )
    return truth, (low if crf is None else h264_roundtrip(low, crf=crf))


def _open(model: ModelSpec | None, plane: Plane, options: EngineOptions, scale: int) -> Engine:
    return open_engine(model, StreamInfo(plane.shape[1], plane.shape[0], TIME_BASE), options, scale=scale)


def _flicker(engine: Engine, picture: Plane, scale: int) -> dict[str, float]:
    """How much a still scene under noise moves, over what it moves after bicubic."""
    random = np.random.default_rng(1)
    still = [to_uint8(picture + random.normal(0, NOISE, picture.shape)) for _ in range(STILL_FRAMES)]
    ours, plain = upscale_all(engine, still), [_larger(one, scale) for one in still]
    return {"flicker": round(temporal.flicker(ours) / temporal.flicker(plain), 4)}


def _larger(plane: Plane, scale: int) -> Plane:
    return to_uint8(bicubic(plane.astype(np.float32), (plane.shape[0] * scale, plane.shape[1] * scale)))


def _figures(output: Sequence[Plane], truth: Sequence[Plane], border: int, steadiness: bool) -> dict[str, float | None]:
    pairs = [pair for pair in zip(output, truth, strict=True) if not _is_flat(pair[1], border)]
    energy = [temporal.gradient_energy(ours) / temporal.gradient_energy(theirs) for ours, theirs in pairs]
    quality = [psnr(*pair, border=border) for pair in pairs]
    decibel = mean(None if math.isinf(value) else value for value in quality)
    figures = {
        "psnr_y": None if decibel is None else round(decibel, 4),
        "ssim_y": round(float(np.mean([ssim(*pair, border=border) for pair in pairs])), 6),
        "gradient_energy": round(float(np.mean(energy)), 4),
    }
    if steadiness:
        figures["tof"] = round(temporal.tof(output, truth), 4)
        figures["warping_error"] = round(temporal.warping_error(output, truth), 4)
    return figures


def _is_flat(plane: Plane, border: int) -> bool:
    """Of one value, such as the black before a film begins: nothing to enlarge, and often exact."""
    return not np.ptp(plane[border:-border, border:-border])


def _name(row: Mapping[str, Any]) -> str:
    return _title(row["film"], row["crf"])


def _title(film: str, crf: float | None) -> str:
    return film if crf is None else f"{film} CRF {crf:g}"
