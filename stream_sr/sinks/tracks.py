"""Audio and subtitles on their way from the source's lane into a file, bit for bit."""

from __future__ import annotations

import io
import logging
from collections import deque
from fractions import Fraction
from typing import Any

import av
from av.error import FFmpegError

from stream_sr.errors import SinkOpenError
from stream_sr.media import Lane

log = logging.getLogger("stream_sr")

LANE_BYTES = 64 << 20  # audio and subtitles that may wait here for their picture; more waits in the lane
FFMPEG_ERRORS = (FFmpegError, OSError, ValueError)
MARKS = ("is_keyframe", "is_corrupt")  # those that PyAV lets us set


class Tracks:
    """The pass-through tracks on their way into a container."""

    def __init__(self, name: str, container: Any, lane: Lane, *, live: bool = False) -> None:
        """With ``live`` sound from before the first picture is left out.

        Raises SinkOpenError for audio that the container cannot hold.
        """
        self._live = live
        self._name, self._container, self._lane = name, container, lane
        self._streams: list[Any] = [_add_track(name, container, track) for track in lane.tracks]
        self._waiting: list[deque[Any]] = [deque() for _ in lane.tracks]
        self._bytes = 0
        self._last_dts: list[Fraction | None] = [None for _ in lane.tracks]

    def write(self, *, until: Fraction | None, offset: Fraction) -> None:
        """Mux what begins before ``until`` (seconds; None: all), ``offset`` seconds earlier than it says."""
        while True:
            taken = self._fill()
            for number, waiting in enumerate(self._waiting):
                while waiting and (until is None or _start(waiting[0]) < until):
                    packet = waiting.popleft()
                    self._bytes -= packet.size
                    self._mux(number, packet, offset)
            if until is not None or not taken:
                return

    def _fill(self) -> bool:
        taken = False
        if self._bytes < LANE_BYTES:
            for number, packet in self._lane.take():
                taken = True
                if self._streams[number] is None or packet.size == 0:
                    continue
                self._waiting[number].append(packet)
                self._bytes += packet.size
                if self._bytes >= LANE_BYTES:
                    break
        return taken

    def _mux(self, number: int, packet: Any, offset: Fraction) -> None:
        """Times that step back are moved just behind the last one: a muxer refuses them. The data stays as it is."""
        base = packet.time_base
        shift = round(offset / base)
        dts = packet.dts if packet.dts is not None else packet.pts
        pts = packet.pts if packet.pts is not None else dts
        if dts is None:
            log.warning("%s: a packet of track %d has no time and is left out", self._name, number)
            return
        dts, pts = dts - shift, pts - shift
        if self._live and dts < 0:
            return
        last = self._last_dts[number]
        if last is not None and dts * base <= last:
            dts = int(last / base) + 1
            pts = max(pts, dts)
        self._last_dts[number] = dts * base
        own = copied(packet)
        own.dts, own.pts = dts, pts
        own.stream = self._streams[number]
        self._container.mux_one(own)


# MPEG-TS takes any packets and marks those of other codecs as private data, which nothing plays
MPEGTS_CODECS = {
    "aac", "aac_latm", "mp1", "mp2", "mp3", "ac3", "eac3", "dts", "opus", "truehd", "s302m",
    "dvb_subtitle", "dvb_teletext",
}  # fmt: skip


def _add_track(name: str, container: Any, track: Any) -> Any:
    """The container's stream for a pass-through track; None when it is left out."""
    try:
        if container.format.name == "mpegts" and track.codec not in MPEGTS_CODECS:
            raise ValueError(f"MPEG-TS has no place for {track.codec}")
        stream = container.add_stream_from_template(track.template, opaque=True)
    except FFMPEG_ERRORS as error:
        what = f"{name}: the container {container.format.name} cannot hold the {track.codec} {track.kind}"
        if track.kind == "audio":
            raise SinkOpenError(f"{what}; write {_others(track)}leave it out with --audio none") from error
        other = ".mp4" if container.format.name == "matroska" else ".mkv"
        log.warning("%s, which is left out; write %s to keep it", what, other)
        return None
    stream.time_base = track.template.time_base
    for key in ("language", "title", "handler_name"):
        if key in track.template.metadata:
            stream.metadata[key] = track.template.metadata[key]
    return stream


def _others(track: Any) -> str:
    """The endings of files that hold this codec, as words before an alternative; empty where none does."""
    endings = {".mkv": "matroska", ".mov": "mov", ".mp4": "mp4"}
    fit = [ending for ending, kind in endings.items() if _holds(kind, track.codec)]
    return f"{' or '.join(fit)}, or " if fit else ""


def _holds(kind: str, codec: str) -> bool:
    try:
        with av.open(io.BytesIO(), "w", format=kind) as trial:
            trial.add_mux_stream(codec)
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
