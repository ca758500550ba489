"""Live H.264 from an RTSP server over TCP with no frame held back: a picture is decoded when its last packet is there.

FFmpeg's demuxer gives a picture out when the next one begins, a frame interval later. Here aiortsp is the client, RTP
is put together on the marker (codec/rtp.py), and only the decoder is PyAV's. What this reader does not know (other
codecs, UDP, TLS, interlaced pictures, odd servers) is refused with `LowDelayUnsupported`, and `open_source` takes
PyAV's demuxer instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Any, NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

import av
from aiortsp.rtsp.connection import RTSPConnection
from aiortsp.rtsp.errors import RTSPConnectionError, RTSPError, RTSPResponseError
from aiortsp.rtsp.parser import RTSPRequest, RTSPResponse
from aiortsp.transport.tcp import TCPTransport
from av.codec.context import Flags, ThreadType
from av.error import FFmpegError
from av.video.codeccontext import VideoCodecContext

from stream_sr.codec import h264
from stream_sr.codec.decode import PictureReader
from stream_sr.codec.rtp import CLOCK, GOODBYE, AccessUnit, Depacketiser, rtcp_types
from stream_sr.codec.sdp import Media, Session, parse_sdp
from stream_sr.errors import DecodeError, SourceError, SourceLost, SourceOpenError
from stream_sr.frame import Frame, StreamInfo
from stream_sr.media import Lane, SourceOptions, redact
from stream_sr.ring import FramePool, Full, RingBuffer
from stream_sr.threads import LoopThread
from stream_sr.timing import NS

TIME_BASE = Fraction(1, CLOCK)
PORT = 554
QUEUE_UNITS = 300  # 10 s at 30 fps: a whole group of pictures fits, so that a late start can catch up
STALE_NS = NS // 2  # a picture older than this is not handed out while newer ones wait
LAG_NS = 2 * NS  # a decoder further behind goes on with the next key picture
KEY_SECONDS = 30.0  # a stream without a picture to start on for so long cannot be decoded
BARREN_IN_A_ROW = 50  # more than a decoder ever holds back
MESSAGE_BYTES = 256 << 10  # most that a server may send without completing a message
TEARDOWN_SECONDS = 0.5
AGENT = "stream_sr"

# aiortsp logs requests with their credentials, and as errors what we report in one line: it stays silent.
_silent = logging.getLogger("stream_sr.aiortsp")
_silent.setLevel(logging.CRITICAL + 1)


class LowDelayUnsupported(SourceOpenError):
    """The server answers, but with something of a form that this reader does not know; the message says what.

    Raised before a frame was read. PyAV's demuxer may be able to read it, at the cost of a frame interval.
    """


def open_rtsp(url: str, options: SourceOptions) -> RtspSource:
    """Open a camera with the low-delay reader.

    Raises LowDelayUnsupported where another reader may succeed (the caller says so and goes on with that), and
    SourceOpenError where none would: refused, no such host, path or password, silent, not RTSP, no video.
    """
    return RtspSource(url, options)


class RtspSource:
    """An open RTSP stream. See `media.Source`.

    ``captured_ns`` is when the last packet of the picture had arrived; pts counts 90 kHz from 0 at the first frame and
    grows strictly. The queue between the network and the decoder is bounded: what is not read in time is decoded
    without being handed out (``late_frames``), or skipped up to the next key picture (``dropped_packets``).

    `frames` raises SourceLost when the server goes away or sends no picture for ``read_timeout`` seconds, and
    DecodeError for a stream of which nothing can be decoded or that changes its size.
    """

    info: StreamInfo
    lane: Lane | None = None

    def __init__(self, url: str, options: SourceOptions) -> None:
        target = _parse_url(url)
        if options.rtsp_transport != "tcp":
            raise LowDelayUnsupported(f"RTP over {options.rtsp_transport} was asked for, not over TCP")
        self._options = options
        self._client = _Client(target, redact(url), options.read_timeout)
        self._loop = LoopThread("rtsp source")
        self._stopped = False
        self._closed = False
        try:
            media, sps = self._loop.call(self._client.open())
            self.info = _describe(media, sps, redact(url))
            self._decoder = _low_delay_decoder()
        except BaseException:
            self.close()
            raise
        self._reader = PictureReader(codec="h264")
        self._reader.size = self.info.width, self.info.height
        self._arrivals: dict[int, int] = {}
        self._corrupt = self._barren = self._skipped = self._late = self._number = 0
        self._skipping = self._caught_up = False
        self._first_pts: int | None = None
        self._last_pts = -1

    def frames(self, pool: FramePool | None = None) -> Iterator[Frame]:
        """See `media.Source`. Once; from the call on, every picture is kept for it."""
        self._client.begin_reading()
        return self._frames(pool)

    def _frames(self, pool: FramePool | None) -> Iterator[Frame]:
        for unit in self._client.units:
            for picture in self._pictures(unit):
                frame = self._frame(picture, pool)
                if frame is None:
                    continue
                if self._options.duration is not None and frame.seconds >= self._options.duration:
                    frame.release()
                    return
                yield frame
        if self._stopped:
            return
        for picture in self._decode(None):
            if (frame := self._frame(picture, pool)) is not None:
                yield frame
        if self._client.failure is not None:
            raise self._client.failure

    def stop(self) -> None:
        """See `media.Source`."""
        self._stopped = True
        self._client.units.abort()

    def counters(self) -> dict[str, int]:
        """``corrupt_packets``, ``lost_packets`` (gaps in RTP), ``dropped_packets`` (pictures), ``late_frames``."""
        rtp = self._client.depacketiser
        return {
            "corrupt_packets": rtp.bad_packets + self._corrupt,
            "lost_packets": rtp.lost_packets,
            "dropped_packets": rtp.damaged_units + rtp.skipped_units + self._client.units.dropped + self._skipped,
            "late_frames": self._late,
        }

    def close(self) -> None:
        """See `media.Source`."""
        self.stop()
        if self._closed:
            return
        self._closed = True
        try:
            self._loop.call(self._client.close())
        finally:
            self._loop.close()

    def _pictures(self, unit: AccessUnit) -> list[av.VideoFrame]:
        """Decode a unit, or skip it when the decoder has fallen behind."""
        lag_ns = time.monotonic_ns() - unit.arrived_ns
        self._caught_up = self._caught_up or lag_ns < STALE_NS
        self._skipping = not unit.key and (self._skipping or (self._caught_up and lag_ns > LAG_NS))
        if self._skipping:
            self._skipped += 1
            return []
        packet = av.Packet(unit.data)
        packet.pts, packet.time_base = unit.timestamp, TIME_BASE
        if len(self._arrivals) > 64:  # pictures that the decoder swallowed
            self._arrivals.clear()
        self._arrivals[unit.timestamp] = unit.arrived_ns
        pictures = self._decode(packet)
        self._barren = 0 if pictures else self._barren + 1
        if self._barren >= BARREN_IN_A_ROW:
            raise DecodeError(
                f"{self.info.name}: {BARREN_IN_A_ROW} pictures in a row could not be decoded; "
                "check the camera's encoder settings and the connection"
            )
        return pictures

    def _decode(self, packet: av.Packet[Any] | None) -> list[av.VideoFrame]:
        """The pictures that come out, without those that the decoder had to invent parts of."""
        try:
            pictures = self._decoder.decode(packet)
        except FFmpegError:
            self._corrupt += 1
            return []
        whole = [picture for picture in pictures if not picture.is_corrupt]
        self._corrupt += len(pictures) - len(whole)
        return whole

    def _frame(self, picture: av.VideoFrame, pool: FramePool | None) -> Frame | None:
        """The picture as a frame; None for one that comes too late, or not in its order."""
        number, self._number = self._number, self._number + 1
        if picture.pts is None:
            self._corrupt += 1
            return None
        now_ns = time.monotonic_ns()
        captured_ns = self._arrivals.pop(picture.pts, now_ns)
        if self._first_pts is not None and picture.pts - self._first_pts <= self._last_pts:
            self._late += 1
            return None
        if now_ns - captured_ns > STALE_NS and len(self._client.units):
            self._late += 1
            return None
        planes, slot = self._reader.read(picture, pool)
        if self._first_pts is None:
            self._first_pts = picture.pts
        self._last_pts = picture.pts - self._first_pts
        return Frame(
            planes=planes, pts=self._last_pts, time_base=TIME_BASE, number=number, captured_ns=captured_ns,
            color=self.info.color, sample_aspect=self.info.sample_aspect, slot=slot,
        )  # fmt: skip


class _Target(NamedTuple):
    """An address taken apart."""

    host: str
    port: int
    url: str  # as it goes into requests: without credentials
    user: str | None
    password: str | None


def _parse_url(url: str) -> _Target:
    name = redact(url)
    try:
        parts: SplitResult = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise SourceOpenError(f"{name} is no address ({error}); write rtsp://HOST:PORT/PATH") from error
    if parts.scheme == "rtsps":
        raise LowDelayUnsupported("RTSP over TLS (rtsps)")
    if parts.scheme != "rtsp" or not host or any(letter <= " " or letter == "\x7f" for letter in url):
        raise SourceOpenError(f"{name!r} is no address of a stream; write rtsp://HOST:PORT/PATH, without blanks")
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment="", path=parts.path or "/").geturl()
    user = None if parts.username is None else unquote(parts.username)
    password = None if parts.password is None else unquote(parts.password)
    return _Target(host, port or PORT, bare, user, password)


def _describe(media: Media, sps: bytes, name: str) -> StreamInfo:
    """What the parameter set says. Raises SourceOpenError, LowDelayUnsupported."""
    try:
        said = h264.parse_sps(sps)
    except ValueError as error:
        raise LowDelayUnsupported(f"a parameter set that cannot be read ({error})") from error
    bits = max(said.bit_depth, said.chroma_bit_depth)
    if bits > 8:
        raise SourceOpenError(f"{name} sends {bits}-bit video, which is not supported yet; set the camera to 8 bits")
    if said.interlaced or said.chroma_format != 1:
        chroma = {0: "grey", 2: "4:2:2", 3: "4:4:4"}
        raise LowDelayUnsupported(f"{'interlaced' if said.interlaced else chroma[said.chroma_format]} pictures")
    return StreamInfo(
        width=said.width, height=said.height, time_base=TIME_BASE, fps=media.fps or said.fps, color=said.color,
        sample_aspect=said.sample_aspect, live=True, codec="h264", name=name,
    )  # fmt: skip


def _low_delay_decoder() -> VideoCodecContext:
    """A decoder that gives a picture out in the call that brought it. Threads share slices, never whole pictures."""
    decoder = VideoCodecContext.create("h264", "r")
    assert isinstance(decoder, VideoCodecContext)
    decoder.flags |= Flags.low_delay
    decoder.thread_type = ThreadType.SLICE
    decoder.thread_count = min(4, os.cpu_count() or 1)
    return decoder


class _Client:
    """The network's half, on the loop: connection, session, packets put together into ``units``.

    ``failure`` is set before ``units`` ends.
    """

    def __init__(self, target: _Target, name: str, timeout: float) -> None:
        self._target, self._name, self._timeout = target, name, timeout
        self.units: RingBuffer[AccessUnit] = RingBuffer(QUEUE_UNITS, Full.SKIP_TO_KEY, is_key=lambda unit: unit.key)
        self.depacketiser = Depacketiser()
        self.failure: SourceError | None = None
        self._lock = threading.Lock()
        self._reading = False
        self._doing = "connecting"
        self._timed_out = False
        self._connection: _Connection | None = None
        self._transport: _Transport | None = None
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
                f"{self._name} does not answer within {self._timeout:g} s (while {self._doing}); "
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
        target = self._target
        self._key = asyncio.Event()
        connection = _Connection(
            target.host, target.port, target.user, target.password, logger=_silent, timeout=self._timeout
        )
        self._connection = connection
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
        base = _header(answer, "content-base") or _header(answer, "content-location") or self._url
        session: Session = parse_sdp(answer.data.decode("utf-8", "replace"))
        videos = [media for media in session.media if media.kind == "video"]
        if not videos:
            raise SourceOpenError(f"{self._name} describes no video; give the address of a stream with H.264 video")
        media = next((media for media in videos if media.codec == "H264"), None)
        if media is None:
            raise LowDelayUnsupported(f"video of the codec {videos[0].codec or 'unknown'}, not H264")
        if media.clock != CLOCK or media.parameters.get("packetization-mode", "0") not in ("0", "1"):
            raise LowDelayUnsupported("interleaved H.264 packets (packetization-mode 2), or another clock than 90 kHz")
        self._url = _join(base, session.control)
        return media, _join(self._url, media.control)

    async def _setup(self, control: str) -> None:
        self._doing = "setting up the transport"
        assert self._connection is not None
        try:
            answer = await self._send("SETUP", control, {"Transport": "RTP/AVP/TCP;unicast;interleaved=0-1"})
        except RTSPResponseError as error:
            if error.response is not None and error.response.status == 461:
                raise LowDelayUnsupported("no RTP over TCP (the server answers 461)") from error
            raise
        fields = TCPTransport.parse_transport_fields(_header(answer, "transport"))
        numbers = (fields.get("interleaved") or "").split("-")
        if not all(number.isdecimal() and int(number) < 256 for number in numbers):
            raise LowDelayUnsupported("a transport that is not interleaved in the connection")
        transport = _Transport(self._connection, logger=_silent, timeout=0)
        transport.rtp_idx, transport.rtcp_idx = int(numbers[0]), int(numbers[-1])
        transport.take_rtp, transport.take_rtcp = self._rtp, self._rtcp
        self._connection.channels = {transport.rtcp_idx: transport.rtcp, transport.rtp_idx: transport.rtp}
        self._transport = transport
        self._session, _, rest = _header(answer, "session").partition(";")
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
                    DecodeError(f"{self._name} sent no key picture for {KEY_SECONDS:g} s; set a shorter key interval")
                )

    def _rtcp(self, data: bytes) -> None:
        if GOODBYE in rtcp_types(data):
            self._fail(SourceLost(f"{self._name} ended the stream"))

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
            self._fail(
                SourceLost(f"{self._name} sent no picture for {self._timeout:g} s; is the camera still running?")
            )
        else:
            self._timer = loop.call_later(self._timeout - quiet, self._watch)

    def _lost(self) -> None:
        self._fail(SourceLost(f"{self._name} closed the connection; the camera or its server went away"))

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
            return SourceOpenError(f"{self._name} wants a password; write rtsp://USER:PASSWORD@HOST/PATH")
        if status in (401, 403):
            return SourceOpenError(f"{self._name} refused the user or the password ({status}); check both")
        if status == 404:
            return SourceOpenError(f"{self._name}: the server has no such stream (404); check the path")
        if 300 <= status < 400:
            return LowDelayUnsupported(f"a redirection ({status})")
        message = error.response.status_msg if error.response is not None else str(error)
        return SourceOpenError(f"{self._name}: the server refused while {self._doing}: {status} {message}".rstrip())

    def _no_connection(self, error: RTSPConnectionError) -> str:
        cause = error.__cause__
        if isinstance(cause, ConnectionRefusedError) or "Connect call failed" in str(cause):
            return f"{self._name}: connection refused; check that the camera or server runs, and the port"
        if isinstance(cause, socket.gaierror):
            return f"{self._name}: there is no host '{self._target.host}'; check the address"
        if isinstance(cause, TimeoutError | asyncio.TimeoutError):
            return f"{self._name} does not answer within {self._timeout:g} s; check the address and the network"
        if self._connection is not None and self._connection.not_rtsp:
            return f"{self._name}: what answers there does not speak RTSP; check the port"
        if isinstance(cause, OSError) and not isinstance(cause, ConnectionError):
            return f"{self._name}: {cause.strerror or cause}; check the address and the network"
        return f"{self._name} closed the connection while {self._doing}; check the address"

    async def close(self) -> None:
        """Say goodbye to the server if it listens, close the connection, leave nothing behind on the loop."""
        self.failure = self.failure or SourceLost(f"{self._name} was closed")
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


def _header(answer: RTSPResponse, name: str) -> str:
    """A header field, the first where it came more than once; empty where it did not."""
    value: Any = answer.headers.get(name, "")
    return str(value[0] if isinstance(value, list) else value)


def _join(base: str, control: str) -> str:
    """The URL that a description's ``control`` means (RFC 2326, C.1.1)."""
    if not control or control == "*":
        return base
    if control.lower().startswith(("rtsp://", "rtspu://")):
        return control
    return base.rstrip("/") + "/" + control.lstrip("/")


