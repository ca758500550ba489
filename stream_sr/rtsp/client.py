"""The network's half of the RTSP source: the conversation with the server, and pictures put together from packets."""

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
from stream_sr.rtsp import rtp_audio
from stream_sr.rtsp.audio_clock import AudioTrack
from stream_sr.rtsp.auth import Target, join_control
from stream_sr.rtsp.client_connection import Connection, Datagrams, Transport, header
from stream_sr.rtsp.rtp import CLOCK, GOODBYE, AccessUnit, Depacketiser, WallClock, parse_sender_reports, rtcp_types
from stream_sr.rtsp.rtp_video import BY_ENCODING, H264, Payload
from stream_sr.rtsp.sdp import Media, Session, parse_sdp

log = logging.getLogger("stream_sr")

QUEUE_UNITS = 300  # 10 s at 30 fps: a whole group of pictures fits, so that a late start can catch up
KEY_SECONDS = 30.0  # a stream without a picture to start on for so long cannot be decoded
TEARDOWN_SECONDS = 0.5


class LowDelayUnsupported(SourceOpenError):
    """The server answers, but with something of a form that this reader does not know; the message says what.

    Raised before a frame was read. PyAV's demuxer may be able to read it, at the cost of a frame interval.
    """


class Opened(NamedTuple):
    """A stream that plays."""

    media: Media
    payload: Payload
    sets: list[bytes]  # parameter sets, all kinds
    key: AccessUnit | None  # the first keyframe, where it had to be waited for


