"""One port of our RTSP server, shared by all the streams of this process that are served there, each at its path."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
import time

from stream_sr.pipeline.threads import LoopThread
from stream_sr.rtsp.mount import Mount
from stream_sr.rtsp.session import Viewer
from stream_sr.system.sockets import udp_pair

CONNECTIONS = 256  # at once, of viewers and of those who are not yet
BACKLOG = 64
COMPLAINT_SECONDS = 60.0  # between lines about wrong passwords: who guesses would fill the log's disk
UDP_BUFFER_BYTES = 4 << 20  # a keyframe goes out in one burst

log = logging.getLogger("stream_sr")

_lock = threading.Lock()
_listeners: dict[tuple[str, int], Listener] = {}


def listen(host: str, port: int, path: str) -> Listener:
    """The listener at this address, for one more path; `Listener.release` gives it back.

    Raises OSError where the port cannot be had, ValueError where the path is taken.
    """
    with _lock:
        listener = _listeners.get((host, port)) if port else None
        if listener is None:
            listener = Listener(host, port)
            _listeners[host, listener.port] = listener
        listener.reserve(path)
        return listener


class Listener:
    """A bound port. The loop and its thread start with the first stream, and end with the last `release`."""

    def __init__(self, host: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind((host, port))
            self._socket.listen(BACKLOG)
            self._socket.setblocking(False)
        except OSError:
            self._socket.close()
            raise
        self.host, self.port = host, int(self._socket.getsockname()[1])
        self.mounts: dict[str, Mount] = {}
        self.connections: set[Viewer] = set()
        self.most_connections = CONNECTIONS
        self.lost_datagrams = 0  # that the system did not take
        self._refusals = 0  # since the last line about them
        self._complain_at = 0.0
        self._paths: set[str] = set()
        self._server: asyncio.Server | None = None
        self._udp: tuple[socket.socket, socket.socket] | None = None
        self.loop_thread: LoopThread | None = None

    def reserve(self, path: str) -> None:
        if path in self._paths:
            raise ValueError(f"/{path} is served there already")
        self._paths.add(path)

    def release(self, path: str) -> None:
        """The path is free again; with the last one the port is."""
        with _lock:
            self._paths.discard(path)
            if self._paths:
                return
            _listeners.pop((self.host, self.port), None)
            try:
                if self.loop_thread is not None:
                    self.loop_thread.call(self._stop())
            finally:
                if self.loop_thread is not None:
                    self.loop_thread.close()
                self._socket.close()

    def mount(self, mount: Mount) -> LoopThread:
        """Serve a stream; the loop that it lives on."""
        with _lock:
            if self.loop_thread is None:
                self.loop_thread = LoopThread("rtsp server")
            self.loop_thread.call(self._add(mount))
        return self.loop_thread

    def unmount(self, mount: Mount) -> None:
        """End a stream; its viewers are told."""
        assert self.loop_thread is not None
        self.loop_thread.call(self._remove(mount))

    async def _add(self, mount: Mount) -> None:
        """With the first stream the port answers: who waits in its queue finds the stream there."""
        self.mounts[mount.path] = mount
        await mount.start()
        if self._server is None:
            self._server = await asyncio.get_running_loop().create_server(lambda: Viewer(self), sock=self._socket)

    async def _remove(self, mount: Mount) -> None:
        self.mounts.pop(mount.path, None)
        await mount.stop()

    async def _stop(self) -> None:
        loop = asyncio.get_running_loop()
        if self._server is not None:
            self._server.close()
        for viewer in tuple(self.connections):
            viewer.abort()
        await asyncio.gather(*[viewer.gone for viewer in tuple(self.connections)])
        for one in self._udp or ():
            loop.remove_reader(one)
            one.close()

    def complain(self, address: str, now: float) -> None:
        """Say that a client gave a wrong password; of many soon after one another their number."""
        self._refusals += 1
        if now < self._complain_at:
            return
        times = f", the last of {self._refusals} times" if self._refusals > 1 else ""
        log.warning("a client at %s gave a wrong password%s", address, times)
        self._refusals, self._complain_at = 0, now + COMPLAINT_SECONDS

    # UDP, for the viewers that want it: one pair of ports for all

    def udp_ports(self) -> tuple[int, int]:
        """Our RTP and RTCP port. Raises OSError."""
        if self._udp is None:
            self._udp = udp_pair(self.host)
            for one in self._udp:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UDP_BUFFER_BYTES)
                asyncio.get_running_loop().add_reader(one, self._hear, one)
        return self._udp[0].getsockname()[1], self._udp[1].getsockname()[1]

    def send_datagram(self, data: bytes, to: tuple[str, int], *, report: bool = False) -> None:
        """Never waits: what the system does not take is lost, as on the way."""
        if self._udp is None:
            return
        try:
            self._udp[1 if report else 0].sendto(data, to)
        except (BlockingIOError, InterruptedError):
            self.lost_datagrams += 1
        except OSError:  # nobody listens there (any more): the viewer's connection will say so
            self.lost_datagrams += 1

    def _hear(self, one: socket.socket) -> None:
        """Receiver reports say that a viewer is there; what they hold does not matter."""
        for _ in range(64):
            with contextlib.suppress(ConnectionError):
                try:
                    _, source = one.recvfrom(2048)
                except (BlockingIOError, InterruptedError):
                    return
                for viewer in self.connections:
                    viewer.heard_datagram(source[0], source[1], time.monotonic())
