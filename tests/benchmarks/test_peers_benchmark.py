"""The benchmark peers: they do the whole job, agree before encoding, and the table says what was measured."""

import argparse
import itertools
import struct
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import processes
from benchmarks.interface import MeasurementFailed
from benchmarks.peers import benchmark, programs, tables, transcode
from benchmarks.peers.ffmpeg_native import write_native
from stream_sr.bench.clip import DrawnClip, write_clip
from stream_sr.errors import ModelError
from stream_sr.evaluation.codec_roundtrip import read_luma
from stream_sr.inference.model import find_model

pytestmark = pytest.mark.long

OPENCV = ("opencv-dnn", "opencv-resize")


def test_a_program_is_watched_to_its_end() -> None:
    code = "import subprocess, sys; b = bytearray(60 << 20); subprocess.run([sys.executable, '-c', '{}'])"
    child = "b = bytearray(60 << 20); import time; time.sleep(0.3)"
    usage = processes.watch([sys.executable, "-c", code.replace("{}", child)])
    assert usage.wall_seconds > 0.3
    assert 120 < usage.peak_mib < 250  # both, and not what this process has
    assert 0 < usage.cpu_seconds < 60
    with pytest.raises(processes.ProcessFailed, match=r"no such thing \(exit code 1\)"):
        processes.watch([sys.executable, "-c", "raise SystemExit('no such thing')"])


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    folder = tmp_path_factory.mktemp("film")
    halved = benchmark.Halved(DrawnClip("synthetic:192x128@25", 1), 4)
    return write_clip(halved, folder / "input.mp4", crf=18), halved.truth


def test_the_input_is_half_of_the_truth(film: tuple[Path, list[Any]]) -> None:
    source, truth = film
    pictures = list(read_luma(source))
    assert len(pictures) == len(truth) == 4
    assert (truth[0].shape, pictures[0].shape) == ((128, 192), (64, 96))
    assert abs(truth[0].mean() - pictures[0].mean()) < 2


@pytest.mark.parametrize("name", OPENCV)
def test_a_peer_does_the_whole_job(film: tuple[Path, list[Any]], tmp_path: Path, name: str) -> None:
    source, truth = film
    model = programs.onnx_file("lowered") if name == "opencv-dnn" else None
    transcode.transcode(name, str(source), str(tmp_path / "out.mp4"), model, 3, tmp_path / "kept.npy")
    kept = np.load(tmp_path / "kept.npy")
    assert kept.shape == (3, 128, 192)
    assert benchmark.quality(tmp_path / "out.mp4", truth, 3) > 15


def test_requests_in_flight_keep_their_order(film: tuple[Path, list[Any]]) -> None:
    pictures = list(read_luma(film[0]))
    network = transcode.openvino(programs.onnx_file("exported"), pictures[0].shape)
    results = list(network(iter(pictures)))
    one_by_one = transcode.opencv_dnn(programs.onnx_file("lowered"), pictures[0].shape)(iter(pictures))
    assert all(np.abs(a.astype(int) - b).mean() < 1 for a, b in zip(results, one_by_one, strict=True))
    assert len({result.tobytes() for result in results}) == len(results)


def test_both_forms_of_the_network_give_the_same(film: tuple[Path, list[Any]], tmp_path: Path) -> None:
    source, _ = film
    ours = list(programs.ours("fsrcnn", "fp32").luma(source, tmp_path, 3))
    assert len(ours) == 3
    found = benchmark.agreement(programs.script("opencv-dnn", "lowered"), source, tmp_path, ours)
    assert found["within_one_level"]
    assert found["share_within_one_level"] == 1.0


def test_every_peer_runs_or_says_why_not() -> None:
    able, left = programs.peers()
    names = [one.name for one in able]
    assert len(set(names)) == len(names)
    assert {"stream-sr fast", "stream-sr fsrcnn", "opencv-dnn, exported", "opencv-dnn, lowered"} <= set(names)
    assert all(one["reason"] for one in left)
    everybody = {name.split(",")[0] for name in [*names, *(one["name"] for one in left)]}
    assert {"openvino", "onnxruntime", "torch", "torch-compile", "vapoursynth", "nvidia-vfx"} <= everybody
    with pytest.raises(MeasurementFailed, match="no peer here is named nobody"):
        benchmark.choose("nobody")


def row(name: str, family: str, fps: float, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "family": family,
        "fps": fps,
        "psnr_y": 30.0,
        "startup_seconds": 0.5,
        "peak_mib": 100.0,
        "cpu_ms_per_frame": 20.0,
        "model": "fsrcnn" if family != "resize" else "",
        "form": "",
    } | more


