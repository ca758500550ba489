"""Audio and subtitles on their way from the source into a file: copied, or converted where they must be."""

from __future__ import annotations

import io
import logging
from collections import deque
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import Any, NamedTuple, Protocol

import av
from av.error import FFmpegError
from av.stream import Disposition

from stream_sr.codec.aac import AacTranscoder, AdtsFilter, adts_config
from stream_sr.codec.metadata import track_disposition, track_tags
from stream_sr.codec.subtitles import TextConverter
from stream_sr.pipeline.packets import Passthrough, Track

log = logging.getLogger("stream_sr")

PASSTHROUGH_BYTES = 64 << 20  # audio and subtitles that may wait here for their frames; more waits in the passthrough
FFMPEG_ERRORS = (FFmpegError, OSError, ValueError)
MARKS = ("is_keyframe", "is_corrupt")  # those that PyAV lets us set
SUBTITLE_CODECS = {"mp4": "mov_text", "mov": "mov_text", "matroska": "subrip"}  # what text is converted to
# MPEG-TS takes any packets and marks those of other codecs as private data, which nothing plays.
MPEGTS_CODECS = {
    "aac", "aac_latm", "mp1", "mp2", "mp3", "mp1float", "mp2float", "mp3float", "ac3", "eac3", "dts", "opus", "truehd",
    "s302m", "dvb_subtitle", "dvb_teletext",
}  # fmt: skip


class Converter(Protocol):
    """Packets of the source in, packets of the output out, for one track. One thread."""

    @property
    def damaged(self) -> int:
        """Packets that could not be converted and were left out."""
        ...

    def convert(self, packet: Any) -> list[Any]:
        """The packets that are complete with this one, which is not changed."""
        ...

    def advance(self, until: Fraction) -> list[Any]:
        """The packets that are complete because nothing more comes from before ``until`` seconds."""
        ...

    def flush(self) -> list[Any]:
        """The packets still inside."""
        ...


class Output(NamedTuple):
    """One track of the file."""

    stream: Any  # PyAV's
    converter: Converter


class Tracks:
    """The tracks beside the video on their way into a container.

    ``audio`` is "copy" or "aac". Audio is copied bit for bit where the container holds its codec (AAC without its ADTS
    headers where the container has its own), and transcoded to AAC with a warning where it does not; with "aac" every
    other codec is transcoded. Text subtitles are converted where the container has another form. What can be neither is
    left out, with a warning. Damaged packets are left out and counted in ``damaged``; they never stop the video.
    """

    def __init__(
        self,
        name: str,
        container: Any,
        passthrough: Passthrough,
        *,
        audio: str = "copy",
        live: bool = False,
        failed: Callable[[], bool] = lambda: False,
    ) -> None:
        """With ``live`` audio from before the first frame is left out. ``failed`` tells whether the file itself cannot
        be written any more: then errors are raised.
        """
        self._live, self._failed = live, failed
        self._name, self._container, self._lane = name, container, passthrough
        first = passthrough.first_packets()
        self._outputs = [
            _output(name, container, track, audio, bytes(first.get(number, b"")))
            for number, track in enumerate(passthrough.tracks)
        ]
        self._waiting: list[deque[Any]] = [deque() for _ in passthrough.tracks]
        self._bytes = 0
        self._last_dts: dict[int, Fraction] = {}  # by the index of the stream
        self._refused = 0

    @property
    def damaged(self) -> int:
        """Packets that could not be converted or muxed."""
        return self._refused + sum(output.converter.damaged for output in self._outputs if output is not None)

    def write(self, *, until: Fraction | None, offset: Fraction) -> None:
        """Mux what begins before ``until`` (seconds; None: all), ``offset`` seconds earlier than its own time."""
        while True:
            taken = self._fill()
            for number, waiting in enumerate(self._waiting):
                output = self._outputs[number]
                while waiting and output is not None and (until is None or _start(waiting[0]) < until):
                    packet = waiting.popleft()
                    self._bytes -= packet.size
                    self._mux_all(output, partial(output.converter.convert, packet), offset)
                if output is not None and until is not None:
                    self._mux_all(output, partial(output.converter.advance, until), offset)
            if until is not None or not taken:
                return

    def flush(self, *, offset: Fraction) -> None:
        """Mux what the converters still hold, at the end of the file."""
        for output in self._outputs:
            if output is not None:
                self._mux_all(output, output.converter.flush, offset)
        if self.damaged:
            log.warning("%s: %d damaged audio or subtitle packets were left out", self._name, self.damaged)

    def _fill(self) -> bool:
        taken = False
        if self._bytes < PASSTHROUGH_BYTES:
            for number, packet in self._lane.take():
                taken = True
                if self._outputs[number] is None or packet.size == 0:
                    continue
                self._waiting[number].append(packet)
                self._bytes += packet.size
                if self._bytes >= PASSTHROUGH_BYTES:
                    break
        return taken

    def _mux_all(self, output: Output, convert: Callable[[], list[Any]], offset: Fraction) -> None:
        try:
            packets = convert()
        except FFMPEG_ERRORS as error:  # a text that is too long for its codec
            log.debug("%s: a packet of stream %d cannot be converted: %s", self._name, output.stream.index, error)
            self._refused += 1
            return
        for packet in packets:
            try:
                self._mux(output.stream, packet, offset)
            except FFMPEG_ERRORS as error:
                if self._failed():
                    raise
                log.debug("%s: a packet of stream %d cannot be muxed: %s", self._name, output.stream.index, error)
                self._refused += 1

    def _mux(self, stream: Any, packet: Any, offset: Fraction) -> None:
        """Times that step back are moved just behind the last one: a muxer refuses them. The data stays as it is."""
        base = packet.time_base
        shift = round(offset / base)
        dts = packet.dts if packet.dts is not None else packet.pts
        pts = packet.pts if packet.pts is not None else dts
        if dts is None:
            self._refused += 1
            return
        dts, pts = dts - shift, pts - shift
        if self._live and dts < 0:
            return
        last = self._last_dts.get(stream.index)
        if last is not None and dts * base <= last:
            dts = int(last / base) + 1
            pts = max(pts, dts)
        # A sample of timed text lasts until the next: FFmpeg's muxer ends the process where one begins before that.
        length = packet.duration or 0 if stream.codec_context.name == "mov_text" else 0
        self._last_dts[stream.index] = (dts + max(0, length - 1)) * base
        own = copied(packet)
        own.dts, own.pts = dts, pts
        own.stream = stream
        self._container.mux_one(own)


