"""Many streams in one process: the file, and who fails, restarts and is left alone."""

import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from waiting import wait_until

from stream_sr.app import supervisor as serve
from stream_sr.app.fleet import read_fleet
from stream_sr.app.metrics import CameraCollector
from stream_sr.app.supervisor import Supervisor
from stream_sr.cli import main as cli
from stream_sr.errors import ConfigError, SourceOpenError, SourceRefused
from stream_sr.pipeline.threads import Worker

ONE = """
[all]
backend = "bicubic"
[camera.{name}]
source = "synthetic:128x96@30"
sinks = ["null:"]
"""


pytestmark = [pytest.mark.network, pytest.mark.usefixtures("no_threads_left")]


# --- the file


def test_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAM_SR_MAX_LATENCY", "200")
    file = tmp_path / "cameras.toml"
    file.write_text(
        'metrics-port = 9100\n[all]\nmodel = "fsrcnn-s"\nread-timeout = 2\nmax-latency = 100\n'
        '[camera.door]\nsource = "rtsp://h/a"\nsinks = ["rtsp://@:8554/a", "x-%H.mkv"]\nread-timeout = 3\n'
        '[camera.yard]\nsource = "rtsp://h/b"\nsinks = ["rtsp://@:8554/b"]\n'
    )
    fleet = read_fleet(file)
    assert (fleet.metrics_port, fleet.metrics_host) == (9100, "127.0.0.1")
    door, yard = fleet.cameras
    assert (door.name, door.source, door.sinks) == ("door", "rtsp://h/a", ("rtsp://@:8554/a", "x-%H.mkv"))
    assert (door.config.read_timeout, yard.config.read_timeout) == (3, 2)
    assert {plan.config.model for plan in fleet.cameras} == {"fsrcnn-s"}
    assert {plan.config.max_latency for plan in fleet.cameras} == {200}  # the environment goes before [all]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "names no camera"),
        ("camera = 3", "names no camera"),
        ("x = 1\n[camera.a]", "'x' is not known"),
        ("[camera]\na = 2", "is no table"),
        ("[camera.a]\nsinks = ['null:']", "has no source"),
        ("[camera.a]\nsource = 'rtsp://h/x'", "has no sinks"),
        ("[camera.a]\nsource = 'rtsp://h/x'\nsinks = 'null:'", "has no sinks"),
        ("[camera.a]\nsource = 'rtsp://h/x'\nsinks = ['null:']\nscal = 2", "no option 'scal'"),
        ("[camera.a]\nsource = 'rtsp://h/x'\nsinks = ['null:']\nscale = 9", "whole number from 1 to 4"),
        ("[camera.a]\nsource = 'rtsp://h/x'\nsinks = ['window:']", "stream-sr run"),
        (
            "[camera.a]\nsource = 'rtsp://h/x'\nsinks = ['o.foo']",
            r"camera.a\]: o.foo: the ending .foo is not a container",
        ),
        ("[camera.a]\nsource = 'rtsp://h/x'\nsinks = ['ftp://h/x']", "is none that we know"),
        ("metrics-port = 'x'\n[camera.a]\nsource = 'r'\nsinks = ['null:']", "metrics-port"),
        ("[camera.a]\nsource = 'r'\nsinks = ['b.mkv']\n[camera.c]\nsource = 'r'\nsinks = ['b.mkv']", "both a and c"),
        ("[camera.a]\nsource = 'r'\nsinks = ['b.mkv']\n[camera.c]\nsource = 'r'\nsinks = ['./b.mkv']", "both a and c"),
        ("[camera.a]\nsource = 'r'\nsinks = ['null:']\n[camera.a]\nsource = 'r'\nsinks = ['null:']", "is not TOML"),
        ("[camera.a]\nsource='r'\nsinks=['null:']\n[camera.c]\nsource='r'\nsinks=['null:']\ndevice=1", "one GPU"),
        ("[camera.a", "is not TOML"),
    ],
)
def test_mistakes_in_the_file(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_fleet(tmp_path / "c.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_fleet(tmp_path / "none.toml")


# --- running


@contextmanager
def running(supervisor: Supervisor) -> Iterator[None]:
    """In a thread, stopped with the block."""
    worker = Worker("supervisor", supervisor.run)
    try:
        yield
    finally:
        supervisor.stop()
        assert worker.join(20)
    assert worker.error is None


def test_a_camera_fails_alone_and_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "FIRST_WAIT_SECONDS", 0.01)
    file = tmp_path / "c.toml"
    file.write_text(
        ONE.format(name="good") + f'[camera.bad]\nsource = "{tmp_path}/none.mp4"\nsinks = ["null:"]\n'
        '[camera.wrong]\nsource = "synthetic:128x96@30"\nsinks = ["null:"]\nmodel = "nonsense"\nbackend = "auto"\n'
    )
    cameras = CameraCollector()
    with running(Supervisor(file, cameras)):
        wait_until(lambda: len(list(cameras)) == 3)
        states = {camera.name: camera for camera in cameras}
        wait_until(lambda: states["good"].health() == "live" and states["bad"].restarts >= 2)
        wait_until(lambda: states["wrong"].state == "failed")
        assert "no such file" in states["bad"].error
        assert "nonsense" in states["wrong"].error
        assert not cameras.health()[0]
    assert list(cameras) == []


@pytest.mark.parametrize("away", ["camera", "server"])
def test_a_camera_or_server_that_is_away_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, away: str
) -> None:
    monkeypatch.setattr(serve, "FIRST_WAIT_SECONDS", 0.01)
    file = tmp_path / "c.toml"
    if away == "camera":
        file.write_text(f'[camera.bad]\nsource = "{tmp_path}/none.mp4"\nsinks = ["null:"]\n')
    else:
        file.write_text(ONE.format(name="bad").replace("null:", "rtsp://127.0.0.1:1/nobody"))
    cameras = CameraCollector()
    with running(Supervisor(file, cameras)):
        wait_until(lambda: [camera.restarts >= 3 for camera in cameras] == [True])
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1


