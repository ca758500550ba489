"""Moving pictures, reduced by bicubic: PSNR, tOF, warping error and flicker of x4 models: ``results/films.json``.

    python benchmarks/films.py --data DIR [--model NAME ...] [--frames N]

DIR holds the four clips of Vid4, which were never trained on.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from stream_sr import machine
from stream_sr.engine import EngineOptions
from stream_sr.errors import StreamSRError
from stream_sr.evaluate_clips import evaluate_clip, format_clips
from stream_sr.model import find_model, list_models

FILMS = ("vid4_calendar.mkv", "vid4_city.mkv", "vid4_foliage.mkv", "vid4_walk.mkv")
RESULT = Path(__file__).parent / "results" / "films.json"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--model", action="append", metavar="NAME", help="may be repeated (default: all of this scale)")
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--frames", type=int, help="of the beginning of each film (default: all)")
    parser.add_argument("--out", type=Path, default=RESULT, metavar="FILE")
    parsed = parser.parse_args()
    rows: list[dict[str, Any]] = []
    try:
        for name in parsed.model or [
            one.name for one in list_models() if (one.scale, one.tune) == (parsed.scale, "clean")
        ]:
            model = find_model(name, parsed.scale)
            found = [evaluate_clip(model, parsed.data / film, EngineOptions(), frames=parsed.frames) for film in FILMS]
            print(format_clips(found), flush=True)
            rows += [
                {key: value for key, value in row.items() if key not in ("machine", "command")}
                | {"onnx_sha256": model.sha256()}
                for row in found
            ]
    except StreamSRError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    command = "python benchmarks/films.py --data DIR" + "".join(f" --model {name}" for name in parsed.model or [])
    command += f" --frames {parsed.frames}" if parsed.frames else ""
    parsed.out.write_text(
        json.dumps({"command": command, "machine": machine.describe(), "rows": rows}, indent=1) + "\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
