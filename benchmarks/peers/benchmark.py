"""The whole job beside what people use today: decode, enlarge twice, encode.

    python -m benchmarks peers [--clip FILE] [--seconds 8] [--rounds 3] [--only NAME,...] [--redraw]

The truth is the clip at its full size, the input its half-size copy (bicubic, H.264). Every peer is a program of its
own (`transcode`, ffmpeg, `stream-sr run`), all write H.264 ultrafast at the same CRF, and they run in turns, each for
about --seconds. ``fps`` is what one more second of film costs, (frames - 1) / (time of all - time of one frame);
``startup_seconds`` that one frame, from the start of the program to its end; ``peak_mib`` the memory of its processes;
PSNR is of luma against the truth. Networks with the same weights are compared before encoding. What cannot run here is
in ``left_out`` with its reason. Needs `pip install 'stream-sr[peers]'` and ffmpeg. On a quiet machine: nothing else may
run.
"""

import argparse
import statistics
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.interface import Benchmark, Measurement, MeasurementFailed
from benchmarks.peers import programs
from benchmarks.peers.programs import FPS, Peer
from benchmarks.peers.tables import judge, plot
from benchmarks.peers.transcode import CRF, PRESET
from benchmarks.processes import ProcessFailed, Usage, watch
from stream_sr.bench.clip import DrawnClip, write_clip
from stream_sr.evaluation.codec_roundtrip import read_luma
from stream_sr.pipeline.interfaces import Source
from stream_sr.pipeline.packets import Passthrough
from stream_sr.sources import open_source
from stream_sr.video.frame import Frame, StreamInfo
from stream_sr.video.frame_pool import FramePool
from stream_sr.video.orientation import Orientation
from stream_sr.video.quality import psnr
from stream_sr.video.resample import bicubic, to_uint8

SCENE = "synthetic:photos,1280x720@30"
INPUT_CRF = 18
AGREEMENT_FRAMES = 3
LEAST_FRAMES = 12


