"""Whatever FFmpeg can open: files, and URLs as the fallback of the low-delay RTSP reader.

A file gives every picture it holds with its exact pts, and beside them its audio and subtitle packets untouched. Its
pictures are not turned: their orientation goes into `StreamInfo` and on to the output, like the sample aspect ratio.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import Any

import av

from stream_sr.codec.decode import FrameReader, check_format
from stream_sr.codec.deinterlace import Deinterlacer
from stream_sr.codec.extent import is_truncated
from stream_sr.codec.metadata import (
    attachments,
    chapters,
    container_tags,
    track_disposition,
    track_tags,
    unsupported_tracks,
)
from stream_sr.codec.nvdec import decoder_in_use
from stream_sr.codec.video_decoder import Origin, VideoDecoder
from stream_sr.errors import DecodeError, SourceError, SourceLost, SourceOpenError
from stream_sr.pipeline.interfaces import SourceOptions
from stream_sr.pipeline.packets import Passthrough
from stream_sr.pipeline.stats import Counters
from stream_sr.sources.clock import JoinedClock, begins_anywhere, may_jump
from stream_sr.sources.demux import PacketReader, read_packets
from stream_sr.sources.frame_times import FrameTimes, with_durations
from stream_sr.sources.opening import SILENT, open_cancellable, open_container, refuse_bad_port
from stream_sr.sources.stream_choice import choose_video_stream, describe_track, sample_aspect, stated_orientation
from stream_sr.system.limits import codec_threads
from stream_sr.system.printable import redact
from stream_sr.video.frame import Frame, StreamInfo
from stream_sr.video.frame_pool import FramePool, Pools
from stream_sr.video.metadata import Metadata
from stream_sr.video.timing import rescale

logger = logging.getLogger(__name__)

LIVE_SCHEMES = {"rtsp", "rtsps", "rtmp", "rtmps", "srt", "udp", "rtp", "tcp"}
FAILURES_IN_A_ROW = 50
KEYFRAME_SECONDS = 15.0  # that a live stream which was joined between two keyframes may take to the next
TRAILING_SECONDS = 2  # how far other tracks may lie behind the video in a file


def open_file(address: str, options: SourceOptions, cancelled: threading.Event | None = None) -> FileSource:
    """Open an `FileSource`; this ends soon after Ctrl-C, or after ``cancelled`` was set (see `open_cancellable`)."""
    name = redact(address)
    if "://" in address:
        refuse_bad_port(address, name)
    return open_cancellable(name, lambda given_up: FileSource(address, options, stopping=given_up), cancelled)


class FileSource:
    """An open file or URL. One thread reads; `stop` may be called from any.

    A truncated file delivers what it holds and then raises DecodeError, so that the output is complete up to the
    break and the user hears of it. A live input that ends or falls silent raises SourceLost.
    With ``options.start`` the file is decoded from the keyframe before, earlier pictures are dropped, and the pts
    of all tracks count from that moment; without it they are exactly those of the file.
    Packets of a regular file are read by the thread that calls `frames`; those of a URL, a FIFO or a device come from a
    `PacketReader`, so that `stop` and `close` return at once while FFmpeg waits for data.
    """

    def __init__(
        self, address: str, options: SourceOptions | None = None, *, stopping: threading.Event | None = None
    ) -> None:
        """``stopping`` may be set by another thread while this opens, which then fails after its native call."""
        options = options or SourceOptions()
        scheme = address.partition("://")[0] if "://" in address else ""
        self._address, self._name = address, redact(address)
        self._live = scheme in LIVE_SCHEMES
        self._options = options
        self._counts = Counters()
        self._stopping = stopping or threading.Event()
        self._in_use = threading.Lock()  # held while `frames` uses the container, and to close it
        self._regular = not scheme and os.path.isfile(address)
        self._changes_of_size = 0
        self._opened = time.monotonic()
        self.prepare: Callable[[StreamInfo], None] | None = None  # see `interfaces.ResizingSource`
        self._open()
        try:
            self._truncated = self._regular and is_truncated(address, self._container)
            self._first: tuple[av.VideoFrame, FrameTimes] | None = self._open_pictures()
            self.info = self._describe(self._first[0])
            self.decoder = decoder_in_use(self._stream)
        except BaseException as error:
            self.close()
            if isinstance(error, DecodeError):
                raise SourceOpenError(f"{self._name}: {error}") from error
            raise

    def _open(self) -> None:
        self._packet_reader: PacketReader | None = None  # has the container once it exists
        self._container = open_container(self._address, self._options, self._name)
        try:
            self._stream = choose_video_stream(self._container, self._name)
            self._video_index: int = self._stream.index
            self._prepare(self._options)
        except BaseException:
            self._container.close()
            raise

    def _prepare(self, options: SourceOptions) -> None:
        stream = self._stream
        codec = stream.codec_context
        stream.thread_type = "SLICE" if self._live else "AUTO"  # frame threads delay by a frame each
        codec.thread_count = codec_threads()
        reopen = self._second_instance if self._regular and not codec.is_hwaccel else None
        self._decoder = VideoDecoder(stream, reopen, self._counts)
        self._reader = FrameReader(codec=codec.name)
        self._base = stream.time_base or Fraction(1, 90_000)
        rate = stream.average_rate or stream.guessed_rate
        self._fps = Fraction(rate) if rate else None
        self._step = round(1 / self._fps / self._base) if self._fps else 0  # of one picture, in the time base
        passed = [s for s in self._container.streams if s.type in ("audio", "subtitle") and s.codec_context is not None]
        tracks = tuple(describe_track(i, s) for i, s in enumerate(passed))
        self._tracks = {s.index: i for i, s in enumerate(passed)}
        self.passthrough: Passthrough | None = Passthrough(tracks) if tracks else None
        starts = [s.start_time * s.time_base for s in (stream, *passed) if s.start_time is not None and s.time_base]
        self._origin = min(starts, default=Fraction(0))
        first = (stream.start_time or 0) * (stream.time_base or Fraction(0))
        self._timeline = JoinedClock() if may_jump(self._container) else None
        self._begin = (
            self._origin if not self._live and begins_anywhere(self._container, self._origin, first) else Fraction(0)
        )
        self._start = _seconds(options.start)
        if self._start is not None:
            self._begin = self._origin + self._start
        length = _seconds(options.duration)
        self._end = None if length is None else (self._start or 0) + length
        self._previous: FrameTimes | None = None

    def _open_pictures(self) -> tuple[av.VideoFrame, FrameTimes]:
        """The first picture that is wanted; `_pictures` goes on behind it."""
        seekable = self._regular or "://" in self._address  # what was read from a FIFO or a device is gone
        if self._start and not self._live and seekable and not self._seek(self._start):
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
        """Go to the keyframe before the start; whether it is certain that it lies there."""
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
            sample_aspect=sample_aspect(stream),
            orientation=stated_orientation(picture, self._name),
            live=self._live,
            frame_count=stream.frames if stream.frames and whole and not self._live else None,
            duration_seconds=seconds,
            codec=stream.codec_context.name,
            name=self._name,
            metadata=Metadata() if self._live else self._metadata(),
        )

    def _metadata(self) -> Metadata:
        container, stream = self._container, self._stream
        end = None if self._end is None else self._origin + self._end
        return Metadata(
            tags=container_tags(container),
            chapters=chapters(container, self._begin, end),
            attachments=attachments(self._address, container) if self._regular else (),
            video_tags=track_tags(stream),
            video_disposition=track_disposition(stream),
            unsupported=unsupported_tracks(container, {stream.index, *self._tracks}),
        )

    def _second_instance(self) -> Any:
        """The video stream in a container of its own, for `VideoDecoder`."""
        container = open_container(self._address, replace(self._options, decoder="cpu"), self._name)
        return container.streams[self._video_index]

    def frames(self, pool: FramePool | None = None) -> Iterator[Frame]:
        """See `Source.frames`. Where the frames change their size in mid-stream `prepare` is called with the new
        description, and the frames go on in that size; without `prepare` that is a DecodeError.
        """
        first, self._first = self._first, None
        number = 0
        pools = Pools(pool)
        while not self._stopping.is_set():
            item = first or self._next()
            first = None
            if item is None:
                return
            picture, stamp = item
            changed = self.prepare is not None and self._reader.size not in (None, (picture.width, picture.height))
            if changed:
                self._change_size(picture)
            planes, slot = self._reader.read(picture, pools.of(picture.width, picture.height))
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
                discontinuity=changed,
                slot=slot,
            )
            number += 1

    def _next(self) -> tuple[av.VideoFrame, FrameTimes] | None:
        with self._in_use:
            return None if self._stopping.is_set() else next(self._pictures, None)

    def _change_size(self, picture: av.VideoFrame) -> None:
        assert self.prepare is not None
        before, now = self._reader.size, (picture.width, picture.height)
        if not self._changes_of_size and before is not None:
            logger.warning(
                "%s changes its size from %dx%d to %dx%d; from here on it is fitted into the size of the output",
                self._name,
                *before,
                *now,
            )
        self._changes_of_size += 1
        self._counts.add("size_changes")
        self._reader.size = None
        self.prepare(replace(self.info, width=now[0], height=now[1], color=self._reader.color(picture)))

    def stop(self) -> None:
        """See `Source.stop`. Returns at once, also while a read waits for the network."""
        self._stopping.set()
        if self._packet_reader is not None:
            self._packet_reader.stop()

    def counters(self) -> dict[str, int]:
        """``corrupt_packets`` (skipped), ``corrupt_pictures`` (with concealed damage), ``repaired_pts`` and
        ``size_changes``.
        """
        return self._counts.read()

    def close(self) -> None:
        """See `Source.close`. A read that waits for the network ends later and closes the container then."""
        self._stopping.set()
        if self._packet_reader is not None:
            self._packet_reader.close()
        with self._in_use:
            self._decoder.close()
            if self._packet_reader is None:
                self._container.close()

    # The way of a picture: packets -> decoded -> stamped, progressive -> cut to start and end.

    def _wanted(self) -> Iterator[tuple[av.VideoFrame, FrameTimes]]:
        shift = self._shift(self._base)
        begin = None if self._start is None else self._origin + self._start
        end = None if self._end is None else self._origin + self._end
        first_pts: int | None = None
        for picture, stamp in self._progressive() if self._live else with_durations(self._progressive()):
            if begin is not None and stamp.pts * self._base < begin:
                continue
            if first_pts is None:
                first_pts = stamp.pts
                if end is not None and self._live:
                    end += stamp.pts * self._base - self._origin
            if end is not None and stamp.pts * self._base >= end:
                self._pass_on_until(end)
                return
            yield picture, FrameTimes(stamp.pts - shift, stamp.duration, stamp.captured_ns)

    def _shift(self, base: Fraction) -> int:
        """What is taken from the pts of a track, in its time base: the same moment for all tracks."""
        return math.floor(self._begin / base)

    def _progressive(self) -> Iterator[tuple[av.VideoFrame, FrameTimes]]:
        deinterlacer: Deinterlacer[FrameTimes] | None = None
        for picture in self._decoded():
            check_format(picture.format)
            stamp = self._stamp(picture)
            if deinterlacer is None and not picture.interlaced_frame:
                yield picture, stamp
                continue
            if deinterlacer is None:
                logger.info("%s is interlaced: deinterlacing with bwdif, one frame out for each in", self._name)
                deinterlacer = Deinterlacer(picture, self._base)
            elif not deinterlacer.takes(picture):
                yield from deinterlacer.flush()
                deinterlacer = Deinterlacer(picture, self._base)
            yield from deinterlacer.put(picture, stamp.pts, stamp)
        if deinterlacer is not None:
            yield from deinterlacer.flush()
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
            if packet.stream_index != self._video_index:
                self._pass_on(packet)
                continue
            try:
                pictures = self._decode(packet)
            except av.FFmpegError as error:
                failures += 1
                self._counts.add("corrupt_packets")
                joining = self._live and self._previous is None and time.monotonic() < self._opened + KEYFRAME_SECONDS
                if failures >= FAILURES_IN_A_ROW and not joining:
                    raise DecodeError(f"{failures} packets in a row cannot be decoded ({error.strerror})") from error
                continue
            if pictures:
                failures = 0
            yield from pictures
        if not self._stopping.is_set():
            yield from self._decoder.drain()

    def _decode(self, packet: Any) -> list[av.VideoFrame]:
        if packet.is_corrupt:
            self._counts.add("corrupt_packets")
            if self._truncated:
                return []  # the half packet at the break
        return self._decoder.decode(packet, packet.opaque)

    def _packets(self) -> Iterator[Any]:
        """Packets of the picture and of the passed tracks, as they lie in the file. Ends at the end or on `stop`."""
        failures = 0
        for item in self._read():
            if self._stopping.is_set():
                return
            if not isinstance(item, av.FFmpegError):
                failures = 0
                if self._timeline is not None:
                    self._timeline.join(item)
                yield item
                continue
            if _is_loss(item, live=self._live):
                raise self._lost(item) from item
            failures += 1
            self._counts.add("corrupt_packets")
            if failures >= FAILURES_IN_A_ROW:
                raise DecodeError(f"{self._name} cannot be read any further ({item.strerror})") from item

    def _read(self) -> Iterator[Any]:
        """Packets and errors, from where reading stands; see `read_packets`."""
        if self._packet_reader is not None:
            return self._packet_reader.packets()
        wanted = [s for s in self._container.streams if s.index in self._tracks or s.index == self._video_index]
        if self._regular:
            return read_packets(self._container, wanted, self._video_index)
        self._packet_reader = PacketReader(
            self._container, wanted, self._video_index, partial(_is_loss, live=self._live), self._in_use
        )
        return self._packet_reader.packets()

    def _lost(self, error: av.FFmpegError) -> SourceLost:
        if isinstance(error, SILENT):
            return SourceLost(f"{self._name} fell silent for {self._options.read_timeout:g} s")
        return SourceLost(f"{self._name} was lost: {error.strerror}")

    def _pass_on(self, packet: Any) -> None:
        """Put an audio or subtitle packet into the passthrough, unless it lies outside the wanted part."""
        assert self.passthrough is not None
        at = packet.pts if packet.pts is not None else packet.dts
        if at is not None:
            seconds = at * packet.time_base - self._origin
            if self._start is not None and seconds < self._start and not self._is_shown(packet, self._start - seconds):
                return
            if self._end is not None and seconds >= self._end:
                return
        shift = self._shift(packet.time_base)
        if shift:
            packet.pts = None if packet.pts is None else packet.pts - shift
            packet.dts = None if packet.dts is None else packet.dts - shift
        if not self.passthrough.put(self._tracks[packet.stream_index], packet, packet.size):
            raise SourceError(
                f"{self._name}: audio and subtitles ran more than {self.passthrough.limit_bytes >> 20} MiB ahead of "
                "the pictures; leave them out with --audio none"
            )

    def _is_shown(self, packet: Any, late: Fraction) -> bool:
        """Cut a subtitle that is still shown ``late`` seconds after it begins, at the start; whether it is one."""
        ticks = math.ceil(late / packet.time_base)
        if packet.stream.type != "subtitle" or not packet.duration or packet.duration <= ticks or packet.pts is None:
            return False
        packet.pts = packet.dts = packet.pts + ticks
        packet.duration -= ticks
        return True

    def _pass_on_until(self, end: Fraction) -> None:
        """After the last wanted picture: the packets of the other tracks that lie behind it in the file."""
        if not self._tracks or self._live:
            return
        for packet in self._packets():
            at = packet.pts if packet.pts is not None else packet.dts
            if packet.stream_index == self._video_index:
                if at is not None and at * packet.time_base > end + TRAILING_SECONDS:
                    return
            else:
                self._pass_on(packet)

    def _stamp(self, picture: av.VideoFrame) -> FrameTimes:
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
        captured = picture.opaque.captured_ns if isinstance(picture.opaque, Origin) else time.monotonic_ns()
        self._previous = FrameTimes(pts, duration or (0 if picture.pts is not None else self._step), captured)
        return self._previous


def _is_loss(error: av.FFmpegError, *, live: bool) -> bool:
    """Whether the input is lost with this error; in a file, reading goes on behind it."""
    return live or isinstance(error, SILENT)


def _seconds(value: float | None) -> Fraction | None:
    """As the decimal that the user wrote: 0.4 is two fifths, so that the frame at 0.4 s is met."""
    return None if value is None else Fraction(value).limit_denominator(1_000_000)
