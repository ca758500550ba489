"""How well the threads overlap: the CPU time of each stage alone against the speed of the whole, file to file.

    python -m benchmarks overlap [FILE] [--model fast] [--precision auto] [--rounds 3] [--frames 150]

Each stage runs alone over the same frames and its CPU time is that of the whole process, because x264's and
OpenVINO's own threads count too. Then `stream-sr run FILE OUT.mp4 --encoder-preset PRESET` runs as a user would run it.
`ratio` is its speed over (cores / sum of the stages' CPU seconds per frame), at least 0.9. `other_cores` is what the
rest of the machine took meanwhile: the ratio means something only where that is near 0. Without FILE a clip is made
from the synthetic source.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.interface import Benchmark, Measurement
from benchmarks.processes import Usage, watch
from stream_sr.bench.clip import make_clip
from stream_sr.bench.sweep import CLIP_SECONDS
from stream_sr.codec.encoder import Encoder
from stream_sr.inference.engines import open_engine
from stream_sr.inference.model import find_model
from stream_sr.pipeline.engine import EngineOptions, EngineSpec
from stream_sr.pipeline.interfaces import EncoderOptions
from stream_sr.sources import open_source
from stream_sr.system import machine
from stream_sr.video.color import guess_unknown
from stream_sr.video.frame import Frame, StreamInfo

TARGET = 0.9


def cpu_ms(work: Callable[[], Any], frames: int) -> float:
    """CPU milliseconds per frame of the whole process, all its threads, while ``work`` runs."""
    began = time.process_time()
    work()
    return round((time.process_time() - began) * 1000 / frames, 3)


def decode(file: Path, frames: int) -> tuple[StreamInfo, list[Frame]]:
    """The first frames of the file, each with memory of its own."""
    source = open_source(str(file))
    try:
        return source.info, list(islice(source.frames(), frames))
    finally:
        source.close()


def infer(info: StreamInfo, frames: list[Frame], parsed: argparse.Namespace) -> tuple[EngineSpec, list[Frame], float]:
    """The frames through the engine, one at a time, and the CPU milliseconds each."""
    model = find_model(parsed.model, parsed.scale)
    engine = open_engine(model, info, EngineOptions(backend=parsed.backend, precision=parsed.precision))
    try:
        engine.submit(frames[0]).wait()
        results: list[Frame] = []
        cost = cpu_ms(lambda: results.extend(engine.submit(frame).wait() for frame in frames), len(frames))
        return engine.spec, results, cost
    finally:
        engine.close()


def encode(info: StreamInfo, frames: list[Frame], preset: str) -> float:
    """CPU milliseconds per frame of x264 as a file sink uses it."""
    color = guess_unknown(info.color, width=info.width, height=info.height)
    larger = replace(info, width=frames[0].width, height=frames[0].height, color=color)
    encoder = Encoder(larger, EncoderOptions(preset=preset), live=False)

    def work() -> None:
        for frame in frames:
            encoder.encode(frame)
        encoder.flush()

    try:
        return cpu_ms(work, len(frames))
    finally:
        encoder.close()


def filter_file(file: Path, out: Path, parsed: argparse.Namespace) -> tuple[dict[str, Any], Usage]:
    """The report of the whole run, as a process of its own, and what that took. Raises ProcessFailed."""
    report = out.with_suffix(".json")
    command = [
        sys.executable, "-m", "stream_sr", "run", str(file), str(out), "--encoder-preset", parsed.preset, "--overwrite",
        "--json", str(report), "--model", parsed.model, "--scale", str(parsed.scale), "--backend", parsed.backend,
        "--precision", parsed.precision,
    ]  # fmt: skip
    usage = watch(command)
    return dict(json.loads(report.read_text())), usage


def machine_seconds() -> float:
    """CPU seconds that the whole machine has spent so far (Linux)."""
    user, nice, system, _, _, irq, softirq = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:8])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def one_round(file: Path, folder: Path, parsed: argparse.Namespace) -> dict[str, Any]:
    """Each stage alone, then all of them together."""
    began = time.process_time()
    info, frames = decode(file, parsed.frames)
    decoding = round((time.process_time() - began) * 1000 / len(frames), 3)
    spec, results, inferring = infer(info, frames, parsed)
    cpu = {"decode": decoding, "infer": inferring, "encode": encode(info, results, parsed.preset)}
    del frames, results
    before = time.monotonic(), machine_seconds()
    report, usage = filter_file(file, folder / "out.mp4", parsed)
    wall, everybody = time.monotonic() - before[0], machine_seconds() - before[1]
    bound = machine.cores() / (sum(cpu.values()) / 1000)
    return {
        "model": spec.model,
        "scale": spec.scale,
        "backend": spec.backend,
        "precision": spec.precision,
        "size": f"{info.width}x{info.height}",
        "preset": parsed.preset,
        "frames": report["frames_out"],
        "cpu_ms_per_frame": cpu,
        "bound_fps": round(bound, 2),
        "fps": report["fps"],
        "ratio": round(report["fps"] / bound, 3),
        "run_cpu_seconds": round(usage.cpu_seconds, 2),
        "other_cores": round(max(0.0, everybody - usage.cpu_seconds) / wall, 2),
    }


def measure_file(file: Path, folder: Path, parsed: argparse.Namespace) -> dict[str, Any]:
    """The round of the median ratio, the ratios of all and whether the target is reached."""
    decode(file, 10)  # libraries and file cache are warm
    rounds = sorted((one_round(file, folder, parsed) for _ in range(parsed.rounds)), key=lambda one: one["ratio"])
    middle = rounds[len(rounds) // 2]
    ratios = [one["ratio"] for one in rounds]
    return middle | {"ratios": ratios, "mark": TARGET, "reached": statistics.median(ratios) >= TARGET}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, nargs="?", metavar="FILE")
    parser.add_argument("--size", default="640x360", help="of the clip that is made without FILE")
    parser.add_argument("--model", default="fast")
    parser.add_argument("--scale", type=int, default=2)
    parser.add_argument("--backend", default="openvino")
    parser.add_argument("--preset", default="ultrafast")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--rounds", type=int, default=3, help="the median ratio counts")
    parser.add_argument("--frames", type=int, default=150, help="of the stages alone; held in memory")


def measure(parsed: argparse.Namespace) -> Measurement:
    with tempfile.TemporaryDirectory() as name:
        clip = parsed.file or make_clip(f"synthetic:{parsed.size}@30", CLIP_SECONDS, Path(name) / "clip.mp4")
        result = measure_file(clip, Path(name), parsed)
    cpu = ", ".join(f"{stage} {ms:.1f}" for stage, ms in result["cpu_ms_per_frame"].items())
    print(f"CPU ms per frame: {cpu}; bound {result['bound_fps']:.1f} fps, reached {result['fps']:.1f}")
    print(f"other processes used {result['other_cores']:.2f} cores meanwhile")
    missed = f"the ratio is {result['ratio']:.2f}, the target is at least {TARGET:g}"
    return Measurement(result, [] if result["reached"] else [missed])


ENTRY = Benchmark(add_options=add_options, measure=measure)
