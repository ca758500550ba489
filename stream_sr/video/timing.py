"""Time: an integer pts and a time base, converted here and nowhere else; durations in monotonic nanoseconds."""

import threading
import time
from fractions import Fraction
from typing import Protocol

NS = 1_000_000_000


class Clock(Protocol):
    """Monotonic time, and a wait that an event cuts short."""

    def now_ns(self) -> int: ...

    def wait(self, seconds: float, event: threading.Event) -> bool:
        """Wait until ``seconds`` have passed or the event is set; returns whether it is set."""
        ...


class MonotonicClock:
    """The machine's monotonic clock; on Linux the same in every process, so that two of them can be compared."""

    def now_ns(self) -> int:
        return time.monotonic_ns()

    def wait(self, seconds: float, event: threading.Event) -> bool:
        return event.wait(max(0.0, seconds))


class ManualClock:
    """A clock for tests: waiting moves it on at once."""

    def __init__(self, now_ns: int = 0) -> None:
        self.ns = now_ns

    def now_ns(self) -> int:
        return self.ns

    def wait(self, seconds: float, event: threading.Event) -> bool:
        self.ns += max(0, round(seconds * NS))
        return event.is_set()


def rescale(value: int, old: Fraction, new: Fraction) -> int:
    """``value`` in units of ``old`` seconds as units of ``new``, to nearest, halves away from zero (av_rescale_q)."""
    above = value * old.numerator * new.denominator  # whole numbers: fractions would be reduced at every step
    below = old.denominator * new.numerator
    rounded = (2 * abs(above) + below) // (2 * below)
    return rounded if above >= 0 else -rounded


def to_ns(pts: int, time_base: Fraction) -> int:
    """A pts in nanoseconds."""
    return rescale(pts, time_base, Fraction(1, NS))


class Pacer:
    """When to show a frame: its distance in pts from the first, on the clock of the first.

    A frame more than ``slack_ns`` late, or early by more than ``jump_ns`` (a seek, a broken pts), re-anchors: it is
    shown now and the following are counted from it, so lateness never adds up.
    """

    def __init__(self, *, slack_ns: int = NS // 2, jump_ns: int = 10 * NS) -> None:
        self.slack_ns, self.jump_ns = slack_ns, jump_ns
        self.anchors = 0  # how often it was anchored; 1 in an undisturbed run
        self._offset_ns: int | None = None

    def wait_ns(self, pts_ns: int, now_ns: int) -> int:
        """Nanoseconds from now until the frame is due; 0 when it is due or late."""
        if self._offset_ns is not None:
            due = pts_ns + self._offset_ns - now_ns
            if -self.slack_ns <= due <= self.jump_ns:
                return max(0, due)
        self._offset_ns = now_ns - pts_ns
        self.anchors += 1
        return 0
