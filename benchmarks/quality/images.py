"""PSNR and SSIM of the shipped models on Set5, Set14 and B100.

Those that are tuned for clean pictures and enlarge; `cameras` and `films` measure the others.

    python -m benchmarks quality --data DIR [--backend openvino/fp32 --backend torch ...] [--record] [--fresh]

DIR holds the three folders of pictures. --record also writes the PSNR of the first backend, and that of int8, into each
model.toml.
"""

import argparse
from pathlib import Path
from typing import Any

from benchmarks.interface import Benchmark, Measurement
from benchmarks.quality.rows import INT8, digest
from benchmarks.record import earlier_result
from stream_sr.cli.listing import SETS
from stream_sr.evaluation.images import evaluate
from stream_sr.inference.model import ModelSpec, list_models
from stream_sr.pipeline.engine import EngineOptions
from stream_sr.training.card import record_quality

KEYS = ("model", "scale", "backend", "precision", "psnr_y", "ssim_y", "bicubic")


def measure_model(model: ModelSpec, data: Path, backend: str) -> list[dict[str, Any]]:
    """A row per set; the single pictures are left out."""
    rows = []
    for name in SETS:
        engine, _, precision = backend.partition("/")
        result = evaluate(model, data / name, EngineOptions(backend=engine, precision=precision or "auto"))
        row = {key: result[key] for key in KEYS} | {"set": name, "onnx_sha256": digest(model, precision)}
        theirs = row["bicubic"]["psnr_y"]
        print(
            f"{model.name:>10} x{model.scale} {backend:>8} {row['precision']}  {name:<5}  {row['psnr_y']:.3f} dB"
            f"  {row['ssim_y']:.4f}  (bicubic {theirs:.3f})",
            flush=True,
        )
        rows.append(row)
    return rows


def _has(model: ModelSpec, backend: str) -> bool:
    """Whether the model can be computed so: in eight bits it may not be there."""
    return not backend.endswith(f"/{INT8}") or (model.int8 is not None and model.int8.onnx.is_file())


def _of(rows: list[dict[str, Any]], backend: str) -> list[dict[str, Any]]:
    """The rows of this backend, if all sets are there."""
    engine, _, precision = backend.partition("/")
    found = [row for row in rows if row["backend"] == engine and (precision or "fp32") == row["precision"]]
    return found if {row["set"] for row in found} == set(SETS) else []


def measured() -> list[ModelSpec]:
    """The models that the literature's protocol is for: clean, enlarging, one picture at a time."""
    return [
        model
        for model in list_models()
        if model.weights == "clean" and model.scale > 1 and model.network["kind"] != "RecurrentSR"
    ]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--backend", action="append", metavar="NAME", help="or NAME/PRECISION; may be repeated")
    parser.add_argument("--fresh", action="store_true", help="measure again what has not changed since the last run")
    parser.add_argument("--record", action="store_true", help="write the PSNR into each model.toml")


def measure(parsed: argparse.Namespace) -> Measurement:
    backends = parsed.backend or ["openvino/fp32", "torch", "openvino/bf16", f"openvino/{INT8}"]
    rows: list[dict[str, Any]] = []
    before = [] if parsed.fresh else earlier_result(parsed.out).get("rows", [])
    for model in measured():
        found = {}
        for backend in (name for name in backends if _has(model, name)):
            sha256 = digest(model, backend.partition("/")[2])
            old = [row for row in before if row["onnx_sha256"] == sha256]
            found[backend] = _of(old, backend) or measure_model(model, parsed.data, backend)
            rows += found[backend]
        if parsed.record:
            for name, table in ((backends[0], "psnr_y"), (f"openvino/{INT8}", f"{INT8}.psnr_y")):
                if name in found:
                    psnr_y = {row["set"]: row["psnr_y"] for row in found[name]}
                    record_quality(model.onnx.parent, psnr_y, table=table)
    return Measurement({"rows": rows})


ENTRY = Benchmark(add_options=add_options, measure=measure)