class Client:
    """The network's half, on the loop: connection, session, packets put together into ``units``.

    ``failure`` is set before ``units`` ends. ``wall`` is the camera's wall clock, ``audio`` its sound, where it has one
    that we carry.
    """

    def __init__(self, target: Target, name: str, timeout: float, *, udp: bool = False) -> None:
        self._target, self.name, self._timeout = target, name, timeout
        self._udp = udp
        self.wall = WallClock()
        self.audio: AudioTrack | None = None
        self.units: RingBuffer[AccessUnit] = RingBuffer(
            QUEUE_UNITS, Overflow.SKIP_TO_KEYFRAME, is_keyframe=lambda unit: unit.key
        )
        self.depacketiser = Depacketiser()
        self.failure: SourceError | None = None
        self._lock = threading.Lock()
        self._reading = False
        self._doing = "connecting"
        self._connection: Connection | None = None
        self._transports: list[Transport | Datagrams] = []
        self._first_key: AccessUnit | None = None
        self._url = target.url  # of the whole presentation
        self._session = ""
        self._interval = 30.0  # seconds between signs of life
        self._sets: list[bytes] = []
        self._key: asyncio.Event | None = None
        self._heard = self._decodable = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._alive: asyncio.Task[None] | None = None

    # On the loop.

    async def open(self) -> Opened:
        """Connect, DESCRIBE, SETUP, PLAY; the track and its parameter sets.

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

    async def _open(self) -> Opened:
        self._key = asyncio.Event()
        self._connection = connection = Connection(self._target, self._timeout)
        connection.lost = self._lost
        await connection.prepare()
        media, payload, sound = await self._choose()
        self.depacketiser = Depacketiser(media.payload_type, payload=payload)
        self._sets = payload.parameter_sets(media.parameter_sets())
        await self._setup(join_control(self._url, media.control), self._rtp, self._rtcp)
        if sound is not None:
            await self._setup_sound(join_control(self._url, sound.control))
        self._alive = asyncio.create_task(self._keep_alive())
        self._doing = "starting to play"
        self._heard = self._decodable = asyncio.get_running_loop().time()
        await self._send("PLAY", headers={"Range": "npt=0.000-"})
        self._watch()
        if not self._sets or payload is not H264:  # what the pictures are is only known from one
            self._doing = "waiting for a keyframe"
            await self._key.wait()
            if self.failure is not None and not self._sets:
                raise SourceOpenError(str(self.failure)) from self.failure
        return Opened(media, payload, self._sets, self._first_key)

    async def _choose(self) -> tuple[Media, Payload, Media | None]:
        """The first H.264 or HEVC track, and the first with sound that we carry."""
        self._doing = "asking for the description"
        answer = await self._send("DESCRIBE", headers={"Accept": "application/sdp"})
        base = header(answer, "content-base") or header(answer, "content-location") or self._url
        session: Session = parse_sdp(answer.data.decode("utf-8", "replace"))
        videos = [media for media in session.media if media.kind == "video"]
        if not videos:
            raise SourceOpenError(f"{self.name} describes no video; give the address of a stream with H.264 video")
        media = next((media for media in videos if media.codec in BY_ENCODING), None)
        if media is None:
            raise LowDelayUnsupported(f"video of the codec {videos[0].codec or 'unknown'}, not H264 or H265")
        mode = media.parameters.get("packetization-mode", "0")
        if media.clock != CLOCK or mode not in ("0", "1") or media.parameters.get("sprop-max-don-diff", "0") != "0":
            raise LowDelayUnsupported("interleaved packets of video, or another clock than 90 kHz")
        self._url = join_control(base, session.control)
        sound = next((one for one in session.media if rtp_audio.format_of(one) is not None), None)
        if sound is not None and (form := rtp_audio.format_of(sound)) is not None:
            self.audio = AudioTrack(form)
        return media, BY_ENCODING[media.codec], sound

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
        fields = Transport.parse_transport_fields(header(answer, "transport"))
        numbers = (fields.get("interleaved") or "").split("-")
        if not all(number.isdecimal() and int(number) < 256 for number in numbers):
            raise LowDelayUnsupported("a transport that is not interleaved in the connection")
        self._learn_session(answer)
        self._transports.append(Transport(self._connection, (int(numbers[0]), int(numbers[-1])), rtp, rtcp))

    async def _setup_udp(self, control: str, rtp: Callable[[bytes], None], rtcp: Callable[[bytes], None]) -> None:
        assert self._connection is not None
        transport = Datagrams(self._connection, rtp, rtcp)
        self._transports.append(transport)
        ports = await transport.prepare()
        offer = f"RTP/AVP;unicast;client_port={ports[0]}-{ports[1]}"
        answer = await self._send("SETUP", control, {"Transport": offer})
        fields = Transport.parse_transport_fields(header(answer, "transport"))
        numbers = (fields.get("server_port") or "").split("-")
        known = len(numbers) == 2 and all(number.isdecimal() and 0 < int(number) < 65536 for number in numbers)
        transport.aim((int(numbers[0]), int(numbers[1])) if known else None)
        self._learn_session(answer)

    async def _setup_sound(self, control: str) -> None:
        """The pictures matter more: a server that does not give the sound is read without it."""
        sound = self.audio
        assert sound is not None

        def receive(data: bytes) -> None:
            sound.receive(data, time.monotonic_ns())

        def report(data: bytes) -> None:
            for one in parse_sender_reports(data):
                sound.wall.learn(one)

        try:
            await self._setup(control, receive, report)
        except (RTSPResponseError, SourceOpenError) as error:
            log.warning("%s is read without its sound: %s", self.name, error)
            self.audio = None

    def _learn_session(self, answer: RTSPResponse) -> None:
        self._session, _, rest = header(answer, "session").partition(";")
        name, _, seconds = rest.strip().partition("=")
        given = int(seconds) if name.lower() == "timeout" and seconds.isdecimal() else 60
        self._interval = max(1.0, min(given, 60) / 2)

    async def _send(self, method: str, url: str | None = None, headers: dict[str, str] | None = None) -> RTSPResponse:
        assert self._connection is not None
        fields = dict(headers or {}) | ({"Session": self._session} if self._session else {})
        return await self._connection.send_request(method, url or self._url, fields)

    async def _keep_alive(self) -> None:
        """Tell the server now and then that we are there. What it answers does not matter: silence is watched."""
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
            self._heard = self._decodable = asyncio.get_running_loop().time()
        if self.depacketiser.skipped_units > skipped:
            self._heard = asyncio.get_running_loop().time()
            if self._heard - self._decodable > KEY_SECONDS:
                self._fail(
                    DecodeError(f"{self.name} sent no keyframe for {KEY_SECONDS:g} s; set a shorter key interval")
                )

    def _rtcp(self, data: bytes) -> None:
        if GOODBYE in rtcp_types(data):
            self._fail(SourceLost(f"{self.name} ended the stream"))
        for report in parse_sender_reports(data):
            self.wall.learn(report)

    def _queue(self, unit: AccessUnit) -> None:
        if unit.key:
            unit = self._with_sets(unit)
            if self._key is not None and self._sets and not self._key.is_set():
                self._first_key = unit
                self._key.set()
        with self._lock:
            while not self._reading and unit.key and len(self.units):
                self.units.get()  # nobody reads yet: a reader starts with the newest keyframe
        self.units.put(unit)

    def _with_sets(self, unit: AccessUnit) -> AccessUnit:
        """A keyframe with parameter sets in front: its own, or the last ones known."""
        if sets := self.depacketiser.payload.parameter_sets(unit.nals):
            self._sets = sets
            return unit
        return replace(unit, nals=(*self._sets, *unit.nals))

    def _watch(self) -> None:
        """Fail when no picture came for the read timeout; else look again when it could be over."""
        loop = asyncio.get_running_loop()
        quiet = loop.time() - self._heard
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
            if self._key is not None:
                self._key.set()

    def _refused(self, error: RTSPResponseError) -> SourceOpenError:
        status = error.response.status if error.response is not None else 0
        if status == 401 and self._target.user is None:
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
            return f"{self.name}: there is no host '{self._target.host}'; check the address"
        if isinstance(cause, TimeoutError | asyncio.TimeoutError):
            return f"{self.name} does not answer within {self._timeout:g} s; check the address and the network"
        if self._connection is not None and self._connection.not_rtsp:
            return f"{self.name}: what answers there does not speak RTSP; check the port"
        if isinstance(cause, OSError) and not isinstance(cause, ConnectionError):
            return f"{self.name}: {cause.strerror or cause}; check the address and the network"
        return f"{self.name} closed the connection while {self._doing}; check the address"

    async def close(self) -> None:
        """Say goodbye to the server if it listens, close the connection, leave nothing behind on the loop."""
        self.failure = self.failure or SourceLost(f"{self.name} was closed")
        if self._timer is not None:
            self._timer.cancel()
        if self._alive is not None:
            self._alive.cancel()
        connection = self._connection
        if connection is not None:
            if self._session and connection.running:
                with contextlib.suppress(RTSPError, TimeoutError):
                    async with asyncio.timeout(TEARDOWN_SECONDS):
                        await self._send("TEARDOWN")
            for transport in self._transports:
                transport.close()
            await connection.shut()
        self._forget()

    def _forget(self) -> None:
        """Let go of what refers back to us, and of pictures: else they wait for the collector, for minutes or hours."""
        if self._connection is not None:
            self._connection.forget()
        for transport in self._transports:
            transport.forget()
        self._connection, self._key, self._timer, self._alive, self._first_key = None, None, None, None, None
        self._transports = []
        self.failure = SourceLost(f"{self.name} was closed")  # without the frames that the old one came through

    # From the thread that reads.

    def begin_reading(self) -> None:
        """From now on units are kept in order, whether key or not."""
        with self._lock:
            self._reading = True
