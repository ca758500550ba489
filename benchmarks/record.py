"""Where every benchmark puts its figures: JSON that names the command and the machine."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stream_sr.inference.model import ModelSpec
from stream_sr.system import machine

ROOT = Path(__file__).parent.parent
INT8 = "int8"
RESULTS = ROOT / "benchmarks" / "results"


def digest(model: ModelSpec, precision: str) -> str:
    """Of the file that is computed in this precision."""
    return (model.as_int8() if precision == INT8 else model).sha256()


def write_result(out: Path, result: Mapping[str, Any], command: str) -> None:
    """Write ``result`` with ``command`` (as one would type it again) and the machine in front; says where."""
    out.parent.mkdir(parents=True, exist_ok=True)
    whole = {"command": command, "machine": machine.describe()} | dict(result)
    out.write_text(json.dumps(whole, indent=1) + "\n")
    print(f"wrote {out.name}; `python benchmarks/render.py` renders the tables from it")
