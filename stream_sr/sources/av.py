"""Whatever FFmpeg can open: files, and URLs as the fallback of the low-delay RTSP reader.

A file gives every picture it holds with its exact pts, and beside them its audio and subtitle packets untouched. Its
pictures are not turned: the rotation goes into `StreamInfo` and on to the output, like the sample aspect ratio.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
from av.container import InputContainer

from stream_sr.codec.decode import PictureReader
from stream_sr.codec.deinterlace import Deinterlacer
from stream_sr.codec.extent import is_truncated
from stream_sr.codec.nvdec import decoder_in_use
from stream_sr.errors import DecodeError, SourceError, SourceLost, SourceOpenError
from stream_sr.frame import Frame, StreamInfo
from stream_sr.limits import codec_threads
from stream_sr.media import Lane, SourceOptions, Track, redact
from stream_sr.ring import FramePool
from stream_sr.sources.opening import SILENT, claims, open_container, open_freely, port_of
from stream_sr.stats import Counts
from stream_sr.timing import rescale

logger = logging.getLogger(__name__)

LIVE_SCHEMES = {"rtsp", "rtsps", "rtmp", "rtmps", "srt", "udp", "rtp", "tcp"}
TEXT_CODECS = {"ansi", "bintext", "xbin", "idf"}  # FFmpeg paints a text file as a terminal would
FAILURES_IN_A_ROW = 50
TRAILING_SECONDS = 2  # how far other tracks may lie behind the video in a file


@dataclass(frozen=True, slots=True)
class Stamp:
    """When a picture is shown, and when its packet was read."""

    pts: int  # in the stream's time base
    duration: int
    captured_ns: int


def open_av(address: str, options: SourceOptions, cancelled: threading.Event | None = None) -> AvSource:
    """An `AvSource`; opening a URL ends soon after Ctrl-C, or after ``cancelled`` was set (see `open_freely`)."""
    if "://" not in address:
        return AvSource(address, options)
    name = redact(address)
    try:
        port = port_of(address)
    except ValueError as error:
        raise SourceOpenError(f"{name} is no address: {error}") from error
    return open_freely(name, port, lambda: AvSource(address, options), cancelled)


class AvSource:
    """An open file or URL. One thread reads; `stop` may be called from any.

    A truncated file delivers what it holds and then raises DecodeError, so that the output is complete up to the
    break and the user hears of it. A live input that ends or falls silent raises SourceLost.
    With ``options.start`` the file is decoded from the key picture before, earlier pictures are dropped, and the pts
    of all tracks count from that moment; without it they are exactly those of the file.
    """

    def __init__(self, address: str, options: SourceOptions | None = None) -> None:
        options = options or SourceOptions()
        scheme = address.partition("://")[0] if "://" in address else ""
        self._address, self._name = address, redact(address)
        self._live = scheme in LIVE_SCHEMES
        self._options = options
        self._counts = Counts()
        self._stopping = threading.Event()
        self._open()
        try:
            self._truncated = not scheme and os.path.isfile(address) and is_truncated(address, self._container)
            self._first: tuple[av.VideoFrame, Stamp] | None = self._open_pictures()
            self.info = self._describe(self._first[0])
            self.decoder = decoder_in_use(self._stream)
        except BaseException as error:
            self.close()
            if isinstance(error, DecodeError):
                raise SourceOpenError(f"{self._name}: {error}") from error
            raise

    def _open(self) -> None:
        self._container, self._sockets = open_container(self._address, self._options, self._name)
        try:
            self._stream = _video_stream(self._container, self._name)
            self._prepare(self._options)
        except BaseException:
            self._container.close()
            raise
        claims.take(self._sockets)

    def _prepare(self, options: SourceOptions) -> None:
        stream = self._stream
        codec = stream.codec_context
        codec.copy_opaque = True  # carries the time of arrival from the packet to its picture
        stream.thread_type = "SLICE" if self._live else "AUTO"  # frame threads delay by a picture each
        codec.thread_count = codec_threads()
        self._reader = PictureReader(codec=codec.name)
        self._deinterlacer: Deinterlacer[Stamp] | None = None
        self._base = stream.time_base or Fraction(1, 90_000)
        rate = stream.average_rate or stream.guessed_rate
        self._fps = Fraction(rate) if rate else None
        self._step = round(1 / self._fps / self._base) if self._fps else 0  # of one picture, in the time base
        passed = [s for s in self._container.streams if s.type in ("audio", "subtitle") and s.codec_context is not None]
        tracks = tuple(_track(i, s) for i, s in enumerate(passed))
        self._tracks = {s.index: i for i, s in enumerate(passed)}
        self.lane: Lane | None = Lane(tracks) if tracks else None
        starts = [s.start_time * s.time_base for s in (stream, *passed) if s.start_time is not None and s.time_base]
        self._origin = min(starts, default=Fraction(0))
        self._start = _seconds(options.start)
        length = _seconds(options.duration)
        self._end = None if length is None else (self._start or 0) + length
        self._previous: Stamp | None = None

    def _open_pictures(self) -> tuple[av.VideoFrame, Stamp]:
        """The first picture that is wanted; `_pictures` goes on behind it."""
        if self._start and not self._live and not self._seek(self._start):
            logger.info("%s cannot be searched exactly: decoding from its beginning", self._name)
            self._container.close()
            self._open()
        self._pictures = self._wanted()
        first = next(self._pictures, None)
        if first is None and self._start:
            raise SourceOpenError(f"{self._name} has no picture at or after the start, {float(self._start):g} s")
        if first is None:
            raise SourceOpenError(f"{self._name} holds no picture that can be decoded")
        return first

    def _seek(self, start: Fraction) -> bool:
        """Go to the key picture before the start; whether it is certain that it lies there."""
        target = math.floor((self._origin + start) / self._base)
        try:
            self._container.seek(target, stream=self._stream, backward=True)
            packet = next(iter(self._container.demux(self._stream)), None)
            if packet is None or not packet.is_keyframe or packet.pts is None or packet.pts > target:
                return False
            self._container.seek(target, stream=self._stream, backward=True)
        except av.FFmpegError:
            return False
        return True

    def _describe(self, picture: av.VideoFrame) -> StreamInfo:
        stream, container = self._stream, self._container
        seconds = None if self._live or not container.duration else container.duration / av.time_base
        if seconds is not None and self._start:
            seconds = max(0.0, seconds - float(self._start))
        if self._options.duration is not None:
            seconds = min(self._options.duration, seconds if seconds is not None else math.inf)
        whole = self._start is None and self._end is None
        return StreamInfo(
            width=picture.width,
            height=picture.height,
            time_base=self._base,
            fps=self._fps,
            color=self._reader.color(picture),
            sample_aspect=_aspect(stream),
            rotation=_rotation(picture, self._name),
            live=self._live,
            frame_count=stream.frames if stream.frames and whole and not self._live else None,
            duration_seconds=seconds,
            codec=stream.codec_context.name,
            name=self._name,
        )

    def frames(self, pool: FramePool | None = None) -> Iterator[Frame]:
        """See `Source.frames`. A picture that changes its size in mid-stream is a DecodeError."""
        first, self._first = self._first, None
        number = 0
        while not self._stopping.is_set():
            item = first or next(self._pictures, None)
            first = None
            if item is None:
                return
            picture, stamp = item
            planes, slot = self._reader.read(picture, pool)
            color = self._reader.color(picture)
            yield Frame(
                planes,
                pts=stamp.pts,
                time_base=self._base,
                duration=stamp.duration,
                number=number,
                captured_ns=stamp.captured_ns,
                color=color,
                sample_aspect=self.info.sample_aspect,
                slot=slot,
            )
            number += 1

    def stop(self) -> None:
        """See `Source.stop`. A read that waits for the network is freed by shutting its socket down (Linux)."""
        self._stopping.set()
        claims.shut_down(self._sockets)

    def counters(self) -> dict[str, int]:
        """``corrupt_packets`` (skipped), ``corrupt_pictures`` (shown as the decoder mended them), ``repaired_pts``."""
        return self._counts.read()

    def close(self) -> None:
        """See `Source.close`."""
        self._stopping.set()
        sockets, self._sockets = self._sockets, {}
        claims.give_back(sockets)
        self._container.close()

    # The way of a picture: packets -> decoded -> stamped, progressive -> cut to start and end.

    def _wanted(self) -> Iterator[tuple[av.VideoFrame, Stamp]]:
        shift = self._shift(self._base)
        begin = None if self._start is None else self._origin + self._start
        end = None if self._end is None else self._origin + self._end
        first_pts: int | None = None
        for picture, stamp in self._progressive() if self._live else _with_durations(self._progressive()):
            if begin is not None and stamp.pts * self._base < begin:
                continue
            if first_pts is None:
                first_pts = stamp.pts
                if end is not None and self._live:
                    end += stamp.pts * self._base - self._origin
            if end is not None and stamp.pts * self._base >= end:
                self._pass_on_until(end)
                return
            yield picture, Stamp(stamp.pts - shift, stamp.duration, stamp.captured_ns)

    def _shift(self, base: Fraction) -> int:
        """What is taken from the pts of a track, in its time base; nothing without a start."""
        return 0 if self._start is None else math.floor((self._origin + self._start) / base)

    def _progressive(self) -> Iterator[tuple[av.VideoFrame, Stamp]]:
        for picture in self._decoded():
            self._reader.check(picture)
            stamp = self._stamp(picture)
            if self._deinterlacer is None and picture.interlaced_frame:
                logger.info("%s is interlaced: deinterlacing with bwdif, one picture out for each in", self._name)
                self._deinterlacer = Deinterlacer(picture, self._base)
            if self._deinterlacer is None:
                yield picture, stamp
            else:
                yield from self._deinterlacer.put(picture, stamp.pts, stamp)
        if self._deinterlacer is not None:
            yield from self._deinterlacer.flush()
        self._check_end()

    def _check_end(self) -> None:
        if self._stopping.is_set():
            return
        if self._live:
            raise SourceLost(f"{self._name} ended: the other side closed the stream")
        if self._truncated:
            at = 0.0 if self._previous is None else float(self._previous.pts * self._base - self._origin)
            total = self._container.duration
            of = f" of {total / av.time_base:.2f} s" if total else ""
            raise DecodeError(
                f"{self._name} is truncated: it breaks off after {at:.2f} s{of}. The pictures up to there were "
                "delivered; get the whole file for the rest"
            )

    def _decoded(self) -> Iterator[av.VideoFrame]:
        """All pictures in presentation order, with the last ones that the decoder holds back."""
        failures = 0
        for packet in self._packets():
            if packet.stream.index != self._stream.index:
                self._pass_on(packet)
                continue
            try:
                pictures = self._decode(packet)
            except av.FFmpegError as error:
                failures += 1
                self._counts.add("corrupt_packets")
                if failures >= FAILURES_IN_A_ROW:
                    raise DecodeError(f"{failures} packets in a row cannot be decoded ({error.strerror})") from error
                continue
            if pictures:
                failures = 0
            yield from pictures
        if not self._stopping.is_set():
            yield from self._drained()

    def _decode(self, packet: Any) -> list[av.VideoFrame]:
        if packet.is_corrupt:
            self._counts.add("corrupt_packets")
            if self._truncated:
                return []  # the half packet at the break
        packet.opaque = time.monotonic_ns()
        pictures: list[av.VideoFrame] = self._stream.decode(packet)
        self._counts.add("corrupt_pictures", sum(picture.is_corrupt for picture in pictures))
        return pictures

    def _drained(self) -> list[av.VideoFrame]:
        try:
            return list(self._stream.decode(None))
        except av.EOFError:
            return []
        except av.FFmpegError:
            self._counts.add("corrupt_packets")
            return []

    def _packets(self) -> Iterator[Any]:
        """Packets of the picture and of the passed tracks, as they lie in the file. Ends at the end or on `stop`."""
        wanted = [s for s in self._container.streams if s.index in self._tracks or s.index == self._stream.index]
        failures = 0
        while not self._stopping.is_set():
            try:
                for packet in self._container.demux(wanted):
                    if self._stopping.is_set():
                        return
                    if packet.size:  # the empty ones mark the end
                        failures = 0
                        yield packet
                return
            except av.EOFError:
                return
            except av.FFmpegError as error:
                if self._stopping.is_set():
                    return
                if self._live or isinstance(error, SILENT):
                    raise self._lost(error) from error
                failures += 1
                self._counts.add("corrupt_packets")
                if failures >= FAILURES_IN_A_ROW:
                    raise DecodeError(f"{self._name} cannot be read any further ({error.strerror})") from error

    def _lost(self, error: av.FFmpegError) -> SourceLost:
        if isinstance(error, SILENT):
            return SourceLost(f"{self._name} fell silent for {self._options.read_timeout:g} s")
        return SourceLost(f"{self._name} was lost: {error.strerror}")

    def _pass_on(self, packet: Any) -> None:
        """Put an audio or subtitle packet into the lane, unless it lies outside the wanted part."""
        assert self.lane is not None
        at = packet.pts if packet.pts is not None else packet.dts
        if at is not None:
            seconds = at * packet.time_base - self._origin
            if self._start is not None and seconds < self._start:
                return
            if self._end is not None and seconds >= self._end:
                return
        shift = self._shift(packet.time_base)
        if shift:
            packet.pts = None if packet.pts is None else packet.pts - shift
            packet.dts = None if packet.dts is None else packet.dts - shift
        if not self.lane.put(self._tracks[packet.stream.index], packet, packet.size):
            raise SourceError(
                f"{self._name}: audio and subtitles ran more than {self.lane.limit_bytes >> 20} MiB ahead of the "
                "pictures; leave them out with --audio none"
            )

    def _pass_on_until(self, end: Fraction) -> None:
        """After the last wanted picture: the packets of the other tracks that lie behind it in the file."""
        if not self._tracks or self._live:
            return
        for packet in self._packets():
            at = packet.pts if packet.pts is not None else packet.dts
            if packet.stream.index == self._stream.index:
                if at is not None and at * packet.time_base > end + TRAILING_SECONDS:
                    return
            else:
                self._pass_on(packet)

    def _stamp(self, picture: av.VideoFrame) -> Stamp:
        """Its pts in the stream's time base, made up where there is none, and always behind the one before."""
        old = self._previous
        base = picture.time_base or self._base
        duration = rescale(picture.duration or 0, base, self._base)
        if picture.pts is not None:
            pts = rescale(picture.pts, base, self._base)
        elif old is None:
            pts = math.floor(self._origin / self._base)
        else:
            pts = old.pts + (old.duration or self._step or 1)
        if old is not None and pts <= old.pts:
            self._counts.add("repaired_pts")
            pts = old.pts + 1
        captured = picture.opaque if isinstance(picture.opaque, int) else time.monotonic_ns()
        self._previous = Stamp(pts, duration or (0 if picture.pts is not None else self._step), captured)
        return self._previous


