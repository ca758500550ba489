"""PSNR, tOF, warping error and flicker of x4 models on films that were reduced by bicubic.

    python -m benchmarks films --data DIR [--model NAME ...] [--frames N]

DIR holds the four clips of Vid4, which were never trained on. A model that has not changed since the last run is not
measured again. A recurrent model also gets the first frame of each film 2,000 times, with a sensor's noise: the last
result should be as good as the 50th. At the end the models take turns at frames of --size, for the time of one frame;
that needs a quiet machine.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.interface import Benchmark, Measurement
from benchmarks.quality.rows import digest
from benchmarks.quality.turns import time_turns
from benchmarks.record import earlier_result
from stream_sr.bench.engine import TIME_BASE
from stream_sr.config import size
from stream_sr.evaluation.films import evaluate_clip, format_clips, load_footage
from stream_sr.evaluation.images import upscale_luma
from stream_sr.inference.engines import open_engine
from stream_sr.inference.model import ModelSpec, find_model, list_models
from stream_sr.pipeline.engine import LIVE_FIDELITY, Engine, EngineOptions
from stream_sr.video.frame import StreamInfo
from stream_sr.video.quality import psnr
from stream_sr.video.resample import to_uint8

FILMS = ("vid4_calendar.mkv", "vid4_city.mkv", "vid4_foliage.mkv", "vid4_walk.mkv")
NOISE = 1.0  # levels, standard deviation
ROUNDS = 9
EARLY, STILL_FRAMES = 50, 2000


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--model", action="append", metavar="NAME", help="may be repeated (default: all of this scale)")
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--frames", type=int, help="of the beginning of each film (default: all)")
    parser.add_argument("--size", type=size, default=(320, 180), metavar="WxH")


def measure(parsed: argparse.Namespace) -> Measurement:
    rows: list[dict[str, Any]] = []
    engines: dict[str, Engine] = {}
    width, height = parsed.size
    info = StreamInfo(width, height, TIME_BASE)
    names = parsed.model or [one.name for one in list_models() if (one.scale, one.weights) == (parsed.scale, "clean")]
    for name in names:
        model = find_model(name, parsed.scale)
        known = [] if parsed.frames else rows_of(model, earlier_result(parsed.out))
        rows += known or measure_model(model, parsed.data, parsed.frames)
        engines[name] = open_engine(model, info, EngineOptions(depth=1, fidelity=LIVE_FIDELITY))
    times = time_turns(engines, width, height, ROUNDS)
    for name, engine in engines.items():
        print(f"{name:12} {times[name]:6.1f} ms, {engine.spec.precision}")
        engine.close()
    result = {
        "size": f"{width}x{height}",
        "frames": parsed.frames,  # of each film; None for all
        "ms": {name: round(times[name], 3) for name in engines},
        "rows": rows,
    }
    return Measurement(result)


def rows_of(model: ModelSpec, earlier: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of an earlier run over whole films, where the model has not changed since."""
    if earlier.get("frames") is not None:
        return []
    return [row for row in earlier.get("rows", []) if row.get("files") == sorted(model.digests())]


def measure_model(model: ModelSpec, data: Path, frames: int | None) -> list[dict[str, Any]]:
    """A row for each film."""
    found = [evaluate_clip(model, data / film, EngineOptions(), frames=frames) for film in FILMS]
    print(format_clips(found), flush=True)
    if model.is_stateful:
        for row, film in zip(found, FILMS, strict=True):
            row["still"] = measure_static_scene(model, data / film)
            print(film, row["still"], flush=True)
    kept = [{key: value for key, value in row.items() if key not in ("machine", "command")} for row in found]
    of = {"files": sorted(model.digests())}  # the precision was chosen by them all
    return [row | of | {"onnx_sha256": digest(model, row["precision"])} for row in kept]


def measure_static_scene(model: ModelSpec, film: Path) -> dict[str, float]:
    """PSNR in dB of the 50th and of the last of `STILL_FRAMES` frames of a static scene with noise."""
    footage = load_footage(film, model.scale, frames=2)
    picture, truth = footage.low[0], footage.truth[0]
    random = np.random.default_rng(1)
    still = (to_uint8(picture + random.normal(0, NOISE, picture.shape)) for _ in range(STILL_FRAMES))
    info = StreamInfo(picture.shape[1], picture.shape[0], TIME_BASE)
    engine = open_engine(model, info, EngineOptions(depth=1), scale=model.scale)
    try:
        found = {
            f"psnr_{n}": round(psnr(upscaled, truth, border=model.scale), 4)
            for n, upscaled in enumerate((upscale_luma(engine, luma, number=n) for n, luma in enumerate(still)), 1)
            if n in (EARLY, STILL_FRAMES)
        }
    finally:
        engine.close()
    return found


ENTRY = Benchmark(add_options=add_options, measure=measure)