def test_a_wrong_password_is_not_tried_often() -> None:
    assert serve._wait(1, SourceRefused("no")) == serve.REFUSED_WAIT_SECONDS
    assert serve._wait(1, SourceOpenError("no")) == serve.FIRST_WAIT_SECONDS
    assert serve._wait(100, SourceOpenError("no")) == serve.MOST_WAIT_SECONDS


@contextmanager
def silent_camera() -> Iterator[int]:
    """A port at which everybody is heard and nobody is answered."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(8)
        yield listener.getsockname()[1]


def test_a_stop_does_not_wait_for_a_camera_that_is_being_opened(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    with silent_camera() as port:
        file.write_text(
            f'[all]\nread-timeout = 600\n[camera.a]\nsource = "rtsp://127.0.0.1:{port}/a"\nsinks = ["null:"]\n'
        )
        cameras = CameraCollector()
        with running(Supervisor(file, cameras)):
            wait_until(lambda: [camera.state for camera in cameras] == ["starting"])
            wait_until(lambda: any(thread.name == "rtsp source" for thread in threading.enumerate()))


def test_a_recording_is_never_in_its_own_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a restart the name is taken; the camera must run all the same."""
    monkeypatch.setattr(serve, "FIRST_WAIT_SECONDS", 0.01)
    (tmp_path / "a.mkv").write_bytes(b"an earlier recording")
    file = tmp_path / "c.toml"
    file.write_text(ONE.format(name="a").replace('"null:"', f'"{tmp_path}/a.mkv"'))
    cameras = CameraCollector()
    with running(Supervisor(file, cameras)):
        wait_until(lambda: [camera.health() for camera in cameras] == ["live"])
        wait_until(lambda: (tmp_path / "a-2.mkv").exists())
    assert (tmp_path / "a.mkv").read_bytes() == b"an earlier recording"
    assert (tmp_path / "a-2.mkv").stat().st_size > 0


def test_a_reload_does_not_wait_for_a_camera_that_takes_its_time_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither does a stop, and its successor waits for its ports and files."""
    may_end = threading.Event()
    real = serve.CameraWorker.join
    monkeypatch.setattr(
        serve.CameraWorker, "join", lambda self, timeout=None: may_end.wait(timeout) and real(self, timeout)
    )
    file = tmp_path / "c.toml"
    file.write_text(ONE.format(name="a"))
    cameras = CameraCollector()
    supervisor = Supervisor(file, cameras)
    with running(supervisor):
        wait_until(lambda: [camera.health() for camera in cameras] == ["live"])
        (before,) = cameras
        file.write_text(ONE.format(name="a").replace("@30", "@25"))
        supervisor.reload()
        wait_until(lambda: before.state == "ended")
        file.write_text(ONE.format(name="a").replace("@30", "@20"))
        supervisor.reload()
        wait_until(lambda: not supervisor._reload_wanted)
        assert list(cameras) == [before]
        may_end.set()
        wait_until(lambda: [camera.health() for camera in cameras] == ["live"])
        (after,) = cameras
        assert after is not before
        assert after.pipeline is not None
        assert after.pipeline.plan.source.info.fps == 20


def test_reloading_leaves_the_unchanged_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "c.toml"
    second = '[camera.second]\nsource = "synthetic:128x96@{fps}"\nsinks = ["null:"]\n'
    file.write_text(ONE.format(name="first") + second.format(fps=30))
    cameras = CameraCollector()
    supervisor = Supervisor(file, cameras)
    with running(supervisor):
        wait_until(lambda: [camera.health() for camera in cameras] == ["live", "live"])
        first, before = cameras
        pipeline = first.pipeline
        file.write_text(
            ONE.format(name="first") + second.format(fps=25) + second.format(fps=10).replace("second", "third")
        )
        supervisor.reload()
        wait_until(lambda: [camera.health() for camera in cameras if camera.name != "first"] == ["live", "live"])
        assert {camera.name for camera in cameras} == {"first", "second", "third"}
        assert first.pipeline is pipeline
        assert before not in list(cameras)
        file.write_text("nonsense = [")
        supervisor.reload()
        wait_until(lambda: "keep running as they are" in caplog.text)
        assert first.pipeline is pipeline
        file.write_text(ONE.format(name="first"))
        supervisor.reload()
        wait_until(lambda: [camera.name for camera in cameras] == ["first"])
        supervisor.abort()


def test_a_source_that_ends_is_no_failure(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text(ONE.format(name="short") + "duration = 0.2\n")
    worker = Worker("supervisor", Supervisor(file, CameraCollector()).run)
    assert worker.join(20)
    assert worker.error is None


def test_check_finds_a_model_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "c.toml"
    file.write_text(ONE.format(name="door"))
    assert cli.main(["serve", str(file), "--check"]) == 0
    assert capsys.readouterr().out.startswith("door: synthetic:")
    file.write_text(ONE.format(name="door").replace('backend = "bicubic"', 'model = "nope"'))
    assert cli.main(["serve", str(file), "--check"]) == 2
    assert "no model 'nope'" in capsys.readouterr().err
    assert cli.main(["serve", str(file), "--metrics-host", "::"]) == 2
    assert "there is no --metrics-port" in capsys.readouterr().err
