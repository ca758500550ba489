"""The choice of threads, streams and depth: which there are, how they are measured, and when nothing is concluded."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from stream_sr.inference import measurements
from stream_sr.inference.backends.openvino import tuning
from stream_sr.inference.backends.openvino.tuning import Parallelism, candidates, measure, select_fastest, tune

USUAL, OTHER = Parallelism(2, 2, 2), Parallelism(2, 1, 2)


pytestmark = pytest.mark.usefixtures("own_cache")


class Machine:
    """Time that passes only while frames are computed: ``seconds`` each, by form, times ``disturbed``."""

    def __init__(self, seconds: dict[Parallelism, float]) -> None:
        self.seconds, self.now, self.frames = seconds, 0.0, 0
        self.disturbed: Callable[[], float] = lambda: 1.0
        self.made: list[Parallelism] = []

    def clock(self) -> float:
        return self.now

    def make(self, candidate: Parallelism) -> Machine.Runner:
        self.made.append(candidate)
        return Machine.Runner(self, candidate)

    class Runner:
        def __init__(self, machine: Machine, candidate: Parallelism) -> None:
            self.machine, self.candidate, self.flying = machine, candidate, 0

        def start(self) -> Callable[[], None]:
            self.flying += 1
            assert self.flying <= self.candidate.depth

            def wait() -> None:
                self.flying -= 1
                self.machine.frames += 1
                self.machine.now += self.machine.seconds[self.candidate] * self.machine.disturbed()

            return wait


@pytest.mark.parametrize("threads", [1, 2, 4, 16])
@pytest.mark.parametrize("depth", [1, 2])
def test_the_usual_comes_first_and_each_is_possible(threads: int, depth: int) -> None:
    found = candidates(threads, depth)
    assert found[0] == Parallelism(threads, min(depth, threads), depth)
    assert len(set(found)) == len(found)
    for candidate in found:
        assert 1 <= candidate.streams <= candidate.threads <= threads
        assert candidate.depth >= candidate.streams
        assert candidate.depth == 1 or depth > 1  # a live picture never waits for another
    if threads == 1 or (threads, depth) == (2, 1):
        assert len(found) == 1  # nothing to measure
    if threads == 16:
        assert len(found) == (2 if depth == 1 else 5)


def test_cameras_of_one_process_share_the_threads() -> None:
    assert candidates(16, 1, cameras=4) == [Parallelism(16, 4, 1)]  # each frame on four
    assert candidates(2, 1, cameras=4) == [Parallelism(2, 2, 1)]
    assert candidates(8, 2, cameras=2) == [Parallelism(8, 4, 2)]


def measured(machine: Machine, is_busy: Callable[[], bool] = lambda: False) -> list[list[float]]:
    return measure([USUAL, OTHER], machine.make, is_busy=is_busy, clock=machine.clock)


def test_the_clearly_faster_is_taken_also_where_much_disturbs() -> None:
    numbers = random.Random(1)
    for seconds, expected in ((0.009, 1), (0.0097, 0), (0.011, 0)):
        machine = Machine({USUAL: 0.010, OTHER: seconds})
        machine.disturbed = lambda: 3.0 if numbers.random() < 0.02 else numbers.uniform(1, 1.02)
        rounds = measured(machine)
        assert len(rounds) >= tuning.MIN_ROUNDS
        assert select_fastest(rounds)[0] == expected


def test_a_disturbance_of_some_rounds_changes_nothing() -> None:
    rounds = [[1.0, 0.99]] * 7 + [[3.0, 0.99]] * 3  # the usual was hit three times
    assert select_fastest(rounds) == (0, 1.0)
    best, gain = select_fastest([[1.0, 0.8, 0.7]] * 8)
    assert best == 2
    assert gain == pytest.approx(1 / 0.7)


def test_it_takes_about_a_second() -> None:
    machine = Machine({USUAL: 0.004, OTHER: 0.004})
    measured(machine)
    assert machine.now < 1.0
    slow = Machine({USUAL: 0.2, OTHER: 0.2})
    assert measured(slow) == []
    assert slow.made == [USUAL]  # the others were not even made
    assert slow.now < 1.5


def test_nothing_is_concluded_while_others_use_the_machine() -> None:
    at_once = Machine({USUAL: 0.004, OTHER: 0.001})
    assert measured(at_once, is_busy=lambda: True) == []
    assert at_once.made == [USUAL]
    answers = iter([False, False, True])  # only during the rounds
    assert measured(Machine({USUAL: 0.004, OTHER: 0.001}), is_busy=lambda: next(answers)) == []


def pretend(monkeypatch: pytest.MonkeyPatch, rounds: list[list[float]]) -> list[int]:
    calls: list[int] = []

    def measuring(*_: object, **__: object) -> list[list[float]]:
        calls.append(1)
        return rounds

    monkeypatch.setattr(tuning, "measure", measuring)
    return calls


def test_what_was_found_is_remembered(monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> None:
    machine = Machine({})
    calls = pretend(monkeypatch, [[1.0, 0.5]] * 8)
    candidate, note = tune("a", [USUAL, OTHER], machine.make)
    assert candidate == OTHER
    assert "2.00 times as fast" in note
    assert tune("a", [USUAL, OTHER], machine.make) == (OTHER, "")
    assert len(calls) == 1
    tune("b", [USUAL, OTHER], machine.make)  # another model, size, machine
    assert len(calls) == 2
    assert tune("a", [USUAL, Parallelism(2, 2, 3)], machine.make)[0] == Parallelism(2, 2, 3)  # not one of them now
    assert len(calls) == 3
    (own_cache / "tuning.json").write_text("{damaged")
    tune("a", [USUAL, OTHER], machine.make)
    assert len(calls) == 4
    for value in (None, [1], {"again_after": "soon"}, {"again_after": None}):
        (own_cache / "tuning.json").write_text(json.dumps({"a": value}))
        assert tune("a", [USUAL, OTHER], machine.make)[0] == OTHER
    assert len(calls) == 8
    assert tune("c", [USUAL], machine.make) == (USUAL, "")
    assert len(calls) == 8


def test_a_busy_machine_is_tried_again_a_day_later(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine({})
    calls = pretend(monkeypatch, [])
    candidate, note = tune("a", [USUAL, OTHER], machine.make)
    assert candidate == USUAL
    assert "too busy" in note
    assert tune("a", [USUAL, OTHER], machine.make) == (USUAL, "")  # the next start is not slower
    assert len(calls) == 1
    later = time.time() + tuning.RETRY_SECONDS + 1
    monkeypatch.setattr(time, "time", lambda: later)
    tune("a", [USUAL, OTHER], machine.make)
    assert len(calls) == 2


def test_a_folder_that_cannot_be_written_costs_a_measurement_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("STREAM_SR_CACHE", str(tmp_path / "file"))
    pretend(monkeypatch, [[1.0, 0.5]] * 8)
    assert tune("a", [USUAL, OTHER], Machine({}).make)[0] == OTHER
    with pytest.raises(OSError, match="file"):
        measurements.store("tuning", {"a": 1})


def test_only_so_many_are_remembered(own_cache: Path) -> None:
    measurements.store("tuning", {str(number): number for number in range(measurements.MAX_ENTRIES)})
    measurements.store("tuning", {"new": 1, "5": 55})
    found = json.loads((own_cache / "tuning.json").read_text())
    assert len(found) == measurements.MAX_ENTRIES
    assert (found["new"], found["5"]) == (1, 55)
    assert "0" not in found
