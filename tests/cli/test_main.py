"""The program as a user runs it: real processes, real files, exit codes, one line for every mistake."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from media_files import write_video, write_y4m
from peers import free_port, wait_for_port

from stream_sr.cli import main
from stream_sr.cli.command import EXIT_ABORTED
from stream_sr.cli.commands import models
from stream_sr.system.machine import has_vnni
from stream_sr.video.quality import psnr, rgb_to_luma
from stream_sr.video.resample import make_pair

pytestmark = pytest.mark.long

PROGRAM = [sys.executable, "-m", "stream_sr"]


def stream_sr(*words: str | Path, data: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*PROGRAM, *map(str, words)], input=data, capture_output=True, timeout=120, check=False)


def stream_sr_here(capsys: pytest.CaptureFixture[str], *words: str | Path) -> subprocess.CompletedProcess[bytes]:
    """The same in this process: a second quicker, for what is refused before anything runs."""
    code = main.main([str(word) for word in words])
    out, errors = capsys.readouterr()
    return subprocess.CompletedProcess(words, code, out.encode(), errors.encode())


def clip(path: Path, **options: Any) -> list[int]:
    return write_video(path, **({"width": 128, "height": 96, "count": 12} | options))


def read(path: Path) -> tuple[list[int], tuple[int, int]]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        size = (stream.width, stream.height)
        return [round(frame.time * 1000) for frame in container.decode(stream) if frame.time is not None], size


def assert_one_line(result: subprocess.CompletedProcess[bytes], code: int, *parts: str) -> None:
    errors = result.stderr.decode()
    assert result.returncode == code, errors
    assert "Traceback" not in errors
    lines = [line for line in errors.splitlines() if line.startswith("stream-sr: error: ")]
    assert len(lines) == 1, errors
    for part in parts:
        assert part in lines[0]


def test_a_file_upscaled_with_every_picture_and_a_report(tmp_path: Path) -> None:
    clip(tmp_path / "in.mp4")
    result = stream_sr("run", tmp_path / "in.mp4", tmp_path / "out.mp4", "--json", tmp_path / "report.json")
    assert result.returncode == 0, result.stderr.decode()
    times, size = read(tmp_path / "out.mp4")
    assert (times, size) == (read(tmp_path / "in.mp4")[0], (256, 192))
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["frames_in"], report["frames_out"], report["dropped"]) == (12, 12, {})
    assert {"fps", "model", "backend", "precision", "machine"} <= set(report)
    assert {"p50", "p95", "p99"} <= set(report["latency_ms"])
    for stage in ("decode", "wait", "infer", "encode", "write"):
        assert report["stages_ms"][stage]["p99"] >= report["stages_ms"][stage]["p50"] > 0


def test_y4m_through_pipes(tmp_path: Path) -> None:
    write_y4m(tmp_path / "in.y4m", width=64, height=48, count=4)
    result = stream_sr("run", "-", "-", data=(tmp_path / "in.y4m").read_bytes())
    assert result.returncode == 0, result.stderr.decode()
    header, _, rest = result.stdout.partition(b"\n")
    assert header.startswith(b"YUV4MPEG2 W128 H96 F25:1")
    assert len(rest) == 4 * (len(b"FRAME\n") + 128 * 96 * 3 // 2)


def test_the_picture_is_better_than_bicubic() -> None:
    """A photograph, halved, comes back nearer to itself than bicubic brings it."""
    data = pytest.importorskip("skimage.data", reason="photographs come with scikit-image")
    low, truth = make_pair(rgb_to_luma(data.astronaut()[:240, 100:420]), 2)
    height, width = low.shape
    chroma = bytes([128]) * (height // 2 * (width // 2) * 2)
    y4m = f"YUV4MPEG2 W{width} H{height} F25:1 Ip A1:1 C420mpeg2\nFRAME\n".encode() + low.tobytes() + chroma
    quality = {}
    for name, options in {"network": [], "bicubic": ["--backend", "bicubic"]}.items():
        out = stream_sr("run", "-", "-", *options, data=y4m).stdout
        luma = np.frombuffer(out.split(b"FRAME\n")[1], np.uint8, truth.size).reshape(truth.shape)
        quality[name] = psnr(luma, truth, border=2)
    assert quality["network"] > quality["bicubic"] + 1, quality


def test_size_fits_the_picture_into_a_box(tmp_path: Path) -> None:
    clip(tmp_path / "in.mp4", count=3)
    result = stream_sr("run", tmp_path / "in.mp4", tmp_path / "out.mkv", "--size", "200x200")
    assert result.returncode == 0, result.stderr.decode()
    assert read(tmp_path / "out.mkv")[1] == (200, 150)


def test_bicubic_at_scale_one_is_a_pass_through(tmp_path: Path) -> None:
    write_y4m(tmp_path / "in.y4m", width=53, height=37, count=2)
    data = (tmp_path / "in.y4m").read_bytes()
    result = stream_sr("run", "-", "-", "--backend", "bicubic", "--scale", "1", data=data)
    assert result.stdout.split(b"FRAME\n")[1:] == data.split(b"FRAME\n")[1:]


class TestMistakes:
    def test_missing_file(self, tmp_path: Path) -> None:
        assert_one_line(stream_sr("run", tmp_path / "no.mp4", "null:"), 3, "no.mp4")

    def test_text_named_mp4(self, tmp_path: Path) -> None:
        (tmp_path / "text.mp4").write_text("this is no video\n" * 100)
        assert_one_line(stream_sr("run", tmp_path / "text.mp4", "null:"), 3, "text.mp4")

    def test_truncated_file_is_written_up_to_there(self, tmp_path: Path) -> None:
        clip(tmp_path / "whole.mp4", count=60, container_options={"movflags": "faststart"})
        data = (tmp_path / "whole.mp4").read_bytes()
        (tmp_path / "cut.mp4").write_bytes(data[: len(data) * 6 // 10])
        result = stream_sr("run", tmp_path / "cut.mp4", tmp_path / "out.mp4", "--json", tmp_path / "report.json")
        assert_one_line(result, 3, "cut.mp4")
        times, _ = read(tmp_path / "out.mp4")
        assert 10 < len(times) < 60
        report = json.loads((tmp_path / "report.json").read_text())
        assert report["frames_out"] == len(times)
        assert report["exit_code"] == 3

    def test_output_exists(self, tmp_path: Path) -> None:
        clip(tmp_path / "in.mp4", count=2)
        (tmp_path / "out.mp4").write_bytes(b"precious")
        assert_one_line(stream_sr("run", tmp_path / "in.mp4", tmp_path / "out.mp4"), 5, "out.mp4", "--overwrite")
        assert (tmp_path / "out.mp4").read_bytes() == b"precious"

    def test_output_is_the_input(self, tmp_path: Path) -> None:
        clip(tmp_path / "in.mp4", count=2)
        before = (tmp_path / "in.mp4").read_bytes()
        assert_one_line(stream_sr("run", tmp_path / "in.mp4", tmp_path / "in.mp4"), 5, "in.mp4")
        assert (tmp_path / "in.mp4").read_bytes() == before

    def test_unknown_model_scale_backend_and_option(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        clip(tmp_path / "in.mp4", count=2)
        source = tmp_path / "in.mp4"
        assert_one_line(
            stream_sr_here(capsys, "run", source, "null:", "--model", "none"), 2, "no model 'none'", "fsrcnn"
        )
        assert_one_line(stream_sr_here(capsys, "run", source, "null:", "--model", "tiny", "--scale", "1"), 2, "x1")
        assert_one_line(stream_sr_here(capsys, "run", source, "null:", "--backend", "cuda"), 2, "openvino")
        assert_one_line(
            stream_sr_here(capsys, "run", source, "null:", "--cfr", "2"), 2, "--cfr", "--crf?", "`stream-sr run --help`"
        )
        assert_one_line(
            stream_sr_here(capsys, "preview", source, "more"), 2, "'more' is one word too many", "preview --help"
        )
        assert_one_line(
            stream_sr_here(capsys, "bench", "--mode", "fast"), 2, "--mode: 'fast' is not one of engine, pipeline, live"
        )
        assert_one_line(
            stream_sr_here(capsys, "run", source, "null:", "--model", tmp_path), 2, f"no model '{tmp_path}'"
        )
        (tmp_path / "model.onnx").touch()
        assert_one_line(
            stream_sr_here(capsys, "run", source, "null:", "--model", tmp_path), 2, f"give {tmp_path}/model.onnx"
        )
        assert_one_line(stream_sr_here(capsys, "run", source, "null:", "--backend", "tensorrt"), 4, "tensorrt")
        assert_one_line(stream_sr_here(capsys, "run"), 2, "SOURCE")

    def test_options_that_would_do_nothing(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        clip(tmp_path / "in.mp4", count=2)
        source = tmp_path / "in.mp4"
        assert_one_line(
            stream_sr_here(capsys, "run", source, "null:", "--crf", "20"), 2, "--crf", "no output is encoded"
        )
        assert_one_line(
            stream_sr_here(capsys, "run", source, "null:", "--max-latency", "20"), 2, "--max-latency", "not live"
        )
        assert_one_line(stream_sr_here(capsys, "run", source, "null:", "--device", "3"), 2, "device 3")
        assert_one_line(
            stream_sr_here(capsys, "run", source, tmp_path / "o.mp4", "--encoder-preset", "warp"),
            2,
            "warp",
            "ultrafast",
        )
        assert_one_line(
            stream_sr_here(capsys, "run", source, "null:", "--overwrite"), 2, "--overwrite", "no output is a file"
        )
        assert_one_line(
            stream_sr_here(capsys, "run", source, "null:", "--metrics-host", "::"), 2, "there is no --metrics-port"
        )
        words = ("run", source, "null:", "--backend", "bicubic", "--weights", "camera")
        assert_one_line(stream_sr_here(capsys, *words), 2, "--weights", "bicubic uses no network")
        assert_one_line(stream_sr_here(capsys, "bench", "--crf", "20"), 2, "--crf")
        assert_one_line(stream_sr_here(capsys, "bench", source, "-"), 2, "standard output")
        assert_one_line(stream_sr_here(capsys, "engine", "list", "--device", "1"), 2, "--device")
        assert not (tmp_path / "o.mp4").exists()

    def test_options_in_the_environment_do_not_stand_in_the_way(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clip(tmp_path / "in.mp4", count=2)
        monkeypatch.setenv("STREAM_SR_READ_TIMEOUT", "7")
        monkeypatch.setenv("STREAM_SR_MODEL", "fsrcnn")
        monkeypatch.setenv("STREAM_SR_BITRATE", "4M")
        source = tmp_path / "in.mp4"
        for words in (["null:"], ["null:", "--backend", "bicubic"], [tmp_path / "out.mp4", "--crf", "30"]):
            result = stream_sr("run", source, *words)
            assert result.returncode == 0, result.stderr.decode()

    def test_an_output_given_twice(self, tmp_path: Path) -> None:
        clip(tmp_path / "in.mp4", count=2)
        words = ("run", tmp_path / "in.mp4", tmp_path / "a.mp4", f"{tmp_path}/./a.mp4", "--overwrite")
        assert_one_line(stream_sr(*words), 2, "a.mp4", "twice")
        assert not (tmp_path / "a.mp4").exists()

    def test_a_part_does_not_replace_the_whole(self, tmp_path: Path) -> None:
        clip(tmp_path / "in.mp4", count=5)
        before = (tmp_path / "in.mp4").read_bytes()
        words = ("run", tmp_path / "in.mp4", tmp_path / "in.mp4", "--overwrite")
        assert_one_line(stream_sr(*words, "--duration", "0.1"), 2, "a part of it")
        assert (tmp_path / "in.mp4").read_bytes() == before
        assert stream_sr(*words).returncode == 0
        assert read(tmp_path / "in.mp4")[1] == (256, 192)

    def test_a_rotation_that_mpegts_cannot_keep_is_said(self, tmp_path: Path) -> None:
        clip(tmp_path / "turned.mp4", count=5, orientation=7)
        result = stream_sr("run", tmp_path / "turned.mp4", tmp_path / "turned.ts")
        assert result.returncode == 0
        assert b"mirrored and turned by 90 degrees" in result.stderr

    def test_an_output_without_a_picture_is_not_left_behind(self, tmp_path: Path) -> None:
        header = b"YUV4MPEG2 W64 H48 F25:1 Ip A1:1 C420jpeg\nFRAME\n" + bytes(100)
        assert_one_line(stream_sr("run", "-", tmp_path / "out.mkv", data=header), 3, "inside picture 0")
        assert not (tmp_path / "out.mkv").exists()

    def test_closed_standard_streams(self, tmp_path: Path) -> None:
        clip(tmp_path / "in.mp4", count=2)
        program = " ".join([*PROGRAM, "run"])

        def shell(words: str) -> subprocess.CompletedProcess[bytes]:
            command = f"{program} {words}"
            return subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, timeout=60, check=False)

        assert_one_line(shell("in.mp4 - >&-"), 5, "standard output is closed")
        assert_one_line(shell("- null: <&-"), 3, "standard input")
        quiet = shell("in.mp4 null: 2>&-")
        assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, b"", b"")

    def test_a_full_standard_output(self) -> None:
        with open("/dev/full", "wb") as full:
            result = subprocess.run([*PROGRAM, "models"], stdout=full, stderr=subprocess.PIPE, timeout=60, check=False)
        assert result.returncode == 5
        assert result.stderr.decode().splitlines() == [
            "stream-sr: error: standard output cannot be written: No space left on device"
        ]

    def test_what_is_no_regular_file(self) -> None:
        assert_one_line(stream_sr("run", "/dev/zero", "null:"), 3, "neither a file nor a folder")

    def test_text_named_onnx(self, tmp_path: Path) -> None:
        clip(tmp_path / "in.mp4", count=2)
        (tmp_path / "bad.onnx").write_text("no protobuf")
        result = stream_sr("run", tmp_path / "in.mp4", "null:", "--model", tmp_path / "bad.onnx")
        assert_one_line(result, 2, "not an ONNX file")
        assert len(result.stderr.decode().splitlines()) == 1

    def test_refused_address_without_the_password(self) -> None:
        result = stream_sr("run", f"rtsp://user:secret@127.0.0.1:{free_port()}/x", "null:")
        assert_one_line(result, 3, "refused")
        assert b"secret" not in result.stderr

    def test_no_webcam_and_no_display(self, tmp_path: Path) -> None:
        clip(tmp_path / "in.mp4", count=2)
        assert_one_line(stream_sr("run", "99", "null:"), 3, "camera")
        environment = {name: value for name, value in os.environ.items() if "DISPLAY" not in name}
        result = subprocess.run(
            [*PROGRAM, "preview", str(tmp_path / "in.mp4")],
            env=environment,
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert_one_line(result, 5, "display")

    def test_a_full_disk_ends_with_the_files_name(self, tmp_path: Path) -> None:
        clip(tmp_path / "in.mp4", count=40)
        script = (
            "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000));"
            "from stream_sr.cli.main import main; sys.exit(main())"
        )
        result = subprocess.run(
            [sys.executable, "-c", script, "run", str(tmp_path / "in.mp4"), str(tmp_path / "out.mp4"), "--crf", "0"],
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert_one_line(result, 5, "out.mp4")
        assert 0 < len(read(tmp_path / "out.mp4")[0]) < 25  # less than a second went in, and it plays

    def test_json_into_nowhere(self, tmp_path: Path) -> None:
        assert_one_line(stream_sr("models", "--json", tmp_path / "no" / "x.json"), 2, "--json")
        clip(tmp_path / "in.mp4", count=2)
        result = stream_sr("run", tmp_path / "in.mp4", tmp_path / "out.mp4", "--json", tmp_path / "no" / "x.json")
        assert_one_line(result, 2, "--json")
        assert not (tmp_path / "out.mp4").exists()  # refused before the work
        assert_one_line(stream_sr("run", "-", "-", "--json", "-"), 2, "standard output")


def test_ctrl_c_finishes_the_file(tmp_path: Path) -> None:
    out = tmp_path / "out.mkv"
    port = free_port()
    process = subprocess.Popen(
        [*PROGRAM, "run", "synthetic:320x180@30", f"rtsp://@:{port}/x", str(out)], stderr=subprocess.PIPE
    )
    try:
        wait_for_port(port)  # the sinks are open: the run goes
        with av.open(f"rtsp://127.0.0.1:{port}/x", options={"rtsp_transport": "tcp"}, timeout=20) as viewer:
            for count, _ in enumerate(viewer.demux(video=0)):
                if count == 20:
                    break
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0, errors.decode()
    assert b"Traceback" not in errors
    times, size = read(out)
    assert size == (640, 360)
    assert len(times) > 10


@pytest.mark.parametrize("which", [signal.SIGTERM, signal.SIGHUP])
def test_a_closed_terminal_or_a_stopped_service_finishes_the_file(tmp_path: Path, which: signal.Signals) -> None:
    out = tmp_path / "out.mp4"
    process = subprocess.Popen([*PROGRAM, "run", "synthetic:320x180@30", str(out)], stderr=subprocess.PIPE)
    try:
        assert process.stderr is not None
        assert b"synthetic" in process.stderr.readline()  # announced: the run begins
        while not (out.exists() and out.stat().st_size > 0):
            assert process.poll() is None
        process.send_signal(which)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0, errors.decode()
    assert len(read(out)[0]) >= 1


def test_a_second_ctrl_c_stops_now(tmp_path: Path) -> None:
    """Nobody reads the output, so a soft stop cannot finish."""
    clip(tmp_path / "in.mp4", count=40)
    process = subprocess.Popen(
        [*PROGRAM, "run", str(tmp_path / "in.mp4"), "-"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(9) == b"YUV4MPEG2"
        process.send_signal(signal.SIGINT)
        errors = b""
        while b"stopping" not in errors:
            errors += process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert b"Traceback" not in errors + process.stderr.read()
    finally:
        process.kill()
        process.stdout.close()  # type: ignore[union-attr]
        process.stderr.close()  # type: ignore[union-attr]
        process.wait()


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    clip(tmp_path / "in.mp4", count=40)
    process = subprocess.Popen(
        [*PROGRAM, "run", str(tmp_path / "in.mp4"), "-"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.read(100)
    process.stdout.close()
    assert process.stderr is not None
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == 0, errors.decode()


def test_lists_and_help() -> None:
    models = json.loads(stream_sr("models", "--json", "-").stdout)["models"]
    assert {("fsrcnn", 2), ("fsrcnn-s", 2)} <= {(model["name"], model["scale"]) for model in models}
    assert b"openvino" in stream_sr("run", "--backend=help").stdout.split()
    assert b"fsrcnn-s" in stream_sr("run", "--model=help").stdout
    text = stream_sr("run", "--help").stdout.decode()
    assert text.startswith("usage: stream-sr run [options] SOURCE SINK [SINK ...]\n\n")
    assert "rtsp://@:8654/path" in text
    assert "--max-latency" in text
    assert stream_sr("engine", "list", "-v").returncode == 0


@pytest.mark.parametrize(
    ("command", "usage"),
    [
        ("bench", "bench [options] [SOURCE] [SINK]"),
        ("train", "train [options] RECIPE --data DIR"),
        ("engine", "engine [options] ACTION ..."),
        ("models", "models [options]"),
    ],
)
def test_usage_is_one_line(command: str, usage: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main.main([command, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.splitlines()[:2] == [f"usage: stream-sr {usage}", ""]


def test_every_option_says_what_it_does() -> None:
    parsers = [main._parser()]
    for parser in parsers:
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                parsers += action.choices.values()
            else:
                assert action.help, f"{parser.prog} {action.dest}"


def test_bench_of_engine_and_pipeline(tmp_path: Path) -> None:
    words = ("--size", "64x48", "--seconds", "0.05", "--rounds", "2", "--json", tmp_path / "bench.json")
    result = stream_sr("bench", *words)
    assert result.returncode == 0, result.stderr.decode()
    assert "Throughput:" in result.stdout.decode()
    (row,) = json.loads((tmp_path / "bench.json").read_text())["rows"]
    assert row["fps"] > 0
    assert len(row["fps_rounds"]) == 2
    clip(tmp_path / "in.mp4", count=5)
    result = stream_sr("bench", tmp_path / "in.mp4", tmp_path / "out.mp4", "--rounds", "2")
    assert result.returncode == 0, result.stderr.decode()
    assert "10 frames in, 10 out" in result.stdout.decode()
    assert_one_line(stream_sr("bench", tmp_path / "in.mp4", tmp_path / "out.mp4"), 5, "--overwrite")


def test_bench_measures_the_rest_when_one_of_several_fails(tmp_path: Path) -> None:
    words = ("--size", "64x48", "--seconds", "0.05", "--rounds", "1", "--model", "fsrcnn-s", "--precision", "fp32,int8")
    result = stream_sr("bench", *words, "--json", tmp_path / "bench.json")
    assert result.returncode == (2 if has_vnni() else 4)  # as the one that failed would have ended alone
    measured, failed = json.loads((tmp_path / "bench.json").read_text())["rows"]
    assert measured["fps"] > 0
    assert "int8" not in measured["precision"]
    assert ("eight bits" if has_vnni() else "no VNNI") in failed["error"]


def test_bench_compare_judges_and_refuses(tmp_path: Path) -> None:
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    words = ("--size", "64x48", "--seconds", "0.05", "--rounds", "1", "--backend", "bicubic")
    assert stream_sr("bench", *words, "--json", first).returncode == 0
    data = json.loads(first.read_text())
    data["rows"][0]["fps"] /= 2
    second.write_text(json.dumps(data))
    result = stream_sr("bench", "compare", first, second)
    assert result.returncode == 0, result.stderr.decode()
    assert "0.500" in result.stdout.decode()
    assert_one_line(stream_sr("bench", "compare", first, second, "--max-regression", "40"), 7, "bicubic x2 64x48")
    assert stream_sr("bench", "compare", first, second, "--max-regression", "60").returncode == 0
    data["machine"]["cpu"] = "another"
    second.write_text(json.dumps(data))
    assert_one_line(stream_sr("bench", "compare", first, second, "--max-regression", "40"), 2, "different machines")
    assert stream_sr("bench", "compare", first, second, "--max-regression", "40", "--force").returncode == 7


def test_a_defect_is_one_line_and_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(parsed: object) -> int:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(main, "COMMANDS", (replace(models.COMMAND, run=broken),))
    assert main.main(["models"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert main.main(["models", "-v"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("Traceback")
    assert error.endswith("ZeroDivisionError: division by zero\n")


def test_ctrl_c_while_the_command_line_is_read_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def pressed() -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(main, "_parser", pressed)
    assert main.main(["models"]) == EXIT_ABORTED
    assert capsys.readouterr().err == "stream-sr: stopped\n"
