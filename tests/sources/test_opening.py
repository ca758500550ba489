"""Opening can be cancelled, by Ctrl-C and by an event, without harm to any other input; nothing is left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from functools import partial
from itertools import islice
from pathlib import Path

import pytest
from media_files import write_video
from waiting import wait_until

from stream_sr.errors import SourceLost
from stream_sr.pipeline.interfaces import Source, SourceOptions
from stream_sr.pipeline.threads import Worker, abandoned
from stream_sr.sources import open_source, opening
from stream_sr.sources.reconnect import ReconnectingSource

pytestmark = pytest.mark.network

PATIENCE_SECONDS = 40
Place = tuple[str, Callable[[int], None]]  # an address, and a wait until this process tries to open it
Server = Callable[[Path], AbstractContextManager[Place]]


@contextmanager
def listening(path: str, serve: Callable[[socket.socket], None]) -> Iterator[Place]:
    """Serve one connection in a thread."""
    connected, over = threading.Event(), threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def work() -> None:
            peer, _ = listener.accept()
            with peer:
                connected.set()
                with suppress(OSError):
                    serve(peer)
                    while not over.wait(0.02):
                        peer.sendall(b"")

        worker = Worker("server", work)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/{path}", lambda pid: wait(connected)
        finally:
            over.set()
            with suppress(OSError), socket.create_connection(listener.getsockname()):
                pass  # where nobody came
            assert worker.join(10)


def wait(event: threading.Event) -> None:
    assert event.wait(PATIENCE_SECONDS)


@contextmanager
def silent_http(folder: Path) -> Iterator[Place]:
    """Takes a connection and never answers."""
    with listening("x.ts", lambda peer: None) as server:
        yield server


@contextmanager
def trickling_http(folder: Path) -> Iterator[Place]:
    """Sends a byte now and then, which is never the end of anything: FFmpeg is in and out of the interpreter."""

    def serve(peer: socket.socket) -> None:
        peer.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            peer.sendall(b"G")
            time.sleep(0.001)

    with listening("x.ts", serve) as server:
        yield server


@contextmanager
def silent_udp(folder: Path) -> Iterator[Place]:
    """A port to which nobody sends."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    taken = f":{port:04X} "
    yield (
        f"udp://127.0.0.1:{port}",
        lambda pid: wait_until(lambda: taken in Path("/proc/net/udp").read_text()),
    )


@contextmanager
def full_http(folder: Path) -> Iterator[Place]:
    """Takes no connection, like a host that is off: its queue is full, and further SYNs are dropped (Linux)."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        waiting = [stack.enter_context(socket.socket()) for _ in range(3)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
        before = connecting(port)
        yield f"http://127.0.0.1:{port}/x.ts", lambda pid: wait_until(lambda: connecting(port) > before)


def connecting(port: int) -> int:
    """How many TCP sockets of this machine are connected, or connect, to this port."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return sum(line.split()[2].endswith(f":{port:04X}") for line in lines)


@contextmanager
def fifo(folder: Path) -> Iterator[Place]:
    """A FIFO that nobody writes to, with the name of a video."""
    path = folder / "clip.mp4"
    os.mkfifo(path)

    def waits(pid: int) -> bool:
        tasks = Path(f"/proc/{pid}/task").glob("*/wchan")  # where in the kernel each thread waits
        return any(read_or_nothing(task) in ("wait_for_partner", "fifo_open") for task in tasks)

    yield str(path), lambda pid: wait_until(lambda: waits(pid))


def read_or_nothing(path: Path) -> str:
    with suppress(OSError):
        return path.read_text()
    return ""


linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc tells when FFmpeg waits")


