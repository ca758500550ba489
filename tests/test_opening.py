"""Opening by FFmpeg can be given up: by Ctrl-C, and by whoever no longer wants it."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import pytest

from stream_sr.codec.sockets import open_sockets, tcp_peers
from stream_sr.errors import SourceLost
from stream_sr.media import SourceOptions
from stream_sr.sources import open_source
from stream_sr.sources.opening import Claims
from stream_sr.threads import Worker

Server = Callable[[], AbstractContextManager[tuple[int, Callable[[], None]]]]


@contextmanager
def silent_server() -> Iterator[tuple[int, Callable[[], None]]]:
    """Takes a connection and never answers; its port, and a wait until somebody is there."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        listener.settimeout(40)

        def wait() -> None:
            stack.enter_context(listener.accept()[0])

        yield listener.getsockname()[1], wait


@contextmanager
def full_server() -> Iterator[tuple[int, Callable[[], None]]]:
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
        before = sum(found == port for found in tcp_peers().values())

        def wait() -> None:
            deadline = time.monotonic() + 40
            while sum(found == port for found in tcp_peers().values()) <= before:
                assert time.monotonic() < deadline
                time.sleep(0.02)

        yield port, wait


@pytest.mark.skipif(sys.platform != "linux", reason="what FFmpeg waits for is shut down on Linux")
@pytest.mark.parametrize("server", [silent_server, full_server])
def test_ctrl_c_while_ffmpeg_opens(server: Server) -> None:
    """In a real process, long before the timeout."""
    with server() as (port, wait):
        words = ["run", f"http://127.0.0.1:{port}/x.ts", "null:", "--backend", "bicubic", "--read-timeout", "60"]
        process = subprocess.Popen([sys.executable, "-m", "stream_sr", *words], stderr=subprocess.PIPE, text=True)
        try:
            wait()
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 0
    assert said == "stream-sr: stopped before the first frame\n"


def test_opening_that_is_cancelled_leaves_no_thread() -> None:
    before = set(threading.enumerate())
    cancelled = threading.Event()
    with silent_server() as (port, wait):

        def cancel() -> None:
            wait()
            cancelled.set()

        helper = Worker("canceller", cancel)
        with pytest.raises(SourceLost, match="was given up"):
            open_source(f"rtmp://127.0.0.1:{port}/x", SourceOptions(read_timeout=60), cancelled=cancelled)
        helper.join()
    assert set(threading.enumerate()) <= before


@pytest.mark.skipif(sys.platform != "linux", reason="sockets are told apart by /proc")
def test_a_socket_that_two_inputs_claim_is_left_alone() -> None:
    """Two cameras at one port that were opened in the same moment: stopping one does not end the other."""
    claims = Claims()
    with ExitStack() as stack:
        ends = [[stack.enter_context(end) for end in socket.socketpair()] for _ in range(2)]
        for _, far in ends:
            far.settimeout(0)
        known = open_sockets()
        both = {near.fileno(): known[near.fileno()] for near, _ in ends}
        second = {ends[1][0].fileno(): known[ends[1][0].fileno()]}
        claims.take(both)
        claims.take(second)
        claims.shut_down(both)
        assert ends[0][1].recv(1) == b""
        with pytest.raises(BlockingIOError):
            ends[1][1].recv(1)
        claims.give_back(both)
        claims.shut_down(second)
        assert ends[1][1].recv(1) == b""
