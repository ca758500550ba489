"""The clock of a container: where it starts, and one growing line of times where it steps back."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from av.container import InputContainer

TS_DISCONT = 0x0200  # FFmpeg's AVFMT_TS_DISCONT
STEP_BACK_SECONDS = Fraction(1, 10)  # of decoding times: FFmpeg's limit for a new clock
REORDERING_SECONDS = Fraction(1)  # by which presentation times step back where there are no decoding times
NEAR_SECONDS = 10  # a step ahead of more is a new clock; and the limit for a track that follows another to it
DELAY_SECONDS = Fraction(1, 10)  # that an audio codec may begin before 0, and more than that is no codec's delay
FAR_SECONDS = 1  # a common beginning later than this is a clock that started elsewhere, not a pause


def may_jump(container: InputContainer) -> bool:
    """Whether the container carries the clock of a transmitter, which starts anywhere and may be replaced by another.

    MPEG transport and program streams (ISO/IEC 13818-1).
    """
    return bool(container.format.flags & TS_DISCONT)


def begins_anywhere(container: InputContainer, origin: Fraction, video: Fraction) -> bool:
    """Whether the times of a file count from an arbitrary moment, so that an output should begin at 0 instead.

    ``origin`` is the earliest time of all tracks, ``video`` that of the frames, in seconds: before 0 an MP4 would hide
    them. Besides the containers of `may_jump` these are fragments of MP4 and recordings in Matroska or FLV, which carry
    the clock of a server that has run for long. What an MP4 with a sample table begins with is a pause that its edit
    list asks for.
    """
    if may_jump(container) or video < 0 or origin < -DELAY_SECONDS:
        return True
    has_table = "mp4" in container.format.name and any(stream.frames for stream in container.streams)
    return origin > FAR_SECONDS and not has_table


class JoinedClock:
    """Joins the clocks of a stream whose times jump: a recording of several parts, a transmitter that restarts.

    A jump is a step back, or ahead by more than 10 s beyond every other track, of audio or video (FFmpeg's rules); a
    shorter gap is kept. All tracks move by the same amount, so that they stay together. One thread.
    """

    def __init__(self) -> None:
        self._offsets: dict[int, Fraction] = {}  # by the index of the stream
        self._ends: dict[int, Fraction] = {}  # of the last packet, on the joined clock
        self._latest = Fraction(0)

    def join(self, packet: Any) -> None:
        """Move the times of a packet to the joined clock."""
        moment = packet.dts if packet.dts is not None else packet.pts
        if moment is None:
            return
        base, index = packet.time_base, packet.stream.index
        length = (packet.duration or 0) * base
        offset, end = self._offsets.get(index, self._latest), self._ends.get(index)
        slack = STEP_BACK_SECONDS if packet.dts is not None else REORDERING_SECONDS
        if end is not None and self._jumps(packet, moment * base + offset, end - slack - length):
            near = moment * base + self._latest
            if self._latest == offset or not end - slack <= near <= end + NEAR_SECONDS:
                self._latest = end - moment * base
            offset = self._latest
        self._offsets[index] = offset
        self._ends[index] = max(end or moment * base + offset, moment * base + offset + length)
        shift = round(offset / base)
        packet.pts = None if packet.pts is None else packet.pts + shift
        packet.dts = None if packet.dts is None else packet.dts + shift

    def _jumps(self, packet: Any, moment: Fraction, earliest: Fraction) -> bool:
        if moment < earliest:
            return True
        return packet.stream.type in ("audio", "video") and moment > max(self._ends.values()) + NEAR_SECONDS
