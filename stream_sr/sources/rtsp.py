"""Reads live H.264 or HEVC from an RTSP server: a frame is decoded as soon as its last packet has arrived.

FFmpeg's demuxer returns a frame when the next one begins, a frame interval later. Here aiortsp is the client, access
units end at the RTP marker (`rtsp.rtp_video`), and only the decoder is PyAV's. What this reader does not support (other
codecs, TLS, interlaced video, unusual servers) is refused with `LowDelayUnsupported`, and `open_source` uses PyAV's
demuxer instead.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Any

import av
from av.codec.context import Flags, ThreadType
from av.error import FFmpegError
from av.video.codeccontext import VideoCodecContext

from stream_sr.codec import h264
from stream_sr.codec.decode import FrameReader, check_format, color_of
from stream_sr.errors import DecodeError, SourceLost, SourceOpenError
from stream_sr.pipeline.interfaces import SourceOptions
from stream_sr.pipeline.packets import Passthrough
from stream_sr.pipeline.threads import LoopThread
from stream_sr.rtsp.address import RtspAddress, parse_address
from stream_sr.rtsp.client import LowDelayUnsupported, PlayingStream, RtspClient
from stream_sr.rtsp.incoming_audio import FrameInstant
from stream_sr.rtsp.rtp_video import VIDEO_CLOCK, AccessUnit
from stream_sr.system.limits import codec_threads
from stream_sr.system.printable import redact
from stream_sr.video.frame import Frame, StreamInfo
from stream_sr.video.frame_pool import FramePool
from stream_sr.video.timing import NS

__all__ = ["LowDelayUnsupported", "RtspSource", "open_rtsp"]

TIME_BASE = Fraction(1, VIDEO_CLOCK)
STALE_NS = NS // 2  # a frame older than this is not returned while newer ones wait
LAG_NS = 2 * NS  # a decoder further behind skips to the next keyframe
CANCEL_SECONDS = 0.1  # between checks whether opening was cancelled
MAX_UNITS_WITHOUT_FRAME = 50  # in a row; more than a decoder ever holds back


def open_rtsp(url: str, options: SourceOptions, *, cancelled: threading.Event | None = None) -> RtspSource:
    """Open a camera with the low-delay reader; soon after ``cancelled`` was set it gives up with SourceLost.

    Raises LowDelayUnsupported where another reader may succeed (the caller says so and goes on with that), and
    SourceOpenError where none would: refused, no such host, path or password, silent, not RTSP, no video.
    """
    return RtspSource(url, options, cancelled)


class RtspSource:
    """An open RTSP stream. See `interfaces.Source`.

    ``captured_ns`` is when the last packet of the picture had arrived; pts counts 90 kHz from 0 at the first frame and
    grows strictly. The queue between the network and the decoder is bounded: what is not read in time is decoded
    without being handed out (``late_frames``), or skipped up to the next keyframe (``dropped_packets``).

    `frames` raises SourceLost when the server goes away or sends no picture for ``read_timeout`` seconds, and
    DecodeError for a stream of which nothing can be decoded or that changes its size.
    """

    info: StreamInfo
    passthrough: Passthrough | None

    def __init__(self, url: str, options: SourceOptions, cancelled: threading.Event | None = None) -> None:
        address = _parse_url(url)
        self._options = options
        udp = options.rtsp_transport == "udp"
        self._client = RtspClient(address, redact(url), options.read_timeout, udp=udp)
        self._loop = LoopThread("rtsp source")
        self._stopped = False
        self._closed = False
        try:
            opened = self._wait_open(cancelled)
            self._codec = opened.payload_format.codec
            self.info = _describe(opened, redact(url)) if self._codec == "h264" else _probe(opened, redact(url))
            self._decoder: VideoCodecContext | None = _low_delay_decoder(self._codec)
        except BaseException:
            self.close()
            raise
        self.passthrough = self._client.audio.passthrough if self._client.audio is not None else None
        self._reader = FrameReader(codec=self._codec)
        self._reader.size = self.info.width, self.info.height
        self._units: dict[int, AccessUnit] = {}  # those that the decoder has, by timestamp
        self._corrupt = self._units_without_frame = self._skipped = self._late = self._number = 0
        self._skipping = self._caught_up = False
        self._began_ns = 0
        self._first_pts: int | None = None
        self._last_pts = -1

    def _wait_open(self, cancelled: threading.Event | None) -> PlayingStream:
        opening = self._loop.submit(self._client.open())
        while True:
            try:
                return opening.result(CANCEL_SECONDS if cancelled is not None else None)
            except TimeoutError:
                if opening.done():
                    raise
                if cancelled is not None and cancelled.is_set():
                    opening.cancel()
                    raise SourceLost(f"{self._client.name}: the opening was cancelled") from None

    def frames(self, pool: FramePool | None = None) -> Iterator[Frame]:
        """See `interfaces.Source`. Once; from the call on, every picture is kept for it.

        Pictures that came while the caller was still getting ready are decoded and, but for the newest, not handed out:
        a live run begins with now, not with a burst of the past.
        """
        self._began_ns = time.monotonic_ns()
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
        """See `interfaces.Source`."""
        self._stopped = True
        self._client.units.abort()

    def counters(self) -> dict[str, int]:
        """``corrupt_packets``, ``lost_packets`` (gaps in RTP), ``dropped_packets`` (pictures), ``late_frames``."""
        rtp, audio = self._client.depacketiser, self._client.audio
        dropped = {"bad_audio": audio.bad_packets, "dropped_audio": audio.dropped} if audio is not None else {}
        return dropped | {
            "corrupt_packets": rtp.bad_packets + self._corrupt,
            "lost_packets": rtp.lost_packets,
            "dropped_packets": rtp.damaged_units + rtp.skipped_units + self._client.units.dropped + self._skipped,
            "late_frames": self._late,
        }

    def close(self) -> None:
        """See `interfaces.Source`."""
        self.stop()
        if self._closed:
            return
        self._closed = True
        self._decoder = None  # ends its threads even while this source is referenced
        try:
            self._loop.call(self._client.close())
        finally:
            self._loop.close()

    def _pictures(self, unit: AccessUnit) -> list[av.VideoFrame]:
        """Decode a unit, or skip it when the decoder has fallen behind."""
        lag_ns = time.monotonic_ns() - unit.arrived_ns
        self._caught_up = self._caught_up or lag_ns < STALE_NS
        self._skipping = not unit.is_keyframe and (self._skipping or (self._caught_up and lag_ns > LAG_NS))
        if self._skipping:
            self._skipped += 1
            return []
        packet = av.Packet(unit.data)
        packet.pts, packet.time_base = unit.timestamp, TIME_BASE
        if len(self._units) > 64:  # pictures that the decoder swallowed
            self._units.clear()
        self._units[unit.timestamp] = replace(unit, nals=())
        pictures = self._decode(packet)
        self._units_without_frame = 0 if pictures else self._units_without_frame + 1
        if self._units_without_frame >= MAX_UNITS_WITHOUT_FRAME:
            raise DecodeError(
                f"{self.info.name}: {MAX_UNITS_WITHOUT_FRAME} pictures in a row could not be decoded; "
                "check the camera's encoder settings and the connection"
            )
        return pictures

    def _decode(self, packet: av.Packet[Any] | None) -> list[av.VideoFrame]:
        """The pictures that come out, without those that the decoder had to invent parts of."""
        if self._decoder is None:  # closed
            return []
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
        unit = self._units.pop(picture.pts, None)
        captured_ns = unit.arrived_ns if unit is not None else now_ns
        if self._first_pts is not None and picture.pts - self._first_pts <= self._last_pts:
            self._late += 1
            return None
        if captured_ns < self._began_ns and len(self._client.units):
            return None
        if now_ns - captured_ns > STALE_NS and len(self._client.units):
            self._late += 1
            return None
        planes, slot = self._reader.read(picture, pool)
        if self._first_pts is None:
            self._first_pts = picture.pts
        self._last_pts = picture.pts - self._first_pts
        wall_ns = self._client.wall.at(unit.rtp_timestamp) if unit is not None else None
        if self._client.audio is not None:
            self._client.audio.pass_on(FrameInstant(self._last_pts * TIME_BASE, wall_ns, captured_ns))
        return Frame(
            planes=planes,
            pts=self._last_pts,
            time_base=TIME_BASE,
            number=number,
            captured_ns=captured_ns,
            wall_ns=wall_ns,
            color=self.info.color,
            sample_aspect=self.info.sample_aspect,
            slot=slot,
        )


def _parse_url(url: str) -> RtspAddress:
    """Raises SourceOpenError, LowDelayUnsupported."""
    try:
        address = parse_address(url)
    except ValueError as error:
        raise SourceOpenError(
            f"{redact(url)!r} is no address of a stream: {error}; write rtsp://HOST:PORT/PATH"
        ) from error
    if address.scheme == "rtsps":
        raise LowDelayUnsupported("RTSP over TLS (rtsps)")
    return address


def _describe(opened: PlayingStream, name: str) -> StreamInfo:
    """Read the stream's properties from the parameter set of H.264. Raises SourceOpenError, LowDelayUnsupported."""
    try:
        sps = h264.parse_sps(h264.parameter_sets(opened.parameter_sets)[0][0])
    except ValueError as error:
        raise LowDelayUnsupported(f"a parameter set that cannot be read ({error})") from error
    bits = max(sps.bit_depth, sps.chroma_bit_depth)
    if bits > 8:
        raise SourceOpenError(f"{name} sends {bits}-bit video, which is not supported yet; set the camera to 8 bits")
    if sps.interlaced or sps.chroma_format != 1:
        chroma = {0: "grey", 2: "4:2:2", 3: "4:4:4"}
        raise LowDelayUnsupported(f"{'interlaced' if sps.interlaced else chroma[sps.chroma_format]} pictures")
    return StreamInfo(
        width=sps.width,
        height=sps.height,
        time_base=TIME_BASE,
        fps=opened.media.fps or sps.fps,
        color=sps.color,
        sample_aspect=sps.sample_aspect,
        live=True,
        codec="h264",
        name=name,
    )


