"""Render the tables of README.md and docs/measured.md from the committed results.

    python benchmarks/render.py [--check] [--document FILE] [--results DIR]

What stands between ``<!-- NAME:begin -->`` and ``<!-- NAME:end -->`` comes from ``results/NAME.json`` (block gpu from
each ``results/gpu-*.json``); while there is none the block must be empty. --check writes nothing and fails where a
document is out of step.
"""

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import peers_tables

from stream_sr.system.machine import format_line

ROOT = Path(__file__).parent.parent
DOCUMENTS = (ROOT / "README.md", ROOT / "docs" / "measured.md")
BLOCK = re.compile(r"(<!-- ([a-z0-9_]+):begin -->\n)(.*?)(<!-- \2:end -->)", re.DOTALL)
SETS = ("Set5", "Set14", "B100")


class RenderError(Exception):
    """A block without its result, or of an unknown name."""


def render(text: str, results: Path, folder: Path = ROOT) -> str:
    """``text`` with every block rendered anew, links as seen from ``folder``. Raises RenderError."""
    marks = re.findall(r"<!-- ([a-z0-9_]+):(begin|end) -->", text)
    blocks = BLOCK.findall(text)
    if len(marks) != 2 * len(blocks):
        raise RenderError(f"{len(marks)} marks make {len(blocks)} blocks; every begin needs its end")

    def anew(match: re.Match[str]) -> str:
        return match[1] + _from(folder, _block(match[2], match[3], results)) + match[4]

    return BLOCK.sub(anew, text)


def _from(folder: Path, text: str) -> str:
    """Renderers write links as the README needs them."""
    return re.sub(
        r"\]\(((?:docs|benchmarks)/[^)]*)\)", lambda link: f"]({os.path.relpath(ROOT / link[1], folder)})", text
    )


def _block(name: str, now: str, results: Path) -> str:
    if name not in RENDERERS:
        raise RenderError(f"no block is named '{name}'; there are {', '.join(RENDERERS)}")
    paths = sorted(results.glob("gpu-*.json")) if name == "gpu" else [results / f"{name}.json"]
    if not any(path.exists() for path in paths) and not now.strip():
        return now
    if not paths:
        raise RenderError(f"the figures of block '{name}' need a results/{name}-*.json")
    try:
        found = [json.loads(path.read_text()) for path in paths]
    except (OSError, ValueError) as error:
        raise RenderError(f"the figures of block '{name}' need results/{name}.json: {error}") from error
    return "\n".join(RENDERERS[name](data) for data in found)


def quality(data: Mapping[str, Any]) -> str:
    """PSNR / SSIM of each model beside bicubic, and how far the other backends are from the first."""
    rows = data["rows"]
    ways = list(dict.fromkeys((row["backend"], row["precision"]) for row in rows))
    shipped = [row for row in rows if (row["backend"], row["precision"]) == ways[0]]
    lines = ["| model | " + " | ".join(SETS) + " |", "| --- |" + " --- |" * len(SETS)]
    for scale in sorted({row["scale"] for row in shipped}):
        of_scale = [row for row in shipped if row["scale"] == scale]
        lines.append(_quality_line(f"bicubic x{scale}", {row["set"]: row["bicubic"] for row in of_scale}))
        for name in dict.fromkeys(row["model"] for row in of_scale):
            lines.append(_quality_line(f"{name} x{scale}", {r["set"]: r for r in of_scale if r["model"] == name}))
    notes = [f"PSNR in dB / SSIM of luma, through {ways[0][0]} ({ways[0][1]}), uint8 in and out."]
    notes += [_apart(rows, shipped, other) for other in ways[1:]]
    return "\n".join([*lines, "", " ".join(notes), *_origin(data)])


def _quality_line(name: str, by_set: Mapping[str, Mapping[str, float]]) -> str:
    cells = [f"{by_set[s]['psnr_y']:.2f} / {by_set[s]['ssim_y']:.4f}" if s in by_set else "-" for s in SETS]
    return f"| {name} | " + " | ".join(cells) + " |"


def _apart(rows: list[dict[str, Any]], shipped: list[dict[str, Any]], other: tuple[str, str]) -> str:
    key = ("model", "scale", "set")
    first = {tuple(row[k] for k in key): row["psnr_y"] for row in shipped}
    theirs = [row for row in rows if (row["backend"], row["precision"]) == other]
    apart = [abs(row["psnr_y"] - first[tuple(row[k] for k in key)]) for row in theirs]
    return f"{other[0]} ({other[1]}) is at most {max(apart):.3f} dB away."


