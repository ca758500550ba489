"""The network's half of the RTSP source: the conversation with the server, and pictures put together from packets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from dataclasses import replace

from aiortsp.rtsp.errors import RTSPConnectionError, RTSPError, RTSPResponseError
from aiortsp.rtsp.parser import RTSPResponse

from stream_sr.codec import h264
from stream_sr.codec.rtp import CLOCK, GOODBYE, AccessUnit, Depacketiser, rtcp_types
from stream_sr.codec.rtsp import Target, join_control
from stream_sr.codec.sdp import Media, Session, parse_sdp
from stream_sr.errors import DecodeError, SourceError, SourceLost, SourceOpenError, SourceRefused
from stream_sr.ring import Full, RingBuffer
from stream_sr.sources.rtsp_connection import Connection, Transport, header

QUEUE_UNITS = 300  # 10 s at 30 fps: a whole group of pictures fits, so that a late start can catch up
KEY_SECONDS = 30.0  # a stream without a picture to start on for so long cannot be decoded
TEARDOWN_SECONDS = 0.5


class LowDelayUnsupported(SourceOpenError):
    """The server answers, but with something of a form that this reader does not know; the message says what.

    Raised before a frame was read. PyAV's demuxer may be able to read it, at the cost of a frame interval.
    """


class Client:
    """The network's half, on the loop: connection, session, packets put together into ``units``.

    ``failure`` is set before ``units`` ends.
    """

    def __init__(self, target: Target, name: str, timeout: float) -> None:
        self._target, self.name, self._timeout = target, name, timeout
        self.units: RingBuffer[AccessUnit] = RingBuffer(QUEUE_UNITS, Full.SKIP_TO_KEY, is_key=lambda unit: unit.key)
        self.depacketiser = Depacketiser()
        self.failure: SourceError | None = None
        self._lock = threading.Lock()
        self._reading = False
        self._doing = "connecting"
        self._timed_out = False
        self._connection: Connection | None = None
        self._transport: Transport | None = None
        self._url = target.url  # of the whole presentation
        self._session = ""
        self._sets: list[bytes] = []
        self._key: asyncio.Event | None = None
        self._heard = self._decodable = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._alive: asyncio.Task[None] | None = None

    # On the loop.

    async def open(self) -> tuple[Media, bytes]:
        """Connect, DESCRIBE, SETUP, PLAY; the track and its sequence parameter set.

        Raises SourceOpenError, LowDelayUnsupported; within the read timeout.
        """
        try:
            async with asyncio.timeout(self._timeout):
                return await self._open()
        except TimeoutError as error:
            self._timed_out = True
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

    async def _open(self) -> tuple[Media, bytes]:
        self._key = asyncio.Event()
        self._connection = connection = Connection(self._target, self._timeout)
        connection.lost = self._lost
        await connection.prepare()
        media, control = await self._choose()
        self._sets = [nal for nal in media.parameter_sets() if h264.nal_type(nal) in (h264.SPS, h264.PPS)]
        self.depacketiser.payload_type = media.payload_type
        await self._setup(control)
        self._doing = "starting to play"
        self._heard = self._decodable = asyncio.get_running_loop().time()
        await self._send("PLAY", headers={"Range": "npt=0.000-"})
        self._watch()
        if not h264.parameter_sets(self._sets)[0]:
            self._doing = "waiting for a key picture"
            await self._key.wait()
            if self.failure is not None and not h264.parameter_sets(self._sets)[0]:
                raise SourceOpenError(str(self.failure)) from self.failure
        return media, h264.parameter_sets(self._sets)[0][0]

    async def _choose(self) -> tuple[Media, str]:
        """The first H.264 track and the URL to set it up with."""
        self._doing = "asking for the description"
        answer = await self._send("DESCRIBE", headers={"Accept": "application/sdp"})
        base = header(answer, "content-base") or header(answer, "content-location") or self._url
        session: Session = parse_sdp(answer.data.decode("utf-8", "replace"))
        videos = [media for media in session.media if media.kind == "video"]
        if not videos:
            raise SourceOpenError(f"{self.name} describes no video; give the address of a stream with H.264 video")
        media = next((media for media in videos if media.codec == "H264"), None)
        if media is None:
            raise LowDelayUnsupported(f"video of the codec {videos[0].codec or 'unknown'}, not H264")
        if media.clock != CLOCK or media.parameters.get("packetization-mode", "0") not in ("0", "1"):
            raise LowDelayUnsupported("interleaved H.264 packets (packetization-mode 2), or another clock than 90 kHz")
        self._url = join_control(base, session.control)
        return media, join_control(self._url, media.control)

    async def _setup(self, control: str) -> None:
        self._doing = "setting up the transport"
        assert self._connection is not None
        try:
            answer = await self._send("SETUP", control, {"Transport": "RTP/AVP/TCP;unicast;interleaved=0-1"})
        except RTSPResponseError as error:
            if error.response is not None and error.response.status == 461:
                raise LowDelayUnsupported("no RTP over TCP (the server answers 461)") from error
            raise
        fields = Transport.parse_transport_fields(header(answer, "transport"))
        numbers = (fields.get("interleaved") or "").split("-")
        if not all(number.isdecimal() and int(number) < 256 for number in numbers):
            raise LowDelayUnsupported("a transport that is not interleaved in the connection")
        self._transport = Transport(self._connection, (int(numbers[0]), int(numbers[-1])), self._rtp, self._rtcp)
        self._session, _, rest = header(answer, "session").partition(";")
        name, _, seconds = rest.strip().partition("=")
        given = int(seconds) if name.lower() == "timeout" and seconds.isdecimal() else 60
        self._alive = asyncio.create_task(self._keep_alive(max(1.0, min(given, 60) / 2)))

    async def _send(self, method: str, url: str | None = None, headers: dict[str, str] | None = None) -> RTSPResponse:
        assert self._connection is not None
        fields = dict(headers or {}) | ({"Session": self._session} if self._session else {})
        return await self._connection.send_request(method, url or self._url, fields)

    async def _keep_alive(self, interval: float) -> None:
        """Tell the server now and then that we are there. What it answers does not matter: silence is watched."""
        method = "GET_PARAMETER"
        while True:
            await asyncio.sleep(interval)
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
                    DecodeError(f"{self.name} sent no key picture for {KEY_SECONDS:g} s; set a shorter key interval")
                )

    def _rtcp(self, data: bytes) -> None:
        if GOODBYE in rtcp_types(data):
            self._fail(SourceLost(f"{self.name} ended the stream"))

    def _queue(self, unit: AccessUnit) -> None:
        if unit.key:
            unit = self._with_sets(unit)
            if self._key is not None and h264.parameter_sets(self._sets)[0]:
                self._key.set()
        with self._lock:
            while not self._reading and unit.key and len(self.units):
                self.units.get()  # nobody reads yet: a reader starts with the newest key picture
        self.units.put(unit)

    def _with_sets(self, unit: AccessUnit) -> AccessUnit:
        """A key picture with parameter sets in front: its own, or the last ones known."""
        sps, pps = h264.parameter_sets(unit.nals)
        if sps and pps:
            self._sets = sps + pps
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
            if self._transport is not None:
                self._transport.close()
            await connection.shut()
        if not self._timed_out:  # else a look-up of the host's name may hang, and waiting for it would too
            await asyncio.get_running_loop().shutdown_default_executor()

    # From the thread that reads.

    def begin_reading(self) -> None:
        """From now on units are kept in order, whether key or not."""
        with self._lock:
            self._reading = True