@linux
@pytest.mark.parametrize(
    "server",
    [
        silent_http,
        pytest.param(full_http, marks=pytest.mark.slow),
        pytest.param(trickling_http, marks=pytest.mark.slow),
        silent_udp,
        fifo,
    ],
)
def test_ctrl_c_while_ffmpeg_opens(tmp_path: Path, server: Server) -> None:
    """In a real process, long before the timeout: the exit waits for no thread and runs into none."""
    with server(tmp_path) as (address, wait):
        words = ["run", address, "null:", "--backend", "bicubic"]
        process = subprocess.Popen(
            [sys.executable, "-m", "stream_sr", *words, *(["--read-timeout", "60"] if "://" in address else [])],
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            wait(process.pid)
            process.send_signal(signal.SIGINT)
            _, message = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 0
    assert message == "stream-sr: stopped before the first frame\n"


@linux
def test_ctrl_c_while_a_host_name_is_looked_up(tmp_path: Path) -> None:
    """For FFmpeg, and for the low-delay RTSP reader; the name server takes questions and never answers."""
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.99\noptions timeout:20 attempts:5\n")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        try:
            server.bind(("127.0.0.99", 53))
        except PermissionError:
            pytest.skip("only root may be a name server")
        server.settimeout(PATIENCE_SECONDS)
        for scheme, host in (("http", "door"), ("rtsp", "gate")):
            address = f"{scheme}://{host}.example/x.ts"
            words = [sys.executable, "-m", "stream_sr", "run", address, "null:", "--backend", "bicubic"]
            mount = f'mount --bind {tmp_path}/resolv.conf /etc/resolv.conf && exec "$@"'
            process = subprocess.Popen(
                ["unshare", "-m", "sh", "-c", mount, "sh", *words, "--read-timeout", "60"],
                stderr=subprocess.PIPE,
                text=True,
            )
            try:
                while host.encode() not in server.recv(512):
                    pass  # the other address family of the host before
                process.send_signal(signal.SIGINT)
                _, message = process.communicate(timeout=15)
            finally:
                process.kill()
            assert (process.returncode, message) == (0, "stream-sr: stopped before the first frame\n")


@linux
@pytest.mark.parametrize("server", [silent_http, fifo])
def test_cancelling(tmp_path: Path, server: Server) -> None:
    cancelled = threading.Event()
    with server(tmp_path) as (address, wait):

        def cancel() -> None:
            wait(os.getpid())
            cancelled.set()

        helper = Worker("canceller", cancel)
        options = SourceOptions(read_timeout=0.5 if "://" in address else 5)
        with pytest.raises(SourceLost, match="was cancelled"):
            open_source(address, options, cancelled=cancelled)
        helper.join()
        if "://" not in address:
            os.close(os.open(address, os.O_WRONLY | os.O_NONBLOCK))  # the abandoned open returns, with nothing
    wait_until(lambda: not abandoned(), lambda: str(abandoned()))


# Two inputs at one port


CHUNK_FRAMES, FIRST_CHUNKS = 60, 3


class Cameras:
    """An HTTP server: ``/play`` sends some frames and then, for each `more`, some more; ``/hang`` is never answered."""

    def __init__(self, folder: Path) -> None:
        write_video(folder / "x.ts", count=CHUNK_FRAMES)
        self._data = (folder / "x.ts").read_bytes()
        self.hanging, self._more = threading.Semaphore(0), threading.Semaphore(0)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._closing = threading.Event()
        self._visits: list[Worker] = []
        self._peers: list[socket.socket] = []
        self._worker = Worker("cameras", self._serve)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def more(self) -> None:
        self._more.release()

    def _serve(self) -> None:
        while True:
            peer, _ = self._listener.accept()
            if self._closing.is_set():
                peer.close()
                return
            self._peers.append(peer)
            self._visits.append(Worker("camera", partial(self._answer, peer)))

    def _answer(self, peer: socket.socket) -> None:
        with peer, suppress(OSError):
            if b"/hang" in peer.recv(4096):
                self.hanging.release()
            else:
                peer.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + FIRST_CHUNKS * self._data)
                assert self._more.acquire(timeout=PATIENCE_SECONDS)
                peer.sendall(self._data)
            while peer.recv(1):  # until the other side closes
                pass

    def close(self) -> None:
        self._closing.set()
        socket.create_connection(self._listener.getsockname()).close()
        assert self._worker.join(10)
        for peer in self._peers:
            with suppress(OSError):  # closed already
                peer.shutdown(socket.SHUT_RDWR)
        assert all(visit.join(10) for visit in self._visits)
        self._listener.close()


def open_hanging(cameras: Cameras, options: SourceOptions, cancelled: threading.Event) -> None:
    open_source(cameras.url + "/hang", options, cancelled=cancelled)


def read_all(source: Source) -> None:
    for frame in source.frames():
        frame.release()


def test_cancelling_one_of_two_at_the_same_port_leaves_the_other_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """50 times; each time the other is opened while the first hangs, so nothing tells their sockets apart."""
    monkeypatch.setattr(opening, "LOOK_SECONDS", 0.01)
    options = SourceOptions(read_timeout=5)
    with closing(Cameras(tmp_path)) as cameras:
        for _ in range(50):
            cancelled = threading.Event()
            first = Worker("first", partial(open_hanging, cameras, options, cancelled))
            assert cameras.hanging.acquire(timeout=PATIENCE_SECONDS)
            with closing(open_source(cameras.url + "/play", options)) as other:
                cancelled.set()
                first.join()
                assert isinstance(first.error, SourceLost)
                cameras.more()
                wanted = (FIRST_CHUNKS + 0.5) * CHUNK_FRAMES  # some of them were sent after the cancelling
                assert len(list(islice(other.frames(), int(wanted)))) == int(wanted)


