"""The process that builds an engine for a running filter: a request on standard input, JSON lines on standard output.

See `background_build.BackgroundBuildEngine`. What it builds is left in the cache.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

from stream_sr.errors import StreamSRError
from stream_sr.inference.backends.tensorrt import engine as tensorrt
from stream_sr.inference.model import ModelSpec
from stream_sr.pipeline.engine import EngineOptions
from stream_sr.video.color import ColorInfo
from stream_sr.video.frame import StreamInfo


def request(model: ModelSpec, info: StreamInfo, options: EngineOptions) -> dict[str, Any]:
    """What the process has to know, for JSON."""
    return {
        "model": {"name": model.name, "scale": model.scale, "onnx": str(model.onnx.resolve())},
        "size": [info.width, info.height],
        "siting": int(info.color.siting),
        "options": asdict(options),
    }


def answer(asked: dict[str, Any]) -> None:
    """Build what `request` asks for, and check it."""
    named = asked["model"]
    model = ModelSpec(named["name"], named["scale"], Path(named["onnx"]))
    width, height = asked["size"]
    info = StreamInfo(width, height, Fraction(1), color=ColorInfo(siting=asked["siting"]))
    tensorrt.build(model, info, EngineOptions(**asked["options"]), progress=report_progress)


def report_progress(what: str, share: float) -> None:
    _write({"doing": what, "share": round(share, 3)})


def main() -> int:
    try:
        answer(json.load(sys.stdin))
    except StreamSRError as error:
        _write({"error": str(error)})
        return error.exit_code
    _write({"done": True})
    return 0


def _write(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
