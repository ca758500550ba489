"""Clocks that jump: one growing line of times for all tracks."""

from __future__ import annotations

from fractions import Fraction
from types import SimpleNamespace
from typing import Any

from stream_sr.sources.clock import JoinedClock

BASE = Fraction(1, 90_000)


def packet(seconds: float, index: int = 0, kind: str = "video", length: float = 0.04) -> Any:
    ticks = round(seconds * 90_000)
    stream = SimpleNamespace(index=index, type=kind)
    return SimpleNamespace(pts=ticks, dts=ticks, duration=round(length * 90_000), time_base=BASE, stream=stream)


def joined(*packets: Any) -> list[float]:
    timeline = JoinedClock()
    for one in packets:
        timeline.join(one)
    return [round(float(one.pts * BASE), 3) for one in packets]


def test_steady_times_stay() -> None:
    times = [1.0, 1.04, 1.08, 1.12]
    assert joined(*(packet(t) for t in times)) == times


def test_a_step_back_goes_on_behind_the_last() -> None:
    assert joined(packet(100), packet(100.04), packet(5), packet(5.04)) == [100, 100.04, 100.08, 100.12]


def test_a_small_step_back_is_left_to_the_decoder() -> None:
    assert joined(packet(100), packet(100.04), packet(99.99)) == [100, 100.04, 99.99]


def test_a_gap_of_all_tracks_up_to_ten_seconds_is_kept() -> None:
    assert joined(packet(1), packet(10.9)) == [1, 10.9]
    assert joined(packet(1), packet(11.1)) == [1, 1.04]


def test_a_gap_of_one_track_is_kept_while_another_goes_on() -> None:
    video = [packet(t) for t in range(0, 60, 5)]
    sound = [packet(0, 1, "audio"), packet(55, 1, "audio")]
    assert joined(sound[0], *video, sound[1])[-1] == 55


def test_a_sparse_subtitle_is_no_jump() -> None:
    assert joined(packet(0), packet(500, 2, "subtitle"))[-1] == 500


def test_tracks_move_together_in_whatever_order_they_follow() -> None:
    """The audio's last packets of the old clock come behind the video's first of the new one."""
    times = joined(
        packet(100),
        packet(100, 1, "audio"),
        packet(7),
        packet(100.04, 1, "audio"),
        packet(7.04),
        packet(7.02, 1, "audio"),
    )
    assert times == [100, 100, 100.04, 100.04, 100.08, 100.06]
