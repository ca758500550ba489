"""The one form in which figures are kept: JSON with the command, the machine and the result.

A record has ``benchmark`` (its name), ``command`` (as one would type it again), ``machine`` (`machine.describe`, which
has the version of stream-sr among its libraries), ``wall_seconds`` (of the whole benchmark; null where it was not
recorded) and ``result``, whose form each benchmark defines.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stream_sr.system import machine

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
DOCS = ROOT / "docs"


def make_record(
    name: str, command: str, result: Mapping[str, Any], *, wall_seconds: float | None = None
) -> dict[str, Any]:
    """The figures of benchmark ``name`` as a record of this machine."""
    seconds = None if wall_seconds is None else round(wall_seconds, 1)
    return {
        "benchmark": name,
        "command": command,
        "machine": machine.describe(),
        "wall_seconds": seconds,
        "result": dict(result),
    }


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write the whole file at once: a reader sees the old record or the new one. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(record, indent=1) + "\n")
    partial.replace(path)


def read_record(path: Path) -> dict[str, Any]:
    """A record that `write_record` wrote. Raises OSError, and ValueError for a file that is no record."""
    record = json.loads(path.read_text())
    if not isinstance(record, dict) or not {"command", "machine", "result"} <= record.keys():
        raise ValueError(f"{path.name} is no record: it needs command, machine and result")
    return record


def earlier_result(path: Path) -> dict[str, Any]:
    """The result of an earlier run on this processor, so that only what changed is measured again; else empty."""
    if not path.exists():
        return {}
    record = read_record(path)
    same = record["machine"]["cpu"] == machine.describe()["cpu"]
    return dict(record["result"]) if same else {}
