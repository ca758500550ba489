"""Render the tables of README.md and docs/measured.md from the committed records.

    python -m benchmarks render [--check] [--document FILE] [--results DIR]

What stands between ``<!-- NAME:begin -->`` and ``<!-- NAME:end -->`` comes from ``results/NAME.json`` (block gpu from
each ``results/gpu-*.json``); without a record the block must be empty. --check writes nothing and fails where a
document is out of step.
"""

import argparse
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import benchmarks.latency.tables as latency
import benchmarks.nvidia.tables as nvidia
import benchmarks.peers.tables as peers
import benchmarks.quality.tables as quality
import benchmarks.robustness.tables as robustness
import benchmarks.speed.tables as speed
from benchmarks.interface import MeasurementFailed, Task
from benchmarks.record import DOCS, RESULTS, ROOT, read_record
from stream_sr.system.machine import format_line

DOCUMENTS = (ROOT / "README.md", DOCS / "measured.md")
BLOCK = re.compile(r"(<!-- ([a-z0-9_]+):begin -->\n)(.*?)(<!-- \2:end -->)", re.DOTALL)
TABLES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "quality": quality.quality,
    "cameras": quality.cameras,
    "films": quality.films,
    "tradeoff": quality.tradeoff,
    "sweep": quality.sweep,
    "overlap": speed.overlap,
    "overhead": speed.overhead,
    "precision": speed.precision,
    "auto": speed.auto,
    "live": latency.live,
    "page": latency.page,
    "soak": robustness.soak,
    "soak4": robustness.soak,
    "viewers": robustness.viewers,
    "overload": robustness.overload,
    "memory": robustness.memory,
    "fuzz": robustness.fuzz,
    "peers": peers.peers,
    "gpu": nvidia.gpu,
}
IMAGES = {  # below the table
    "auto": "![Inference times, the load and the model in use, over time](docs/auto.png)",
    "peers": "![PSNR against frames per second: ours lie above and right of the others](docs/peers.png)",
}


class RenderError(MeasurementFailed):
    """A block has no record, or an unknown name."""


def render(text: str, results: Path, folder: Path = ROOT) -> str:
    """``text`` with the contents of every block rendered, links as seen from ``folder``. Raises RenderError."""
    marks = re.findall(r"<!-- ([a-z0-9_]+):(begin|end) -->", text)
    blocks = BLOCK.findall(text)
    if len(marks) != 2 * len(blocks):
        raise RenderError(f"{len(marks)} marks make {len(blocks)} blocks; every begin needs its end")

    def rendered(match: re.Match[str]) -> str:
        return match[1] + _links_from(folder, _block(match[2], match[3], results)) + match[4]

    return BLOCK.sub(rendered, text)


def _links_from(folder: Path, text: str) -> str:
    """Links as seen from ``folder``; the tables have them as seen from the root."""
    return re.sub(
        r"\]\(((?:docs|benchmarks)/[^)]*)\)", lambda link: f"]({os.path.relpath(ROOT / link[1], folder)})", text
    )


def _block(name: str, now: str, results: Path) -> str:
    if name not in TABLES:
        raise RenderError(f"no block is named '{name}'; there are {', '.join(TABLES)}")
    paths = sorted(results.glob("gpu-*.json")) if name == "gpu" else [results / f"{name}.json"]
    if not any(path.exists() for path in paths) and not now.strip():
        return now
    if not paths:
        raise RenderError(f"the figures of block '{name}' need a results/{name}-*.json")
    try:
        records = [read_record(path) for path in paths]
    except (OSError, ValueError) as error:
        raise RenderError(f"the figures of block '{name}' need results/{name}.json: {error}") from error
    return "\n".join(contents(name, record) for record in records)


def contents(name: str, record: Mapping[str, Any]) -> str:
    """What stands in a block: the table, the command and the machine, and the image where there is one."""
    origin = f"Measured with `{record['command']}` on {format_line(dict(record['machine']))}."
    parts = [TABLES[name](record["result"]), origin, *([IMAGES[name]] if name in IMAGES else [])]
    return "\n\n".join(parts) + "\n"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--document", type=Path, action="append", metavar="FILE")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR")


def run(parsed: argparse.Namespace) -> int:
    stale = []
    for document in parsed.document or DOCUMENTS:
        text = document.read_text()
        current = render(text, parsed.results, document.resolve().parent)
        if current != text:
            stale.append((document, current))
    for document, current in stale:
        if parsed.check:
            print(f"{document.name} is out of step with the results; run `make readme`", file=sys.stderr)
        else:
            document.write_text(current)
    return int(bool(stale and parsed.check))


ENTRY = Task(add_options=add_options, run=run)
