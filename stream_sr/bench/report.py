"""The figures of a measurement as plain text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stream_sr.system.machine import format_line

STAGES = ("decode", "wait", "infer", "wait output", "encode", "write")


def format_result(result: Mapping[str, Any]) -> str:
    """What `stream-sr bench` prints: one row in detail, several as a table; then what is to be known of them."""
    rows = result["rows"]
    if len(rows) > 1 or any("error" in row for row in rows):
        lines = [format_rows(rows)]
    elif result["kind"] == "engine":
        lines = [format_trtexec(rows[0])]
    else:
        lines = [_head(rows[0]), format_stages(rows[0]), format_load(rows[0])]
    lines += [f"warning: {text}" for text in result["warnings"]]
    if result["stopped"]:
        lines.append("stopped before the end: this is what was measured until then")
    return "\n".join([*lines, f"Machine: {format_line(result['machine'])}"])


def format_rows(rows: Sequence[Mapping[str, Any]]) -> str:
    """A line for each row; columns that no row has figures for are absent."""
    columns: list[tuple[str, list[str]]] = [
        ("model", [f"{row['model']} x{row['scale']}" for row in rows]),
        ("size", [f"{row['width']}x{row['height']}" if "width" in row else "" for row in rows]),
        ("backend", [row["backend"] for row in rows]),
        ("precision", [row["precision"] for row in rows]),
        ("fps", [_cell(row, "fps", ".1f") for row in rows]),
        ("+-%", [_cell(row, "variation_percent", ".0f") for row in rows]),
        *((name, [_cell(row.get("latency_ms", {}), name, ".2f") for row in rows]) for name in ("p50", "p95", "p99")),
        ("cpu ms", [_cell(row, "cpu_ms_per_frame", ".1f") for row in rows]),
        ("gpu %", [_cell(row, "gpu_percent", ".0f") for row in rows]),
        ("joules", [_joules(row) for row in rows]),
        ("dropped", [str(sum(row["dropped"].values())) if "dropped" in row else "" for row in rows]),
    ]
    shown = [(title, cells) for title, cells in columns if any(cells)]
    widths = [max(len(title), *map(len, cells)) for title, cells in shown]
    words = {"model", "size", "backend", "precision"}

    def line(cells: Sequence[str]) -> str:
        pairs = zip(cells, widths, shown, strict=True)
        return "  ".join(f"{c:<{w}}" if title in words else f"{c:>{w}}" for c, w, (title, _) in pairs).rstrip()

    lines = [line([title for title, _ in shown])]
    for number, row in enumerate(rows):
        lines.append(line([cells[number] for _, cells in shown]))
        if "error" in row:
            lines.append(f"  failed: {row['error']}")
    notes = dict.fromkeys(note for row in rows for note in row.get("notes", []))
    return "\n".join([*lines, *(f"note: {note}" for note in notes)])


def _cell(row: Mapping[str, Any], name: str, form: str) -> str:
    return format(row[name], form) if name in row else ""


def _joules(row: Mapping[str, Any]) -> str:
    return f"{sum(row['joules_per_frame'].values()):.3f}" if "joules_per_frame" in row else ""


def format_trtexec(row: Mapping[str, Any]) -> str:
    """A row of `EngineSubject`, as trtexec's closing lines."""
    lines = [
        _head(row),
        *(f"note: {note}" for note in row["notes"]),
        f"Opened in {row['open_seconds']:.2f} s, first frame after {row['first_frame_ms']:.2f} ms",
        "",
        "=== Performance summary ===",
        f"Throughput: {row['fps']:.6g} qps",
        _trtexec_line("Latency", row["latency_ms"]),
        _trtexec_line("Enqueue Time", row["enqueue_ms"]),
        f"Total Host Walltime: {row['wall_seconds']:.6g} s",
        f"CPU time: {row['cpu_ms_per_frame']:.6g} ms per frame (all threads), {row['frames']} frames,"
        f" {row['depth']} in flight",
        format_load(row),
    ]
    return "\n".join(lines)


def _head(row: Mapping[str, Any]) -> str:
    """What was measured."""
    size = f"{row['width']}x{row['height']}"
    larger = f"{row['width'] * row['scale']}x{row['height'] * row['scale']}"
    head = f", {row['head']}" if row["head"] else ""
    where = f"{row['backend']} {row['precision']} on {row['device']}"
    return f"{row['model']} x{row['scale']}, {size} to {larger}, {where}{head}"


def _trtexec_line(title: str, ms: Mapping[str, float]) -> str:
    return (
        f"{title}: min = {ms['min']:.6g} ms, max = {ms['max']:.6g} ms, mean = {ms['mean']:.6g} ms,"
        f" median = {ms['p50']:.6g} ms, percentile(90%) = {ms['p90']:.6g} ms,"
        f" percentile(95%) = {ms['p95']:.6g} ms, percentile(99%) = {ms['p99']:.6g} ms"
    )


def format_load(row: Mapping[str, Any]) -> str:
    """Rounds, load and energy in one line."""
    speeds = row["fps_rounds"]
    parts = [f"{len(speeds)} rounds: {min(speeds):.1f} to {max(speeds):.1f} fps" if len(speeds) > 1 else "1 round"]
    load = row["cpu_percent"]
    parts.append(f"CPU {load['process']:.0f} %, others {load['others']:.0f} %")
    if "gpu_percent" in row:
        parts.append(f"GPU {row['gpu_percent']:.0f} %")
    parts += [f"{name} {joules:.3f} J per frame" for name, joules in row.get("joules_per_frame", {}).items()]
    return "; ".join(parts)


def format_stages(report: Mapping[str, Any]) -> str:
    """The stages, the way from capture to output and the drops of runs, as a block of plain text.

    ``report`` is a row of `RunSubject`, or what `Stats.summary` gives. Stages that nothing was recorded for are absent.
    """
    measured = {name: figures for name, figures in report["stages_ms"].items() if figures.get("count")}
    names = [name for name in STAGES if name in measured] + sorted(set(measured) - set(STAGES))
    lines = [f"{'ms':<18}{'p50':>9}{'p95':>9}{'p99':>9}{'mean':>9}{'max':>9}"]
    lines += [_stage_line(name, measured[name]) for name in names]
    if report["latency_ms"].get("count"):
        lines.append(_stage_line("capture to output", report["latency_ms"]))
    dropped = ", ".join(f"{reason} {count}" for reason, count in sorted(report["dropped"].items()) if count) or "none"
    lines.append(
        f"{report['frames_in']} frames in, {report['frames_out']} out, {report['fps']:.1f} fps, dropped: {dropped}"
    )
    return "\n".join(lines)


def _stage_line(name: str, ms: Mapping[str, float]) -> str:
    return f"{name:<18}" + "".join(f"{ms[key]:9.2f}" for key in ("p50", "p95", "p99", "mean", "max"))