def _message(start: bytes) -> Any:
    """aiortsp's parser for the message that begins so. Raises ValueError for the start of none."""
    if start.startswith(b"RTSP/"[: len(start)]):
        return RTSPResponse()
    if any(start.startswith(method[: len(start)]) for method in (*RTSPRequest.CLIENT_REQUESTS, b"SET_PARAMETER")):
        return RTSPRequest()
    raise ValueError(f"{start!r} begins no RTSP message")


class _Connection(RTSPConnection):  # type: ignore[misc]
    """aiortsp's connection, that takes what comes in bounded memory and says once when it is over."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.not_rtsp = False
        self.lost: Callable[[], None] = lambda: None
        self._wire: asyncio.Transport | None = None
        self._shut = asyncio.Event()
        self._rest = b""
        self.channels: dict[int, Callable[[bytes], None]] = {}

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._wire = transport

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self.result.done() and not self.result.cancelled():
            self.result.exception()  # seen: asyncio would log it otherwise
        self._shut.set()
        self.lost()

    def data_received(self, data: bytes) -> None:
        """In place of aiortsp's, which copies all that is there once per packet, keeps without bound what does not
        end, and prints a traceback for what is not RTSP.
        """
        data = self._rest + data if self._rest else data
        try:
            position = self._take(data)
            self._rest = data[position:]
            if len(self._rest) > MESSAGE_BYTES:
                raise ValueError(f"more than {MESSAGE_BYTES} bytes without a message")
        except Exception as error:  # whatever the parser stumbles over
            self.not_rtsp = True
            self._rest = b""
            if not self.result.done():
                failure = RTSPConnectionError("what came is not RTSP")
                failure.__cause__ = error
                self.result.set_exception(failure)
            if self._wire is not None:
                self._wire.abort()

    def _take(self, data: bytes) -> int:
        """Hand on the packets and messages that are complete; how many bytes they were. Raises for what is neither."""
        position, end = 0, len(data)
        while position < end:
            if data[position] == 0x24:  # "$": a packet
                stop = position + 4 + int.from_bytes(data[position + 2 : position + 4], "big")
                if position + 4 > end or stop > end:
                    break
                if (take := self.channels.get(data[position + 1])) is not None:
                    take(data[position + 4 : stop])
            elif data[position] in b"\r\n":
                stop = position + 1
            else:
                message = _message(data[position : position + 13])
                blank = data.find(b"\r\n\r\n", position)
                if blank < 0:
                    break
                message.feed(data[position : blank + 4])
                stop = blank + 4 + max(0, message.content_length)
                if message.content_length > MESSAGE_BYTES:
                    raise ValueError(f"a message of {message.content_length} bytes")
                if stop > end:
                    break
                if message.content_length > 0:
                    message.feed(data[blank + 4 : stop])
                self._dispatch(message)
            position = stop
        return position

    def _dispatch(self, message: Any) -> None:
        if message.type == "response":
            waiting = self.active_requests.get(message.cseq)
            if waiting is not None and not waiting.done():
                waiting.set_result(message)
        else:
            self.on_request(message)

    async def send_request(self, *args: Any, **options: Any) -> RTSPResponse:
        """Like aiortsp's, which would wait for an answer on a connection that is gone."""
        if not self.running:
            raise RTSPConnectionError("connection closed")
        return await super().send_request(*args, **options)

    def on_request(self, request: RTSPRequest) -> None:
        """A server asks something of its client: we have nothing to offer."""
        self.send_response(request, 551, "Option not supported")

    async def shut(self) -> None:
        """Close now, whatever is not sent yet."""
        if self._wire is not None:
            self._wire.abort()
            await self._shut.wait()


class _Seen(NamedTuple):
    """What the receiver's statistics want to know of a packet."""

    seq: int
    ts: int


class _Transport(TCPTransport):  # type: ignore[misc]
    """aiortsp's transport with its receiver reports, that hands the packets on as bytes."""

    take_rtp: Callable[[bytes], None]
    take_rtcp: Callable[[bytes], None]

    def rtp(self, data: bytes) -> None:
        """A packet came."""
        if len(data) >= 12:
            self.stats.update(_Seen(int.from_bytes(data[2:4], "big"), int.from_bytes(data[4:8], "big")))
        self.take_rtp(data)

    def rtcp(self, data: bytes) -> None:
        """A report came."""
        with contextlib.suppress(Exception):  # packet types that aiortsp does not know
            self.handle_rtcp_data(data)
        self.take_rtcp(data)
