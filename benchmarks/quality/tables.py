"""Tables of the quality benchmarks, as markdown, from the results of their records."""

from collections.abc import Callable, Mapping
from typing import Any

from stream_sr.cli.listing import SETS


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
    return "\n".join([*lines, "", " ".join(notes)])


def _quality_line(name: str, by_set: Mapping[str, Mapping[str, float]]) -> str:
    cells = [f"{by_set[s]['psnr_y']:.2f} / {by_set[s]['ssim_y']:.4f}" if s in by_set else "-" for s in SETS]
    return f"| {name} | " + " | ".join(cells) + " |"


def _apart(rows: list[dict[str, Any]], shipped: list[dict[str, Any]], other: tuple[str, str]) -> str:
    key = ("model", "scale", "set")
    first = {tuple(row[k] for k in key): row["psnr_y"] for row in shipped}
    theirs = [row for row in rows if (row["backend"], row["precision"]) == other]
    apart = [abs(row["psnr_y"] - first[tuple(row[k] for k in key)]) for row in theirs]
    return f"{other[0]} ({other[1]}) is at most {max(apart):.3f} dB away."


def cameras(data: Mapping[str, Any]) -> str:
    """After H.264: the mean over the films, for each CRF, of bicubic and of the weights for clean and for cameras."""
    rows, crfs = data["rows"], list(dict.fromkeys(row["crf"] for row in data["rows"]))
    lines = ["| | " + " | ".join(f"CRF {crf}" for crf in crfs) + " |", "| --- |" + " --- |" * len(crfs)]
    for scale in sorted({row["scale"] for row in rows}):
        of_scale = [row for row in rows if row["scale"] == scale]
        name = f"bicubic x{scale}" if scale > 1 else "as decoded"
        lines.append(_camera_line(name, of_scale, crfs, lambda row: row["bicubic"]["psnr_y"]))
        for model, weights in dict.fromkeys((row["model"], row["weights"]) for row in of_scale):
            chosen = [row for row in of_scale if (row["model"], row["weights"]) == (model, weights)]
            lines.append(_camera_line(f"{model} x{scale}, {weights}", chosen, crfs, lambda row: row["psnr_y"]))
    films = ", ".join(dict.fromkeys(row["film"] for row in rows))
    note = f"PSNR of luma in dB, mean over {films} ({rows[0]['frames']} frames each), none of which was trained on."
    return "\n".join([*lines, "", note])


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
    return "\n".join([*lines, "", note])


def tradeoff(data: Mapping[str, Any]) -> str:
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
    return "\n".join([*lines, "", note])


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
    return "\n".join([*lines, "", note])