def _probe(opened: PlayingStream, name: str) -> StreamInfo:
    """Read the stream's properties from the first frame. Raises SourceOpenError, LowDelayUnsupported."""
    codec = opened.payload_format.codec
    decoder = _low_delay_decoder(codec)
    try:
        unit = opened.first_keyframe
        pictures = [*decoder.decode(av.Packet(unit.data)), *decoder.decode(None)] if unit is not None else []
    except FFmpegError as error:
        raise LowDelayUnsupported(f"a keyframe of {codec} that cannot be decoded ({error.strerror})") from error
    if not pictures:
        raise LowDelayUnsupported(f"a keyframe of {codec} that gives no picture")
    picture = pictures[0]
    try:
        check_format(picture.format)
    except DecodeError as error:
        raise SourceOpenError(f"{name}: {error}") from error
    aspect = decoder.sample_aspect_ratio
    rate = decoder.framerate
    return StreamInfo(
        width=picture.width,
        height=picture.height,
        time_base=TIME_BASE,
        fps=opened.media.fps or (Fraction(rate) if rate and 1 <= rate <= 480 else None),
        color=color_of(picture, codec=codec),
        sample_aspect=Fraction(aspect) if aspect else Fraction(1),
        live=True,
        codec=codec,
        name=name,
    )


def _low_delay_decoder(codec: str) -> VideoCodecContext:
    """Return a decoder that returns a frame in the call that completes it: its threads share slices, never frames."""
    decoder = VideoCodecContext.create(codec, "r")
    assert isinstance(decoder, VideoCodecContext)
    decoder.flags |= Flags.low_delay
    decoder.thread_type = ThreadType.SLICE
    decoder.thread_count = codec_threads(4)
    return decoder
