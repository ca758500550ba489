"""The governor on simulated machines: any load, hours of it, without a clock."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_sr.inference.governor import (
    BETWEEN_STEPS_NS,
    HOLD_NS,
    SECOND,
    FrameSample,
    GovernorState,
    Ladder,
    LadderStep,
    decide,
    initial_state,
)

pytestmark = pytest.mark.long

FRAME_NS = SECOND // 30
LADDER = Ladder((1e6, 6e6, 10e6, 24e6), FRAME_NS)  # such as bicubic, tiny, fast, balanced
QUEUE = 2  # frames that wait; the oldest goes
TRACE = Path(__file__).parents[1] / "data" / "inference_times.csv"

Load = Callable[[float, int], float]  # of seconds and rung: how many times the measured cost a frame takes


@dataclass
class Run:
    """What a simulated run did."""

    steps: list[LadderStep] = field(default_factory=list)
    took: list[tuple[float, int, float]] = field(default_factory=list)  # seconds, rung, ns
    lost: list[float] = field(default_factory=list)  # seconds
    trials: list[float] = field(default_factory=list)  # seconds

    def rung_at(self, seconds: float) -> int:
        return next(rung for at, rung, _ in reversed(self.took) if at <= seconds)

    def p99_ms(self, initial_state: float = 0, end: float = np.inf) -> float:
        return float(np.percentile([ns for at, _, ns in self.took if initial_state <= at < end], 99)) / 1e6

    def changes_between(self, initial_state: float, end: float) -> list[LadderStep]:
        return [step for step in self.steps if initial_state <= step.at_ns / SECOND < end]


def simulate(load: Load, seconds: float, *, ladder: Ladder = LADDER, frame_ns: int = FRAME_NS) -> Run:
    """A camera, a queue of two that loses its oldest, and one worker that the governor leads."""
    run, state, now, taken, lost = Run(), initial_state(ladder), 0, 0, 0
    trial: int | None = None
    while now < seconds * SECOND:
        arrived = now // frame_ns + 1
        if taken == arrived:
            now = arrived * frame_ns
            continue
        late = max(0, arrived - taken - QUEUE)
        taken += late + 1
        lost += late
        run.lost += [now / SECOND] * late
        took = round(ladder.costs_ns[state.rung] * load(now / SECOND, state.rung))
        now += took
        run.took.append((now / SECOND, state.rung, took))
        state, step = decide(ladder, state, FrameSample(now, took, lost, trial))
        lost, trial = 0, None
        if state.trying:
            trial = round(ladder.costs_ns[state.rung + 1] * load(now / SECOND, state.rung + 1))
            now += trial
            run.trials.append(now / SECOND)
        if step is not None:
            run.steps.append(step)
    return run


def holds(load: float, ladder: Ladder = LADDER) -> int:
    """The largest rung that keeps up by itself."""
    return max((n for n, cost in enumerate(ladder.costs_ns) if cost * load <= ladder.deadline_ns), default=0)


def noisy(load: Load, share: float, seed: int = 1) -> Load:
    rng = np.random.default_rng(seed)
    return lambda seconds, rung: load(seconds, rung) * rng.lognormal(0, share)


@pytest.mark.parametrize("load", [0.3, 0.7, 1.0, 1.2, 1.5, 2.0, 3.0, 4.5, 8.0, 20.0])
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_it_settles_within_a_step_of_the_largest_that_holds(load: float, noise: float) -> None:
    run = simulate(noisy(lambda *_: load, noise), 90)
    assert holds(load) - 1 <= run.rung_at(90) <= holds(load)
    assert run.changes_between(30, 90) == []
    assert not [at for at in run.lost if at > 10]


def test_a_ramp_is_answered_before_the_deadline_is_missed() -> None:
    run = simulate(noisy(lambda seconds, _: 1 + 5 * min(1, seconds / 30), 0.05), 60)
    assert run.rung_at(0.1) == 3
    assert run.rung_at(60) in (0, 1)
    assert run.p99_ms() < FRAME_NS / 1e6
    assert run.lost == []


@pytest.mark.parametrize("times", [1.6, 2.5, 4.0])
def test_a_load_that_comes_and_goes(times: float) -> None:
    """Down at once, as far as it needs, p99 under the deadline meanwhile, and up again."""
    run = simulate(noisy(lambda seconds, _: times if 30 <= seconds < 90 else 1.0, 0.05), 150)
    assert run.rung_at(30) == 3
    first = run.changes_between(30, 90)[0]
    assert first.at_ns / SECOND < 30.4
    assert first.after >= holds(times) - 1
    assert run.p99_ms(30, 90) < FRAME_NS / 1e6
    assert run.rung_at(90) in (holds(times), holds(times) - 1)
    assert run.rung_at(110) == 3


def test_a_single_spike_changes_nothing() -> None:
    for frames in (3, 30, 300):
        spike = {frames}
        seen = iter(range(10**6))
        run = simulate(lambda *_, seen=seen, spike=spike: 15.0 if next(seen) in spike else 1.0, 60)
        assert run.steps == []


def test_a_spike_a_second_changes_nothing() -> None:
    seen = iter(range(10**6))
    assert simulate(lambda *_: 3.0 if next(seen) % 30 == 29 else 1.0, 300).steps == []


@pytest.mark.parametrize("load", [0.8, 1.0, 1.1, 1.15, 1.2, 1.25, 1.3, 1.4])
@pytest.mark.parametrize("noise", [0.1, 0.2])
def test_noise_makes_no_oscillation(load: float, noise: float) -> None:
    """Ten minutes near the edge: a few trials while it learns, then at most one and back in a minute."""
    run = simulate(noisy(lambda *_: load, noise), 600)
    assert len(run.steps) <= 20
    for minute in range(3, 10):
        assert len(run.changes_between(60 * minute, 60 * minute + 60)) <= 2


def test_a_step_up_that_fails_is_tried_again_a_minute_later() -> None:
    """The ratio was measured wrongly: the larger network takes twice what it says."""
    run = simulate(lambda _, rung: 2.0 if rung == 3 else 1.0, 600)
    ups = [step.at_ns / SECOND for step in run.steps if step.after > step.before]
    waits = np.diff(ups)
    assert 5 <= len(ups) <= 10
    assert waits.min() > 60
    assert len(run.lost) < 0.05 * len(run.took)


def test_a_load_that_the_larger_network_feels_more_is_left_and_found_gone() -> None:
    run = simulate(noisy(lambda seconds, rung: (1.9 if rung == 3 else 1.5) if 40 <= seconds < 80 else 1.0, 0.03), 120)
    steps = [(step.before, step.after) for step in run.steps]
    assert steps == [(3, 2), (2, 3)]  # none up while it lasts
    assert run.steps[1].at_ns / SECOND < 84


def test_a_far_step_up_is_tried_aside_first() -> None:
    """Something in the way that interpolation does not feel: one frame shows it, and nothing is lost for it."""
    run = simulate(lambda seconds, rung: 8.0 if rung and 30 < seconds < 300 else 1.0, 400)
    assert len(run.changes_between(30, 300)) == 1
    tried = [at for at in run.trials if 30 < at < 300]
    assert len(tried) > 10
    assert np.diff(tried).min() >= 8
    assert not [at for at in run.lost if 32 < at < 300]
    assert run.rung_at(400) == 3


def test_after_one_that_held_the_wait_is_short_again() -> None:
    tried = GovernorState(2, settling=0, step_ns=0, rose=True, hold_ns=8 * HOLD_NS)
    state, step = decide(LADDER, tried, FrameSample(11 * SECOND, 10_000_000))
    assert step is None
    assert (state.rose, state.hold_ns) == (False, HOLD_NS)


@given(st.lists(st.floats(0.1, 30), min_size=5, max_size=60), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_never_two_steps_within_two_seconds(loads: list[float], seed: int) -> None:
    """Whatever the load does, a new one every half a second."""
    run = simulate(noisy(lambda seconds, _: loads[int(2 * seconds) % len(loads)], 0.3, seed), 30)
    times = [step.at_ns for step in run.steps]
    assert all(later - earlier >= BETWEEN_STEPS_NS for earlier, later in pairwise(times))
    for step in run.steps:
        assert step.after <= step.before + 1
        assert step.after != step.before
        assert 0 <= step.after < len(LADDER.costs_ns)


@pytest.mark.parametrize("fps", [2, 5, 15, 60, 150])
def test_any_frame_rate(fps: int) -> None:
    frame_ns = SECOND // fps
    ladder = Ladder(tuple(cost * 30 / fps for cost in LADDER.costs_ns), frame_ns)
    load = noisy(lambda seconds, _: 2.5 if 30 <= seconds < 60 else 1.0, 0.02)
    run = simulate(load, 120, ladder=ladder, frame_ns=frame_ns)
    assert run.rung_at(29) == 3
    assert run.rung_at(59) == 2
    assert run.rung_at(120) == 3


def test_lost_frames_count_even_if_each_was_quick() -> None:
    """The encoder cannot keep up because the network takes the cores."""
    state = GovernorState(3, settling=0)
    for number in range(3):
        state, step = decide(LADDER, state, FrameSample(round(number * FRAME_NS), 5_000_000, lost=1))
    assert step is not None
    assert step.after < 3
    assert "lost" in step.why


def test_the_start_is_the_largest_that_fits_with_room() -> None:
    assert initial_state(LADDER).rung == 3
    assert initial_state(Ladder(LADDER.costs_ns, 29e6)).rung == 2
    assert initial_state(Ladder(LADDER.costs_ns, 0.5e6)).rung == 0
    assert initial_state(Ladder((50e6,), 30e6)).rung == 0


def test_one_model_alone_never_steps() -> None:
    assert simulate(lambda *_: 5.0, 30, ladder=Ladder((24e6,), FRAME_NS)).steps == []


def test_on_recorded_times() -> None:
    """What bicubic, tiny and fast took on a real machine, 640x360, with three busy processes from 12 to 24 s.

    Recorded with ``python -m benchmarks auto --record FILE --sizes 640x360 --seconds 36 --busy 3``.
    """
    with TRACE.open(newline="") as file:
        head, *rows = list(csv.reader(file))
    times = np.array([[float(value) for value in row] for row in rows])
    assert head == ["seconds", "bicubic", "tiny", "fast"]
    ladder = Ladder(tuple(times[:40, 1:].min(axis=0) * 1e6), FRAME_NS)

    def load(seconds: float, rung: int) -> float:
        row = min(int(np.searchsorted(times[:, 0], seconds)), len(times) - 1)
        return float(times[row, 1 + rung]) * 1e6 / ladder.costs_ns[rung]

    run = simulate(load, 35.9, ladder=ladder)
    fixed = simulate(load, 35.9, ladder=Ladder(ladder.costs_ns[2:], FRAME_NS))
    assert run.rung_at(11.9) == 2
    first = run.changes_between(12, 24)[0]
    assert first.at_ns / SECOND < 14  # starting them takes a second
    assert first.after < 2
    assert run.rung_at(35) > first.after
    assert run.p99_ms(16, 24) < FRAME_NS / 1e6 < fixed.p99_ms(16, 24)  # two steps, two seconds apart
    assert len(run.lost) < len(fixed.lost) / 5
    assert len(run.steps) <= 5
