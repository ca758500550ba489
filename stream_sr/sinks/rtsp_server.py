"""We serve the encoded picture ourselves, over RTSP (RFC 2326), to any number of players.

A pure asyncio server: each access unit is cut into RTP packets once and written to every viewer at once, inside the
RTSP connection (TCP interleaved), without Nagle. A viewer begins with a key picture, which is asked for when it joins;
one that does not read loses pictures up to the next key picture, and its neighbours lose nothing.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import threading
import time
from fractions import Fraction
from urllib.parse import urlsplit

from stream_sr.codec import h264
from stream_sr.codec.rtp import CLOCK, Packetiser, interleave
from stream_sr.errors import SinkOpenError, SinkWriteError
from stream_sr.media import EncodedStream, Packet, redact
from stream_sr.sinks.rtsp_viewer import VIEWERS, Viewer
from stream_sr.threads import LoopThread
from stream_sr.timing import rescale

LOOPBACK = "127.0.0.1"
PORT = 8554
PENDING_PACKETS = 120  # handed over by `write`, not yet taken by the loop
REPORT_SECONDS = 3.0
FAREWELL_SECONDS = 1.0  # to send what is in the air when the sink is closed

log = logging.getLogger("stream_sr")


class RtspServerSink:
    """Serves at ``rtsp://@:PORT/PATH`` (this machine only: bound to 127.0.0.1) or ``rtsp://@HOST:PORT/PATH`` (bound to
    that address; 0.0.0.0 for all). Port 0 takes a free one, see ``port``. See `media.PacketSink` and `media.EarlyOpen`.

    There is no password: who reaches the port sees the picture. H.264 only, over TCP only; UDP is answered with 461,
    upon which players take TCP. A viewer that connects between `check` and `open` waits in the socket's queue.
    """

    paced = True
    takes_lane = False

    def __init__(self, url: str) -> None:
        """Raises SinkOpenError for an address that is none; opens nothing."""
        self.host, self.port, self.path = _parse_url(url)
        self.name = f"rtsp://@{_bracketed(self.host)}:{self.port}/{self.path}"
        self.dropped_packets = 0  # that the loop did not take in time
        self._socket: socket.socket | None = None
        self._loop: LoopThread | None = None
        self._server: Server | None = None
        self._wish = threading.Event()
        self._skipping = False
        self._closed = False

    @property
    def url(self) -> str:
        """The address for a player on this machine."""
        host = {"0.0.0.0": LOOPBACK, "::": "::1"}.get(self.host, self.host)
        return f"rtsp://{_bracketed(host)}:{self.port}/{self.path}"

    @property
    def viewers(self) -> int:
        """How many play now."""
        return self._server.playing if self._server is not None else 0

    def check(self) -> None:
        """Take the port. Raises SinkOpenError."""
        if self._socket is not None:
            return
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((self.host, self.port))
            listener.listen(VIEWERS)
            listener.setblocking(False)
        except OSError as error:
            listener.close()
            raise SinkOpenError(_refusal(self.name, self.host, self.port, error)) from error
        self._socket = listener
        self.port = listener.getsockname()[1]

    def open(self, stream: EncodedStream) -> None:
        """Start to serve. See `media.PacketSink`."""
        if stream.codec != "h264":
            raise SinkOpenError(f"{self.name} serves H.264, not {stream.codec}; choose --encoder libx264")
        self.check()
        assert self._socket is not None
        self._server = Server(stream, self.path, self._wish)
        self._loop = LoopThread("rtsp server")
        self._loop.call(self._server.start(self._socket))
        log.info("serving %s", self.url)

    def write(self, packet: Packet) -> None:
        """Hand a packet to the loop; never waits. A loop that does not follow loses packets up to the next key."""
        if self._server is None or self._loop is None or self._closed:
            raise SinkWriteError(f"{self.name} is not open")
        server = self._server
        if server.pending >= PENDING_PACKETS or (self._skipping and not packet.key):
            self._skipping = True
            self.dropped_packets += 1
            self._wish.set()
            return
        self._skipping = False
        server.pend(1)
        self._loop.loop.call_soon_threadsafe(server.send, packet)

    def wants_key(self) -> bool:
        """See `media.PacketSink`."""
        if self._wish.is_set():
            self._wish.clear()
            return True
        return False

    def complete(self) -> None:
        """See `media.PacketSink`: viewers are told of the end by `close`, however it came."""

    def counters(self) -> dict[str, int]:
        """``viewers`` now, and ``dropped_packets`` that the server's loop did not take in time."""
        return {"viewers": self.viewers, "dropped_packets": self.dropped_packets}

    def close(self) -> None:
        """Tell the viewers that it is over, send what is in the air (a second at most), free the port."""
        if self._closed:
            return
        self._closed = True
        try:
            if self._loop is not None and self._server is not None:
                self._loop.call(self._server.stop())
        finally:
            if self._loop is not None:
                self._loop.close()
            if self._socket is not None:
                self._socket.close()


