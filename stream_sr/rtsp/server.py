"""Our RTSP server: one port, shared by all the streams of this process that are served there, each at its path."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
import time

from stream_sr.pipeline.threads import LoopThread
from stream_sr.rtsp.server_session import ServerSession
from stream_sr.rtsp.server_stream import ServerStream
from stream_sr.system.sockets import UDP_BUFFER_BYTES, listening_socket, udp_pair

MAX_CONNECTIONS = 256  # at the same time, of viewers and of clients that do not play yet
BACKLOG = 64
REFUSAL_LOG_SECONDS = 60.0  # between log lines about wrong passwords: guessing must not fill the disk

log = logging.getLogger("stream_sr")

_lock = threading.Lock()
_servers: dict[tuple[str, int], RtspServer] = {}


def shared_server(host: str, port: int, path: str) -> RtspServer:
    """Return the server at this address with ``path`` reserved; it is new for the first path, and for port 0.

    The caller gives the path back with `RtspServer.release`. Raises OSError if the port is not available, and
    ValueError if the path is taken.
    """
    with _lock:
        server = _servers.get((host, port)) if port else None
        if server is None:
            server = RtspServer(host, port)
            _servers[host, server.port] = server
        server.reserve(path)
        return server


class RtspServer:
    """A bound port. The loop and its thread start with the first stream, and end with the last `release`.

    ``streams`` (by path), ``sessions`` and the UDP sockets belong to the loop.
    """

    def __init__(self, host: str, port: int) -> None:
        self._socket = listening_socket(host, port, BACKLOG)
        self.host, self.port = host, int(self._socket.getsockname()[1])
        self.streams: dict[str, ServerStream] = {}
        self.sessions: set[ServerSession] = set()
        self.max_connections = MAX_CONNECTIONS
        self.lost_datagrams = 0  # that the system did not take
        self._refusals = 0  # since the last log line about them
        self._next_refusal_log = 0.0
        self._paths: set[str] = set()
        self._server: asyncio.Server | None = None
        self._udp: tuple[socket.socket, socket.socket] | None = None
        self._loop_thread: LoopThread | None = None

    def reserve(self, path: str) -> None:
        """Take a path. Raises ValueError if it is taken."""
        if path in self._paths:
            raise ValueError(f"/{path} is served there already")
        self._paths.add(path)

    def release(self, path: str) -> None:
        """Give a path back; with the last one the port is closed."""
        with _lock:
            self._paths.discard(path)
            if self._paths:
                return
            _servers.pop((self.host, self.port), None)
            try:
                if self._loop_thread is not None:
                    self._loop_thread.call(self._stop())
            finally:
                if self._loop_thread is not None:
                    self._loop_thread.close()
                self._socket.close()

    def add_stream(self, stream: ServerStream) -> None:
        """Start to serve a stream at its path."""
        with _lock:
            if self._loop_thread is None:
                self._loop_thread = LoopThread("rtsp server")
            self._loop_thread.call(self._add(stream))

    def remove_stream(self, stream: ServerStream) -> None:
        """End a stream and disconnect its viewers."""
        assert self._loop_thread is not None
        self._loop_thread.call(self._remove(stream))

    async def _add(self, stream: ServerStream) -> None:
        """Accept connections with the first stream: clients in the queue of the socket then find it."""
        self.streams[stream.path] = stream
        await stream.start()
        if self._server is None:
            loop = asyncio.get_running_loop()
            self._server = await loop.create_server(lambda: ServerSession(self), sock=self._socket)

    async def _remove(self, stream: ServerStream) -> None:
        self.streams.pop(stream.path, None)
        await stream.stop()

    async def _stop(self) -> None:
        loop = asyncio.get_running_loop()
        if self._server is not None:
            self._server.close()
        for session in tuple(self.sessions):
            session.abort()
        await asyncio.gather(*[session.closed for session in tuple(self.sessions)])
        for one in self._udp or ():
            loop.remove_reader(one)
            one.close()

    def log_refusal(self, address: str, now: float) -> None:
        """Log that a client gave a wrong password; many of them within a minute are one line with their number."""
        self._refusals += 1
        if now < self._next_refusal_log:
            return
        times = f", the last of {self._refusals} times" if self._refusals > 1 else ""
        log.warning("a client at %s gave a wrong password%s", address, times)
        self._refusals, self._next_refusal_log = 0, now + REFUSAL_LOG_SECONDS

    # UDP: one pair of ports for all viewers

    def udp_ports(self) -> tuple[int, int]:
        """Return our RTP and RTCP port. Raises OSError."""
        if self._udp is None:
            self._udp = udp_pair(self.host)
            for one in self._udp:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UDP_BUFFER_BYTES)
                asyncio.get_running_loop().add_reader(one, self._receive_datagrams, one)
        return self._udp[0].getsockname()[1], self._udp[1].getsockname()[1]

    def send_datagram(self, data: bytes, to: tuple[str, int], *, rtcp: bool = False) -> None:
        """Send from our RTP or RTCP port. Never waits: a datagram that the system does not take is lost and counted."""
        if self._udp is None:
            return
        try:
            self._udp[1 if rtcp else 0].sendto(data, to)
        except (BlockingIOError, InterruptedError):
            self.lost_datagrams += 1
        except OSError:  # no socket there any more: the TCP connection of the viewer will end
            self.lost_datagrams += 1

    def _receive_datagrams(self, one: socket.socket) -> None:
        """Receiver reports show that a viewer is alive; their contents are not used."""
        for _ in range(64):
            with contextlib.suppress(ConnectionError):
                try:
                    _, source = one.recvfrom(2048)
                except (BlockingIOError, InterruptedError):
                    return
                for session in self.sessions:
                    session.note_datagram(source[0], source[1], time.monotonic())