class TrackCopier:
    """Packets as they are."""

    damaged = 0

    def convert(self, packet: Any) -> list[Any]:
        return [packet]

    def advance(self, until: Fraction) -> list[Any]:
        return []

    def flush(self) -> list[Any]:
        return []


def _output(name: str, container: Any, track: Track, audio: str, first: bytes) -> Output | None:
    """The stream of a container for a track, and how its packets get there; None when it is left out."""
    kind = container.format.name
    try:
        found = _audio(name, container, track, audio, first) if track.kind == "audio" else _subtitle(container, track)
    except FFMPEG_ERRORS as error:
        other = ".mp4" if kind == "matroska" else ".mkv"
        log.warning(
            "%s: %s cannot hold the %s %s, which is left out; write %s to keep it",
            name,
            kind,
            track.codec,
            track.kind,
            other,
        )
        log.debug("%s: %s", track.codec, error)
        return None
    found.stream.metadata.update(track_tags(track.template))
    found.stream.disposition = Disposition(track_disposition(track.template))
    return found


def _audio(name: str, container: Any, track: Track, audio: str, first: bytes) -> Output:
    kind = container.format.name
    if (audio == "copy" or track.codec == "aac") and holds(kind, track):
        return _copied_audio(container, track, first)
    if audio == "copy":
        log.warning(
            "%s: %s cannot hold %s audio, which is transcoded to AAC%s", name, kind, track.codec, _alternative(track)
        )
    transcoder = AacTranscoder(track, hidden_delay=kind in ("mp4", "mov"))
    return Output(_add(container, transcoder.track), transcoder)


def _copied_audio(container: Any, track: Track, first: bytes) -> Output:
    stream = _add(container, track)
    if track.codec != "aac" or track.config or container.format.name == "mpegts":
        return Output(stream, TrackCopier())
    # FFmpeg's muxers insert this filter too, but with ``delay_moov`` MP4's does not, and fails at the first fragment.
    config = adts_config(first)
    if config:  # else it comes with the first packet
        stream.codec_context.extradata = config
    return Output(stream, AdtsFilter(track, configured=bool(config)))


def _subtitle(container: Any, track: Track) -> Output:
    kind = container.format.name
    if holds(kind, track):
        return Output(_add(container, track), TrackCopier())
    if kind not in SUBTITLE_CODECS:
        raise ValueError(f"{kind} has no text subtitles")
    codec = SUBTITLE_CODECS[kind]
    converter = TextConverter(track, codec)
    stream = container.add_stream(codec)
    stream.codec_context.subtitle_header = converter.header
    stream.time_base = stream.codec_context.time_base = converter.time_base
    return Output(stream, converter)


def _add(container: Any, track: Track) -> Any:
    stream = container.add_stream_from_template(track.template, opaque=True)
    stream.time_base = track.template.time_base
    return stream


def _alternative(track: Track) -> str:
    """The endings of files that hold this codec, as the end of a sentence; empty where none does."""
    endings = {".mkv": "matroska", ".mov": "mov", ".mp4": "mp4"}
    fit = [ending for ending, kind in endings.items() if holds(kind, track)]
    return f"; write {' or '.join(fit)} to copy it" if fit else ""


def holds(kind: str, track: Track) -> bool:
    """Whether FFmpeg's muxer ``kind`` writes a header with this track."""
    if kind == "mpegts":
        return track.codec in MPEGTS_CODECS
    try:
        with av.open(io.BytesIO(), "w", format=kind) as trial:
            trial.add_stream_from_template(track.template, opaque=True)
            trial.start_encoding()
    except FFMPEG_ERRORS:
        return False
    return True


def copied(packet: Any) -> av.Packet[Any]:
    """A packet of the same data, duration and side data (samples to be skipped), without times and stream.

    To be muxed in its place: muxing sets stream and times in the packet, and other files get the same one.
    """
    copy: av.Packet[Any] = av.Packet(bytes(packet))
    copy.time_base, copy.duration = packet.time_base, packet.duration
    for mark in MARKS:
        setattr(copy, mark, getattr(packet, mark))
    for side in packet.iter_sidedata():
        copy.set_sidedata(side)
    return copy


def _start(packet: Any) -> Fraction:
    moment = packet.pts if packet.pts is not None else packet.dts
    return moment * packet.time_base if moment is not None else Fraction(0)
