"""Models tuned for cameras on films that were never trained on, after H.264: ``results/cameras.json``.

    python benchmarks/cameras.py --data DIR [--frames 40] [--sheets DIR]

DIR holds the three films. Each is reduced, encoded by libx264 (veryfast, zerolatency) at CRF 18, 23, 28 and 33, decoded
and enlarged by bicubic, by the model tuned for clean pictures and by the one tuned for cameras; the film is the truth.
At scale 1 the decoded film itself stands in bicubic's place.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from stream_sr import machine
from stream_sr.engine import EngineOptions
from stream_sr.errors import StreamSRError
from stream_sr.evaluate_clips import evaluate_clip
from stream_sr.model import ModelSpec, list_models
from stream_sr.sheets import Example, write_sheet

FILMS = ("dashcam_540p.mp4", "indoor_person_432p.mp4", "table_blocks_720p.mp4")
CRFS = (18, 23, 28, 33)
RESULT = Path(__file__).parent / "results" / "cameras.json"
KEYS = (
    "film",
    "frames",
    "crf",
    "model",
    "scale",
    "backend",
    "precision",
    "psnr_y",
    "ssim_y",
    "gradient_energy",
    "bicubic",
)


def measure(model: ModelSpec, film: Path, crf: int, frames: int, examples: list[Example]) -> dict[str, Any]:
    """One row; live runs take bf16 where the CPU has it, so this does too."""
    options = EngineOptions(fidelity=50.0)
    found = evaluate_clip(model, film, options, crf=crf, frames=frames, steadiness=False, show=examples.append)
    row = {key: found[key] for key in KEYS} | {"tune": model.tune, "onnx_sha256": model.sha256()}
    gain = row["psnr_y"] - row["bicubic"]["psnr_y"]
    print(
        f"{model.name} x{model.scale} {model.tune:6} {film.name:24} CRF {crf}  {row['psnr_y']:.2f} ({gain:+.2f})",
        flush=True,
    )
    return row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--frames", type=int, default=40, help="of the beginning of each film")
    parser.add_argument("--sheets", type=Path, metavar="DIR", help="contact sheets of the models tuned for cameras")
    parser.add_argument("--out", type=Path, default=RESULT, metavar="FILE")
    parsed = parser.parse_args()
    models = list_models()
    tuned = [(model.name, model.scale) for model in models if model.tune == "camera"]
    rows = []
    try:
        for model in (one for one in models if (one.name, one.scale) in tuned):
            examples: list[Example] = []
            rows += [measure(model, parsed.data / film, crf, parsed.frames, examples) for film in FILMS for crf in CRFS]
            if parsed.sheets and model.tune == "camera":
                write_sheet(examples, parsed.sheets / f"{model.name}-x{model.scale}.png")
    except StreamSRError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    command = f"python benchmarks/cameras.py --data DIR --frames {parsed.frames}"
    result = {"command": command, "machine": machine.describe(), "rows": rows}
    parsed.out.parent.mkdir(parents=True, exist_ok=True)
    parsed.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"wrote {parsed.out.name}; `python benchmarks/render.py` renders the README's tables from it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