class Halved:
    """A source's first frames at half the size and at a steady rate; its own are kept as the truth (luma)."""

    passthrough: Passthrough | None = None

    def __init__(self, source: Source, limit: int) -> None:
        self._source, self._limit = source, limit
        self.truth: list[npt.NDArray[np.uint8]] = []
        width, height = source.info.width // 4 * 2, source.info.height // 4 * 2
        self.info: StreamInfo = replace(
            source.info,
            width=width,
            height=height,
            time_base=1 / FPS,
            fps=FPS,
            live=False,
            orientation=Orientation.UPRIGHT,
        )

    def frames(self, pool: FramePool | None = None) -> Iterator[Frame]:
        height, width = self.info.height, self.info.width
        for number, frame in enumerate(islice(self._source.frames(), self._limit)):
            luma, *chroma = frame.planes
            self.truth.append(np.array(luma[: 2 * height, : 2 * width]))
            small = [_reduce(self.truth[-1], (height, width))]
            small += [_reduce(plane[:height, :width], (height // 2, width // 2)) for plane in chroma]
            frame = replace(frame, pts=number, time_base=self.info.time_base, duration=1)
            yield frame.with_planes((small[0], small[1], small[2]))

    def stop(self) -> None:
        self._source.stop()

    def counters(self) -> dict[str, int]:
        return {}

    def close(self) -> None:
        self._source.close()


def _reduce(plane: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    return to_uint8(bicubic(plane.astype(np.float64), size))


def prepare(clip: Path | None, frames: int, folder: Path) -> tuple[Path, list[npt.NDArray[np.uint8]]]:
    """The input file, and the luma of the truth."""
    source: Source = open_source(str(clip)) if clip else DrawnClip(SCENE, float(frames / FPS))
    halved = Halved(source, frames)
    return write_clip(halved, folder / "input.mp4", crf=INPUT_CRF), halved.truth


def frames_for(peer: Peer, source: Path, folder: Path, seconds: float, limit: int) -> int:
    """How many frames take about so many seconds."""
    out = folder / "trial.mp4"
    one = watch(peer.command(source, out, 1)).wall_seconds
    some = watch(peer.command(source, out, 9)).wall_seconds
    return max(min(LEAST_FRAMES, limit), min(limit, round(seconds / max(1e-3, (some - one) / 8))))


def take_turns(
    peers: Sequence[Peer], source: Path, folder: Path, seconds: float, rounds: int, limit: int
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Rows by name, and those that failed with their reason."""
    runs: dict[str, list[tuple[Usage, Usage]]] = {}
    counts: dict[str, int] = {}
    failed: dict[str, str] = {}
    for peer in peers:
        try:
            counts[peer.name] = frames_for(peer, source, folder, seconds, limit)
            runs[peer.name] = []
        except ProcessFailed as error:
            failed[peer.name] = str(error)
    for number in range(rounds):
        for peer in peers:
            if peer.name not in counts:
                continue
            out, count = out_of(peer, folder), counts[peer.name]
            one = watch(peer.command(source, folder / "one.mp4", 1))
            whole = watch(peer.command(source, out, count))
            runs[peer.name].append((one, whole))
            print(f"round {number + 1}: {peer.name}: {count} frames in {whole.wall_seconds:.1f} s", flush=True)
    rows = {}
    for name, found in runs.items():
        row = summarise(found, counts[name])
        if row is None:
            failed[name] = "one frame took as long as all of them; measure on a quiet machine, or longer"
        else:
            rows[name] = {"name": name, "frames": counts[name]} | row
    return rows, failed


def summarise(runs: Sequence[tuple[Usage, Usage]], frames: int) -> dict[str, Any] | None:
    """Of pairs of runs, of one frame and of all, the medians; None where they differ by nothing."""
    one, whole = (statistics.median(pair[which].wall_seconds for pair in runs) for which in (0, 1))
    if whole <= one or frames < 2:
        return None
    cpu = statistics.median(all_of.cpu_seconds - first.cpu_seconds for first, all_of in runs)
    return {
        "fps": round((frames - 1) / (whole - one), 3),
        "startup_seconds": round(one, 3),
        "wall_seconds": [round(all_of.wall_seconds, 3) for _, all_of in runs],
        "peak_mib": round(statistics.median(all_of.peak_mib for _, all_of in runs), 1),
        "cpu_ms_per_frame": round(1000 * cpu / (frames - 1), 3),
    }


def out_of(peer: Peer, folder: Path) -> Path:
    return folder / f"{peer.name.replace(' ', '-')}.mp4"


def quality(out: Path, truth: Sequence[npt.NDArray[np.uint8]], frames: int) -> float:
    """Mean PSNR of luma in dB over the first frames, which all peers have."""
    pairs = zip(islice(read_luma(out), frames), truth, strict=False)
    return round(statistics.fmean(psnr(a, b) for a, b in pairs), 3)


def agreement(peer: Peer, source: Path, folder: Path, reference: Sequence[npt.NDArray[np.uint8]]) -> dict[str, Any]:
    """How far the luma of the first frames is from the reference, in levels, before encoding."""
    found = list(peer.luma(source, folder, AGREEMENT_FRAMES))
    apart = np.abs(np.stack(found).astype(np.int16) - np.stack(list(reference)))
    mean = round(float((apart.astype(np.float64) ** 2).mean()) ** 0.5, 4)
    return {
        "most_levels": int(apart.max()),
        "rms_levels": mean,
        "within_one_level": bool(apart.max() <= 1),
        "share_within_one_level": round(float((apart <= 1).mean()), 7),
    }


def measure_peers(peers: Sequence[Peer], parsed: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run all peers, and compare what they wrote. Raises ProcessFailed where none of them runs."""
    source, truth = prepare(parsed.clip, parsed.frames, folder)
    rows, failed = take_turns(peers, source, folder, parsed.seconds, parsed.rounds, len(truth))
    if not rows:
        raise ProcessFailed("; ".join(f"{name}: {reason}" for name, reason in failed.items()))
    common = min(row["frames"] for row in rows.values())
    alive = [peer for peer in peers if peer.name in rows]
    for peer in alive:
        out = out_of(peer, folder)
        rows[peer.name] |= peer.facts(out) | {"psnr_y": quality(out, truth, common)}
    for model in {peer.model for peer in alive} - {""}:
        exact = list(programs.ours(model, "fp32").luma(source, folder, AGREEMENT_FRAMES))
        for peer in alive:
            if peer.model == model:
                rows[peer.name]["agreement"] = agreement(peer, source, folder, exact)
    width, height = truth[0].shape[1] // 2, truth[0].shape[0] // 2
    return {
        "size": f"{width}x{height}",
        "clip": parsed.clip.name if parsed.clip else SCENE,
        "crf": CRF,
        "preset": PRESET,
        "seconds": parsed.seconds,
        "rounds": parsed.rounds,
        "psnr_frames": common,
        "rows": list(rows.values()),
        "left_out": [{"name": name, "reason": reason} for name, reason in failed.items()],
    }


def choose(only: str | None) -> tuple[list[Peer], list[dict[str, str]]]:
    """Peers that can run here, and those that cannot with their reason. Raises MeasurementFailed for other names."""
    able, left = programs.peers()
    if only is None:
        return able, left
    names = only.split(",")
    if unknown := sorted(set(names) - {peer.name for peer in able}):
        known = ", ".join(peer.name for peer in able)
        raise MeasurementFailed(f"no peer here is named {', '.join(unknown)}; there are {known}")
    return [peer for peer in able if peer.name in names], left


def report(result: dict[str, Any]) -> Iterable[str]:
    for row in sorted(result["rows"], key=lambda row: -row["fps"]):
        same = row.get("agreement", {}).get("most_levels", "")
        yield (
            f"{row['name']:26}{row['fps']:8.1f} fps{row['psnr_y']:8.2f} dB{row['startup_seconds']:7.2f} s"
            f"{row['peak_mib']:7.0f} MiB  {f'apart {same}' if same != '' else ''}"
        )
    for mark in result["marks"]:
        yield f"{mark['what']}: {mark['ratio']:.2f} times, asked {mark['asked']:g}"
    for left in result["left_out"]:
        yield f"left out: {left['name']}: {left['reason']}"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clip", type=Path, metavar="FILE", help="the truth (default: photographs that move)")
    parser.add_argument("--frames", type=int, default=600, metavar="N", help="of the clip, at most (held in memory)")
    parser.add_argument("--seconds", type=float, default=8, help="of each run, about")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", metavar="NAME,...", help="of the peers")


def measure(parsed: argparse.Namespace) -> Measurement:
    if parsed.frames < 2 or parsed.rounds < 1 or parsed.seconds <= 0:
        raise MeasurementFailed("nothing to measure: give at least --frames 2, --rounds 1 and more than 0 --seconds")
    peers, left = choose(parsed.only)
    with tempfile.TemporaryDirectory() as folder:
        result = measure_peers(peers, parsed, Path(folder))
    result["left_out"] = left + result["left_out"]
    result["marks"] = judge(result["rows"])
    print("\n".join(report(result)))
    return Measurement(result)


ENTRY = Benchmark(add_options=add_options, measure=measure, plot=plot, image="peers.png")
