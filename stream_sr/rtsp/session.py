"""One player at our RTSP server (RFC 2326): its requests, and what it is sent or, when it does not keep up, is not."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from stream_sr.rtsp.auth import Gate
from stream_sr.rtsp.mount import VIDEO, Mount
from stream_sr.rtsp.rtp import goodbye, interleave, sender_report

if TYPE_CHECKING:
    from stream_sr.rtsp.server import Listener

METHODS = "OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN, GET_PARAMETER, SET_PARAMETER"
BACKLOG_BYTES = 4 << 20  # a viewer with more to be sent skips to the next keyframe
RESUME_BYTES = 64 << 10  # ... when it has taken all but this
STALLED_SECONDS = 30.0  # a viewer that took nothing for so long is gone
SILENT_SECONDS = 90.0  # a viewer over UDP that said nothing for so long is gone
SETUP_SECONDS = 30.0  # who does not play by then is no viewer
REQUEST_BYTES = 16 << 10  # largest request head
BODY_BYTES = 64 << 10
REQUESTS_AT_ONCE, REQUESTS_PER_SECOND = 60, 20.0
REFUSALS = 5  # wrong passwords on one connection
DESCRIBE_SECONDS = 10.0  # a viewer that comes before the parameter sets are known waits so long for them
REASONS = {
    200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 405: "Method Not Allowed",
    413: "Request Entity Too Large", 453: "Not Enough Bandwidth", 454: "Session Not Found",
    455: "Method Not Valid in This State", 459: "Aggregate Operation Not Allowed", 461: "Unsupported Transport",
    500: "Internal Server Error", 503: "Service Unavailable", 505: "RTSP Version Not Supported",
}  # fmt: skip

log = logging.getLogger("stream_sr")


class Request(NamedTuple):
    method: str
    url: str
    version: str
    headers: dict[str, str]  # names in lower case


@dataclass(slots=True)
class TrackTransport:
    """How one track reaches the viewer: two channels of its connection, or two UDP ports at its address."""

    rtp: int
    rtcp: int
    host: str = ""  # of UDP; empty inside the connection
    packets: int = 0  # sent
    octets: int = 0


class Viewer(asyncio.Protocol):
    """One connection of a player."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._mount: Mount | None = None
        self._gates: dict[str, Gate] = {}  # by path
        self._refusals = 0
        self._buffer = bytearray()
        self._answering: asyncio.Task[None] | None = None
        self._session = ""
        self._ways: dict[str, TrackTransport] = {}
        self.playing = False
        self._needs_key = True
        self._stalled_since: float | None = None
        self._heard = time.monotonic()
        self._tokens, self._refilled = float(REQUESTS_AT_ONCE), self._heard
        self._deadline: asyncio.TimerHandle | None = None
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.skipped_packets = 0

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._wire = transport
        self._listener.connections.add(self)
        if len(self._listener.connections) > self._listener.most_connections:
            transport.abort()
            return
        # The transport must never ask us to pause: the backlog is watched in `takes`.
        transport.set_write_buffer_limits(high=2 * BACKLOG_BYTES)
        wire = transport.get_extra_info("socket")
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._deadline = asyncio.get_running_loop().call_later(SETUP_SECONDS, self._end_if_idle)

    def connection_lost(self, exc: Exception | None) -> None:
        self._set_playing(False)
        self._listener.connections.discard(self)
        if self._mount is not None:
            self._mount.viewers.discard(self)
        if self._answering is not None:
            self._answering.cancel()
        if self._deadline is not None:
            self._deadline.cancel()
        if not self.gone.done():
            self.gone.set_result(None)

    def data_received(self, data: bytes) -> None:
        self._heard = time.monotonic()
        self._buffer += data
        if self._answering is None:
            self._read()
        elif len(self._buffer) > REQUEST_BYTES + BODY_BYTES:
            self.abort()

    def _end_if_idle(self) -> None:
        if not self.playing and self._answering is None:
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
            if request is None or not length.isascii() or not length.isdecimal() or len(head) > REQUEST_BYTES:
                self._refuse(400)
                return
            if len(length) > 6 or int(length) > BODY_BYTES:
                self._refuse(413)
                return
            end = len(head) + 4 + int(length)
            if len(self._buffer) < end:
                return
            del self._buffer[:end]
            if not self._within_rate():
                log.warning("a client asks more than %g times a second: it is disconnected", REQUESTS_PER_SECOND)
                self.abort()
                return
            self._handle(request)

    def _within_rate(self) -> bool:
        now = time.monotonic()
        self._tokens = min(REQUESTS_AT_ONCE, self._tokens + (now - self._refilled) * REQUESTS_PER_SECOND) - 1
        self._refilled = now
        return self._tokens >= 0

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
        elif request.method not in METHODS.split(", "):
            self._answer(request, 455 if request.method == "PAUSE" else 405, Allow=METHODS)
        elif request.method in ("GET_PARAMETER", "SET_PARAMETER"):
            self._answer(request, 200)  # players keep their session alive so
        elif (place := self._place(request.url)) is None:
            self._answer(request, 404)
        elif not self._admitted(request, place[0]):
            self._challenge(request, place[0])
        elif request.method == "DESCRIBE":
            self._describe(request, place[0])
        elif request.method == "SETUP":
            self._setup(request, *place)
        elif not self._session or request.headers.get("session", "").partition(";")[0].strip() != self._session:
            self._answer(request, 454)
        elif request.method == "PLAY":
            self._play(request)
        else:
            self._answer(request, 200)
            self._wire.close()

    def _place(self, url: str) -> tuple[Mount, str] | None:
        """The stream that a URL means, and its track (the picture where it names none)."""
        path = urlsplit(url).path.strip("/")
        if (mount := self._listener.mounts.get(path)) is not None:
            return mount, VIDEO
        path, _, track = path.rpartition("/")
        mount = self._listener.mounts.get(path)
        return (mount, track) if mount is not None and track in mount.outlets else None

    def _admitted(self, request: Request, mount: Mount) -> bool:
        if mount.path not in self._gates:
            self._gates[mount.path] = Gate(mount.door.user, mount.door.password)
        return self._gates[mount.path].admits(request.method, request.url, request.headers.get("authorization", ""))

    def _challenge(self, request: Request, mount: Mount) -> None:
        if request.headers.get("authorization"):
            self._refusals += 1
            self._listener.complain(self._peer(), time.monotonic())
        self._answer(request, 401, WWW_Authenticate=self._gates[mount.path].challenge)
        if self._refusals >= REFUSALS:
            self._wire.close()

    def _peer(self) -> str:
        return str(self._wire.get_extra_info("peername")[0])

    def _answer(self, request: Request, status: int, body: str = "", **headers: str) -> None:
        lines = [f"RTSP/1.0 {status} {REASONS[status]}", f"CSeq: {request.headers.get('cseq', '0')}"]
        if self._session and request.method != "SETUP":
            lines.append(f"Session: {self._session}")
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        if body:
            lines.append(f"Content-Length: {len(body.encode())}")
        self._wire.write(("\r\n".join(lines) + "\r\n\r\n" + body).encode())

    def _describe(self, request: Request, mount: Mount) -> None:
        if mount.ready.is_set():
            self._answer_description(request, mount)
        else:
            self._answering = asyncio.create_task(self._describe_later(request, mount))

    async def _describe_later(self, request: Request, mount: Mount) -> None:
        """The encoder has not said its parameter sets yet: they come with the first keyframe."""
        mount.wish.set()
        try:
            async with asyncio.timeout(DESCRIBE_SECONDS):
                await mount.ready.wait()
            self._answer_description(request, mount)
        except TimeoutError:
            self._answer(request, 503)
        self._answering = None
        self._read()

    def _answer_description(self, request: Request, mount: Mount) -> None:
        body = mount.describe(self._wire.get_extra_info("sockname")[0])
        base = request.url.rstrip("/") + "/"
        self._answer(request, 200, body, Content_Base=base, Content_Type="application/sdp")

    def _setup(self, request: Request, mount: Mount, track: str) -> None:
        others = mount.viewers - {self}
        if len(others) >= mount.door.viewers:
            self._answer(request, 453)
            return
        if self.playing or (self._mount is not None and self._mount is not mount):
            self._answer(request, 455)
            return
        offers = request.headers.get("transport", "").split(",")
        transport = next(filter(None, (self._take_offer(offer, track) for offer in offers)), None)
        if transport is None:
            self._answer(request, 461)
            return
        self._mount = mount
        mount.viewers.add(self)
        self._session = self._session or secrets.token_hex(8)
        transport += f";ssrc={mount.outlets[track].packetiser.ssrc:08X}"
        self._answer(request, 200, Transport=transport, Session=f"{self._session};timeout=60")

    def _take_offer(self, offer: str, track: str) -> str | None:
        """The answer to one offered transport; None where it is none of ours.

        Datagrams go to the address that the connection comes from, whatever else is asked for.
        """
        fields = dict(field.strip().partition("=")[::2] for field in offer.split(";"))
        kind = offer.strip().partition(";")[0].upper()
        if kind == "RTP/AVP/TCP":
            free = 2 * len(self._ways.keys() - {track})
            ways = _numbers(fields.get("interleaved", f"{free}-{free + 1}"), 255)
            if ways is None:
                return None
            self._ways[track] = TrackTransport(*ways)
            return f"RTP/AVP/TCP;unicast;interleaved={ways[0]}-{ways[1]}"
        ports = _numbers(fields.get("client_port", ""), 65535)
        if kind not in ("RTP/AVP", "RTP/AVP/UDP") or "multicast" in fields or ports is None or min(ports) < 1024:
            return None
        try:
            ours = self._listener.udp_ports()
        except OSError:
            return None
        self._ways[track] = TrackTransport(*ports, host=self._peer())
        return f"{kind};unicast;client_port={ports[0]}-{ports[1]};server_port={ours[0]}-{ours[1]}"

    def _play(self, request: Request) -> None:
        mount = self._mount
        assert mount is not None
        base = request.url.rstrip("/")
        info = []
        for track in self._ways:
            outlet = mount.outlets[track]
            text = f"url={base}/{track};seq={outlet.packetiser.sequence}"
            info.append(text + (f";rtptime={outlet.timestamp}" if outlet.timestamp is not None else ""))
        if not self.playing:
            self._needs_key = True
            self._set_playing(True)
            mount.wish.set()
        self._answer(request, 200, Range="npt=now-", RTP_Info=",".join(info))

    def _set_playing(self, playing: bool) -> None:
        if self._mount is not None:
            self._mount.playing += playing - self.playing
        self.playing = playing

    # Pictures and sound

    def takes(self, key: bool) -> bool:
        """Whether the next access unit is to be sent. One that is not is followed by none before a keyframe."""
        if not self.playing or self._wire.is_closing():
            return False
        assert self._mount is not None
        waiting = self._wire.get_write_buffer_size()
        if waiting > BACKLOG_BYTES:
            if not self._needs_key:
                log.warning("a viewer does not keep up (%.1f MB unsent): it skips to a keyframe", waiting / 1e6)
            self._needs_key = True
            self._stalled_since = self._stalled_since or time.monotonic()
        elif self._needs_key and (self._stalled_since is None or waiting <= RESUME_BYTES):
            if self._stalled_since is not None and not key:
                self._mount.wish.set()
            self._stalled_since = None
            self._needs_key = not key
        if self._needs_key:
            self.skipped_packets += 1
        return not self._needs_key

    def send(self, track: str, packets: Sequence[bytes], octets: int, framed: dict[int, bytes]) -> None:
        """Send the packets of a track, if it was set up. ``framed`` keeps them joined, by channel, for all viewers."""
        way = self._ways.get(track)
        if way is None or not packets:
            return
        way.packets += len(packets)
        way.octets += octets
        if way.host:
            for packet in packets:
                self._listener.send_datagram(packet, (way.host, way.rtp))
            return
        if way.rtp not in framed:
            framed[way.rtp] = b"".join([interleave(way.rtp, packet) for packet in packets])
        self._wire.write(framed[way.rtp])

    def report(self, track: str, ssrc: int, wall: float, timestamp: int) -> None:
        """A sender report, unless it would only join a backlog."""
        way = self._ways.get(track)
        if way is None:
            return
        data = sender_report(ssrc, unix_seconds=wall, timestamp=timestamp, packets=way.packets, octets=way.octets)
        if way.host:
            self._listener.send_datagram(data, (way.host, way.rtcp), report=True)
        elif self._wire.get_write_buffer_size() < BACKLOG_BYTES:
            self._wire.write(interleave(way.rtcp, data))

    def heard_datagram(self, host: str, port: int, now: float) -> None:
        """A datagram came from there."""
        if any(way.host == host and port in (way.rtp, way.rtcp) for way in self._ways.values()):
            self._heard = now

    def end_if_stalled(self) -> None:
        """Cut a viewer off that is gone without a word."""
        now = time.monotonic()
        since = self._stalled_since
        if since is not None and now - since > STALLED_SECONDS:
            log.warning("a viewer took nothing for %g s: it is disconnected", STALLED_SECONDS)
            self.abort()
        elif now - self._heard > SILENT_SECONDS and any(way.host for way in self._ways.values()):
            log.warning("a viewer over UDP said nothing for %g s: it is disconnected", SILENT_SECONDS)
            self.abort()

    def say_goodbye(self) -> None:
        """End the stream: what was written before is sent first."""
        if self.playing and self._mount is not None:
            for track, way in self._ways.items():
                data = goodbye(self._mount.outlets[track].packetiser.ssrc)
                if way.host:
                    self._listener.send_datagram(data, (way.host, way.rtcp), report=True)
                else:
                    self._wire.write(interleave(way.rtcp, data))
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
    number = headers.get("cseq", "0")
    if not (number.isascii() and number.isdecimal() and len(number) < 12):
        return None
    if any(letter < " " or letter > "~" for letter in words[1]):
        return None
    try:
        urlsplit(words[1])
    except ValueError:
        return None
    return Request(words[0], words[1], words[2], headers)


def _numbers(text: str, most: int) -> tuple[int, int] | None:
    """``4-5``, or ``4``, as two numbers up to ``most``; None for anything else."""
    numbers = text.split("-")
    if not all(number.isascii() and number.isdecimal() and len(number) < 6 for number in numbers):
        return None
    first, last = int(numbers[0]), int(numbers[-1])
    last = first + 1 if last == first else last
    return (first, last) if max(first, last) <= most else None