def precision(data: Mapping[str, Any]) -> str:
    """What each precision costs, the network alone."""
    lines = ["| model | precision | ms | core-ms | |", "| --- | --- | --- | --- | --- |"]
    for row in data["rows"]:
        ratio = f"{row['times_as_fast']:.2f} times as fast as {row['against']}" if "against" in row else ""
        cells = [
            f"{row['model']} x{row['scale']}",
            row["precision"],
            f"{row['ms']:.1f}",
            f"{row['core_ms']:.1f}",
            ratio,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    threads = "1 thread" if data["threads"] == 1 else f"{data['threads']} threads"
    note = f"The network alone, one luma plane of {data['size']}, OpenVINO, {threads}; the precisions in turns."
    return "\n".join([*lines, "", note, *_origin(data)])


def overlap(data: Mapping[str, Any]) -> str:
    """What each stage costs alone, and what the threads make of it together."""
    lines = ["| decode | infer | encode | sum | cores / sum | reached | share |", "| --- |" + " --- |" * 6]
    cpu = data["cpu_ms_per_frame"]
    lines.append(
        f"| {cpu['decode']:.1f} ms | {cpu['infer']:.1f} ms | {cpu['encode']:.1f} ms | {sum(cpu.values()):.1f} ms "
        f"| {data['bound_fps']:.1f} fps | {data['fps']:.1f} fps | {data['ratio']:.2f} |"
    )
    note = f"CPU time per frame of each stage alone, {data['size']} x{data['scale']}, {data['model']} through "
    note += f"{data['backend']} {data['precision']}, x264 {data['preset']}; then the whole run, file to file."
    return "\n".join([*lines, "", note, *_origin(data)])


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
            _milliseconds(row["latency_ms"]),
            _milliseconds(row["glass_to_glass_ms"]),
            f"{memory['second_quarter']:.0f}, later {memory['last_quarter']:.0f} MiB",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    note = f"Camera, filter and viewer are processes of one machine and speak RTSP; {data['seconds']:g} s each; the"
    note += " latency is p50 / p99 in ms, glass to glass as read from the clock in the picture; memory is the"
    note += " filter's, in the second and the last quarter of the time."
    parts = [*lines, "", note]
    if len(rows) < len(data["rows"]):
        parts += ["", "The same chain, with the readers of others in the place of ours:", "", *_readers(data["rows"])]
    return "\n".join([*parts, *_origin(data)])


def _readers(rows: list[dict[str, Any]]) -> list[str]:
    """Where the time goes, by reader."""
    head = ["reader", "model", "camera to capture", "capture to result", "result to viewer", "glass to glass"]
    lines = [f"| {' | '.join(head)} |", "| --- |" + " --- |" * (len(head) - 1)]
    for row in rows:
        cells = [row["reader"], row["model"], *(_milliseconds(block) for block in row["chain_ms"].values())]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def overload(data: Mapping[str, Any]) -> str:
    """A model that is too big: how old the pictures get, and what is dropped."""
    head = ["max. latency", "one inference", "capture to output", "in", "out", "dropped", "memory"]
    lines = [f"| {' | '.join(head)} |", "| --- |" + " --- |" * (len(head) - 1)]
    for row in data["rows"]:
        memory = row["memory_mib"]
        dropped = ", ".join(f"{reason} {count}" for reason, count in row["dropped"].items()) or "none"
        cells = [
            f"{row['max_latency_ms']:g}",
            _milliseconds(row["stages_ms"]["infer"]),
            _milliseconds(row["latency_ms"]),
            f"{row['frames_in']}",
            f"{row['frames_out']}",
            dropped,
            f"{memory['second_quarter']:.0f}, later {memory['last_quarter']:.0f} MiB",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    row = data["rows"][0]
    note = f"{row['model']} x{row['scale']} on {row['source']['width']}x{row['source']['height']}, live, "
    note += f"{data['seconds']:g} s each; ms, p50 / p99."
    return "\n".join([*lines, "", note, *_origin(data)])


def soak(data: Mapping[str, Any]) -> str:
    """What half an hour with faults leaves behind: first against last minutes."""
    lines = ["| | first | last |", "| --- | --- | --- |"]
    rows = [("memory, MiB", data["memory_mib"]), ("descriptors", data["descriptors"]), ("threads", data["threads"])]
    rows += [(f"p99 of camera {number + 1}, ms", pair) for number, pair in enumerate(data["latency_p99_ms"])]
    lines += [f"| {name} | {before:g} | {after:g} |" for name, (before, after) in rows]
    faults = ", ".join(f"{count} times {kind}" for kind, count in sorted(data["faults"].items()))
    cameras = "one camera" if data["cameras"] == 1 else f"{data['cameras']} cameras"
    note = f"`stream-sr serve` with {cameras} of {data['size']}, {data['model']}, for {data['minutes']:g} minutes; "
    note += f"cameras that went away or changed: {faults}. Medians of the first and the last {data['window_seconds']} "
    note += "seconds; p99 glass to glass, outside faults."
    return "\n".join([*lines, "", note, *_origin(data)])


def ladder(data: Mapping[str, Any]) -> str:
    """Quality against time: a row per x2 model, the fastest first."""
    lines = [
        "| x2 | parameters | MAC per input pixel | ms per frame | " + " | ".join(SETS) + " |",
        "| --- |" + " --- |" * 6,
    ]
    for row in data["rows"]:
        cells = [f"{row[key]:,}" if row[key] else "-" for key in ("parameters", "macs_per_pixel")]
        cells += [f"{row['ms']:.1f}"] + [f"{row['psnr_y'][name]:.2f}" for name in SETS]
        precision = "" if row["backend"] == "bicubic" else f" {row['precision']}"
        lines.append(f"| {row['model']}{precision} | {' | '.join(cells)} |")
    note = f"One frame of {data['size']} at a time, luma and chroma, {data['rows'][-1]['backend']}; PSNR in dB."
    return "\n".join([*lines, "", note, *_origin(data)])


def sweep(data: Mapping[str, Any]) -> str:
    """Kernel, width and depth: a row each, those in bold that nothing with fewer multiplications reaches."""
    rows = sorted(data["rows"], key=lambda row: row["macs_per_pixel"])
    names = [name for name in rows[0] if name not in ("parameters", "macs_per_pixel", "psnr")]
    head = [*names, "parameters", "MAC per input pixel", "PSNR"]
    lines, best = [f"| {' | '.join(head)} |", "| --- |" + " --- |" * (len(head) - 1)], 0.0
    for row in rows:
        figure = f"{row['psnr']:.2f}"
        cells = [str(row[name]) for name in names] + [f"{row[key]:,}" for key in ("parameters", "macs_per_pixel")]
        lines.append(f"| {' | '.join(cells)} | {f'**{figure}**' if row['psnr'] > best else figure} |")
        best = max(best, row["psnr"])
    note = f"`{data['recipe']}` x{data['scale']} in every combination, equally short: PSNR in dB on the validation"
    note += " pictures; bold where nothing with fewer multiplications is better."
    return "\n".join([*lines, "", note, *_origin(data)])


def cameras(data: Mapping[str, Any]) -> str:
    """After H.264: the mean over the films, for each CRF, of bicubic and of the weights for clean and for cameras."""
    rows, crfs = data["rows"], list(dict.fromkeys(row["crf"] for row in data["rows"]))
    lines = ["| | " + " | ".join(f"CRF {crf}" for crf in crfs) + " |", "| --- |" + " --- |" * len(crfs)]
    for scale in sorted({row["scale"] for row in rows}):
        of_scale = [row for row in rows if row["scale"] == scale]
        name = f"bicubic x{scale}" if scale > 1 else "as decoded"
        lines.append(_camera_line(name, of_scale, crfs, lambda row: row["bicubic"]["psnr_y"]))
        for model, tune in dict.fromkeys((row["model"], row["tune"]) for row in of_scale):
            chosen = [row for row in of_scale if (row["model"], row["tune"]) == (model, tune)]
            lines.append(_camera_line(f"{model} x{scale}, {tune}", chosen, crfs, lambda row: row["psnr_y"]))
    films = ", ".join(dict.fromkeys(row["film"] for row in rows))
    note = f"PSNR of luma in dB, mean over {films} ({rows[0]['frames']} frames each), none of which was trained on."
    return "\n".join([*lines, "", note, *_origin(data)])


def _camera_line(
    name: str, rows: list[dict[str, Any]], crfs: list[float], value: Callable[[dict[str, Any]], float]
) -> str:
    means = [[value(row) for row in rows if row["crf"] == crf] for crf in crfs]
    return f"| {name} | " + " | ".join(f"{sum(part) / len(part):.2f}" for part in means) + " |"


def films(data: Mapping[str, Any]) -> str:
    """Moving pictures: PSNR and steadiness of each model, mean over the films."""
    keys = ("psnr_y", "tof", "warping_error", "flicker")
    size = data["size"]
    lines = [f"| | PSNR | tOF | warping error | flicker | ms at {size} |", "| --- |" + " --- |" * 5]
    scale = data["rows"][0]["scale"]
    rows = [("bicubic", row["bicubic"] | {"flicker": 1.0}) for row in data["rows"]]
    rows = rows[: len({row["film"] for row in data["rows"]})] + [(row["model"], row) for row in data["rows"]]
    for name in dict.fromkeys(name for name, _ in rows):
        found = [row for other, row in rows if other == name]
        means = [sum(row[key] for row in found) / len(found) for key in keys]
        lines.append(
            f"| {name} x{scale} | "
            + " | ".join(f"{mean:.{2 if n != 1 else 3}f}" for n, mean in enumerate(means))
            + (f" | {data['ms'][name]:.1f} |" if name in data["ms"] else " | |")
        )
    names = ", ".join(dict.fromkeys(row["film"] for row in data["rows"]))
    note = (
        f"Mean over {names}, reduced by bicubic; tOF in pixels, warping error in levels (lower is steadier), flicker "
    )
    note += "over bicubic's; milliseconds of a frame in the live precision, in turns."
    if still := [row["still"] for row in data["rows"] if "still" in row]:
        (early, last), *_ = (sorted(row, key=lambda key: int(key.removeprefix("psnr_"))) for row in still)
        drift = [row[last] - row[early] for row in still]
        count, before = (f"{int(key.removeprefix('psnr_')):,}" for key in (last, early))
        note += f" A still scene under noise: after {count} pictures `recurrent` is {min(drift):+.3f} to "
        note += f"{max(drift):+.3f} dB from what it was after {before}."
    return "\n".join([*lines, "", note, *_origin(data)])


def page(data: Mapping[str, Any]) -> str:
    """How old the picture is on the page, beside MJPEG."""
    lines = ["| in the browser | fps | p50 | p95 | p99 |", "| --- |" + " --- |" * 4]
    for name, key in (("the page: both sides, H.264", "page"), ("MJPEG of the result alone", "mjpeg")):
        late = data[key]["latency_ms"]
        lines.append(f"| {name} | {data[key]['fps']:.1f} | {late['p50']:.1f} | {late['p95']:.1f} | {late['p99']:.1f} |")
    note = "Age in ms of the picture when it is on the canvas, from its capture, as read from the clock in it; "
    note += f"{data['size']} x2, {data['model']}; filter and {data['browser']} on one machine, in turns in one run."
    return "\n".join([*lines, "", note, *_origin(data)])


def viewers(data: Mapping[str, Any]) -> str:
    """What viewers that join and leave cost the others."""
    alone, crowd, memory = data["age_ms"]["alone"], data["age_ms"]["with_the_others"], data["memory_mib"]
    lines = ["| one viewer of the page | p50 | p95 | p99 |", "| --- |" + " --- |" * 3]
    for name, late in (("alone", alone), (f"while {data['viewers']} others join and leave", crowd)):
        lines.append(f"| {name} | {late['p50']:.1f} | {late['p95']:.1f} | {late['p99']:.1f} |")
    note = f"Age in ms of each picture on its arrival, {data['seconds']:g} s, {data['visits']} visits, a third of them "
    note += f"over slow connections; pictures missed: {max(0, data['missed'])}; memory {memory['second_quarter']:.0f}, "
    note += f"later {memory['last_quarter']:.0f} MiB."
    return "\n".join([*lines, "", note, *_origin(data)])


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
    name = data["machine"]["gpus"][0]["name"]
    note = f"{name}: times in ms, whole frames with their chroma, in and out of the host's memory; per operation in "
    note += "[benchmarks/GPU.md](benchmarks/GPU.md)."
    return "\n".join([*lines, "", note, *_origin(data)])


def peers(data: Mapping[str, Any]) -> str:
    """Ours beside what people use today."""
    picture = "![PSNR against frames per second: ours lie above and right of the others](docs/peers.png)"
    return "\n".join([*peers_tables.table(data), *_origin(data), picture, ""])


def overhead(data: Mapping[str, Any]) -> str:
    """What is left of the CPU time when libraries have had theirs."""
    cpu = data["cpu_ms_per_frame"]
    text = f"Of {cpu['all']:.1f} ms of CPU time a frame ({data['size']} x{data['scale']}, {data['model']} in "
    text += f"{data['precision']}, file to file) {cpu['ours']:.2f} ms, {100 * data['share']:.1f} %, go neither into "
    text += "decoding, the network, interpolation nor encoding: Python, queues, copies, the container."
    return "\n".join([text, *_origin(data)])


def memory(data: Mapping[str, Any]) -> str:
    """The peak of a long run to 4K, and whether it grew."""
    source, output = data["source"], data["output"]
    text = f"{source['width']}x{source['height']} to {output['width']}x{output['height']}, {data['model']} in "
    text += f"{data['precision']}, {data['seconds'] / 60:g} minutes: at most {data['peak_mib']:.0f} MiB; "
    text += f"{data['second_quarter_mib']:.0f} MiB in the second quarter, {data['last_quarter_mib']:.0f} in the last."
    return "\n".join([text, *_origin(data)])


def fuzz(data: Mapping[str, Any]) -> str:
    """That hostile input breaks nothing, and what it was tried on."""
    broken = "nothing broke" if not data["failures"] else f"{data['failures']} broke something"
    note = (
        f"Hostile input for everything that reads the network ({', '.join(data['inputs'])}): {data['total']:,} inputs "
    )
    note += f"in {data['seconds']} s, {broken}, memory grew by {data['memory_growth_mib']:g} MiB."
    return "\n".join([note, *_origin(data)])


def auto(data: Mapping[str, Any]) -> str:
    """--model auto beside the presets fixed, and under a load that comes and goes."""
    lines = ["| fixed | picture | fps | dropped | p50 / p99 | holds |", "| --- |" + " --- |" * 5]
    for row in data["fixed"]:
        times, holds = f"{row['p50']:.1f} / {row['p99']:.1f}", "yes" if row["holds"] else "no"
        lines.append(f"| {row['model']} | {row['size']} | {row['fps']:.1f} | {row['dropped']} | {times} | {holds} |")
    quiet, loaded = data["quiet"], data["loaded"]
    during = loaded["during"]
    text = f"x{data['scale']} at {data['fps']} pictures a second, times of the inference in ms. `--model auto` at "
    text += f"{data['size']}: {quiet['model']} after {quiet['seconds']:g} s alone, {len(quiet['steps'])} steps, "
    text += f"{quiet['dropped']} of {quiet['frames']} dropped, p99 {quiet['p99']:.1f}. While {loaded['busy']} other "
    text += f"process{'' if loaded['busy'] == 1 else 'es'} computed: p99 {during['p99']:.1f}, {during['dropped']} of "
    text += f"{during['frames']} dropped; {_after('down', loaded['down_after'])}, {_after('up', loaded['up_after'])}."
    picture = "![Inference times, the load and the model in use, over time](docs/auto.png)"
    return "\n".join([*lines, "", text, *_origin(data), picture, ""])


def _after(word: str, seconds: float | None) -> str:
    return f"never {word}" if seconds is None else f"{word} after {seconds:.1f} s"


def _milliseconds(block: Mapping[str, float]) -> str:
    return f"{block['p50']:.1f} / {block['p99']:.1f}" if block.get("count") else "not measured"


def _origin(data: Mapping[str, Any]) -> list[str]:
    return ["", f"Measured with `{data['command']}` on {format_line(dict(data['machine']))}.", ""]


RENDERERS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "quality": quality, "overlap": overlap, "live": live, "ladder": ladder, "cameras": cameras, "films": films,
    "page": page, "viewers": viewers, "overload": overload, "soak": soak, "soak4": soak, "fuzz": fuzz,
    "gpu": gpu, "sweep": sweep, "peers": peers, "precision": precision, "overhead": overhead,
    "memory": memory, "auto": auto,
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--document", type=Path, action="append", metavar="FILE")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results", metavar="DIR")
    parsed = parser.parse_args()
    stale = []
    try:
        for document in parsed.document or DOCUMENTS:
            text = document.read_text()
            fresh = render(text, parsed.results, document.resolve().parent)
            if fresh != text:
                stale.append((document, fresh))
    except RenderError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for document, fresh in stale:
        if parsed.check:
            print(f"{document.name} is out of step with the results; run python benchmarks/render.py", file=sys.stderr)
        else:
            document.write_text(fresh)
    return int(bool(stale and parsed.check))


if __name__ == "__main__":
    sys.exit(main())
