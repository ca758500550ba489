"""Time base conversion is exact, and the pacer neither runs ahead nor adds lateness up."""

import threading
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from stream_sr.video.timing import NS, ManualClock, MonotonicClock, Pacer, rescale, to_ns

BASES = st.sampled_from([Fraction(1, n) for n in (25, 1000, 12800, 90000, NS)] + [Fraction(1001, 30000)])


@given(st.integers(-(2**40), 2**40), BASES, BASES)
def test_rescale_is_within_half_a_unit(value: int, old: Fraction, new: Fraction) -> None:
    assert abs(rescale(value, old, new) * new - value * old) * 2 <= new


@given(st.integers(-(2**40), 2**40), BASES, BASES)
def test_rescale_is_odd_and_keeps_its_own_base(value: int, old: Fraction, new: Fraction) -> None:
    assert rescale(-value, old, new) == -rescale(value, old, new)
    assert rescale(value, old, old) == value


@given(st.integers(0, 2**32), BASES)
def test_a_finer_base_gives_the_value_back(value: int, base: Fraction) -> None:
    finer = Fraction(1, NS)
    assert rescale(rescale(value, base, finer), finer, base) == value


def test_halves_go_away_from_zero() -> None:
    assert rescale(1, Fraction(1, 2), Fraction(1)) == 1
    assert rescale(-1, Fraction(1, 2), Fraction(1)) == -1
    assert to_ns(3003, Fraction(1, 90000)) == 33_366_667


def test_the_first_frame_is_shown_at_once_and_the_next_at_their_distance() -> None:
    pacer, clock = Pacer(), ManualClock(5 * NS)
    shown = []
    for pts in (100, 140, 180):
        clock.wait(pacer.wait_ns(pts * 1_000_000, clock.now_ns()) / NS, threading.Event())
        shown.append(clock.now_ns())
    assert shown == [5 * NS, 5 * NS + 40_000_000, 5 * NS + 80_000_000]
    assert pacer.anchors == 1


@given(st.lists(st.integers(0, 400_000_000), min_size=2, max_size=30))
def test_a_frame_is_never_early_and_lateness_within_the_slack_is_made_up(delays: list[int]) -> None:
    pacer, clock = Pacer(), ManualClock(NS)
    interval = NS // 2  # longer than any delay, so each frame can be on time
    for n, delay in enumerate(delays):
        wait = pacer.wait_ns(n * interval, clock.now_ns())
        clock.wait(wait / NS, threading.Event())
        assert clock.now_ns() == NS + n * interval
        clock.ns += delay  # the sink takes its time
    assert pacer.anchors == 1


def test_a_frame_much_too_late_or_a_jump_in_pts_anchors_anew() -> None:
    pacer = Pacer(slack_ns=100, jump_ns=1000)
    assert pacer.wait_ns(0, 0) == 0
    assert pacer.wait_ns(50, 140) == 0  # 90 late: within the slack
    assert pacer.anchors == 1
    assert pacer.wait_ns(60, 200) == 0  # 140 late: from here on it counts anew
    assert pacer.anchors == 2
    assert pacer.wait_ns(70, 200) == 10
    assert pacer.wait_ns(70_000, 210) == 0  # a jump ahead is not waited for
    assert pacer.anchors == 3
    assert pacer.wait_ns(5, 220) == 0  # a jump back neither
    assert pacer.anchors == 4


def test_the_manual_clock_moves_by_waiting_and_sees_the_event() -> None:
    clock, event = ManualClock(), threading.Event()
    assert not clock.wait(1.5, event)
    assert clock.now_ns() == 3 * NS // 2
    event.set()
    assert clock.wait(-1, event)
    assert clock.now_ns() == 3 * NS // 2


def test_the_monotonic_clock_is_woken_by_the_event() -> None:
    event = threading.Event()
    event.set()
    clock = MonotonicClock()
    before = clock.now_ns()
    assert clock.wait(60, event)
    assert before <= clock.now_ns() < before + 30 * NS
