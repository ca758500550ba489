"""What the figures of the benchmark `peers` say: the targets, the README's table, the plot."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stream_sr.evaluation.plots import new_figure, save_figure

TARGETS = (("opencv-dnn", 4.0), ("openvino", 3.0), ("onnxruntime", 2.0))  # how many times as fast ours is to be
FORMS = {"": "", "exported": ", as exported", "lowered": ", lowered"}
COLORS = {"ours": "C0", "network": "C3", "resize": "0.5"}


def judge(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Ours with FSRCNN's weights, in each precision, over each peer in its fastest form.

    ``what``, ``ratio``, ``asked``, ``reached``; ``most_levels`` is the most that either's luma is from ours
    in fp32; the faster precisions of both are not exact.
    """
    found = []
    for ours in (row for row in rows if (row["family"], row["model"]) == ("ours", "fsrcnn")):
        for name, asked in TARGETS:
            theirs = [row for row in rows if row["family"] == "network" and row["name"].split(",")[0] == name]
            if theirs:
                peer = max(theirs, key=lambda row: row["fps"])
                ratio = round(ours["fps"] / peer["fps"], 3)
                found.append(
                    {
                        "what": f"{ours['name']} over {peer['name']}",
                        "ratio": ratio,
                        "asked": asked,
                        "reached": ratio >= asked,
                        "most_levels": max(row["agreement"]["most_levels"] for row in (ours, peer)),
                    }
                )
    return found


def peers(data: Mapping[str, Any]) -> str:
    """A row for each peer, the fastest first, then the targets and who is missing."""
    titles = ["", "fps", "PSNR", "start-up", "memory", "CPU per frame", "levels apart"]
    lines = [f"| {' | '.join(titles)} |", "| --- |" + " --- |" * (len(titles) - 1)]
    for row in sorted(data["rows"], key=lambda row: -row["fps"]):
        form = "" if row["family"] == "ours" else FORMS[row["form"]]
        weights = f" ({row['model']}{form})" if row["family"] == "network" else ""
        name = row["name"].split(",")[0] + weights + (f", {row['precision']}" if row["form"] == "auto" else "")
        apart = str(row["agreement"]["most_levels"]) if "agreement" in row else "-"
        cells = [
            f"**{name}**" if row["family"] == "ours" else name,
            f"{row['fps']:.1f}",
            f"{row['psnr_y']:.2f}",
            f"{row['startup_seconds']:.2f} s",
            f"{row['peak_mib']:.0f} MiB",
            f"{row['cpu_ms_per_frame']:.1f} ms",
            apart,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    note = f"{data['size']} x2, whole programs in turns: H.264 in, H.264 out ({data['preset']}, CRF {data['crf']}); "
    note += f"PSNR of luma in dB against the full-size truth over {data['psnr_frames']} frames of {data['clip']}; "
    note += "start-up is a film of one frame; levels apart: the most that luma differs from that of ours with the same "
    note += "weights in fp32, before it is encoded."
    lines += ["", note]
    if data["marks"]:
        lines += ["", "With the same weights: " + "; ".join(_mark(mark) for mark in data["marks"]) + "."]
    if data["left_out"]:
        lines += ["", "Not here: " + "; ".join(f"{one['name']} ({one['reason']})" for one in data["left_out"]) + "."]
    return "\n".join(lines)


def _mark(mark: Mapping[str, Any]) -> str:
    return f"{mark['what']} {mark['ratio']:.1f} times"


def plot(data: Mapping[str, Any], out: Path) -> Path:
    """PSNR against frames per second."""
    figure = new_figure(9, 5.5)
    axes = figure.subplots()
    for row in data["rows"]:
        color = COLORS[row["family"]]
        axes.scatter(row["fps"], row["psnr_y"], s=70, color=color, marker="o" if row["family"] == "ours" else "s")
        place = (row["fps"], row["psnr_y"])  # the same weights give the same PSNR: slanted names pass one another
        below = row["family"] == "ours" and "fsrcnn" in row["name"]  # the presets above
        axes.annotate(
            row["name"],
            place,
            xytext=(2, -6 if below else 6),
            textcoords="offset points",
            fontsize=8,
            color=color,
            rotation=-60 if below else 60,
            va="top" if below else "baseline",
        )
    axes.set_xscale("log")
    axes.set_xlabel(f"frames per second, whole program, {data['size']} x2")
    axes.set_ylabel("PSNR of luma, dB")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.margins(x=0.12, y=0.45)
    axes.grid(visible=True, which="both", alpha=0.3)
    return save_figure(figure, out)
