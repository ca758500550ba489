"""Tables of the latency benchmarks, as markdown, from the results of their records."""

from collections.abc import Mapping
from typing import Any

from benchmarks.markdown import milliseconds


def live(data: Mapping[str, Any]) -> str:
    """The live restream: what came, what went, how late, and whether memory stayed."""
    head = ["model", "picture", "fps", "dropped", "capture to output", "glass to glass", "memory"]
    lines = [f"| {' | '.join(head)} |", "| --- |" + " --- |" * (len(head) - 1)]
    rows = [row for row in data["rows"] if row.get("reader", "ours") == "ours"]
    for row in rows:
        source, output, memory = row["source"], row["output"], row["memory_mib"]
        lost = sum(row["dropped"].values())
        cells = [
            f"{row['model']} x{row['scale']}, {row['backend']} {row['precision']}",
            f"{source['width']}x{source['height']} to {output['width']}x{output['height']}",
            f"{row['fps']:.1f}",
            f"{lost} of {row['frames_in']}" if lost else "none",
            milliseconds(row["latency_ms"]),
            milliseconds(row["glass_to_glass_ms"]),
            f"{memory['second_quarter']:.0f}, later {memory['last_quarter']:.0f} MiB",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    note = f"Camera, filter and viewer are processes of one machine and speak RTSP; {data['seconds']:g} s each; the"
    note += " latency is p50 / p99 in ms, glass to glass as read from the clock in the picture; memory is the"
    note += " filter's, in the second and the last quarter of the time."
    parts = [*lines, "", note]
    if len(rows) < len(data["rows"]):
        parts += ["", "The same chain, with the readers of others in the place of ours:", "", *_readers(data["rows"])]
    return "\n".join(parts)


def _readers(rows: list[dict[str, Any]]) -> list[str]:
    """Where the time goes, by reader."""
    head = ["reader", "model", "camera to capture", "capture to result", "result to viewer", "glass to glass"]
    lines = [f"| {' | '.join(head)} |", "| --- |" + " --- |" * (len(head) - 1)]
    for row in rows:
        cells = [row["reader"], row["model"], *(milliseconds(block) for block in row["chain_ms"].values())]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def page(data: Mapping[str, Any]) -> str:
    """How old the picture is on the page, beside MJPEG."""
    lines = ["| in the browser | fps | p50 | p95 | p99 |", "| --- |" + " --- |" * 4]
    for name, key in (("the page: both sides, H.264", "page"), ("MJPEG of the result alone", "mjpeg")):
        late = data[key]["latency_ms"]
        lines.append(f"| {name} | {data[key]['fps']:.1f} | {late['p50']:.1f} | {late['p95']:.1f} | {late['p99']:.1f} |")
    note = "Age in ms of the picture when it is on the canvas, from its capture, as read from the clock in it; "
    note += f"{data['size']} x2, {data['model']}; filter and {data['browser']} on one machine, in turns in one run."
    return "\n".join([*lines, "", note])
