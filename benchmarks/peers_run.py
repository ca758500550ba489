"""What peers.py does: the input and the truth, the turns, quality and agreement, and the result."""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import peers_list
from peer import CRF, PRESET
from peers_list import FPS, Peer
from peers_tables import marks, plot
from processes import ProcessFailed, Usage, watch
from record import RESULTS, ROOT, write_result

from stream_sr.bench.clip import DrawnClip, write_clip
from stream_sr.errors import StreamSRError
from stream_sr.evaluation.codec_roundtrip import read_luma
from stream_sr.pipeline.interfaces import Source
from stream_sr.pipeline.packets import Passthrough
from stream_sr.sources import open_source
from stream_sr.system.machine import command_line
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


def measure(peers: Sequence[Peer], parsed: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All that is written, but for the command and the machine."""
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
        exact = list(peers_list.ours(model, "fp32").luma(source, folder, AGREEMENT_FRAMES))
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
    """Peers that can run here, and those that cannot with their reason."""
    able, left = peers_list.peers()
    if only is None:
        return able, left
    names = only.split(",")
    if unknown := sorted(set(names) - {peer.name for peer in able}):
        known = ", ".join(peer.name for peer in able)
        raise SystemExit(f"error: no peer here is named {', '.join(unknown)}; there are {known}")
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


def main(text: str) -> int:
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", type=Path, metavar="FILE", help="the truth (default: photographs that move)")
    parser.add_argument("--frames", type=int, default=600, metavar="N", help="of the clip, at most (held in memory)")
    parser.add_argument("--seconds", type=float, default=8, help="of each run, about")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", metavar="NAME,...", help="of the peers")
    parser.add_argument("--redraw", action="store_true", help="only the plot, from the figures that are there")
    parser.add_argument("--out", type=Path, default=RESULTS / "peers.json", metavar="FILE")
    parser.add_argument("--plot", type=Path, default=ROOT / "docs" / "peers.png", metavar="FILE")
    parsed = parser.parse_args()
    if parsed.frames < 2 or parsed.rounds < 1 or parsed.seconds <= 0:
        parser.error("at least --frames 2, --rounds 1 and some --seconds")
    if not parsed.redraw:
        peers, left = choose(parsed.only)
        with tempfile.TemporaryDirectory() as folder:
            try:
                result = measure(peers, parsed, Path(folder))
            except StreamSRError as error:
                print(f"error: {error}", file=sys.stderr)
                return error.exit_code
            except ProcessFailed as error:
                print(f"error: {error}", file=sys.stderr)
                return 1
        result["left_out"] = left + result["left_out"]
        result["marks"] = marks(result["rows"])
        print("\n".join(report(result)))
        write_result(parsed.out, result, command_line(["python", "benchmarks/peers.py", *sys.argv[1:]]))
    plot(json.loads(parsed.out.read_text()), parsed.plot)
    return 0
