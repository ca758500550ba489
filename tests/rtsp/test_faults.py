"""Faults of cameras, servers and viewers, with real processes: afterwards the picture is back, and nothing is left."""

from __future__ import annotations

import random
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from itertools import pairwise
from pathlib import Path

import av
import peers
import pytest

from stream_sr.errors import SourceError
from stream_sr.pipeline.interfaces import SourceOptions
from stream_sr.pipeline.threads import Worker
from stream_sr.sources import open_source
from stream_sr.video.frame import Frame

pytestmark = [pytest.mark.network, pytest.mark.serial]

BACK_SECONDS = 3.0  # from the port that listens again to pictures at a viewer; by design 1 s and what two cores need
READ_TIMEOUT = 0.5
BRIGHT = 200  # the barcode of a live picture; `no signal` has none, and its text does not reach the edges


def camera(port: int, size: str = "320x180@30") -> list[str]:
    return peers.stream_sr(
        "run", f"synthetic:{size}", f"rtsp://@:{port}/cam", "--backend", "bicubic", "--scale", "1", "--gop", "15"
    )


class Watcher:
    """Plays what the filter serves, all the time, and knows when it last saw a live picture."""

    def __init__(self, url: str) -> None:
        self.live = threading.Condition()
        self.count = 0
        self.dark = 0
        self.sizes: set[tuple[int, int]] = set()
        self.lost: BaseException | None = None
        self._source = open_source(url, SourceOptions(read_timeout=30))
        self._worker = Worker("watcher", self._watch)

    def _watch(self) -> None:
        try:
            for frame in self._source.frames():
                with self.live:
                    self.sizes.add((frame.width, frame.height))
                    if is_live(frame):
                        self.count += 1
                    else:
                        self.dark += 1
                    self.live.notify_all()
        except SourceError as error:
            self.lost = error

    def wait(self, condition: Callable[[], bool], seconds: float) -> None:
        with self.live:
            assert self.live.wait_for(condition, seconds), f"{self.count} live, {self.dark} dark, {self.lost}"

    def wait_live(self, seconds: float) -> float:
        """Until a live picture is seen after now; how long that took."""
        began, before = time.monotonic(), self.count
        self.wait(lambda: self.count > before + 1, seconds)
        return time.monotonic() - began

    def wait_dark(self) -> None:
        before = self.dark
        self.wait(lambda: self.dark > before, 30)

    def close(self) -> None:
        self._source.close()
        assert self._worker.join(10)


