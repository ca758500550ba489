"""One player at our RTSP server (RFC 2326): its requests, and what it is sent or, when it does not keep up, is not."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import socket
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from stream_sr.codec.rtp import goodbye, interleave, sender_report
from stream_sr.codec.sdp import build_sdp

if TYPE_CHECKING:
    from stream_sr.sinks.rtsp_server import Server

TRACK = "track1"
METHODS = "OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN, GET_PARAMETER, SET_PARAMETER"
VIEWERS = 64
BACKLOG_BYTES = 4 << 20  # a viewer with more to be sent skips to the next key picture
RESUME_BYTES = 64 << 10  # ... when it has taken all but this
STALLED_SECONDS = 30.0  # a viewer that took nothing for so long is gone
REQUEST_BYTES = 16 << 10  # largest request head
BODY_BYTES = 64 << 10
DESCRIBE_SECONDS = 10.0  # a viewer that comes before the parameter sets are known waits so long for them
REASONS = {
    200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 413: "Request Entity Too Large",
    453: "Not Enough Bandwidth", 454: "Session Not Found", 455: "Method Not Valid in This State",
    459: "Aggregate Operation Not Allowed", 461: "Unsupported Transport", 503: "Service Unavailable",
    505: "RTSP Version Not Supported",
}  # fmt: skip

log = logging.getLogger("stream_sr")


class Request(NamedTuple):
    method: str
    url: str
    version: str
    headers: dict[str, str]  # names in lower case


class Viewer(asyncio.Protocol):
    """One connection of a player."""

    channel = 0

    def __init__(self, server: Server) -> None:
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

    def _handle(self, request: Request) -> None:
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

    def _answer(self, request: Request, status: int, body: str = "", **headers: str) -> None:
        lines = [f"RTSP/1.0 {status} {REASONS[status]}", f"CSeq: {request.headers.get('cseq', '0')}"]
        if self._session and request.method != "SETUP":
            lines.append(f"Session: {self._session}")
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        if body:
            lines.append(f"Content-Length: {len(body.encode())}")
        self._wire.write(("\r\n".join(lines) + "\r\n\r\n" + body).encode())

    def _describe(self, request: Request) -> None:
        if self._server.ready.is_set():
            self._answer_description(request)
        else:
            self._answering = asyncio.create_task(self._describe_later(request))

    async def _describe_later(self, request: Request) -> None:
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

    def _answer_description(self, request: Request) -> None:
        host = self._wire.get_extra_info("sockname")[0]
        body = build_sdp(host=host, name="stream_sr", sets=self._server.sets, fps=self._server.fps)
        base = request.url.rstrip("/") + "/"
        self._answer(request, 200, body, Content_Base=base, Content_Type="application/sdp")

    def _setup(self, request: Request) -> None:
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

    def _play(self, request: Request) -> None:
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


def _parse_request(head: bytes) -> Request | None:
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
    return Request(words[0], words[1], words[2], headers)


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