def _parse_url(url: str) -> tuple[str, int, str]:
    """Host, port and path (without slash) of ``rtsp://@[HOST][:PORT]/PATH``."""
    form = "write rtsp://@:PORT/PATH to serve on this machine, rtsp://@0.0.0.0:PORT/PATH to serve the network"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or LOOPBACK, PORT if parts.port is None else parts.port
    except ValueError as error:
        raise SinkOpenError(f"{redact(url)} is no address to serve at: host or port cannot be read; {form}") from error
    path = parts.path.strip("/")
    odd = parts.query or parts.fragment or any(letter <= " " or letter == "\x7f" for letter in url)
    if parts.scheme != "rtsp" or not parts.netloc.startswith("@") or not path or odd:
        raise SinkOpenError(f"{redact(url)!r} is no address to serve at; {form}")
    return host, port, path


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _refusal(name: str, host: str, port: int, error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return f"{name}: '{host}' is no address of this machine ({error.strerror}); give one, or none for {LOOPBACK}"
    if isinstance(error, PermissionError):
        return f"{name}: port {port} needs privileges; choose one above 1023"
    hint = {98: f"port {port} is taken; stop what uses it, or choose another port",
            99: f"{host} is no address of this machine; give one, or none for {LOOPBACK}"}  # fmt: skip
    return f"{name}: {hint.get(error.errno or 0, error.strerror or str(error))}"


class Server:
    """What lives on the loop: the viewers, and the stream cut into packets."""

    def __init__(self, stream: EncodedStream, path: str, wish: threading.Event) -> None:
        self.path = path
        self.wish = wish
        self.fps = stream.info.fps
        self.playing = 0  # written on the loop, read anywhere
        self.viewers: set[Viewer] = set()
        self.packetiser = Packetiser()
        self.ready = asyncio.Event()  # set with the parameter sets
        self.sets: list[bytes] = []
        self.timestamp: int | None = None  # of the last access unit
        self._offset = secrets.randbits(32)
        self._sent_at = 0.0
        self._pending = 0
        self._pending_lock = threading.Lock()
        self._listening: asyncio.Server | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._learn(stream.extradata)

    @property
    def pending(self) -> int:
        """Packets on their way from `write` to the loop."""
        with self._pending_lock:
            return self._pending

    def pend(self, change: int) -> None:
        with self._pending_lock:
            self._pending += change

    async def start(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        self._listening = await loop.create_server(lambda: Viewer(self), sock=listener)
        self._timer = loop.call_later(REPORT_SECONDS, self._report)

    def send(self, packet: Packet) -> None:
        """Cut an access unit into packets and write them to every viewer."""
        self.pend(-1)
        if packet.key:
            self._learn(packet.data)
        ticks = rescale(packet.pts, packet.time_base, Fraction(1, CLOCK))
        self.timestamp = (ticks + self._offset) & 0xFFFFFFFF
        self._sent_at = time.time()
        packets = self.packetiser.packetise(packet.data, self.timestamp)
        octets = sum(map(len, packets)) - 12 * len(packets)
        framed: dict[int, bytes] = {}  # by channel: nearly all viewers take 0
        for viewer in self.viewers:
            if viewer.takes(packet.key):
                if viewer.channel not in framed:
                    framed[viewer.channel] = b"".join([interleave(viewer.channel, one) for one in packets])
                viewer.send(framed[viewer.channel], len(packets), octets)

    def _learn(self, data: bytes) -> None:
        sps, pps = h264.parameter_sets(h264.split_annexb(data))
        if sps and pps:
            self.sets = sps + pps
            self.ready.set()

    def _report(self) -> None:
        """Sender reports, and an end to viewers that take nothing."""
        self._timer = asyncio.get_running_loop().call_later(REPORT_SECONDS, self._report)
        for viewer in tuple(self.viewers):
            viewer.end_if_stalled()
            if viewer.playing and self.timestamp is not None:
                viewer.report(self._sent_at, self.timestamp)

    async def stop(self) -> None:
        """Goodbye to all; who does not read it is cut off."""
        await asyncio.sleep(0)  # packets that were handed over before are sent first
        if self._timer is not None:
            self._timer.cancel()
        if self._listening is not None:
            self._listening.close()
        gone = [viewer.gone for viewer in self.viewers]
        for viewer in tuple(self.viewers):
            viewer.say_goodbye()
        if gone:
            await asyncio.wait(gone, timeout=FAREWELL_SECONDS)
            for viewer in tuple(self.viewers):
                viewer.abort()
            await asyncio.wait(gone)
