"""The session of one viewer at our RTSP server (RFC 2326): its requests, and what is sent to it or skipped."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

from stream_sr.rtsp.auth import ServerAuth
from stream_sr.rtsp.rtcp import bye, sender_report
from stream_sr.rtsp.rtp import interleave
from stream_sr.rtsp.server_request import (
    BUFFER_BYTES,
    METHODS,
    REASONS,
    BadRequest,
    RtspRequest,
    parse_pair,
    take_request,
)
from stream_sr.rtsp.server_stream import VIDEO, ServerStream

BACKLOG_BYTES = 4 << 20  # a viewer with more to be sent skips to the next keyframe
RESUME_BYTES = 64 << 10  # ... when all but this is sent
STALLED_SECONDS = 30.0  # a viewer that took nothing for so long is disconnected
SILENT_SECONDS = 90.0  # a viewer over UDP that sent nothing for so long is disconnected
SETUP_SECONDS = 30.0  # a client that does not play by then is disconnected
REQUEST_BURST, REQUESTS_PER_SECOND = 60, 20.0
MAX_REFUSALS = 5  # wrong passwords on one connection
DESCRIBE_SECONDS = 10.0  # that DESCRIBE waits for the parameter sets

log = logging.getLogger("stream_sr")


class SessionHost(Protocol):
    """What a session needs of the server that accepted its connection, see `server.RtspServer`."""

    max_connections: int

    @property
    def streams(self) -> Mapping[str, ServerStream]:
        """The streams by their paths."""
        ...

    @property
    def sessions(self) -> set[ServerSession]:
        """All sessions; each adds and removes itself."""
        ...

    def log_refusal(self, address: str, now: float) -> None:
        """Log a wrong password."""
        ...

    def udp_ports(self) -> tuple[int, int]:
        """Return the RTP and the RTCP port. Raises OSError."""
        ...

    def send_datagram(self, data: bytes, to: tuple[str, int], *, rtcp: bool = False) -> None:
        """Send from the RTP or the RTCP port."""
        ...


@dataclass(slots=True)
class TrackTransport:
    """How one track is sent to the viewer: in two channels of its connection, or to two UDP ports at its address."""

    rtp: int
    rtcp: int
    host: str = ""  # for UDP; empty for TCP
    packets: int = 0  # sent
    octets: int = 0


class ServerSession(asyncio.Protocol):
    """The connection of one player, with one RTSP session at most. A `server_stream.StreamViewer`."""

    def __init__(self, server: SessionHost) -> None:
        self._server = server
        self._stream: ServerStream | None = None
        self._auth: dict[str, ServerAuth] = {}  # by path
        self._refusals = 0
        self._buffer = bytearray()
        self._answering: asyncio.Task[None] | None = None
        self._session_id = ""
        self._transports: dict[str, TrackTransport] = {}
        self.playing = False
        self._needs_keyframe = True
        self._stalled_since: float | None = None
        self._received_at = time.monotonic()
        self._budget, self._budget_at = float(REQUEST_BURST), self._received_at
        self._deadline: asyncio.TimerHandle | None = None
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.skipped_packets = 0

    # See asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._tcp = transport
        self._server.sessions.add(self)
        if len(self._server.sessions) > self._server.max_connections:
            transport.abort()
            return
        # The transport must never ask us to pause: the backlog is watched in `accepts`.
        transport.set_write_buffer_limits(high=2 * BACKLOG_BYTES)
        raw = transport.get_extra_info("socket")
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._deadline = asyncio.get_running_loop().call_later(SETUP_SECONDS, self._close_if_idle)

    def connection_lost(self, exc: Exception | None) -> None:
        self._set_playing(False)
        self._server.sessions.discard(self)
        if self._stream is not None:
            self._stream.viewers.discard(self)
        if self._answering is not None:
            self._answering.cancel()
        if self._deadline is not None:
            self._deadline.cancel()
        if not self.closed.done():
            self.closed.set_result(None)

    def data_received(self, data: bytes) -> None:
        self._received_at = time.monotonic()
        self._buffer += data
        if self._answering is None:
            self._read()
        elif len(self._buffer) > BUFFER_BYTES:
            self.abort()

    def _close_if_idle(self) -> None:
        if not self.playing and self._answering is None:
            self.abort()

    # Requests

    def _read(self) -> None:
        """Handle the complete requests in the buffer, unless one before them is still being answered."""
        while self._buffer and self._answering is None and not self._tcp.is_closing():
            try:
                request = take_request(self._buffer)
            except BadRequest as error:
                self._reject(error.status)
                return
            if request is None:
                return
            if not self._within_rate():
                log.warning("a client asks more than %g times a second: it is disconnected", REQUESTS_PER_SECOND)
                self.abort()
                return
            self._handle(request)

    def _within_rate(self) -> bool:
        now = time.monotonic()
        self._budget = min(REQUEST_BURST, self._budget + (now - self._budget_at) * REQUESTS_PER_SECOND) - 1
        self._budget_at = now
        return self._budget >= 0

    def _reject(self, status: int) -> None:
        """Answer bytes that are not a valid request, and close the connection."""
        self._buffer.clear()
        self._tcp.write(f"RTSP/1.0 {status} {REASONS[status]}\r\n\r\n".encode())
        self._tcp.close()

    def _handle(self, request: RtspRequest) -> None:
        if request.version != "RTSP/1.0":
            self._answer(request, 505)
        elif request.method == "OPTIONS":
            self._answer(request, 200, Public=METHODS)
        elif request.method not in METHODS.split(", "):
            self._answer(request, 455 if request.method == "PAUSE" else 405, Allow=METHODS)
        elif request.method in ("GET_PARAMETER", "SET_PARAMETER"):
            self._answer(request, 200)  # keep-alive of players
        elif (found := self._find(request.url)) is None:
            self._answer(request, 404)
        elif not self._is_authorized(request, found[0]):
            self._challenge(request, found[0])
        elif request.method == "DESCRIBE":
            self._describe(request, found[0])
        elif request.method == "SETUP":
            self._setup(request, *found)
        elif not self._session_id or request.headers.get("session", "").partition(";")[0].strip() != self._session_id:
            self._answer(request, 454)
        elif request.method == "PLAY":
            self._play(request)
        else:
            self._answer(request, 200)
            self._tcp.close()

    def _find(self, url: str) -> tuple[ServerStream, str] | None:
        """Return the stream that a URL means, and its track (the video if the URL names none)."""
        path = urlsplit(url).path.strip("/")
        if (stream := self._server.streams.get(path)) is not None:
            return stream, VIDEO
        path, _, track = path.rpartition("/")
        stream = self._server.streams.get(path)
        return (stream, track) if stream is not None and track in stream.tracks else None

    def _is_authorized(self, request: RtspRequest, stream: ServerStream) -> bool:
        if stream.path not in self._auth:
            self._auth[stream.path] = ServerAuth(stream.policy.user, stream.policy.password)
        authorization = request.headers.get("authorization", "")
        return self._auth[stream.path].is_authorized(request.method, request.url, authorization)

    def _challenge(self, request: RtspRequest, stream: ServerStream) -> None:
        if request.headers.get("authorization"):
            self._refusals += 1
            self._server.log_refusal(self._peer(), time.monotonic())
        self._answer(request, 401, WWW_Authenticate=self._auth[stream.path].challenge)
        if self._refusals >= MAX_REFUSALS:
            self._tcp.close()

    def _peer(self) -> str:
        return str(self._tcp.get_extra_info("peername")[0])

    def _answer(self, request: RtspRequest, status: int, body: str = "", **headers: str) -> None:
        lines = [f"RTSP/1.0 {status} {REASONS[status]}", f"CSeq: {request.headers.get('cseq', '0')}"]
        if self._session_id and request.method != "SETUP":
            lines.append(f"Session: {self._session_id}")
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        if body:
            lines.append(f"Content-Length: {len(body.encode())}")
        self._tcp.write(("\r\n".join(lines) + "\r\n\r\n" + body).encode())

    def _describe(self, request: RtspRequest, stream: ServerStream) -> None:
        if stream.ready.is_set():
            self._answer_description(request, stream)
        else:
            self._answering = asyncio.create_task(self._describe_later(request, stream))

    async def _describe_later(self, request: RtspRequest, stream: ServerStream) -> None:
        """Answer when the parameter sets are known: they come with the first keyframe."""
        stream.keyframe_requested.set()
        try:
            async with asyncio.timeout(DESCRIBE_SECONDS):
                await stream.ready.wait()
            self._answer_description(request, stream)
        except TimeoutError:
            self._answer(request, 503)
        self._answering = None
        self._read()

    def _answer_description(self, request: RtspRequest, stream: ServerStream) -> None:
        body = stream.describe(self._tcp.get_extra_info("sockname")[0])
        base = request.url.rstrip("/") + "/"
        self._answer(request, 200, body, Content_Base=base, Content_Type="application/sdp")

    def _setup(self, request: RtspRequest, stream: ServerStream, track: str) -> None:
        others = stream.viewers - {self}
        if len(others) >= stream.policy.max_viewers:
            self._answer(request, 453)
            return
        if self.playing or (self._stream is not None and self._stream is not stream):
            self._answer(request, 455)
            return
        offers = request.headers.get("transport", "").split(",")
        accepted = next(filter(None, (self._take_offer(offer, track) for offer in offers)), None)
        if accepted is None:
            self._answer(request, 461)
            return
        self._stream = stream
        stream.viewers.add(self)
        self._session_id = self._session_id or secrets.token_hex(8)
        accepted += f";ssrc={stream.tracks[track].packetiser.ssrc:08X}"
        self._answer(request, 200, Transport=accepted, Session=f"{self._session_id};timeout=60")

    def _take_offer(self, offer: str, track: str) -> str | None:
        """Return the answer to one offered transport; None if it is not supported.

        Datagrams go to the address that the connection comes from, whatever the offer says.
        """
        fields = dict(field.strip().partition("=")[::2] for field in offer.split(";"))
        kind = offer.strip().partition(";")[0].upper()
        if kind == "RTP/AVP/TCP":
            free = 2 * len(self._transports.keys() - {track})
            channels = parse_pair(fields.get("interleaved", f"{free}-{free + 1}"), 255)
            if channels is None:
                return None
            self._transports[track] = TrackTransport(*channels)
            return f"RTP/AVP/TCP;unicast;interleaved={channels[0]}-{channels[1]}"
        ports = parse_pair(fields.get("client_port", ""), 65535)
        if kind not in ("RTP/AVP", "RTP/AVP/UDP") or "multicast" in fields or ports is None or min(ports) < 1024:
            return None
        try:
            own = self._server.udp_ports()
        except OSError:
            return None
        self._transports[track] = TrackTransport(*ports, host=self._peer())
        return f"{kind};unicast;client_port={ports[0]}-{ports[1]};server_port={own[0]}-{own[1]}"

    def _play(self, request: RtspRequest) -> None:
        stream = self._stream
        assert stream is not None
        base = request.url.rstrip("/")
        info = []
        for track in self._transports:
            sent = stream.tracks[track]
            text = f"url={base}/{track};seq={sent.packetiser.sequence}"
            info.append(text + (f";rtptime={sent.timestamp}" if sent.timestamp is not None else ""))
        if not self.playing:
            self._needs_keyframe = True
            self._set_playing(True)
            stream.keyframe_requested.set()
        self._answer(request, 200, Range="npt=now-", RTP_Info=",".join(info))

    def _set_playing(self, playing: bool) -> None:
        if self._stream is not None:
            self._stream.playing += playing - self.playing
        self.playing = playing

    # Media

    def accepts(self, *, keyframe: bool) -> bool:
        """Whether the next access unit is to be sent. After one that is not, none is before a keyframe."""
        if not self.playing or self._tcp.is_closing():
            return False
        assert self._stream is not None
        waiting = self._tcp.get_write_buffer_size()
        if waiting > BACKLOG_BYTES:
            if not self._needs_keyframe:
                log.warning("a viewer does not keep up (%.1f MB unsent): it skips to a keyframe", waiting / 1e6)
            self._needs_keyframe = True
            self._stalled_since = self._stalled_since or time.monotonic()
        elif self._needs_keyframe and (self._stalled_since is None or waiting <= RESUME_BYTES):
            if self._stalled_since is not None and not keyframe:
                self._stream.keyframe_requested.set()
            self._stalled_since = None
            self._needs_keyframe = not keyframe
        if self._needs_keyframe:
            self.skipped_packets += 1
        return not self._needs_keyframe

    def send(self, track: str, packets: Sequence[bytes], octets: int, interleaved: dict[int, bytes]) -> None:
        """Send the packets of a track, if it was set up. ``interleaved`` keeps them joined, by channel, for others."""
        transport = self._transports.get(track)
        if transport is None or not packets:
            return
        transport.packets += len(packets)
        transport.octets += octets
        if transport.host:
            for packet in packets:
                self._server.send_datagram(packet, (transport.host, transport.rtp))
            return
        if transport.rtp not in interleaved:
            interleaved[transport.rtp] = b"".join([interleave(transport.rtp, packet) for packet in packets])
        self._tcp.write(interleaved[transport.rtp])

    def send_report(self, track: str, ssrc: int, unix_seconds: float, timestamp: int) -> None:
        """Send a sender report of a track, unless there is a backlog."""
        transport = self._transports.get(track)
        if transport is None:
            return
        data = sender_report(
            ssrc, unix_seconds=unix_seconds, timestamp=timestamp, packets=transport.packets, octets=transport.octets
        )
        if transport.host:
            self._server.send_datagram(data, (transport.host, transport.rtcp), rtcp=True)
        elif self._tcp.get_write_buffer_size() < BACKLOG_BYTES:
            self._tcp.write(interleave(transport.rtcp, data))

    def note_datagram(self, host: str, port: int, now: float) -> None:
        """Take note of a datagram from this address: the viewer is alive if it is one of its own."""
        for transport in self._transports.values():
            if transport.host == host and port in (transport.rtp, transport.rtcp):
                self._received_at = now

    def close_if_stalled(self) -> None:
        """Disconnect a viewer that does not respond any longer."""
        now, since = time.monotonic(), self._stalled_since
        over_udp = any(transport.host for transport in self._transports.values())
        if since is not None and now - since > STALLED_SECONDS:
            log.warning("a viewer took nothing for %g s: it is disconnected", STALLED_SECONDS)
            self.abort()
        elif over_udp and now - self._received_at > SILENT_SECONDS:
            log.warning("a viewer over UDP said nothing for %g s: it is disconnected", SILENT_SECONDS)
            self.abort()

    def end_stream(self) -> None:
        """Send BYE and close the connection after what was written before."""
        if self.playing and self._stream is not None:
            for track, transport in self._transports.items():
                data = bye(self._stream.tracks[track].packetiser.ssrc)
                if transport.host:
                    self._server.send_datagram(data, (transport.host, transport.rtcp), rtcp=True)
                else:
                    self._tcp.write(interleave(transport.rtcp, data))
        self._tcp.close()

    def abort(self) -> None:
        """Close the connection now."""
        with contextlib.suppress(OSError):
            self._tcp.abort()
