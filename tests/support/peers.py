"""Real RTSP peers that are not ours, as processes: GstRtspServer (Debian's), ffmpeg, gst-launch.

Where they are missing the tests that need them are skipped with the reason, unless STREAM_SR_REQUIRE_PEERS is set, as
continuous integration does: then they fail.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

import pytest

SYSTEM_PYTHON = "/usr/bin/python3"  # gi is Debian's, and of its Python only
PATIENCE_SECONDS = 40.0
FIRST_PORT, PORTS = 20_000, 12_000
_port_numbers = itertools.count(os.getpid() * 97 % PORTS)

GST_SERVER = """
import sys, gi
gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import Gst, GstRtspServer, GLib
Gst.init(None)
server = GstRtspServer.RTSPServer()
server.set_address("127.0.0.1")
server.set_service("0")
pool = GstRtspServer.RTSPThreadPool()
pool.set_max_threads(4)
server.set_thread_pool(pool)
for mount, launch in zip(sys.argv[1::2], sys.argv[2::2]):
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(launch)
    factory.set_shared(True)
    if mount.startswith("/record"):
        factory.set_transport_mode(GstRtspServer.RTSPTransportMode.RECORD)
        factory.set_latency(0)
    server.get_mount_points().add_factory(mount, factory)
server.attach(None)
print(server.get_bound_port(), flush=True)
GLib.MainLoop().run()
"""


def need(present: bool, what: str, package: str) -> None:
    """Skip, or where it was promised fail, without this peer."""
    if present:
        return
    reason = f"{what} is not installed: apt-get install {package}"
    if os.environ.get("STREAM_SR_REQUIRE_PEERS"):
        pytest.fail(reason)
    pytest.skip(reason)


@lru_cache(maxsize=1)
def _has_gst() -> bool:
    code = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"
    if not os.path.exists(SYSTEM_PYTHON) or shutil.which("gst-inspect-1.0") is None:
        return False
    if subprocess.run([SYSTEM_PYTHON, "-c", code], capture_output=True, check=False).returncode:
        return False
    elements = ("x264enc", "x265enc", "voaacenc", "avdec_h264")
    return all(subprocess.run(["gst-inspect-1.0", "--exists", name], check=False).returncode == 0 for name in elements)


def need_gst() -> None:
    need(
        _has_gst(),
        "GstRtspServer with its plugins",
        "gir1.2-gst-rtsp-server-1.0 python3-gi gstreamer1.0-tools gstreamer1.0-plugins-{base,good,bad,ugly} "
        "gstreamer1.0-libav",
    )


def need_ffmpeg() -> None:
    need(shutil.which("ffmpeg") is not None and shutil.which("ffprobe") is not None, "ffmpeg", "ffmpeg")


@contextmanager
def gst_server(**mounts: str) -> Iterator[str]:
    """A GstRtspServer with a pipeline per mount; one named ``record...`` takes a stream. Yields ``rtsp://host:port``."""
    need_gst()
    words = [word for name, launch in mounts.items() for word in (f"/{name}", launch)]
    with process([SYSTEM_PYTHON, "-c", GST_SERVER, *words], stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        yield f"rtsp://127.0.0.1:{int(server.stdout.readline())}"


@contextmanager
def process(
    words: Sequence[str | Path], *, stdout: int = subprocess.DEVNULL, stderr: int | None = subprocess.DEVNULL
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is gone with the block, whatever state it is in."""
    running = subprocess.Popen(list(words), stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr)
    try:
        yield running
    finally:
        for which in (signal.SIGCONT, signal.SIGTERM):
            if running.poll() is None:
                running.send_signal(which)
        try:
            running.wait(10)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()
        for pipe in (running.stdout, running.stderr):
            if pipe is not None:
                pipe.close()


def stream_sr(*words: str | Path) -> list[str]:
    """The command line of this program."""
    return [sys.executable, "-m", "stream_sr", *map(str, words)]


@contextmanager
def camera(picture: str, *options: str) -> Iterator[int]:
    """Serve ``synthetic:PICTURE`` (as ``320x180@30``) as ``rtsp://127.0.0.1:PORT/cam``; the port."""
    port = free_port()
    words = ("run", f"synthetic:{picture}", f"rtsp://@:{port}/cam", "--backend", "bicubic", "--scale", "1", *options)
    with process(stream_sr(*words)):
        wait_for_port(port)
        yield port


def free_port() -> int:
    """A TCP port that nobody uses.

    It lies below the ports that Linux gives to connections and to servers that ask for any port (from 32768), so that
    no connection takes it before the program that it is meant for. Each process begins at a place of its own.
    """
    for number in _port_numbers:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", FIRST_PORT + number % PORTS))
            return int(probe.getsockname()[1])
    raise AssertionError("unreachable: the numbers do not end")


def wait_for_port(port: int) -> None:
    """Until somebody listens on this machine."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise AssertionError(f"nobody listened on port {port} within {PATIENCE_SECONDS:g} s")


def wait_until_listening(port: int) -> None:
    """The same without connecting: for a server that takes one connection only."""
    wanted = f":{port:04X} "
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        lines = Path("/proc/net/tcp").read_text().splitlines()
        if any(wanted in f"{line.split()[1]} " and line.split()[3] == "0A" for line in lines[1:]):
            return
        time.sleep(0.02)
    raise AssertionError(f"nobody listened on port {port} within {PATIENCE_SECONDS:g} s")
