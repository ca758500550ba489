"""What the GPU benchmark prints from its result, the targets that it is held to, and the table of the README."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

Cells = Mapping[str, Mapping[str, Any]]

OVERLAP = 0.9  # least share of what the slowest stage alone would allow
GPU_MS = {"fsrcnn-s": 2.0, "fast": 3.0}  # most GPU time at 1920x1080 x2
BEST_MODES = ("reduce-overhead", "default", "max-autotune")


def slug(name: str) -> str:
    """A GPU's name for a file."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower().removeprefix("nvidia")).strip("-") or "gpu"


def short(cell: Any) -> str:
    """A figure in a few words, for the line that says that it was measured."""
    if not isinstance(cell, Mapping):
        return str(cell)
    for word in ("error", "skipped"):
        if word in cell:
            return f"{word}: {str(cell[word])[:200]}"
    if "rows" in cell:
        return f"{len(cell['rows'])} operations, {sum(row['ms'] for row in cell['rows']):.3f} ms in all"
    if "stages_ms" in cell:
        times = " ".join(f"{name} {time['p50']:.3f}" for name, time in cell["stages_ms"].items())
        return f"{times} ms, {cell['overlapped_fps']:.0f} fps, overlap {cell['overlap']:.2f}"
    return ", ".join(f"{name} {value}" for name, value in list(cell.items())[:4])[:200]


def summary(data: Mapping[str, Any]) -> str:
    """Everything, as text. ``data`` is the result of a record."""
    parts = [
        "", f"GPU: {data['gpu']}",
        f"limits: {short(data.get('limits', {}).get('limits', {}))}",
        f"TensorRT: {short(data.get('tensorrt', {}).get('runs', {}))}", "", *conformance_table(data),
        "", *row_table(data), "", *peer_table(data), "", "targets", *targets(data),
    ]  # fmt: skip
    return "\n".join(parts)


def conformance_table(data: Mapping[str, Any]) -> Iterator[str]:
    yield f"{'against torch fp32':44} {'size':>9} {'luma levels':>12} {'luma PSNR':>10} {'chroma levels':>14}"
    for key, cell in data.get("conformance", {}).items():
        if "error" in cell or "skipped" in cell:
            yield f"{key:44} {short(cell)}"
            continue
        for size, found in cell.items():
            if size == "in_flight":
                yield f"{key:44} in flight: {found['differ']} of {found['frames']} frames differ from one at a time"
                continue
            yield (
                f"{key:44} {size:>9} {found['luma_levels']:>12} {found['luma_psnr']:>10.2f} "
                f"{found['chroma_levels']:>14}"
            )


def row_table(data: Mapping[str, Any]) -> Iterator[str]:
    head = "upload  compute download  e2e p50   p99     fps  pageable overlap  launch   graph   other head   floor"
    yield f"{'row (ms; fps with frames overlapped)':48} {head}"
    no_tensorrt = not data.get("tensorrt", {}).get("runs", {}).get("runs")
    for key, cell in _cells(data, "rows"):
        if "stages_ms" not in cell:
            yield f"{key:48} {short(cell)}"
            continue
        yield f"{key:48} {_figures(cell)}"
        if no_tensorrt and key.startswith("torch-cuda "):
            yield f"{key.replace('torch-cuda', 'tensorrt', 1):48} TensorRT: not measured"
    for section in ("compiled", "autotuned"):
        for key, cell in _cells(data, section):
            if not key.startswith("torch.compile"):
                words = _figures(cell) if "stages_ms" in cell else short(cell)
                yield f"{section + ', captured ' + key.removeprefix('captured '):58} {words}"


def _figures(cell: Mapping[str, Any]) -> str:
    stages = [cell["stages_ms"][name]["p50"] for name in ("upload", "compute", "download")]
    both = cell["launch_and_graph_ms"]
    heads = [min(found.values()) for found in cell.get("heads_ms", {}).values() if "error" not in found]
    other = f"{max(heads):10.3f}" if len(heads) > 1 else f"{'-':>10}"
    least = max(cell.get("floor_ms", {}).values(), default=0.0)
    return (
        f"{stages[0]:6.3f} {stages[1]:8.3f} {stages[2]:8.3f} {cell['end_to_end_ms']['p50']:8.3f} "
        f"{cell['end_to_end_ms']['p99']:7.3f} {cell['overlapped_fps']:7.0f} {cell['overlapped_fps_pageable']:8.0f} "
        f"{cell['overlap']:7.2f} {both.get('launch', 0):8.3f} {both.get('graph', 0):7.3f} {other} {least:9.4f}"
    )


