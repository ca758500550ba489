"""The RTSP client that plays: requests to the server, and access units assembled from the packets received."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from aiortsp.rtsp.errors import RTSPConnectionError, RTSPError, RTSPResponseError
from aiortsp.rtsp.parser import RTSPResponse

from stream_sr.errors import DecodeError, SourceError, SourceLost, SourceOpenError, SourceRefused
from stream_sr.pipeline.ring import Overflow, RingBuffer
from stream_sr.rtsp.address import RtspAddress, control_url
from stream_sr.rtsp.client_connection import ClientConnection, header
from stream_sr.rtsp.client_transport import TcpTransport, UdpTransport
from stream_sr.rtsp.incoming_audio import IncomingAudio
from stream_sr.rtsp.rtcp import BYE, WallClock, parse_sender_reports, rtcp_types
from stream_sr.rtsp.rtp_audio import format_of_media
from stream_sr.rtsp.rtp_video import H264, PAYLOAD_FORMATS, VIDEO_CLOCK, AccessUnit, PayloadFormat, VideoDepacketiser
from stream_sr.rtsp.sdp import MediaDescription, parse_sdp

log = logging.getLogger("stream_sr")

QUEUE_UNITS = 300  # 10 s at 30 fps: a whole GOP fits, so that a late start can catch up
KEYFRAME_SECONDS = 30.0  # a stream without a keyframe for so long is a failure
TEARDOWN_SECONDS = 0.5


class LowDelayUnsupported(SourceOpenError):
    """The server offers something that this client does not support; the message says what.

    Raised before a frame was read. PyAV's demuxer may support it, at the cost of a frame interval of delay.
    """


class PlayingStream(NamedTuple):
    """The video of a stream that plays."""

    media: MediaDescription
    payload_format: PayloadFormat
    parameter_sets: list[bytes]  # all kinds
    first_keyframe: AccessUnit | None  # if opening had to wait for it


class RtspClient:
    """Connection and session of one stream, on the loop; it assembles packets into ``units``.

    ``failure`` is set before ``units`` ends. ``wall`` is the camera's wall clock, ``audio`` its audio track, if that
    is supported.
    """

    def __init__(self, address: RtspAddress, name: str, timeout: float, *, udp: bool = False) -> None:
        self._address, self.name, self._timeout = address, name, timeout
        self._udp = udp
        self.wall = WallClock(VIDEO_CLOCK)
        self.audio: IncomingAudio | None = None
        self.units: RingBuffer[AccessUnit] = RingBuffer(
            QUEUE_UNITS, Overflow.SKIP_TO_KEYFRAME, is_keyframe=lambda unit: unit.is_keyframe
        )
        self.depacketiser = VideoDepacketiser()
        self.failure: SourceError | None = None
        self._lock = threading.Lock()
        self._reading = False
        self._doing = "connecting"
        self._connection: ClientConnection | None = None
        self._transports: list[TcpTransport | UdpTransport] = []
        self._first_keyframe: AccessUnit | None = None
        self._url = address.url  # of the whole presentation
        self._session_id = ""
        self._interval = 30.0  # seconds between keep-alive requests
        self._parameter_sets: list[bytes] = []
        self._keyframe_event: asyncio.Event | None = None
        self._received_at = self._decodable_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._keep_alive_task: asyncio.Task[None] | None = None

    # On the loop.

    async def open(self) -> PlayingStream:
        """Connect, DESCRIBE, SETUP, PLAY. Returns the video track and its parameter sets.

        Raises SourceOpenError, LowDelayUnsupported; within the read timeout.
        """
        try:
            async with asyncio.timeout(self._timeout):
                return await self._open()
        except TimeoutError as error:
            raise SourceOpenError(
                f"{self.name} does not answer within {self._timeout:g} s (while {self._doing}); "
                "check the address, or allow more with --read-timeout"
            ) from error
        except RTSPResponseError as error:
            raise self._refused(error) from error
        except RTSPConnectionError as error:
            raise SourceOpenError(self._no_connection(error)) from error
        except (RTSPError, AssertionError, LookupError, ValueError, RuntimeError) as error:
            raise LowDelayUnsupported(
                f"an answer of unknown form ({type(error).__name__} while {self._doing})"
            ) from error

    async def _open(self) -> PlayingStream:
        self._keyframe_event = asyncio.Event()
        self._connection = connection = ClientConnection(self._address, self._timeout)
        connection.lost = self._lost
        await connection.prepare()
        media, payload_format, audio = await self._choose()
        self.depacketiser = VideoDepacketiser(media.payload_type, payload_format=payload_format)
        self._parameter_sets = payload_format.parameter_sets(media.parameter_sets())
        await self._setup(control_url(self._url, media.control), self._rtp, self._rtcp)
        if audio is not None:
            await self._setup_audio(control_url(self._url, audio.control))
        self._keep_alive_task = asyncio.create_task(self._keep_alive())
        self._doing = "starting to play"
        self._received_at = self._decodable_at = asyncio.get_running_loop().time()
        await self._send("PLAY", headers={"Range": "npt=0.000-"})
        self._watch()
        if not self._parameter_sets or payload_format is not H264:  # the first keyframe tells size and format
            self._doing = "waiting for a keyframe"
            await self._keyframe_event.wait()
            if self.failure is not None and not self._parameter_sets:
                raise SourceOpenError(str(self.failure)) from self.failure
        return PlayingStream(media, payload_format, self._parameter_sets, self._first_keyframe)

    async def _choose(self) -> tuple[MediaDescription, PayloadFormat, MediaDescription | None]:
        """Return the first H.264 or HEVC track, and the first audio track that is supported."""
        self._doing = "asking for the description"
        answer = await self._send("DESCRIBE", headers={"Accept": "application/sdp"})
        base = header(answer, "content-base") or header(answer, "content-location") or self._url
        description = parse_sdp(answer.data.decode("utf-8", "replace"))
        videos = [media for media in description.media if media.kind == "video"]
        if not videos:
            raise SourceOpenError(f"{self.name} describes no video; give the address of a stream with H.264 video")
        media = next((media for media in videos if media.codec in PAYLOAD_FORMATS), None)
        if media is None:
            raise LowDelayUnsupported(f"video of the codec {videos[0].codec or 'unknown'}, not H264 or H265")
        mode = media.parameters.get("packetization-mode", "0")
        reordered = media.parameters.get("sprop-max-don-diff", "0") != "0"
        if media.clock != VIDEO_CLOCK or mode not in ("0", "1") or reordered:
            raise LowDelayUnsupported("interleaved packets of video, or another clock than 90 kHz")
        self._url = control_url(base, description.control)
        audio = next((one for one in description.media if format_of_media(one) is not None), None)
        if audio is not None and (audio_format := format_of_media(audio)) is not None:
            self.audio = IncomingAudio(audio_format)
        return media, PAYLOAD_FORMATS[media.codec], audio

    async def _setup(self, control: str, rtp: Callable[[bytes], None], rtcp: Callable[[bytes], None]) -> None:
        self._doing = "setting up the transport"
        try:
            if self._udp:
                await self._setup_udp(control, rtp, rtcp)
            else:
                await self._setup_tcp(control, rtp, rtcp)
        except RTSPResponseError as error:
            if error.response is not None and error.response.status == 461:
                this, other = ("UDP", "tcp") if self._udp else ("TCP", "udp")
                raise SourceOpenError(
                    f"{self.name} sends no RTP over {this} (461); give --rtsp-transport {other}"
                ) from error
            raise

    async def _setup_tcp(self, control: str, rtp: Callable[[bytes], None], rtcp: Callable[[bytes], None]) -> None:
        assert self._connection is not None
        first = 2 * len(self._transports)
        offer = f"RTP/AVP/TCP;unicast;interleaved={first}-{first + 1}"
        answer = await self._send("SETUP", control, {"Transport": offer})
        fields = TcpTransport.parse_transport_fields(header(answer, "transport"))
        numbers = (fields.get("interleaved") or "").split("-")
        if not all(number.isdecimal() and int(number) < 256 for number in numbers):
            raise LowDelayUnsupported("a transport that is not interleaved in the connection")
        self._learn_session(answer)
        self._transports.append(TcpTransport(self._connection, (int(numbers[0]), int(numbers[-1])), rtp, rtcp))

    async def _setup_udp(self, control: str, rtp: Callable[[bytes], None], rtcp: Callable[[bytes], None]) -> None:
        assert self._connection is not None
        transport = UdpTransport(self._connection, rtp, rtcp)
        self._transports.append(transport)
        ports = await transport.prepare()
        offer = f"RTP/AVP;unicast;client_port={ports[0]}-{ports[1]}"
        answer = await self._send("SETUP", control, {"Transport": offer})
        fields = TcpTransport.parse_transport_fields(header(answer, "transport"))
        numbers = (fields.get("server_port") or "").split("-")
        known = len(numbers) == 2 and all(number.isdecimal() and 0 < int(number) < 65536 for number in numbers)
        transport.connect((int(numbers[0]), int(numbers[1])) if known else None)
        self._learn_session(answer)

    async def _setup_audio(self, control: str) -> None:
        """Set up the audio track; a server that refuses it is read without audio."""
        audio = self.audio
        assert audio is not None

        def receive(data: bytes) -> None:
            audio.receive(data, time.monotonic_ns())

        def report(data: bytes) -> None:
            for one in parse_sender_reports(data):
                audio.wall.learn(one)

        try:
            await self._setup(control, receive, report)
        except (RTSPResponseError, SourceOpenError) as error:
            log.warning("%s is read without its sound: %s", self.name, error)
            self.audio = None

    def _learn_session(self, answer: RTSPResponse) -> None:
        self._session_id, _, rest = header(answer, "session").partition(";")
        name, _, seconds = rest.strip().partition("=")
        given = int(seconds) if name.lower() == "timeout" and seconds.isdecimal() else 60
        self._interval = max(1.0, min(given, 60) / 2)

    async def _send(self, method: str, url: str | None = None, headers: dict[str, str] | None = None) -> RTSPResponse:
        assert self._connection is not None
        fields = dict(headers or {}) | ({"Session": self._session_id} if self._session_id else {})
        return await self._connection.send_request(method, url or self._url, fields)

    async def _keep_alive(self) -> None:
        """Send keep-alive requests. The answers do not matter: `_watch` looks for silence."""
        method = "GET_PARAMETER"
        while True:
            await asyncio.sleep(self._interval)
            try:
                await self._send(method)
            except RTSPResponseError:
                method = "OPTIONS"
            except RTSPError:
                continue

    def _rtp(self, data: bytes) -> None:
        skipped = self.depacketiser.skipped_units
        for unit in self.depacketiser.push(data, time.monotonic_ns()):
            self._queue(unit)
            self._received_at = self._decodable_at = asyncio.get_running_loop().time()
        if self.depacketiser.skipped_units > skipped:
            self._received_at = asyncio.get_running_loop().time()
            if self._received_at - self._decodable_at > KEYFRAME_SECONDS:
                self._fail(
                    DecodeError(f"{self.name} sent no keyframe for {KEYFRAME_SECONDS:g} s; set a shorter key interval")
                )

    def _rtcp(self, data: bytes) -> None:
        if BYE in rtcp_types(data):
            self._fail(SourceLost(f"{self.name} ended the stream"))
        for report in parse_sender_reports(data):
            self.wall.learn(report)

    def _queue(self, unit: AccessUnit) -> None:
        if unit.is_keyframe:
            unit = self._with_sets(unit)
            if self._keyframe_event is not None and self._parameter_sets and not self._keyframe_event.is_set():
                self._first_keyframe = unit
                self._keyframe_event.set()
        with self._lock:
            while not self._reading and unit.is_keyframe and len(self.units):
                self.units.get()  # nobody reads yet: a reader starts with the newest keyframe
        self.units.put(unit)

    def _with_sets(self, unit: AccessUnit) -> AccessUnit:
        """Return a keyframe with parameter sets in front: its own, or the last ones known."""
        if sets := self.depacketiser.payload_format.parameter_sets(unit.nals):
            self._parameter_sets = sets
            return unit
        return replace(unit, nals=(*self._parameter_sets, *unit.nals))

    def _watch(self) -> None:
        """Fail if no frame came for the read timeout; else check again when the timeout could be over."""
        loop = asyncio.get_running_loop()
        quiet = loop.time() - self._received_at
        if quiet >= self._timeout:
            self._fail(SourceLost(f"{self.name} sent no picture for {self._timeout:g} s; is the camera still running?"))
        else:
            self._timer = loop.call_later(self._timeout - quiet, self._watch)

    def _lost(self) -> None:
        self._fail(SourceLost(f"{self.name} closed the connection; the camera or its server went away"))

    def _fail(self, failure: SourceError) -> None:
        """The first failure counts. What was received is still decoded."""
        if self.failure is None:
            self.failure = failure
            for unit in self.depacketiser.flush(time.monotonic_ns()):
                self._queue(unit)
            self.units.end()
            if self._keyframe_event is not None:
                self._keyframe_event.set()

    def _refused(self, error: RTSPResponseError) -> SourceOpenError:
        status = error.response.status if error.response is not None else 0
        if status == 401 and self._address.user is None:
            return SourceRefused(f"{self.name} wants a password; write rtsp://USER:PASSWORD@HOST/PATH")
        if status in (401, 403):
            return SourceRefused(f"{self.name} refused the user or the password ({status}); check both")
        if status == 404:
            return SourceOpenError(f"{self.name}: the server has no such stream (404); check the path")
        if 300 <= status < 400:
            return LowDelayUnsupported(f"a redirection ({status})")
        message = error.response.status_msg if error.response is not None else str(error)
        return SourceOpenError(f"{self.name}: the server refused while {self._doing}: {status} {message}".rstrip())

    def _no_connection(self, error: RTSPConnectionError) -> str:
        cause = error.__cause__
        if isinstance(cause, ConnectionRefusedError) or "Connect call failed" in str(cause):
            return f"{self.name}: connection refused; check that the camera or server runs, and the port"
        if isinstance(cause, socket.gaierror):
            return f"{self.name}: there is no host '{self._address.host}'; check the address"
        if isinstance(cause, TimeoutError | asyncio.TimeoutError):
            return f"{self.name} does not answer within {self._timeout:g} s; check the address and the network"
        if self._connection is not None and self._connection.not_rtsp:
            return f"{self.name}: what answers there does not speak RTSP; check the port"
        if isinstance(cause, OSError) and not isinstance(cause, ConnectionError):
            return f"{self.name}: {cause.strerror or cause}; check the address and the network"
        return f"{self.name} closed the connection while {self._doing}; check the address"

    async def close(self) -> None:
        """End the session if the server answers, close the connection, leave nothing behind on the loop."""
        self.failure = self.failure or SourceLost(f"{self.name} was closed")
        if self._timer is not None:
            self._timer.cancel()
        if self._keep_alive_task is not None:
            self._keep_alive_task.cancel()
        connection = self._connection
        if connection is not None:
            if self._session_id and connection.running:
                with contextlib.suppress(RTSPError, TimeoutError):
                    async with asyncio.timeout(TEARDOWN_SECONDS):
                        await self._send("TEARDOWN")
            for transport in self._transports:
                transport.close()
            await connection.abort()
        self._release()

    def _release(self) -> None:
        """Break the reference cycles: otherwise frames stay in memory until the garbage collector runs."""
        if self._connection is not None:
            self._connection.release()
        for transport in self._transports:
            transport.release()
        self._connection = self._keyframe_event = self._timer = self._keep_alive_task = self._first_keyframe = None
        self._transports = []
        self.failure = SourceLost(f"{self.name} was closed")  # without the stack frames of the first one

    # From the thread that reads.

    def begin_reading(self) -> None:
        """Keep all units in order from now on, not only the newest keyframe."""
        with self._lock:
            self._reading = True
