"""Memory of a long run from 1080p to 4K on the processor: its peak, and whether it grows.

    python -m benchmarks memory [--minutes 10] [--model fast] [--size 1920x1080]

A film of the synthetic source, repeated until it lasts longer than the run, goes through `stream-sr run FILE OUT.mp4`;
after ``--minutes`` it is told to stop as by Ctrl-C. Memory is the resident set of its processes. ``peak_mib`` must be
under 1500 MB, and the last quarter at most 2 % above the second.
"""

import argparse
import json
import math
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from benchmarks.interface import Benchmark, Measurement
from benchmarks.processes import quarters, tree_mib, watch
from stream_sr.bench.clip import DrawnClip, write_clip
from stream_sr.config import size

PEAK_MIB = 1500e6 / 2**20
GROWTH = 0.02
FILM_SECONDS, FILM_CRF = 4.0, 30
OUT_CRF = "35"  # ten minutes of 4K have to fit on the disk
TRIAL_SECONDS = 10.0
EVERY_SECONDS = 1.0


class Samples:
    """Memory of a process once a second and at its end; stops it so many seconds after the file ``begun`` was there."""

    def __init__(self, seconds: float, begun: Path) -> None:
        self.mib: list[float] = []
        self._began = 0.0
        self._due = 0.0
        self._ends, self._begun = seconds, begun
        self._told = False

    def look(self, pid: int) -> None:
        now = time.monotonic()
        if not self._began and self._begun.exists():
            self._began = now
        ends = bool(self._began) and now - self._began >= self._ends and not self._told
        if now >= self._due or ends:  # a run shorter than a second is looked at as well
            self._due = now + EVERY_SECONDS
            self.mib.append(tree_mib(pid))
        if ends:
            self._told = True
            os.kill(pid, signal.SIGINT)


def repeat_film(film: Path, times: int, out: Path) -> Path:
    """The same packets one after the other, their times moved on; nothing is encoded again."""
    with av.open(str(film)) as reader, av.open(str(out), "w") as writer:
        video = reader.streams.video[0]
        packets = [packet for packet in reader.demux(video) if packet.dts is not None]
        times_of = [(packet.pts or 0, packet.dts or 0) for packet in packets]
        first = min(pts for pts, _ in times_of)
        length = round(len(packets) / ((video.average_rate or Fraction(30)) * (video.time_base or Fraction(1, 30))))
        copy = writer.add_stream_from_template(video)
        for number in range(times):
            for packet, (pts, dts) in zip(packets, times_of, strict=True):
                again = av.Packet(bytes(packet))
                again.pts, again.dts = pts - first + number * length, dts - first + number * length
                again.time_base, again.is_keyframe, again.stream = packet.time_base, packet.is_keyframe, copy
                writer.mux_one(again)
    return out


def judge(mib: Sequence[float], peak: float) -> dict[str, Any]:
    """Peak and growth, and whether they reach the targets."""
    second, last = quarters(mib)
    growth = last / second - 1
    return {
        "peak_mib": round(peak, 1),
        "peak_mark_mib": round(PEAK_MIB, 1),
        "second_quarter_mib": round(second, 1),
        "last_quarter_mib": round(last, 1),
        "growth": round(growth, 4),
        "growth_mark": GROWTH,
        "reached": peak < PEAK_MIB and growth <= GROWTH,
    }


def run_for(film: Path, out: Path, seconds: float, model: str) -> tuple[Samples, float, dict[str, Any]]:
    """A run that is stopped after so many seconds: its memory, its peak and its report. Raises ProcessFailed."""
    report = out.with_suffix(".json")
    samples = Samples(seconds, out)
    command = [
        sys.executable, "-m", "stream_sr", "run", str(film), str(out), "--model", model, "--encoder-preset",
        "ultrafast", "--crf", OUT_CRF, "--overwrite", "--json", str(report),
    ]  # fmt: skip
    usage = watch(command, seen=samples.look)
    return samples, max(usage.peak_mib, *samples.mib), json.loads(report.read_text())


def measure_run(folder: Path, seconds: float, model: str, picture: tuple[int, int]) -> dict[str, Any]:
    """Make the film, run the filter on it and judge its memory. Raises ProcessFailed."""
    source = DrawnClip("synthetic:{}x{}@30".format(*picture), FILM_SECONDS)
    film = write_clip(source, folder / "film.mp4", crf=FILM_CRF)
    _, _, trial = run_for(film, folder / "trial.mp4", TRIAL_SECONDS, model)
    needed = 1.5 * max(1.0, trial["fps"]) * seconds
    long = repeat_film(film, math.ceil(needed / (FILM_SECONDS * 30)) + 1, folder / "long.mp4")
    samples, peak, report = run_for(long, folder / "out.mp4", seconds, model)
    kept = ("model", "scale", "backend", "precision", "device", "source", "output", "frames_in", "frames_out", "fps")
    return {
        "seconds": seconds,
        **{key: report[key] for key in kept},
        **judge(samples.mib, peak),
        "mib_each_second": [round(mib, 1) for mib in samples.mib],
    }


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--model", default="fast")
    parser.add_argument("--size", type=size, default=(1920, 1080), metavar="WxH", help="of the input")


def measure(parsed: argparse.Namespace) -> Measurement:
    with tempfile.TemporaryDirectory() as name:
        result = measure_run(Path(name), parsed.minutes * 60, parsed.model, parsed.size)
    summary = (
        f"peak {result['peak_mib']:.0f} MiB, the target is under {PEAK_MIB:.0f}; second quarter "
        f"{result['second_quarter_mib']:.0f}, last {result['last_quarter_mib']:.0f} MiB "
        f"({100 * result['growth']:+.1f} %, the target is at most {100 * GROWTH:g} %)"
    )
    print(f"{summary}; {result['frames_out']} frames at {result['fps']:.1f} fps")
    return Measurement(result, [] if result["reached"] else [summary])


ENTRY = Benchmark(add_options=add_options, measure=measure)