def peer_table(data: Mapping[str, Any]) -> Iterator[str]:
    yield f"{'peers (GPU ms per frame)':66} {'p50':>8} {'p99':>8}"
    for key, cell in (*_cells(data, "peers"), *_cells(data, "autotuned")):
        if "stages_ms" in cell:
            continue
        yield f"{key:66} {cell['p50']:8.3f} {cell['p99']:8.3f}" if "p50" in cell else f"{key:66} {short(cell)}"


def targets(data: Mapping[str, Any]) -> Iterator[str]:
    """Each target: reached or missed, and where."""
    rows = {key: cell for key, cell in _cells(data, "rows") if "stages_ms" in cell}
    missed = [f"{key} ({cell['overlap']:.2f})" for key, cell in rows.items() if cell["overlap"] < OVERLAP]
    yield _target(f"overlap at least {OVERLAP}", len(rows), missed)
    for model, most in GPU_MS.items():
        times = {key: t for key, t in ours(data).items() if key.startswith(f"{model} x2 1920x1080 fp16")}
        yield _target(
            f"{model} 1080p to 4K under {most:g} ms", len(times), [f"{t:.3f}" for t in times.values() if t >= most]
        )
    best = ours(data)
    every = dict(_cells(data, "peers")) | dict(_cells(data, "autotuned"))
    slower, compared = [], 0
    for key, time in best.items():
        peers = [every.get(f"torch.compile {mode} {key}", {}) for mode in BEST_MODES]
        theirs = [cell["p50"] for cell in peers if "p50" in cell]
        if theirs:
            compared += 1
            if time > min(theirs):
                slower.append(f"{key} ({time:.3f} against {min(theirs):.3f})")
    yield _target("at least as fast as torch.compile in its best mode", compared, slower)


def ours(data: Mapping[str, Any]) -> dict[str, float]:
    """The least GPU time of any engine of ours, by row without its backend."""
    found: dict[str, float] = {}
    for section in ("rows", "compiled", "autotuned"):
        for key, cell in _cells(data, section):
            if "stages_ms" in cell:
                name = key if section == "compiled" else key.split(" ", 1)[1]
                found[name] = min(found.get(name, 1e9), cell["stages_ms"]["compute"]["p50"])
    return found


def _target(name: str, count: int, missed: list[str]) -> str:
    if not count:
        return f"  not measured  {name}"
    state = "reached" if not missed else f"missed in {len(missed)} of {count}"
    return f"  {state:14} {name}" + (f": {', '.join(missed[:12])}" if missed else f", {count} rows")


def _cells(data: Mapping[str, Any], section: str) -> Iterator[tuple[str, Any]]:
    yield from data.get(section, {}).items()


def gpu(data: Mapping[str, Any]) -> str:
    """One GPU: each network in fp16, its stages, end to end and with frames overlapped."""
    lines = [
        "| fp16 | upload | compute | download | end to end p50 / p99 | fps, overlapped | fps, pageable memory |",
        "| --- |" + " --- |" * 6,
    ]
    for key, row in data["rows"].items():
        if key.endswith(" fp16") and "stages_ms" in row:
            cells = [f"{row['stages_ms'][stage]['p50']:.3f}" for stage in ("upload", "compute", "download")]
            late = row["end_to_end_ms"]
            cells += [f"{late['p50']:.2f} / {late['p99']:.2f}"]
            cells += [f"{row[name]:.0f}" for name in ("overlapped_fps", "overlapped_fps_pageable")]
            lines.append(f"| {key.removesuffix(' fp16')} | {' | '.join(cells)} |")
    note = (
        f"{data['gpu']}: times in ms, whole frames with their chroma, in and out of the host's memory; per operation "
    )
    note += "in [benchmarks/GPU.md](benchmarks/GPU.md)."
    return "\n".join([*lines, "", note])
