"""Moving pictures, reduced by bicubic: PSNR, tOF, warping error and flicker of x4 models: ``results/films.json``.

    python benchmarks/films.py --data DIR [--model NAME ...] [--frames N]

DIR holds the four clips of Vid4, which were never trained on. What was measured of a model that has not changed since
holds. A recurrent model is also shown the first picture of each film 2,000 times, with a sensor's noise: what it makes
of the last should be as good as what it made of the 50th. At the end the models take turns at pictures of --size, for
the time of one; that wants a quiet machine.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from ladder import time_turns
from record import digest

from stream_sr.bench.engine import TIME_BASE
from stream_sr.config import size
from stream_sr.errors import StreamSRError
from stream_sr.evaluation.films import evaluate_clip, format_clips, load_footage
from stream_sr.evaluation.images import upscale_luma
from stream_sr.inference.engines import open_engine
from stream_sr.inference.model import ModelSpec, find_model, list_models
from stream_sr.pipeline.engine import LIVE_FIDELITY, Engine, EngineOptions
from stream_sr.system import machine
from stream_sr.video.frame import StreamInfo
from stream_sr.video.quality import psnr
from stream_sr.video.resample import to_uint8

FILMS = ("vid4_calendar.mkv", "vid4_city.mkv", "vid4_foliage.mkv", "vid4_walk.mkv")
NOISE = 1.0  # levels, standard deviation
ROUNDS = 9
EARLY, STILL_FRAMES = 50, 2000
RESULT = Path(__file__).parent / "results" / "films.json"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--model", action="append", metavar="NAME", help="may be repeated (default: all of this scale)")
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--frames", type=int, help="of the beginning of each film (default: all)")
    parser.add_argument("--size", type=size, default=(320, 180), metavar="WxH")
    parser.add_argument("--out", type=Path, default=RESULT, metavar="FILE")
    parsed = parser.parse_args()
    rows: list[dict[str, Any]] = []
    engines: dict[str, Engine] = {}
    width, height = parsed.size
    try:
        for name in parsed.model or [
            one.name for one in list_models() if (one.scale, one.tune) == (parsed.scale, "clean")
        ]:
            model = find_model(name, parsed.scale)
            rows += known(parsed.out, model) if parsed.frames is None else []
            if not rows or rows[-1]["files"] != sorted(model.digests()):
                rows += measure(model, parsed.data, parsed.frames)
            engines[name] = open_engine(
                model, StreamInfo(width, height, TIME_BASE), EngineOptions(depth=1, fidelity=LIVE_FIDELITY)
            )
        times = time_turns(engines, width, height, ROUNDS)
    except StreamSRError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    command = "python benchmarks/films.py --data DIR" + "".join(f" --model {name}" for name in parsed.model or [])
    command += f" --frames {parsed.frames}" if parsed.frames else ""
    for name, engine in engines.items():
        print(f"{name:12} {times[name]:6.1f} ms, {engine.spec.precision}")
        engine.close()
    result = {
        "command": command,
        "machine": machine.describe(),
        "size": f"{width}x{height}",
        "ms": {name: round(times[name], 3) for name in engines},
        "rows": rows,
    }
    parsed.out.write_text(json.dumps(result, indent=1) + "\n")
    return 0


def known(path: Path, model: ModelSpec) -> list[dict[str, Any]]:
    """Rows of an earlier run on this machine, of whole films, which hold where the model has not changed."""
    before = json.loads(path.read_text()) if path.exists() else {}
    if not before or before["machine"]["cpu"] != machine.describe()["cpu"] or "--frames" in before["command"]:
        return []
    return [row for row in before["rows"] if row.get("files") == sorted(model.digests())]


def measure(model: ModelSpec, data: Path, frames: int | None) -> list[dict[str, Any]]:
    """A row for each film."""
    found = [evaluate_clip(model, data / film, EngineOptions(), frames=frames) for film in FILMS]
    print(format_clips(found), flush=True)
    if model.is_stateful:
        for row, film in zip(found, FILMS, strict=True):
            row["still"] = stand_still(model, data / film)
            print(film, row["still"], flush=True)
    kept = [{key: value for key, value in row.items() if key not in ("machine", "command")} for row in found]
    of = {"files": sorted(model.digests())}  # the precision was chosen by them all
    return [row | of | {"onnx_sha256": digest(model, row["precision"])} for row in kept]


def stand_still(model: ModelSpec, film: Path) -> dict[str, float]:
    """PSNR in dB of the 50th and of the last of `STILL_FRAMES` pictures of a scene that stands still under noise."""
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


if __name__ == "__main__":
    sys.exit(main())
