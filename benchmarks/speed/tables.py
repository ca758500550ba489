"""Tables of the speed benchmarks, as markdown, from the results of their records."""

from collections.abc import Mapping
from typing import Any


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
    return "\n".join([*lines, "", note])


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
    return "\n".join([*lines, "", note])


def overhead(data: Mapping[str, Any]) -> str:
    """What is left of the CPU time when libraries have had theirs."""
    cpu = data["cpu_ms_per_frame"]
    text = f"Of {cpu['all']:.1f} ms of CPU time a frame ({data['size']} x{data['scale']}, {data['model']} in "
    text += f"{data['precision']}, file to file) {cpu['ours']:.2f} ms, {100 * data['share']:.1f} %, go neither into "
    text += "decoding, the network, interpolation nor encoding: Python, queues, copies, the container."
    return text


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
    return "\n".join([*lines, "", text])


def _after(word: str, seconds: float | None) -> str:
    return f"never {word}" if seconds is None else f"{word} after {seconds:.1f} s"
