"""We serve the encoded picture ourselves, over RTSP (RFC 2326), to any number of players.

A pure asyncio server: each access unit is cut into RTP packets once and written to every viewer at once, inside the
RTSP connection (TCP interleaved), without Nagle. A viewer begins with a key picture, which is asked for when it joins;
one that does not read loses pictures up to the next key picture, and its neighbours lose nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import socket
import threading
import time
from fractions import Fraction
from typing import NamedTuple
from urllib.parse import urlsplit

from stream_sr.codec import h264
from stream_sr.codec.rtp import CLOCK, Packetiser, goodbye, interleave, sender_report
from stream_sr.codec.sdp import build_sdp
from stream_sr.errors import SinkOpenError, SinkWriteError
from stream_sr.media import EncodedStream, Packet, redact
from stream_sr.threads import LoopThread
from stream_sr.timing import rescale

LOOPBACK = "127.0.0.1"
PORT = 8554
TRACK = "track1"
METHODS = "OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN, GET_PARAMETER, SET_PARAMETER"
BACKLOG_BYTES = 4 << 20  # a viewer with more to be sent skips to the next key picture
RESUME_BYTES = 64 << 10  # ... when it has taken all but this
STALLED_SECONDS = 30.0  # a viewer that took nothing for so long is gone
REQUEST_BYTES = 16 << 10  # largest request head
BODY_BYTES = 64 << 10
VIEWERS = 64
PENDING_PACKETS = 120  # handed over by `write`, not yet taken by the loop
REPORT_SECONDS = 3.0
DESCRIBE_SECONDS = 10.0  # a viewer that comes before the parameter sets are known waits so long for them
FAREWELL_SECONDS = 1.0  # to send what is in the air when the sink is closed
REASONS = {
    200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 413: "Request Entity Too Large",
    453: "Not Enough Bandwidth", 454: "Session Not Found", 455: "Method Not Valid in This State",
    459: "Aggregate Operation Not Allowed", 461: "Unsupported Transport", 503: "Service Unavailable",
    505: "RTSP Version Not Supported",
}  # fmt: skip

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
        self._server: _Server | None = None
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
        self._server = _Server(stream, self.path, self._wish)
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
        raise SinkOpenError(f"{redact(url)} is no address to serve at ({error}); {form}") from error
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


class _Server:
    """What lives on the loop: the viewers, and the stream cut into packets."""

    def __init__(self, stream: EncodedStream, path: str, wish: threading.Event) -> None:
        self.path = path
        self.wish = wish
        self.fps = stream.info.fps
        self.playing = 0  # written on the loop, read anywhere
        self.viewers: set[_Viewer] = set()
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
        self._listening = await loop.create_server(lambda: _Viewer(self), sock=listener)
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


class _Request(NamedTuple):
    method: str
    url: str
    version: str
    headers: dict[str, str]  # names in lower case


class _Viewer(asyncio.Protocol):
    """One connection of a player."""

    channel = 0

    def __init__(self, server: _Server) -> None:
        self._server = server
        self._buffer = bytearray()
        self._answering: asyncio.Task[None] | None = None
        self._session = ""
        self.playing = False
        self._needs_key = True
        self._report_channel = 1
        self._packets = self._octets = 0
        self._stalled_since: float | None = None
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.skipped_packets = 0

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._wire = transport
        self._full = len(self._server.viewers) >= VIEWERS
        # The transport must never ask us to pause: the backlog is watched in `takes`.
        transport.set_write_buffer_limits(high=2 * BACKLOG_BYTES)
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._server.viewers.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._set_playing(False)
        self._server.viewers.discard(self)
        if self._answering is not None:
            self._answering.cancel()
        if not self.gone.done():
            self.gone.set_result(None)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._answering is None:
            self._read()
        elif len(self._buffer) > REQUEST_BYTES + BODY_BYTES:
            self.abort()

    # Requests

    def _read(self) -> None:
        """Take complete messages off the buffer, as long as nothing is to be waited for."""
        while self._buffer and self._answering is None and not self._wire.is_closing():
            if self._buffer[0] == 0x24:  # "$": an RTCP packet of the player, which has nothing to tell us
                size = 4 + int.from_bytes(self._buffer[2:4], "big")
                if len(self._buffer) < max(4, size):
                    return
                del self._buffer[:size]
                continue
            head, mark, _ = self._buffer.partition(b"\r\n\r\n")
            if not mark:
                if len(self._buffer) > REQUEST_BYTES:
                    self._refuse(413)
                return
            request = _parse_request(bytes(head))
            length = request.headers.get("content-length", "0") if request is not None else "x"
            if request is None or not length.isdecimal() or len(head) > REQUEST_BYTES:
                self._refuse(400)
                return
            if len(length) > 6 or int(length) > BODY_BYTES:
                self._refuse(413)
                return
            end = len(head) + 4 + int(length)
            if len(self._buffer) < end:
                return
            del self._buffer[:end]
            self._handle(request)

    def _refuse(self, status: int) -> None:
        """Answer what is no request, and hang up."""
        self._buffer.clear()
        self._wire.write(f"RTSP/1.0 {status} {REASONS[status]}\r\n\r\n".encode())
        self._wire.close()

    def _handle(self, request: _Request) -> None:
        if request.version != "RTSP/1.0":
            self._answer(request, 505)
        elif request.method == "OPTIONS":
            self._answer(request, 200, Public=METHODS)
        elif request.method in ("GET_PARAMETER", "SET_PARAMETER"):
            self._answer(request, 200)  # players keep their session alive so
        elif request.method not in METHODS.split(", "):
            self._answer(request, 455 if request.method == "PAUSE" else 405, Allow=METHODS)
        elif not self._ours(request.url):
            self._answer(request, 404)
        elif request.method == "DESCRIBE":
            self._describe(request)
        elif request.method == "SETUP":
            self._setup(request)
        elif not self._session or request.headers.get("session", "").partition(";")[0].strip() != self._session:
            self._answer(request, 454)
        elif request.method == "PLAY":
            self._play(request)
        else:
            self._answer(request, 200)
            self._wire.close()

    def _ours(self, url: str) -> bool:
        path = urlsplit(url).path.strip("/")
        return path in (self._server.path, f"{self._server.path}/{TRACK}")

    def _answer(self, request: _Request, status: int, body: str = "", **headers: str) -> None:
        lines = [f"RTSP/1.0 {status} {REASONS[status]}", f"CSeq: {request.headers.get('cseq', '0')}"]
        if self._session and request.method != "SETUP":
            lines.append(f"Session: {self._session}")
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        if body:
            lines.append(f"Content-Length: {len(body.encode())}")
        self._wire.write(("\r\n".join(lines) + "\r\n\r\n" + body).encode())

    def _describe(self, request: _Request) -> None:
        if self._server.ready.is_set():
            self._answer_description(request)
        else:
            self._answering = asyncio.create_task(self._describe_later(request))

    async def _describe_later(self, request: _Request) -> None:
        """The encoder has not said its parameter sets yet: they come with the first key picture."""
        self._server.wish.set()
        try:
            async with asyncio.timeout(DESCRIBE_SECONDS):
                await self._server.ready.wait()
            self._answer_description(request)
        except TimeoutError:
            self._answer(request, 503)
        self._answering = None
        self._read()

    def _answer_description(self, request: _Request) -> None:
        host = self._wire.get_extra_info("sockname")[0]
        body = build_sdp(host=host, name="stream_sr", sets=self._server.sets, fps=self._server.fps)
        base = request.url.rstrip("/") + "/"
        self._answer(request, 200, body, Content_Base=base, Content_Type="application/sdp")

    def _setup(self, request: _Request) -> None:
        if self._full:
            self._answer(request, 453)
            return
        if self.playing:
            self._answer(request, 455)
            return
        channels = next(filter(None, map(_channels, request.headers.get("transport", "").split(","))), None)
        if channels is None:
            self._answer(request, 461)
            return
        self.channel, self._report_channel = channels
        self._session = self._session or secrets.token_hex(8)
        transport = (
            f"RTP/AVP/TCP;unicast;interleaved={channels[0]}-{channels[1]};ssrc={self._server.packetiser.ssrc:08X}"
        )
        self._answer(request, 200, Transport=transport, Session=f"{self._session};timeout=60")

    def _play(self, request: _Request) -> None:
        info = f"url={request.url.rstrip('/')}/{TRACK};seq={self._server.packetiser.sequence}"
        if self._server.timestamp is not None:
            info += f";rtptime={self._server.timestamp}"
        if not self.playing:
            self._needs_key = True
            self._set_playing(True)
            self._server.wish.set()
        self._answer(request, 200, Range="npt=now-", RTP_Info=info)

    def _set_playing(self, playing: bool) -> None:
        self._server.playing += playing - self.playing
        self.playing = playing

    # Pictures

    def takes(self, key: bool) -> bool:
        """Whether the next access unit is to be sent. One that is not is followed by none before a key picture."""
        if not self.playing or self._wire.is_closing():
            return False
        waiting = self._wire.get_write_buffer_size()
        if waiting > BACKLOG_BYTES:
            if not self._needs_key:
                log.warning("a viewer does not keep up (%.1f MB unsent): it skips to a key picture", waiting / 1e6)
            self._needs_key = True
            self._stalled_since = self._stalled_since or asyncio.get_running_loop().time()
        elif self._needs_key and (self._stalled_since is None or waiting <= RESUME_BYTES):
            if self._stalled_since is not None and not key:
                self._server.wish.set()
            self._stalled_since = None
            self._needs_key = not key
        if self._needs_key:
            self.skipped_packets += 1
        return not self._needs_key

    def send(self, framed: bytes, packets: int, octets: int) -> None:
        self._packets += packets
        self._octets += octets
        self._wire.write(framed)

    def report(self, sent_at: float, timestamp: int) -> None:
        """A sender report, unless it would only join a backlog."""
        if self._wire.get_write_buffer_size() < BACKLOG_BYTES:
            report = sender_report(
                self._server.packetiser.ssrc, unix_seconds=sent_at, timestamp=timestamp, packets=self._packets,
                octets=self._octets,
            )  # fmt: skip
            self._wire.write(interleave(self._report_channel, report))

    def end_if_stalled(self) -> None:
        """Cut a viewer off that is gone without a word."""
        since = self._stalled_since
        if since is not None and asyncio.get_running_loop().time() - since > STALLED_SECONDS:
            log.warning("a viewer took nothing for %g s: it is disconnected", STALLED_SECONDS)
            self.abort()

    def say_goodbye(self) -> None:
        """End the stream: what was written before is sent first."""
        if self.playing:
            self._wire.write(interleave(self._report_channel, goodbye(self._server.packetiser.ssrc)))
        self._wire.close()

    def abort(self) -> None:
        with contextlib.suppress(OSError):
            self._wire.abort()


def _parse_request(head: bytes) -> _Request | None:
    """A request without its body; None for what is none."""
    lines = head.decode("latin-1").lstrip("\r\n").split("\r\n")
    words = lines[0].split(" ")
    if len(words) != 3 or not words[0].replace("_", "").isalpha() or not words[2].startswith("RTSP/"):
        return None
    headers = {}
    for line in lines[1:]:
        name, mark, value = line.partition(":")
        if not mark:
            return None
        headers[name.strip().lower()] = value.strip()
    if not headers.get("cseq", "0").isdecimal():
        return None
    try:
        urlsplit(words[1])
    except ValueError:
        return None
    return _Request(words[0], words[1], words[2], headers)


def _channels(transport: str) -> tuple[int, int] | None:
    """The channels of one offered transport; None where it is not TCP in this connection."""
    fields = [field.strip() for field in transport.split(";")]
    if fields[0].upper() != "RTP/AVP/TCP":
        return None
    for field in fields:
        name, _, value = field.partition("=")
        if name == "interleaved":
            numbers = value.split("-")
            if not all(number.isascii() and number.isdecimal() and len(number) < 4 for number in numbers):
                return None
            first, last = int(numbers[0]), int(numbers[-1])
            last = first + 1 if last == first else last
            return (first, last) if max(first, last) < 256 else None
    return 0, 1
