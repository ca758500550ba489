"""Recordings that are removed under a running program: with real processes and real files."""

from __future__ import annotations

import json
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from media_files import count_pictures
from peers import free_port
from program import Monitor, Program
from waiting import wait_until

pytestmark = [pytest.mark.network, pytest.mark.long]


def test_serve_begins_another_file_and_tells_the_monitor(tmp_path: Path) -> None:
    file, port, folder = tmp_path / "c.toml", free_port(), tmp_path / "rec"
    folder.mkdir()
    path = folder / "door.mkv"
    file.write_text(f'[camera.door]\nsource = "synthetic:128x96@30"\nsinks = ["{path}"]\nbackend = "bicubic"\n')
    with Program("serve", file, "--metrics-port", port) as program:
        monitor = Monitor(port)
        wait_until(path.exists)
        monitor.until("stream_sr_recording", 1, camera="door")
        path.unlink()
        program.line("error: .*door.mkv was removed, renamed or replaced", seconds=10)
        wait_until(path.exists)
        monitor.until("stream_sr_recording", 1, camera="door")
        assert monitor.figure("stream_sr_recording_failures_total", camera="door") == 1
        assert monitor.figure("stream_sr_restarts_total", camera="door") == 0
        program.send(signal.SIGTERM)
        assert program.end() == 0
    assert count_pictures(path) > 0


@pytest.mark.slow
def test_serve_waits_for_the_folder(tmp_path: Path) -> None:
    file, port, folder = tmp_path / "c.toml", free_port(), tmp_path / "rec"
    folder.mkdir()
    path = folder / "door.mkv"
    file.write_text(f'[camera.door]\nsource = "synthetic:128x96@30"\nsinks = ["{path}"]\nbackend = "bicubic"\n')
    with Program("serve", file, "--metrics-port", port) as program:
        monitor = Monitor(port)
        wait_until(path.exists)
        path.unlink()
        folder.rmdir()
        program.line("error: .*was removed", seconds=10)
        folder.mkdir()
        wait_until(path.exists)
        monitor.until("stream_sr_recording", 1, camera="door")
        failures = monitor.figure("stream_sr_recording_failures_total", camera="door")
        assert failures is not None
        assert failures == 1, "it is counted when it is found, not each time that the folder is looked for"
        assert monitor.figure("stream_sr_restarts_total", camera="door") == 0
        program.send(signal.SIGTERM)
        assert program.end() == 0
    assert count_pictures(path) > 0


def test_a_live_run_ends_with_an_error_rather_than_record_into_nothing(tmp_path: Path) -> None:
    path, report = tmp_path / "out.mp4", tmp_path / "report.json"
    words = ["run", "synthetic:128x96@30", path, "--backend", "bicubic", "--json", report]
    with Program(*words) as program:
        wait_until(path.exists)
        path.unlink()
        assert program.end() == 5
        assert f"stream-sr: error: {path} was removed, renamed or replaced" in program.messages[-1]
    assert json.loads(report.read_text())["error"]["kind"] == "OutputRemoved"
    assert list(tmp_path.iterdir()) == [report]


def test_a_file_that_is_made_and_removed_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "out.mkv"
    picture = b"FRAME\n" + bytes(128 * 96 * 3 // 2)
    with Program("run", "-", path, "--backend", "bicubic", stdin=subprocess.PIPE) as program:
        pipe = program.process.stdin
        assert pipe is not None
        with suppress(BrokenPipeError), pipe:
            pipe.write(b"YUV4MPEG2 W128 H96 F25:1 C420jpeg\n" + picture * 5)
            pipe.flush()
            wait_until(path.exists)
            path.unlink()
            pipe.write(picture * 60)
        assert program.end() == 5
        assert f"stream-sr: error: {path} was removed" in program.messages[-1]
    assert list(tmp_path.iterdir()) == []
