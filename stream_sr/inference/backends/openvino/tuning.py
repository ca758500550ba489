"""Choose threads, streams and frames in flight by a benchmark of a second, and store the result. Knows no library.

The candidates take turns, A B C A B C, and are compared round by round, so that a disturbance meets all of them. The
default stays unless another is clearly better in most rounds. Where other programs used the machine meanwhile nothing
is concluded: the default runs, and the benchmark is repeated a day later.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from stream_sr.inference import measurements
from stream_sr.pipeline.stall import working
from stream_sr.system.machine import CpuMeter

KIND = "tuning"
SECONDS_PER_CANDIDATE = 0.3  # that the rounds may take for each candidate
MAX_WARM_UP_SECONDS = 1.0  # within which the rounds must have begun
MIN_ROUNDS = 4  # where they do not fit into the time, the default stays
MAX_ROUNDS = 40
MIN_RUN_SECONDS = 0.02  # of one candidate in one round
MIN_GAIN = 1.05  # times as fast, in three of four rounds
BUSY_PERCENT = 25.0  # of the machine, that other programs may use meanwhile
RETRY_SECONDS = 86_400.0


@dataclass(frozen=True, slots=True)
class Parallelism:
    """How an engine uses the cores: one candidate of the benchmark."""

    threads: int
    streams: int  # frames that are computed side by side
    depth: int  # frames in flight


class Runner(Protocol):
    """A network that is ready to run with one candidate."""

    def start(self) -> Callable[[], None]:
        """Begin one frame; what is returned waits for it."""
        ...


def candidates(threads: int, depth: int, cameras: int = 1) -> list[Parallelism]:
    """Return the default and what is worth a trial: for the latency of a frame at depth 1, else for throughput.

    Cameras of one process share the threads: each frame is computed on as many as fall to it when all have one, which
    costs less than that each takes all of them in turn. There is nothing to try then: what one is measured beside the
    others says little of how they will run together.
    """
    if cameras > 1:
        return [Parallelism(threads, min(threads, depth * cameras), depth)]
    if depth == 1:
        half = [Parallelism(threads // 2, 1, 1)] if threads >= 4 else []  # two threads of a core may hinder each other
        return [Parallelism(threads, 1, 1), *half]
    usual = Parallelism(threads, min(depth, threads), depth)
    if threads == 1:
        return [usual]
    found = [usual, Parallelism(threads, 1, depth), Parallelism(threads, usual.streams, depth + 1)]
    for streams in (4, threads // 2):
        if usual.streams < streams < threads or streams == threads == 4:
            found.append(Parallelism(threads, streams, streams))
    return list(dict.fromkeys(found))


def tune(key: str, candidates: Sequence[Parallelism], make: Callable[[Parallelism], Runner]) -> tuple[Parallelism, str]:
    """Return the best of ``candidates``, the first of which is the default, and a note on what was measured now.

    Stored under ``key``; then nothing is measured and the note is empty. One measurement at a time in a process.
    """
    if len(candidates) < 2:
        return candidates[0], ""
    with _measuring:
        known = measurements.load(KIND).get(key)
        if (candidate := _stored_choice(known, candidates)) is not None:
            return candidate, ""
        rounds = measure(candidates, make, is_busy=_OtherPrograms())
        best, gain = select_fastest(rounds) if rounds else (0, 1.0)
        value: dict[str, Any] = asdict(candidates[best]) | {"gain": round(gain, 3), "rounds": len(rounds)}
        if not rounds:
            value["again_after"] = time.time() + RETRY_SECONDS
        measurements.try_store(KIND, key, value)
    return candidates[best], _note(candidates[best], gain, found=bool(rounds))


_measuring = threading.Lock()


class _OtherPrograms:
    """Whether other programs use the machine, since the last call."""

    def __init__(self) -> None:
        self._meter = CpuMeter()

    def __call__(self) -> bool:
        load = self._meter.percent()
        return load["machine"] - load["process"] > BUSY_PERCENT


def measure(
    candidates: Sequence[Parallelism],
    make: Callable[[Parallelism], Runner],
    *,
    is_busy: Callable[[], bool],
    clock: Callable[[], float] = time.perf_counter,
) -> list[list[float]]:
    """Rounds of seconds a frame, one for each form; none where the machine is too busy or too slow for a measurement.

    ``is_busy`` says whether other programs used the machine since it was asked last. Every runner has its first frames,
    which take longer, before the rounds; as soon as the time is over, or others are busy, nothing more is begun.
    """
    latest = clock() + MAX_WARM_UP_SECONDS
    runners, frames, cost = [], [], 0.0
    for candidate in candidates:
        runner = make(candidate)
        _time_frames(runner, candidate.depth, candidate.depth, clock)
        alone = _time_frames(runner, candidate.depth, 2 * candidate.depth, clock)
        runners.append(runner)
        frames.append(max(2 * candidate.depth, round(MIN_RUN_SECONDS / alone) + 1))
        cost += frames[-1] * alone
        if is_busy() or clock() > latest or MIN_ROUNDS * cost > SECONDS_PER_CANDIDATE * len(candidates):
            return []
    rounds: list[list[float]] = []
    end = clock() + SECONDS_PER_CANDIDATE * len(candidates)
    while len(rounds) < MAX_ROUNDS and clock() < end:
        rounds.append(
            [
                _time_frames(runner, candidate.depth, count, clock)
                for runner, candidate, count in zip(runners, candidates, frames, strict=True)
            ]
        )
    return [] if is_busy() or len(rounds) < MIN_ROUNDS else rounds


def select_fastest(rounds: Sequence[Sequence[float]]) -> tuple[int, float]:
    """Return the index of the fastest and how many times as fast as the default (the first) it is: 1 for the default.

    Another than the default is taken where it is `MIN_GAIN` faster in three of four rounds; of those the fastest by the
    median.
    """
    best, gain = 0, 1.0
    for number in range(1, len(rounds[0])):
        ratios = sorted(seconds[0] / seconds[number] for seconds in rounds)
        if ratios[len(ratios) // 4] >= MIN_GAIN and statistics.median(ratios) > gain:
            best, gain = number, statistics.median(ratios)
    return best, gain


def _time_frames(runner: Runner, depth: int, frames: int, clock: Callable[[], float]) -> float:
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


def _stored_choice(value: Any, candidates: Sequence[Parallelism]) -> Parallelism | None:
    """Return the stored choice if it is one of ``candidates`` and need not be measured again yet."""
    if not isinstance(value, Mapping):
        return None
    again_after = value.get("again_after", float("inf"))
    if not isinstance(again_after, int | float) or time.time() > again_after:
        return None
    return next((candidate for candidate in candidates if asdict(candidate).items() <= value.items()), None)


def _note(candidate: Parallelism, gain: float, *, found: bool) -> str:
    words = f"{candidate.threads} threads, {candidate.streams} streams, {candidate.depth} frames in flight"
    if not found:
        return f"{words}: the machine is too busy to choose by measuring; tried again in a day"
    compared = f" {gain:.2f} times as fast as the default" if gain > 1 else ""
    return f"{words}: measured{compared}, and stored"