def test_marks_take_the_fastest_form_and_the_table_has_everybody(tmp_path: Path) -> None:
    same, apart = ({"most_levels": most} for most in (1, 4))
    rows = [
        row("stream-sr fsrcnn", "ours", 50, agreement=same, form="auto", precision="fp32"),
        row("stream-sr fsrcnn bf16", "ours", 90, agreement=apart, form="bf16"),
        row("opencv-dnn, exported", "network", 2, agreement=same, form="exported"),
        row("opencv-dnn, lowered", "network", 20, agreement=same, form="lowered"),
        row("ffmpeg scale lanczos", "resize", 300),
    ]
    marks = tables.judge(rows)
    assert [(mark["ratio"], mark["reached"], mark["most_levels"]) for mark in marks] == [
        (2.5, False, 1),
        (4.5, True, 4),
    ]
    data = {
        "rows": rows, "marks": marks, "left_out": [{"name": "torch", "reason": "not installed"}], "size": "96x64",
        "preset": "ultrafast", "crf": "18", "psnr_frames": 3, "clip": "a clip",
    }  # fmt: skip
    text = tables.peers(data)
    assert text.startswith("|  | fps |")
    assert "| ffmpeg scale lanczos | 300.0 | 30.00 | 0.50 s | 100 MiB | 20.0 ms | - |" in text
    assert "| opencv-dnn (fsrcnn, lowered) | 20.0 |" in text
    assert "| **stream-sr fsrcnn, fp32** | 50.0 |" in text
    assert "stream-sr fsrcnn bf16 over opencv-dnn, lowered 4.5 times" in text
    assert "Not here: torch (not installed)." in text
    pytest.importorskip("matplotlib")
    assert tables.plot(data, tmp_path / "peers.png").read_bytes().startswith(b"\x89PNG")


def test_a_frame_costs_what_all_take_longer_than_one() -> None:
    def usage(wall: float) -> Any:
        return processes.Usage(wall, 2 * wall, 100 * wall)

    pairs = [(usage(1.0), usage(3.0)), (usage(9.0), usage(3.5)), (usage(1.0), usage(9.0))]
    row = benchmark.summarise(pairs, 11)
    assert row is not None
    assert (row["fps"], row["startup_seconds"], row["peak_mib"]) == (4.0, 1.0, 350.0)
    assert row["cpu_ms_per_frame"] == 400.0
    assert benchmark.summarise([(usage(2.0), usage(1.0))], 11) is None


def test_a_short_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "SCENE", "synthetic:192x128@30")
    seconds = itertools.count(
        1
    )  # real programs, but every run takes longer than the one before, however busy it is here

    def run(command: list[str]) -> Any:
        return replace(processes.watch(command), wall_seconds=float(next(seconds)))

    monkeypatch.setattr(benchmark, "watch", run)
    options = argparse.Namespace(clip=None, frames=4, seconds=0.01, rounds=1)
    chosen, _ = benchmark.choose("opencv-resize,stream-sr tiny")
    broken = programs.Peer("broken", "resize", lambda source, out, frames: [sys.executable, "-c", "exit('oh')"])
    result = benchmark.measure_peers([*chosen, broken], options, tmp_path)
    assert [one["name"] for one in result["rows"]] == ["stream-sr tiny", "opencv-resize"]
    assert result["left_out"] == [{"name": "broken", "reason": "oh (exit code 1)"}]
    assert result["psnr_frames"] == 4
    assert result["rows"][0]["precision"] in ("fp32", "bf16", "int8")
    assert all(one["psnr_y"] > 15 and one["peak_mib"] > 20 and one["startup_seconds"] > 0 for one in result["rows"])


def test_a_model_in_ffmpegs_own_format(tmp_path: Path) -> None:
    path = write_native(find_model("tiny", 2), tmp_path / "tiny.model")
    data = path.read_bytes()
    assert data.startswith(b"FFMPEGDNNNATIVE\x01\x00\x00\x00")
    assert struct.unpack("<2i", data[-8:]) == (15, 16)  # nine convolutions, two shuffles, sums, ReLUs; operands
    with pytest.raises(ModelError, match="no PRelu"):
        write_native(find_model("fsrcnn", 2), tmp_path / "fsrcnn.model")


def test_ffmpegs_own_network_agrees(film: tuple[Path, list[Any]], tmp_path: Path) -> None:
    able, left = programs.peers()
    peer = next((one for one in able if one.name == "ffmpeg dnn_processing"), None)
    if peer is None:
        pytest.skip(next(one["reason"] for one in left if one["name"].startswith("ffmpeg dnn")))
    exact = list(programs.ours("tiny", "fp32").luma(film[0], tmp_path, 3))
    assert benchmark.agreement(peer, film[0], tmp_path, exact)["within_one_level"]
