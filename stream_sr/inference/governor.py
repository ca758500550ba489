"""Which of several networks computes a live picture: the largest that keeps up. A pure function of its measurements.

After CPU frequency governors: `decide` is given the state and what one frame took, and returns the next state, and a
step where there is one. It knows no clock, no engine and no thread, so a test runs hours of any load in a moment.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import median

SECOND = 1_000_000_000
BETWEEN_STEPS_NS = 2 * SECOND  # at least, whatever happens
SETTLING = 3  # frames after a step that count for nothing: they waited for those before it

TIGHT = 0.9  # share of the deadline above which a frame is close to missing it
LATEST, LATEST_TIGHT = 8, 3  # frames looked at, and how many of them must be tight for a step down: a spike is one
LONG, LONG_MISSED = 64, 4  # and how many of the last 64 may miss the deadline, for loads that come and go
ROOM = 0.8  # share of the deadline that the network of a step is predicted to take at most, up and down

CALM_NS = 2 * SECOND  # what a step up looks back on
CALM_FRAMES = 12  # at least: a stream of few frames needs longer
HIGH = 0.95  # the part of them that has to fit
KEPT_NS = 3 * SECOND  # samples that are older are forgotten, but for the last 64
FAR = 3.0  # times the cost: over such a distance the ratio predicts nothing, the larger network is tried
TRIALS = 8  # frames that it computes beside the other, all of them with room, before it takes over
AFTER_TRIAL_NS = 8 * SECOND  # from one that failed to the next: it costs a frame a delay, no more
HOLD_NS = 4 * SECOND  # from a step to the next one up
LONGEST_HOLD_NS = 64 * SECOND
LEARNED_NS = 60 * SECOND  # how long it is remembered what the network above took when it gave way
MOST_LEARNED = 1.5  # times the measured ratio, at most: the load may have ended with the step
FAILED_NS = 10 * SECOND  # a step up that is taken back within this has failed: the hold doubles


@dataclass(frozen=True, slots=True)
class Ladder:
    """What can be chosen from, the quickest first, and what a frame has."""

    costs_ns: tuple[float, ...]  # of a frame, measured on this machine; rising. Only their ratios count once it runs
    deadline_ns: float  # to the next frame


@dataclass(frozen=True, slots=True)
class FrameSample:
    """One frame."""

    at_ns: int  # when its result was there, on any clock that grows
    took_ns: int
    lost: int = 0  # frames that were dropped for want of time since the sample before
    trial_ns: int | None = None  # what the next rung took for the frame before, where the state asked for a trial


@dataclass(frozen=True, slots=True)
class LadderStep:
    """A change of network."""

    at_ns: int
    before: int  # rung of the ladder, 0 the quickest
    after: int
    why: str


@dataclass(frozen=True, slots=True)
class GovernorState:
    """What `decide` remembers."""

    rung: int
    settling: int = SETTLING
    samples: tuple[FrameSample, ...] = ()  # since the last step, the newest last
    step_ns: int | None = None  # when the last step was
    rose: bool = False  # whether it was one up
    hold_ns: int = HOLD_NS
    up_from_ns: int | None = None  # no step up before
    trying: bool = False  # whether the next rung is to compute the frame too, aside
    trials: int = 0  # that went well
    above_ns: float | None = None  # what the rung above took when it was left, until the ratio is known
    learned: float | None = None  # times this rung: what the one above took under that load


def initial_state(ladder: Ladder) -> GovernorState:
    """The largest network that fits by what was measured at the start; the quickest where none does."""
    return GovernorState(_largest_that_fits(ladder, 1.0, len(ladder.costs_ns) - 1))


def decide(ladder: Ladder, state: GovernorState, sample: FrameSample) -> tuple[GovernorState, LadderStep | None]:
    """The state after ``sample``, and the step to take with the next frame.

    Down, as far as the measured ratios say that it needs, when 3 of the last 8 frames took over 90 % of the deadline
    (or frames were lost before them), or 4 of the last 64 missed it. One rung up when for two seconds no frame was lost
    and the larger network would have kept 95 % of them under 80 %: by the ratio that was measured at the start, or for
    a minute by the one seen when it gave way, up to 1.5 times that. Never two steps within two seconds; up not for 4
    seconds after a step down, and twice as long each time that a step up was taken back within 10 seconds.
    Before a step up to a network of over three times the cost that network computes some frames aside, in which no
    frame may take it over 80 %, or the next such trial comes after 8 seconds.
    """
    if state.settling:
        return replace(state, settling=state.settling - 1), None
    state = _learn(_take_trial(ladder, replace(state, samples=_append(state.samples, sample)), sample))
    if state.rose and state.step_ns is not None and sample.at_ns - state.step_ns > FAILED_NS:
        state = replace(state, rose=False, hold_ns=HOLD_NS)  # it has held
    if state.step_ns is not None and sample.at_ns - state.step_ns < BETWEEN_STEPS_NS:
        return state, None
    calm = replace(state, trying=False, trials=0), None
    return _down(ladder, state, sample.at_ns) or _up(ladder, state, sample.at_ns) or calm


def _append(samples: tuple[FrameSample, ...], sample: FrameSample) -> tuple[FrameSample, ...]:
    while len(samples) >= LONG and sample.at_ns - samples[0].at_ns > KEPT_NS:
        samples = samples[1:]
    return *samples, sample


def _learn(state: GovernorState) -> GovernorState:
    """Under a load the larger network may suffer more than the measured ratio says: compare before and after."""
    if state.above_ns is None or len(state.samples) < LATEST:
        return state
    after = median(sample.took_ns for sample in state.samples[:LATEST])
    return replace(state, above_ns=None, learned=state.above_ns / after)


def _take_trial(ladder: Ladder, state: GovernorState, sample: FrameSample) -> GovernorState:
    if sample.trial_ns is None or not state.trying:
        return state
    if sample.trial_ns <= ROOM * ladder.deadline_ns:
        return replace(state, trials=state.trials + 1)
    return replace(state, trying=False, trials=0, up_from_ns=sample.at_ns + AFTER_TRIAL_NS)


def _down(ladder: Ladder, state: GovernorState, now_ns: int) -> tuple[GovernorState, LadderStep] | None:
    deadline, latest = ladder.deadline_ns, state.samples[-LATEST:]
    if state.rung == 0:
        return None
    tight = [sample for sample in latest if sample.took_ns > TIGHT * deadline or sample.lost > 0]
    missed = sum(sample.took_ns > deadline or sample.lost > 0 for sample in state.samples[-LONG:])
    if len(tight) >= LATEST_TIGHT:
        why = f"{len(tight)} of {len(latest)} frames took over {TIGHT * deadline / 1e6:.1f} ms or came after a lost one"
    elif missed >= LONG_MISSED and tight:  # and it is not over
        why = f"{missed} of {len(state.samples[-LONG:])} frames took over {deadline / 1e6:.1f} ms"
    else:
        return None
    load = median(sample.took_ns for sample in tight or latest) / ladder.costs_ns[state.rung]
    rung = _largest_that_fits(ladder, load, state.rung - 1)
    hold = min(2 * state.hold_ns, LONGEST_HOLD_NS) if state.rose else state.hold_ns
    above_ns = median(sample.took_ns for sample in latest) if rung == state.rung - 1 else None
    after = GovernorState(rung, step_ns=now_ns, hold_ns=hold, up_from_ns=now_ns + hold, above_ns=above_ns)
    return after, LadderStep(now_ns, state.rung, rung, why)


def _up(ladder: Ladder, state: GovernorState, now_ns: int) -> tuple[GovernorState, LadderStep | None] | None:
    rung = state.rung + 1
    if rung == len(ladder.costs_ns) or (state.up_from_ns is not None and now_ns < state.up_from_ns):
        return None
    recent = sum(now_ns - sample.at_ns <= CALM_NS for sample in state.samples)
    calm = state.samples[-max(recent, CALM_FRAMES) :]
    if len(calm) == len(state.samples) or any(sample.lost for sample in calm):
        return None  # not long enough, or not calm
    took = sorted(sample.took_ns for sample in calm)[int(HIGH * (len(calm) - 1))]
    ratio = ladder.costs_ns[rung] / ladder.costs_ns[state.rung]
    fresh = state.step_ns is not None and now_ns - state.step_ns <= LEARNED_NS
    if state.learned is not None and fresh and ratio <= FAR:  # what is far is tried
        ratio = max(ratio, min(state.learned, MOST_LEARNED * ratio))
    predicted = took * ratio
    if predicted > ROOM * ladder.deadline_ns:
        return None
    if ladder.costs_ns[rung] > FAR * ladder.costs_ns[state.rung] and state.trials < TRIALS:
        return replace(state, trying=True), None
    why = f"it would take {predicted / 1e6:.1f} of {ladder.deadline_ns / 1e6:.1f} ms"
    return (
        GovernorState(rung, step_ns=now_ns, rose=True, hold_ns=state.hold_ns, up_from_ns=now_ns + state.hold_ns),
        LadderStep(now_ns, state.rung, rung, why),
    )


def _largest_that_fits(ladder: Ladder, load: float, highest: int) -> int:
    """The highest rung, up to ``highest``, that fits where everything takes ``load`` times as long as was measured."""
    fits = [rung for rung in range(highest + 1) if ladder.costs_ns[rung] * load <= ROOM * ladder.deadline_ns]
    return fits[-1] if fits else 0