def _with_durations(pictures: Iterator[tuple[av.VideoFrame, Stamp]]) -> Iterator[tuple[av.VideoFrame, Stamp]]:
    """Each picture lasts until the next one, the last one as its packet says; holds one picture back.

    The packets' own durations are those of the decoding order, which B-frames mix up where the rate varies.
    """
    held: tuple[av.VideoFrame, Stamp] | None = None
    try:
        for item in pictures:
            if held is not None:
                picture, stamp = held
                yield picture, Stamp(stamp.pts, item[1].pts - stamp.pts, stamp.captured_ns)
            held = item
    except SourceError:
        if held is not None:
            yield held
        raise
    if held is not None:
        yield held


def _video_stream(container: InputContainer, name: str) -> Any:
    """The best video stream that is not a cover picture."""
    streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if not streams:
        kinds = ", ".join(sorted({s.type for s in container.streams})) or "nothing"
        raise SourceOpenError(f"{name} has no video stream (it holds: {kinds})")
    stream = next((s for s in streams if s.disposition & av.stream.Disposition.default), streams[0])
    if stream.codec_context is None:
        raise SourceOpenError(f"{name}: its video codec is not known to this FFmpeg")
    if stream.codec_context.name in TEXT_CODECS:
        raise SourceOpenError(f"{name} is a text file, not a video")
    return stream


def _track(index: int, stream: Any) -> Track:
    codec = stream.codec_context
    rate, layout = getattr(codec, "sample_rate", None), getattr(codec, "layout", None)
    return Track(
        index, stream.type, codec.name, stream, rate or 0, layout.nb_channels if layout is not None else 0,
        bytes(codec.extradata or b""),
    )  # fmt: skip


def _aspect(stream: Any) -> Fraction:
    ratio = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio
    return Fraction(ratio) if ratio and ratio > 0 else Fraction(1)


def _rotation(picture: av.VideoFrame, name: str) -> int:
    """Clockwise degrees; FFmpeg counts the other way. Only quarter turns can be handed on."""
    degrees = -picture.rotation % 360
    if degrees % 90:
        logger.warning("%s asks to be turned by %d degrees; only quarter turns are kept", name, degrees)
        return 0
    return degrees


def _seconds(value: float | None) -> Fraction | None:
    """As the decimal that the user wrote: 0.4 is two fifths, so that the frame at 0.4 s is met."""
    return None if value is None else Fraction(value).limit_denominator(1_000_000)