def is_live(frame: Frame) -> bool:
    """Whether the top has the barcode: bright and dark cells, also where there is black beside the picture."""
    strip = frame.planes[0][: max(2, frame.height // 30)]
    return int(strip.max()) > BRIGHT


class Filter:
    """The program between a camera and a viewer, with a recording beside it."""

    def __init__(self, folder: Path, stack: ExitStack, source: str, *more: str, sinks: Sequence[str] = ()) -> None:
        self.port, self.record, self.log = peers.free_port(), folder / "record.mkv", folder / "log"
        self.source, self.more = source, more
        log = stack.enter_context(self.log.open("wb"))
        words = peers.stream_sr(
            "run", source, f"rtsp://@:{self.port}/sr", self.record, *sinks, "--backend", "bicubic", "--scale", "2",
            "--read-timeout", str(READ_TIMEOUT), *more,
        )  # fmt: skip
        self.process = stack.enter_context(peers.process(words, stderr=log.fileno()))
        peers.wait_for_port(self.port)
        self.watcher = stack.enter_context(closing(Watcher(f"rtsp://127.0.0.1:{self.port}/sr")))
        self.watcher.wait_live(30)

    def resources(self) -> tuple[int, int]:
        """Threads and descriptors."""
        proc = Path(f"/proc/{self.process.pid}")
        return len(list((proc / "task").iterdir())), len(list((proc / "fd").iterdir()))

    def settle(self, before: tuple[int, int]) -> None:
        """Until nothing is left of what came in between."""
        deadline = time.monotonic() + 15
        while not all(now <= then for now, then in zip(self.resources(), before, strict=True)):
            assert time.monotonic() < deadline, f"{self.resources()} threads and descriptors, {before} before"
            time.sleep(0.05)

    def end(self) -> None:
        """Stop it; the recording plays to its end, with growing times."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(30) == 0, self.log.read_text()
        assert "Traceback" not in self.log.read_text()
        with av.open(str(self.record)) as container:
            times = [picture.pts for picture in container.decode(video=0) if picture.pts is not None]
        assert all(a < b for a, b in pairwise(times))
        assert len(times) > 5


@contextmanager
def running(folder: Path, source: str, *more: str) -> Iterator[Filter]:
    with ExitStack() as stack:
        yield Filter(folder, stack, source, *more)


# --- the camera


def test_a_camera_that_is_killed_and_comes_back_with_another_size(tmp_path: Path) -> None:
    port = peers.free_port()
    with ExitStack() as stack:
        first = stack.enter_context(peers.process(camera(port)))
        peers.wait_for_port(port)
        program = Filter(tmp_path, stack, f"rtsp://127.0.0.1:{port}/cam")
        first.kill()
        program.watcher.wait_dark()
        before = (0, 0)
        for size in ("256x192@25", "320x180@30", "256x192@25", "320x180@30"):
            with peers.process(camera(port, size)) as other:
                peers.wait_for_port(port)
                assert program.watcher.wait_live(30) < BACK_SECONDS
                if before == (0, 0):  # with the second engine, which is kept
                    before = program.resources()
                program.settle(before)
                other.kill()
                program.watcher.wait_dark()
        assert program.watcher.sizes == {(640, 360)}
        assert program.watcher.lost is None
        program.end()
        assert "is back after" in program.log.read_text()


def test_a_camera_that_falls_silent_and_goes_on(tmp_path: Path) -> None:
    port = peers.free_port()
    with peers.process(camera(port)) as silent:
        peers.wait_for_port(port)
        with running(tmp_path, f"rtsp://127.0.0.1:{port}/cam") as program:
            before = (0, 0)
            for _ in range(2):  # what is left after the first time and not after the second is no leak
                silent.send_signal(signal.SIGSTOP)
                began = time.monotonic()
                program.watcher.wait_dark()
                assert time.monotonic() - began < READ_TIMEOUT + BACK_SECONDS
                silent.send_signal(signal.SIGCONT)
                assert program.watcher.wait_live(30) < BACK_SECONDS
                before = program.resources() if before == (0, 0) else before
            program.settle(before)
            program.end()


class Impostor:
    """Sits at the camera's port when the camera is away, and does what it is told."""

    def __init__(self, port: int, say: Callable[[socket.socket], None]) -> None:
        self._listener = socket.create_server(("127.0.0.1", port))
        self._listener.settimeout(0.1)
        self._say, self._closing = say, threading.Event()
        self.visits = 0
        self._worker = Worker("impostor", self._serve)

    def _serve(self) -> None:
        while not self._closing.is_set():
            with suppress(TimeoutError, OSError):
                peer, _ = self._listener.accept()
                with peer:
                    peer.settimeout(1)
                    self.visits += 1
                    self._say(peer)

    def close(self) -> None:
        self._closing.set()
        assert self._worker.join(10)
        self._listener.close()


def refuse(peer: socket.socket) -> None:
    number = re.search(rb"CSeq: (\d+)", peer.recv(4096))
    peer.sendall(b"RTSP/1.0 404 Not Found\r\nCSeq: %s\r\n\r\n" % (number[1] if number else b"1"))


def garbage(peer: socket.socket) -> None:
    peer.sendall(random.Random(5).randbytes(100_000))


def half_a_frame(peer: socket.socket) -> None:
    """A sound beginning: description, setup, play, the first half of a picture; then nothing."""
    text = b"m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"
    while data := peer.recv(4096):
        method, number = data.split()[0], re.search(rb"CSeq: (\d+)", data)
        body = text if method == b"DESCRIBE" else b""
        head = b"RTSP/1.0 200 OK\r\nCSeq: %s\r\nSession: 1\r\nTransport: RTP/AVP/TCP;interleaved=0-1\r\n"
        peer.sendall(head % (number[1] if number else b"1") + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        if method == b"PLAY":
            peer.sendall(b"$\x00\x02\x00\x80\x60\x00\x01" + bytes(8) + b"\x7c\x85\x88" + bytes(100))
            return


@pytest.mark.parametrize("say", [refuse, garbage, half_a_frame])
def test_a_camera_that_answers_wrongly_and_comes_back(tmp_path: Path, say: Callable[[socket.socket], None]) -> None:
    port = peers.free_port()
    with ExitStack() as stack:
        first = stack.enter_context(peers.process(camera(port)))
        peers.wait_for_port(port)
        program = Filter(tmp_path, stack, f"rtsp://127.0.0.1:{port}/cam")
        before = (0, 0)
        for _ in range(2):
            first.kill()
            first.wait()
            with closing(Impostor(port, say)) as impostor:
                program.watcher.wait_dark()
                program.watcher.wait(lambda: impostor.visits >= 2, 30)
            first = stack.enter_context(peers.process(camera(port)))
            peers.wait_for_port(port)
            assert program.watcher.wait_live(30) < BACK_SECONDS
            before = program.resources() if before == (0, 0) else before
        program.settle(before)
        program.end()


# --- viewers


def test_viewers_that_stop_reading_and_that_come_and_go(tmp_path: Path) -> None:
    port = peers.free_port()
    with peers.process(camera(port)) as _:
        peers.wait_for_port(port)
        with running(tmp_path, f"rtsp://127.0.0.1:{port}/cam", "--crf", "1") as program:
            url = f"rtsp://127.0.0.1:{program.port}/sr"
            with closing(open_source(url, SourceOptions(rtsp_transport="udp"))):
                pass  # the server's UDP ports stay with it
            before = program.resources()
            chance = random.Random(3)
            with ExitStack() as stuck:
                for _ in range(2):
                    stuck.enter_context(stopped_viewer(program.port, url))
                for number in range(20):
                    transport = "udp" if number % 4 == 0 else "tcp"
                    options = SourceOptions(rtsp_transport=transport, read_timeout=20)
                    with closing(open_source(url, options)) as source:
                        wanted = chance.randrange(1, 4)
                        for count, _frame in enumerate(source.frames(), 1):
                            if count >= wanted:
                                break
                assert program.watcher.wait_live(30) < BACK_SECONDS
            assert program.watcher.dark == 0
            program.settle(before)
            program.end()


@contextmanager
def stopped_viewer(port: int, url: str) -> Iterator[None]:
    """A player that plays and never reads."""
    with socket.socket() as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.settimeout(5)
        peer.connect(("127.0.0.1", port))
        peer.sendall(f"SETUP {url} RTSP/1.0\r\nCSeq: 1\r\nTransport: RTP/AVP/TCP;interleaved=0-1\r\n\r\n".encode())
        session = re.search(r"Session: (\w+)", peer.recv(4096).decode())
        assert session is not None
        peer.sendall(f"PLAY {url} RTSP/1.0\r\nCSeq: 2\r\nSession: {session[1]}\r\n\r\n".encode())
        yield


# --- the server that is published to


@pytest.mark.parametrize("how", ["killed", "stops reading"])
def test_a_server_that_goes_away_and_comes_back(tmp_path: Path, how: str) -> None:
    """The server is ffmpeg, which takes one stream and is started anew."""
    peers.need_ffmpeg()
    port, to = peers.free_port(), peers.free_port()
    address = f"rtsp://127.0.0.1:{to}/in"

    def listening(name: str) -> list[str]:
        taken = str(tmp_path / name)
        return [
            "ffmpeg",
            "-v",
            "error",
            "-rtsp_flags",
            "listen",
            "-i",
            address,
            "-c",
            "copy",
            "-flush_packets",
            "1",
            taken,
        ]

    with ExitStack() as stack:
        stack.enter_context(peers.process(camera(port)))
        peers.wait_for_port(port)
        server = stack.enter_context(peers.process(listening("one.ts")))
        peers.wait_until_listening(to)
        program = Filter(tmp_path, stack, f"rtsp://127.0.0.1:{port}/cam", "--crf", "1", sinks=[address])
        before = program.resources()
        grown(tmp_path / "one.ts")
        if how == "killed":
            server.kill()
        else:
            server.send_signal(signal.SIGSTOP)
            said(program.log, "trying to get it back")
            server.kill()
        server.wait()
        began = time.monotonic()  # not from when it listens: it stops that as soon as the program is there, unseen
        stack.enter_context(peers.process(listening("two.ts")))
        said(program.log, "is back after")
        assert time.monotonic() - began < BACK_SECONDS
        grown(tmp_path / "two.ts")
        assert program.watcher.dark == 0
        program.settle(before)
        program.end()


def grown(path: Path) -> None:
    """Until something is written there."""
    deadline = time.monotonic() + 40
    while not (path.exists() and path.stat().st_size > 20_000):
        assert time.monotonic() < deadline, f"nothing in {path.name}"
        time.sleep(0.05)


def said(log: Path, words: str) -> None:
    deadline = time.monotonic() + 40
    while words not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


# --- the rest


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        words = peers.stream_sr("run", "synthetic:128x96@30", f"rtsp://@:{port}/x", "--backend", "bicubic")
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 5
    assert f"port {port} is taken" in done.stderr
    assert done.stderr.count("\n") == 1
