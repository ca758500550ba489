"""A measurement as a picture: a bar for each row."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stream_sr.bench.rounds import row_name
from stream_sr.evaluation.plots import new_figure, save_figure
from stream_sr.system.machine import format_line


def plot_result(result: Mapping[str, Any], out: Path) -> Path:
    """Frames per second with every round as a dot; of live measurements p50, p95 and p99 of the latency.

    Raises ConfigError without matplotlib and for a file that cannot be written.
    """
    rows = [row for row in result["rows"] if "fps" in row]
    figure = new_figure(9, 1.4 + 0.4 * max(2, len(rows)))
    axes = figure.subplots()
    places = range(len(rows))
    if result["kind"] == "live":
        for title, shade in (("p99", "0.85"), ("p95", "0.65"), ("p50", "C0")):
            axes.barh(places, [row["latency_ms"][title] for row in rows], color=shade, label=title, height=0.6)
        axes.set_xlabel("milliseconds from capture to output")
        axes.legend()
    else:
        axes.barh(places, [row["fps"] for row in rows], color="C0", height=0.6)
        for place, row in zip(places, rows, strict=True):
            axes.scatter(row["fps_rounds"], [place] * len(row["fps_rounds"]), color="black", s=8, zorder=3)
        axes.set_xlabel("frames per second: the median, and every round")
    axes.set_yticks(places, [row_name(row) for row in rows])
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.grid(visible=True, axis="x", alpha=0.3)
    title = {"engine": "the engine alone", "pipeline": "the whole filter", "live": "live"}[result["kind"]]
    axes.set_title(f"{title}; {format_line(result['machine'])}", fontsize=8)
    return save_figure(figure, out)
