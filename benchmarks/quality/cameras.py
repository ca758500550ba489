"""Models tuned for cameras, on films that were never trained on, after H.264.

    python -m benchmarks cameras --data DIR [--frames 12] [--sheets DIR]

DIR holds the three films. Each is reduced, encoded by libx264 (veryfast, zerolatency) at CRF 18, 23, 28 and 33, decoded
and enlarged by bicubic, by the model tuned for clean pictures and by the one tuned for cameras; the film is the truth.
At scale 1 the decoded film itself stands in bicubic's place.
"""

import argparse
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.interface import Benchmark, Measurement
from benchmarks.quality.rows import digest
from benchmarks.record import earlier_result
from stream_sr.evaluation.contact_sheet import Example, write_sheet
from stream_sr.evaluation.films import Footage, evaluate_footage, load_footage
from stream_sr.inference.model import ModelSpec, list_models
from stream_sr.pipeline.engine import LIVE_FIDELITY, EngineOptions

FILMS = ("dashcam_540p.mp4", "indoor_person_432p.mp4", "table_blocks_720p.mp4")
CRFS = (18, 23, 28, 33)
KEYS = (
    "film", "frames", "crf", "model", "scale", "backend", "precision", "psnr_y", "ssim_y", "gradient_energy", "bicubic",
)  # fmt: skip


def measure_model(model: ModelSpec, footage: Footage, examples: list[Example]) -> dict[str, Any]:
    """One row; live runs take bf16 where the CPU has it, so this does too."""
    options = EngineOptions(fidelity=LIVE_FIDELITY)
    found = evaluate_footage(model, footage, options, steadiness=False, show=examples.append)
    row = {key: found[key] for key in KEYS} | {
        "weights": model.weights,
        "onnx_sha256": digest(model, found["precision"]),
    }
    row["files"] = sorted(model.digests())  # the precision was chosen by them all
    gain = row["psnr_y"] - row["bicubic"]["psnr_y"]
    film = f"{footage.name:24} CRF {footage.crf:g}"
    print(f"{model.name} x{model.scale} {model.weights:6} {film}  {row['psnr_y']:.2f} ({gain:+.2f})", flush=True)
    return row


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--frames", type=int, default=12, help="of the beginning of each film")
    parser.add_argument("--sheets", type=Path, metavar="DIR", help="contact sheets of the models tuned for cameras")
    parser.add_argument("--fresh", action="store_true", help="measure again what has not changed since the last run")


def measure(parsed: argparse.Namespace) -> Measurement:
    models = list_models()
    tuned = {(model.name, model.scale) for model in models if model.weights == "camera"}
    models = [model for model in models if (model.name, model.scale) in tuned]
    before = [] if parsed.fresh or parsed.sheets else earlier_result(parsed.out).get("rows", [])
    before = [row for row in before if row["frames"] == parsed.frames]
    rows: list[dict[str, Any]] = []
    examples: dict[str, list[Example]] = {}
    for scale, film, crf in product(sorted({model.scale for model in models}), FILMS, CRFS):
        footage: Footage | None = None
        for model in (one for one in models if one.scale == scale):
            wanted = sorted(model.digests()), film, crf
            found = [row for row in before if (row.get("files"), row["film"], row["crf"]) == wanted]
            if not found:
                footage = footage or load_footage(parsed.data / film, scale, crf=crf, frames=parsed.frames)
                shown = examples.setdefault(f"{model.name}-{model.weights}-x{scale}", [])
                found = [measure_model(model, footage, shown)]
            rows += found[:1]
    for name, shown in examples.items():
        if parsed.sheets:
            write_sheet(shown, parsed.sheets / f"{name}.png")
    return Measurement({"rows": rows})


ENTRY = Benchmark(add_options=add_options, measure=measure)
