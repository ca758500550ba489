"""Text subtitles from any of FFmpeg's decoders to the form that a container holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from typing import Any

import av
from av.subtitles.subtitle import SubtitleSet

from stream_sr.codec.decoder import TrackDecoder
from stream_sr.pipeline.packets import Track

BITMAPS = {"hdmv_pgs_subtitle", "pgssub", "dvd_subtitle", "dvdsub", "dvb_subtitle", "dvbsub", "xsub"}
TIME_BASE = Fraction(1, 1000)
# FFmpeg's muxer compares the end of a subtitle track with the times of other tracks without converting their units, and
# inserts empty samples where it is smaller: so it must be larger than in any other unit.
TIMED_TEXT_BASE = Fraction(1, 1_000_000)
LONGEST_SECONDS = 1000  # of a sample: FFmpeg's muxer ends the process beyond 2**31 ticks
HEARTBEAT_SECONDS = 5  # of nothing, after which an empty sample says so
EMPTY_SAMPLE = bytes(2)  # of timed text: a length of 0
NEVER = 0xFFFFFFFF  # AVSubtitle.end_display_time of a cue of unknown length
UNKNOWN_SECONDS = Fraction(5)  # how long a cue of unknown length is shown, unless another comes
ASS_FIELDS = 8  # commas before the text of an ASS event as FFmpeg's decoders write it: read order, layer, style...


@dataclass(frozen=True, slots=True)
class Cue:
    """One text, shown from ``start`` to ``end`` (seconds), as an ASS event."""

    start: Fraction
    end: Fraction
    event: bytes
    open_ended: bool = False  # the source does not say when it ends: at the next cue, at the latest at ``end``

    @property
    def text(self) -> bytes:
        return self.event.split(b",", ASS_FIELDS)[-1]


class TextConverter:
    """Decodes the packets of a text subtitle track (SRT, ASS, WebVTT, closed captions...) and encodes them again.

    ``codec`` is ``mov_text`` (3GPP timed text, TS 26.245) or ``subrip``. An MP4 shows one sample at a time, until the
    next begins. So for mov_text cues that overlap are cut into pieces with all texts of their time (see `flatten`), and
    empty samples stand between them; each piece comes once it is over, because a later cue may still cut it. Style
    beyond what the codec has is dropped. One thread.
    """

    def __init__(self, track: Track, codec: str) -> None:
        """Raises ValueError or FFmpegError where FFmpeg cannot decode the track, or for bitmaps."""
        if track.codec in BITMAPS:
            raise ValueError(f"{track.codec} is an image, not text")
        self.damaged = 0
        self._decoder = TrackDecoder(track.template)
        self._source: Any = self._decoder.context
        self._source.open(strict=False)
        self.header: bytes = self._source.subtitle_header or b""
        self._timed_text = codec == "mov_text"
        self.time_base = TIMED_TEXT_BASE if self._timed_text else TIME_BASE
        encoder: Any = av.CodecContext.create(codec, "w")
        self._encoder = encoder
        self._encoder.subtitle_header = self.header
        self._encoder.time_base = self.time_base
        self._encoder.open()
        self._cues: list[Cue] = []
        self._done: Fraction | None = None  # up to where pieces were made
        self._ended: Fraction | None = None  # of the last sample

    def convert(self, packet: Any) -> list[Any]:
        """The packets that are complete with this one, in ``time_base``."""
        cue = self._decode(packet)
        if cue is None:
            return []
        if not self._timed_text:
            return [self._encode(cue)]
        self._cues = [
            replace(one, end=min(one.end, max(one.start, cue.start))) if one.open_ended else one for one in self._cues
        ]
        out = self._advance(cue.start, cut=True)
        self._cues.append(cue)
        return out

    def advance(self, until: Fraction) -> list[Any]:
        """The packets that end at or before ``until`` (seconds), before which no further cue starts."""
        return self._advance(until, cut=False) if self._timed_text else []

    def flush(self) -> list[Any]:
        """The packets still inside."""
        last = max((cue.end for cue in self._cues), default=None)
        return [] if last is None else self._advance(last, cut=False)

    def _advance(self, until: Fraction, *, cut: bool) -> list[Any]:
        if self._ended is None:
            self._ended = self._done = min(until, Fraction(0))
        assert self._done is not None
        pieces, self._done, self._cues = flatten(self._cues, self._done, until, cut=cut)
        out = []
        for piece in pieces:
            out += [self._empty(*span) for span in _spans(self._ended, piece.start)]
            out += [self._encode(replace(piece, start=start, end=end)) for start, end in _spans(piece.start, piece.end)]
            self._ended = piece.end
        if not self._cues and until > self._ended + HEARTBEAT_SECONDS:
            out += [self._empty(*span) for span in _spans(self._ended, until)]
            self._ended = self._done = until
        return out

    def _empty(self, start: Fraction, end: Fraction) -> Any:
        return self._timed(av.Packet(EMPTY_SAMPLE), start, end)

    def _timed(self, packet: Any, start: Fraction, end: Fraction) -> Any:
        packet.pts = packet.dts = round(start / self.time_base)
        packet.duration, packet.time_base = round(end / self.time_base) - packet.pts, self.time_base
        packet.is_keyframe = True
        return packet

    def _decode(self, packet: Any) -> Cue | None:
        begin = packet.pts if packet.pts is not None else packet.dts
        try:
            found = self._source.decode2(packet)
        except (av.FFmpegError, ValueError):
            self.damaged += 1
            return None
        events = [bytes(rect.ass) for rect in found if rect.type == b"ass"] if found is not None else []
        events = [event for event in events if event]
        if not events or begin is None:
            return None
        start = begin * packet.time_base + Fraction(found.start_display_time, 1000)
        length = packet.duration * packet.time_base if packet.duration else Fraction(0)
        shown = found.end_display_time
        if not length and 0 < shown < NEVER:
            length = Fraction(shown - found.start_display_time, 1000)
        first, *rest = (Cue(start, start + (length or UNKNOWN_SECONDS), event, not length) for event in events)
        return replace(first, event=b"\\N".join([first.event, *(one.text for one in rest)]))

    def _encode(self, cue: Cue) -> Any:
        packet = self._encoder.encode_subtitle(SubtitleSet.create(cue.event, 0, 1))
        return self._timed(packet, cue.start, cue.end)


def _spans(start: Fraction, end: Fraction) -> list[tuple[Fraction, Fraction]]:
    """The time from ``start`` to ``end`` in pieces that a sample can last; none where ``end`` is not later."""
    spans = []
    while start < end:
        spans.append((start, min(end, start + LONGEST_SECONDS)))
        start += LONGEST_SECONDS
    return spans


def flatten(
    cues: Sequence[Cue], since: Fraction, until: Fraction, *, cut: bool
) -> tuple[list[Cue], Fraction, list[Cue]]:
    """Cut cues that overlap into pieces that do not, each with the texts of all cues that are shown in its time.

    The pieces begin at or after ``since`` and end where a cue starts or ends, at or before ``until``; with ``cut`` at
    ``until`` too, because another cue starts there. Returns the pieces, the time up to which they go, and the cues that
    reach beyond it.
    """
    edges = {edge for cue in cues for edge in (cue.start, cue.end) if since <= edge <= until} | {since}
    if cut:
        edges.add(max(since, until))
    pieces = []
    for begin, end in pairwise(sorted(edges)):
        shown = [cue for cue in cues if cue.start <= begin and cue.end >= end]
        if shown:
            pieces.append(Cue(begin, end, b"\\N".join([shown[0].event, *(cue.text for cue in shown[1:])])))
    reached = max(edges)
    return pieces, reached, [cue for cue in cues if cue.end > reached]
