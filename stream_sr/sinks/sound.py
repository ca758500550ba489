"""The sound of the source on its way into RTP, beside the pictures that were delayed by the filter."""

from __future__ import annotations

import logging
from collections import deque
from fractions import Fraction
from typing import Any, NamedTuple

from stream_sr.codec.audio import AudioFormat, format_of_track
from stream_sr.media import Lane

WAITING = 2000  # frames of sound; a stream whose pictures are that late has other troubles

log = logging.getLogger("stream_sr")


class Sound(NamedTuple):
    """One frame of sound that is due."""

    data: bytes
    seconds: Fraction  # presentation time, on the line of the pictures


class LaneSound:
    """The first track of a lane that RTP carries. What is not carried is said once and dropped. One thread."""

    def __init__(self, name: str, lane: Lane | None) -> None:
        self._lane, self._number = lane, -1
        self.form: AudioFormat | None = None
        self._waiting: deque[Any] = deque(maxlen=WAITING)
        self._last: Fraction | None = None
        left_out = []
        for number, track in enumerate(lane.tracks if lane is not None else ()):
            form = format_of_track(track) if self.form is None else None
            if form is None:
                left_out.append(f"{track.codec} {track.kind}")
            else:
                self.form, self._number = form, number
        if left_out:
            log.info("%s: left out, RTSP carries one track of AAC, Opus or G.711: %s", name, ", ".join(left_out))

    def due(self, until: Fraction) -> list[Sound]:
        """What begins before ``until`` (seconds); times grow strictly, what steps back is left out."""
        if self._lane is None:
            return []
        self._waiting.extend(packet for number, packet in self._lane.take() if number == self._number and packet.size)
        out = []
        while self._waiting:
            packet = self._waiting[0]
            pts = packet.pts if packet.pts is not None else packet.dts
            seconds = None if pts is None else pts * packet.time_base
            if seconds is not None and seconds >= until:
                break
            self._waiting.popleft()
            if seconds is not None and (self._last is None or seconds > self._last):
                self._last = seconds
                out.append(Sound(bytes(packet), seconds))
        return out
