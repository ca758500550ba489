"""One growing line of times and frame numbers through any number of connections."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

from stream_sr.video.frame import Frame
from stream_sr.video.timing import NS, rescale

STEP_SECONDS = Fraction(1, 1000)  # between two pictures at least: Matroska tells no shorter times apart


class Timeline:
    """One strictly growing line of times, in one time base, through any number of connections."""

    def __init__(self, time_base: Fraction) -> None:
        self.time_base = time_base
        self._step = max(1, math.ceil(STEP_SECONDS / time_base))
        self.first_pts: int | None = None
        self._last_pts = 0
        self._last_captured_ns = 0
        self._number = -1
        self._base_number = 0  # of our frames at number 0 of this connection
        self._offset: Fraction | None = Fraction(0)  # seconds from theirs to ours; None: to be found
        self._broken = False

    def cut(self) -> None:
        """What comes next has another clock; how much later it is says the capture time."""
        self._offset = None
        self._broken = True

    def stamp(self, frame: Frame) -> Frame:
        """The frame with our time and number."""
        base = self.time_base
        if self._offset is None:
            away = max(Fraction(frame.captured_ns - self._last_captured_ns, NS), self._step * base)  # the sound's too
            self._offset = self._last_pts * base + away - frame.pts * frame.time_base
            self._base_number = self._number + 1 - frame.number
        if frame.time_base == base and self._offset == 0:
            pts = frame.pts
        else:
            pts = round((frame.pts * frame.time_base + self._offset) / base)
        if self.first_pts is None:
            self.first_pts = pts
        else:
            pts = max(pts, self._last_pts + self._step)
        number = max(self._number + 1, frame.number + self._base_number)
        broken, self._broken = self._broken, False
        self._last_pts, self._last_captured_ns, self._number = pts, frame.captured_ns, number
        return replace(
            frame,
            pts=pts,
            time_base=base,
            duration=rescale(frame.duration, frame.time_base, base),
            number=number,
            discontinuity=frame.discontinuity or broken,
        )

    def shift(self, packet: Any) -> None:
        """Move a passthrough packet by as much as the pictures beside it."""
        if not self._offset:
            return
        by = round(self._offset / packet.time_base)
        packet.pts = None if packet.pts is None else packet.pts + by
        packet.dts = None if packet.dts is None else packet.dts + by
