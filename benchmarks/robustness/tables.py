"""Tables of the robustness benchmarks, as markdown, from the results of their records."""

from collections.abc import Mapping
from typing import Any

from benchmarks.markdown import milliseconds


def overload(data: Mapping[str, Any]) -> str:
    """A model that is too big: how old the pictures get, and what is dropped."""
    head = ["max. latency", "one inference", "capture to output", "in", "out", "dropped", "memory"]
    lines = [f"| {' | '.join(head)} |", "| --- |" + " --- |" * (len(head) - 1)]
    for row in data["rows"]:
        memory = row["memory_mib"]
        dropped = ", ".join(f"{reason} {count}" for reason, count in row["dropped"].items()) or "none"
        cells = [
            f"{row['max_latency_ms']:g}",
            milliseconds(row["stages_ms"]["infer"]),
            milliseconds(row["latency_ms"]),
            f"{row['frames_in']}",
            f"{row['frames_out']}",
            dropped,
            f"{memory['second_quarter']:.0f}, later {memory['last_quarter']:.0f} MiB",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    row = data["rows"][0]
    note = f"{row['model']} x{row['scale']} on {row['source']['width']}x{row['source']['height']}, live, "
    note += f"{data['seconds']:g} s each; ms, p50 / p99."
    return "\n".join([*lines, "", note])


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
    return "\n".join([*lines, "", note])


def viewers(data: Mapping[str, Any]) -> str:
    """What viewers that join and leave cost the others."""
    alone, crowd, memory = data["age_ms"]["alone"], data["age_ms"]["with_the_others"], data["memory_mib"]
    lines = ["| one viewer of the page | p50 | p95 | p99 |", "| --- |" + " --- |" * 3]
    for name, late in (("alone", alone), (f"while {data['viewers']} others join and leave", crowd)):
        lines.append(f"| {name} | {late['p50']:.1f} | {late['p95']:.1f} | {late['p99']:.1f} |")
    note = f"Age in ms of each picture on its arrival, {data['seconds']:g} s, {data['visits']} visits, a third of them "
    note += f"over slow connections; pictures missed: {max(0, data['missed'])}; memory {memory['second_quarter']:.0f}, "
    note += f"later {memory['last_quarter']:.0f} MiB."
    return "\n".join([*lines, "", note])


def memory(data: Mapping[str, Any]) -> str:
    """The peak of a long run to 4K, and whether it grew."""
    source, output = data["source"], data["output"]
    text = f"{source['width']}x{source['height']} to {output['width']}x{output['height']}, {data['model']} in "
    text += f"{data['precision']}, {data['seconds'] / 60:g} minutes: at most {data['peak_mib']:.0f} MiB; "
    text += f"{data['second_quarter_mib']:.0f} MiB in the second quarter, {data['last_quarter_mib']:.0f} in the last."
    return text


def fuzz(data: Mapping[str, Any]) -> str:
    """That hostile input breaks nothing, and what it was tried on."""
    broken = "nothing broke" if not data["failures"] else f"{data['failures']} broke something"
    note = (
        f"Hostile input for everything that reads the network ({', '.join(data['inputs'])}): {data['total']:,} inputs "
    )
    note += f"in {data['seconds']} s, {broken}, memory grew by {data['memory_growth_mib']:g} MiB."
    return note
