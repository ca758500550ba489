"""Threads, streams and frames in flight, chosen by a measurement of a second and remembered. Knows no library.

The choices take turns, A B C A B C, and are compared round by round, so that a disturbance meets all of them. The usual
choice stays unless another is clearly better in most rounds. Where other programs used the machine meanwhile nothing is
concluded: the usual choice runs, and it is measured again a day later.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from stream_sr.inference import measured
from stream_sr.pipeline.stall import working
from stream_sr.system.machine import CpuMeter

KIND = "tuning"
SECONDS = 0.3  # that the rounds may take for each choice
LATEST = 1.0  # when they must have begun
FEWEST = 4  # rounds; where they do not fit into the time, the usual choice stays
MOST = 40
TURN_SECONDS = 0.02  # of one choice in one round, at least
CLEARLY = 1.05  # times as fast, in three of four rounds
BUSY = 25.0  # percent of the machine that others may use meanwhile
RETRY_SECONDS = 86_400.0


@dataclass(frozen=True, slots=True)
class Form:
    """How an engine uses the cores."""

    threads: int
    streams: int  # frames that are computed side by side
    depth: int  # frames in flight


class Runner(Protocol):
    """A network in one form, ready to run."""

    def start(self) -> Callable[[], None]:
        """Begin one frame; what is returned waits for it."""
        ...


def choices(threads: int, depth: int, cameras: int = 1) -> list[Form]:
    """The usual choice, and those that are worth a try: for the latency of a frame at depth 1, else for throughput.

    Cameras of one process share the threads: each frame is computed on as many as fall to it when all have one, which
    costs less than that each takes all of them in turn. There is nothing to try then: what one is measured beside the
    others says little of how they will run together.
    """
    if cameras > 1:
        return [Form(threads, min(threads, depth * cameras), depth)]
    if depth == 1:
        half = [Form(threads // 2, 1, 1)] if threads >= 4 else []  # two threads of a core may hinder each other
        return [Form(threads, 1, 1), *half]
    usual = Form(threads, min(depth, threads), depth)
    if threads == 1:
        return [usual]
    found = [usual, Form(threads, 1, depth), Form(threads, usual.streams, depth + 1)]
    for streams in (4, threads // 2):
        if usual.streams < streams < threads or streams == threads == 4:
            found.append(Form(threads, streams, streams))
    return list(dict.fromkeys(found))


def tune(key: str, forms: Sequence[Form], make: Callable[[Form], Runner]) -> tuple[Form, str]:
    """The best of ``forms``, the first of which is the usual, and a note that says what was found here and now.

    Remembered under ``key``; then nothing is measured and the note is empty. One measurement at a time in a process.
    """
    if len(forms) < 2:
        return forms[0], ""
    with _measuring:
        known = measured.recall(KIND).get(key)
        if (form := _known(known, forms)) is not None:
            return form, ""
        rounds = measure(forms, make, others=_Others())
        best, gain = judge(rounds) if rounds else (0, 1.0)
        value: dict[str, Any] = asdict(forms[best]) | {"gain": round(gain, 3), "rounds": len(rounds)}
        if not rounds:
            value["again_after"] = time.time() + RETRY_SECONDS
        measured.remember_if_possible(KIND, key, value)
    return forms[best], _note(forms[best], gain, found=bool(rounds))


_measuring = threading.Lock()


class _Others:
    """Whether other programs use the machine."""

    def __init__(self) -> None:
        self._meter = CpuMeter()

    def __call__(self) -> bool:
        """Since the last call."""
        load = self._meter.percent()
        return load["machine"] - load["process"] > BUSY


def measure(
    forms: Sequence[Form],
    make: Callable[[Form], Runner],
    *,
    others: Callable[[], bool],
    clock: Callable[[], float] = time.perf_counter,
) -> list[list[float]]:
    """Rounds of seconds a frame, one for each form; none where the machine is too busy or too slow for a measurement.

    ``others`` says whether other programs used the machine since it was asked last. Every runner has its first frames,
    which take longer, before the rounds; as soon as the time is over, or others are busy, nothing more is begun.
    """
    latest = clock() + LATEST
    runners, frames, cost = [], [], 0.0
    for form in forms:
        runner = make(form)
        _turn(runner, form.depth, form.depth, clock)
        alone = _turn(runner, form.depth, 2 * form.depth, clock)
        runners.append(runner)
        frames.append(max(2 * form.depth, round(TURN_SECONDS / alone) + 1))
        cost += frames[-1] * alone
        if others() or clock() > latest or FEWEST * cost > SECONDS * len(forms):
            return []
    rounds: list[list[float]] = []
    end = clock() + SECONDS * len(forms)
    while len(rounds) < MOST and clock() < end:
        rounds.append(
            [
                _turn(runner, form.depth, count, clock)
                for runner, form, count in zip(runners, forms, frames, strict=True)
            ]
        )
    return [] if others() or len(rounds) < FEWEST else rounds


def judge(rounds: Sequence[Sequence[float]]) -> tuple[int, float]:
    """Number of the choice to take, and how many times as fast as the usual (the first) it is: 1 for the usual.

    Another than the usual is taken where it is `CLEARLY` faster in three of four rounds; of those the fastest by the
    median.
    """
    best, gain = 0, 1.0
    for number in range(1, len(rounds[0])):
        ratios = sorted(seconds[0] / seconds[number] for seconds in rounds)
        if ratios[len(ratios) // 4] >= CLEARLY and statistics.median(ratios) > gain:
            best, gain = number, statistics.median(ratios)
    return best, gain


def _turn(runner: Runner, depth: int, frames: int, clock: Callable[[], float]) -> float:
    """Seconds a frame, with ``depth`` in flight."""
    flying: deque[Callable[[], None]] = deque()
    began = clock()
    for _ in range(frames):
        flying.append(runner.start())
        if len(flying) >= depth:
            with working("engine"):
                flying.popleft()()
    for wait in flying:
        with working("engine"):
            wait()
    return (clock() - began) / frames


def _known(value: Any, forms: Sequence[Form]) -> Form | None:
    """A remembered choice that is still one of those there are, and whose time has not come to be measured again."""
    if not isinstance(value, Mapping):
        return None
    again_after = value.get("again_after", float("inf"))
    if not isinstance(again_after, int | float) or time.time() > again_after:
        return None
    return next((form for form in forms if asdict(form).items() <= value.items()), None)


def _note(form: Form, gain: float, *, found: bool) -> str:
    words = f"{form.threads} threads, {form.streams} streams, {form.depth} frames in flight"
    if not found:
        return f"{words}: the machine is too busy to choose by measuring; tried again in a day"
    compared = f" {gain:.2f} times as fast as the usual" if gain > 1 else ""
    return f"{words}: measured{compared}, and remembered"