def test_stopping_one_of_two_at_the_same_port_leaves_the_other_alone(tmp_path: Path) -> None:
    """Both are opened in the same moment; the one is stopped while it waits for the network."""
    options = SourceOptions(read_timeout=5)
    with closing(Cameras(tmp_path)) as cameras:
        for _ in range(10):
            opened: list[Source] = []

            def open_one(opened: list[Source] = opened) -> None:
                opened.append(open_source(cameras.url + "/play", options))

            workers = [Worker("open", open_one) for _ in range(2)]
            assert all(worker.join(PATIENCE_SECONDS) for worker in workers)
            first, other = opened
            reader = Worker("first", partial(read_all, first))
            first.stop()
            assert reader.join(2)
            first.close()
            cameras.more()
            cameras.more()
            wanted = int((FIRST_CHUNKS + 0.5) * CHUNK_FRAMES)
            assert len(list(islice(other.frames(), wanted))) == wanted
            other.close()


# What is left behind


@linux
def test_cancelled_openings_leave_nothing_after_their_timeouts(tmp_path: Path) -> None:
    def resources() -> tuple[int, int]:
        return threading.active_count(), len(os.listdir("/proc/self/fd"))

    options = SourceOptions(read_timeout=0.5)
    with closing(Cameras(tmp_path)) as cameras:
        with closing(open_source(cameras.url + "/play", options)):
            pass  # what the libraries keep
        cameras.more()
        wait_until(lambda: not abandoned())
        before = resources()
        for _ in range(10):
            cancelled = threading.Event()
            helper = Worker("opening", partial(open_hanging, cameras, options, cancelled))
            assert cameras.hanging.acquire(timeout=PATIENCE_SECONDS)
            cancelled.set()
            assert helper.join(2)
        wait_until(lambda: resources() <= before, lambda: f"{resources()} threads and descriptors, {before} before")
    assert abandoned() == []


def test_a_search_that_hangs_in_an_opening_does_not_hold_up_closing(tmp_path: Path) -> None:
    """A camera that was lost is tried again, and its server takes the connection but does not answer."""
    with closing(Cameras(tmp_path)) as cameras:
        paths = iter(["/play"])

        def connect(cancelled: threading.Event) -> Source:
            url = cameras.url + next(paths, "/hang")
            return open_source(url, SourceOptions(read_timeout=5), cancelled=cancelled)

        source = ReconnectingSource(connect)
        cameras.more()
        assert source._source is not None
        source._source.stop()  # its end is a loss
        reader = Worker("reader", partial(read_all, source))
        assert cameras.hanging.acquire(timeout=PATIENCE_SECONDS)
        began = time.monotonic()
        source.close()
        assert time.monotonic() - began < 2
        assert reader.join(2)
    wait_until(lambda: not abandoned())


@linux
@pytest.mark.parametrize("which", [signal.SIGTERM, pytest.param(signal.SIGHUP, marks=pytest.mark.slow)])
def test_serve_does_not_wait_for_a_camera_that_hangs_in_its_opening(tmp_path: Path, which: signal.Signals) -> None:
    """SIGTERM ends the process; SIGHUP with another file starts the next camera, and then SIGTERM ends it."""
    with closing(Cameras(tmp_path)) as cameras:
        file = tmp_path / "cameras.toml"

        def write(name: str) -> None:
            file.write_text(
                f'[all]\nbackend = "bicubic"\nread-timeout = 60\n'
                f'[camera.{name}]\nsource = "{cameras.url}/hang/{name}"\nsinks = ["null:"]\n'
            )

        write("one")
        process = subprocess.Popen(
            [sys.executable, "-m", "stream_sr", "serve", str(file)], stderr=subprocess.PIPE, text=True
        )
        try:
            assert cameras.hanging.acquire(timeout=PATIENCE_SECONDS)
            if which == signal.SIGHUP:
                write("two")
                process.send_signal(which)
                assert cameras.hanging.acquire(timeout=PATIENCE_SECONDS)  # long before the first has its timeout
            process.send_signal(signal.SIGTERM)
            _, message = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 0, message
    assert "Traceback" not in message
    assert "takes its time" not in message
