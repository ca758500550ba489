"""Several engines ready at once: a step costs no frame, and real networks step under a real load."""

from __future__ import annotations

import json
import logging
import threading
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from doubles import CountingSource, DoublingEngine, ListSink
from test_hot_swap import FAILS, GOOD, REFUSES, Tagged, frame_of, tag_of

from stream_sr.app.engine_setup import warm_up
from stream_sr.errors import EngineRunError
from stream_sr.inference import auto_model, governor
from stream_sr.inference.auto_model import AutoModelEngine, open_auto_model
from stream_sr.inference.hot_swap import SwapEngine
from stream_sr.inference.model import ModelSpec, model_ladder
from stream_sr.pipeline.engine import Engine, EngineOptions, Pending
from stream_sr.pipeline.interfaces import Source
from stream_sr.pipeline.pipeline import Pipeline
from stream_sr.pipeline.plan import Plan
from stream_sr.pipeline.stats import Stats
from stream_sr.video.frame import Frame, StreamInfo
from stream_sr.video.frame_pool import Slot

INFO = StreamInfo(64, 48, Fraction(1, 30), Fraction(30), live=True)
FRAME_NS = 33_333_333


class Clock:
    """A clock that the test turns; each look at it takes ``tick``."""

    def __init__(self) -> None:
        self.now, self.tick = 0, 0

    def __call__(self) -> int:
        self.now += self.tick
        return self.now


def auto_model_tags(clock: Clock, stats: Stats, *, depth: int = 1) -> tuple[AutoModelEngine, list[Tagged]]:
    engines = [Tagged(tag, depth=depth) for tag in range(3)]
    return AutoModelEngine(engines, [1e6, 6e6, 10e6], deadline_ns=FRAME_NS, stats=stats, now_ns=clock), engines


def feed(engine: Engine, clock: Clock, numbers: range, took_ms: float) -> list[int]:
    """Frames at 30 a second that take so long each; which engine made them."""
    tags = []
    for number in numbers:
        clock.now = number * FRAME_NS
        clock.tick = round(took_ms * 1e6)
        tags.append(tag_of(engine.submit(frame_of(number)).wait()))
    return tags


def test_it_goes_down_under_load_and_up_after_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "stream_sr")
    clock, stats = Clock(), Stats()
    stats.add_output("list")
    stats.output("list", 0, 0, 1)
    engine, engines = auto_model_tags(clock, stats)
    assert engine.spec.model == "m2"
    assert engine.spec.ladder == ("m0", "m1", "m2")
    assert set(feed(engine, clock, range(100), 10)) == {2}
    under_load = feed(engine, clock, range(100, 130), 40)
    assert under_load[:3] == [2, 2, 2]
    assert under_load[-1] == 1
    assert engine.spec.model == "m1"
    after = feed(engine, clock, range(130, 300), 6)
    assert (after[0], after[-1]) == (1, 2)
    report = stats.steps()
    assert (report["down"], report["up"]) == (1, 1)
    assert [(step["from"], step["to"]) for step in report["steps"]] == [("m2", "m1"), ("m1", "m2")]
    assert [step["seconds"] for step in report["steps"]] == sorted(step["seconds"] for step in report["steps"])
    assert "m1 after m2" in caplog.text
    engine.close()
    assert [one.closed for one in engines] == [1, 1, 1]


def test_frames_that_are_lost_for_want_of_time_count_and_others_do_not() -> None:
    clock, stats = Clock(), Stats()
    engine, _ = auto_model_tags(clock, stats)
    for number in range(40):
        stats.drop("slow output")
        assert feed(engine, clock, range(number, number + 1), 10) == [2]
    for number in range(40, 50):
        stats.drop("overload")
        feed(engine, clock, range(number, number + 1), 10)
    assert engine.spec.model == "m1"
    engine.close()


def test_what_is_in_flight_at_a_step_comes_back_in_order() -> None:
    clock, stats = Clock(), Stats()
    engine, _ = auto_model_tags(clock, stats, depth=2)
    flying = [engine.submit(frame_of(0))]
    tags = []
    clock.tick = 40_000_000
    for number in range(1, 30):
        flying.append(engine.submit(frame_of(number)))
        result = flying.pop(0).wait()
        assert result.number == number - 1
        tags.append(tag_of(result))
    assert tags[0] == 2
    assert tags[-1] < 2
    assert tags == sorted(tags, reverse=True)
    with pytest.raises(EngineRunError, match="in flight"):
        for number in (30, 31):
            engine.submit(frame_of(number))


class Remembering(Tagged):
    """Keeps which frames it was told follow on nothing."""

    def __init__(self, tag: int) -> None:
        super().__init__(tag, depth=1)
        self.breaks: list[int] = []
        self.submitted = 0

    def submit(self, frame: Frame, slot: Slot | None = None) -> Pending:
        self.submitted += 1
        if frame.discontinuity:
            self.breaks.append(frame.number)
        return super().submit(frame, slot)


def test_an_engine_that_takes_over_forgets_what_it_saw_long_ago() -> None:
    engines = [Remembering(tag) for tag in range(2)]
    clock = Clock()
    engine = AutoModelEngine(engines, [1e6, 10e6], deadline_ns=FRAME_NS, stats=Stats(), now_ns=clock)
    feed(engine, clock, range(10), 40)
    assert len(engines[0].breaks) == 1
    assert engines[1].breaks == []
    clock.tick = 0
    broken = replace(frame_of(99), discontinuity=True)
    assert engine.submit(broken).wait().discontinuity
    engine._has_switched = True
    assert not engine.submit(frame_of(100)).wait().discontinuity  # the stream itself goes on
    assert engines[0].breaks[1:] == [99, 100]
    engine.close()


def test_over_a_far_step_the_larger_network_is_tried_aside() -> None:
    """It computes the same frames, and nobody sees that."""
    clock = Clock()
    engines = [Remembering(tag) for tag in range(2)]
    engine = AutoModelEngine(engines, [1e6, 10e6], deadline_ns=FRAME_NS, stats=Stats(), now_ns=clock)
    feed(engine, clock, range(10), 40)
    seen = engines[1].submitted
    assert set(feed(engine, clock, range(10, 160), 2)) == {0, 1}
    assert engines[1].submitted - seen > governor.TRIALS
    assert engine.spec.model == "m1"
    engine.close()


@pytest.mark.parametrize("kind", [REFUSES, FAILS])
def test_a_trial_that_fails_ends_nothing(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """The network that computes goes on, and the log says why it stays; later the other is tried again."""
    clock = Clock()
    engines = [Remembering(tag) for tag in range(2)]
    engine = AutoModelEngine(engines, [1e6, 10e6], deadline_ns=FRAME_NS, stats=Stats(), now_ns=clock)
    feed(engine, clock, range(10), 40)
    engines[1].kind = kind
    assert set(feed(engine, clock, range(10, 400), 2)) == {0}
    assert engine.spec.model == "m0"
    assert "m1 failed aside" in caplog.text
    engines[1].kind = GOOD
    feed(engine, clock, range(400, 800), 2)
    assert engine.spec.model == "m1"
    engine.close()


def test_a_picture_that_stands_still_becomes_better() -> None:
    """Only the best result of it is shown again instead of being computed."""
    clock = Clock()
    engine, engines = auto_model_tags(clock, Stats())
    for one in engines:
        one.spec = replace(one.spec, is_deterministic=True)
    assert engine.spec.is_deterministic
    feed(engine, clock, range(10), 40)
    assert engine.spec.model == "m1"
    assert not engine.spec.is_deterministic
    feed(engine, clock, range(10, 400), 6)
    assert engine.spec.model == "m2"
    assert engine.spec.is_deterministic
    engine.close()


def test_within_an_engine_that_can_be_exchanged_the_model_is_told_as_it_is_now() -> None:
    clock = Clock()
    engine, engines = auto_model_tags(clock, Stats())
    swap = SwapEngine(engine)
    feed(swap, clock, range(10), 40)
    assert swap.spec.model == "m1"
    swap.offer(Tagged(9, depth=1))
    assert feed(swap, clock, range(10, 12), 1) == [9, 9]
    assert swap.spec.ladder == ()
    assert [one.closed for one in engines] == [1, 1, 1]
    swap.close()


class Slow(DoublingEngine):
    """Takes ``seconds`` of real time for a frame, and more while ``busy`` is set."""

    def __init__(self, name: str, seconds: float, busy: threading.Event) -> None:
        super().__init__()
        self.spec = replace(self.spec, model=name)
        self._seconds, self._busy = seconds, busy

    def submit(self, frame: Frame, slot: Slot | None = None) -> Any:
        time.sleep(self._seconds * (4 if self._busy.is_set() else 1))
        return super().submit(frame, slot)


class Paced(CountingSource):
    """A live source of 25 frames a second."""

    def frames(self, pool: Any = None) -> Any:
        for frame in super().frames(pool):
            time.sleep(0.04)
            yield frame


def test_real_threads_step_down_and_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole pipeline, with a load that comes and goes; nothing is said of speed, and the waits are shortened."""
    monkeypatch.setattr(governor, "BETWEEN_STEPS_NS", 0)
    monkeypatch.setattr(governor, "CALM_NS", 0)
    busy, stats = threading.Event(), Stats()
    engines = [Slow("small", 0.004, busy), Slow("large", 0.012, busy)]
    engine = AutoModelEngine(engines, [4e6, 12e6], deadline_ns=40e6, stats=stats)
    engine._state = replace(engine._state, hold_ns=0)
    source: Source = Paced(None, live=True)
    pipeline = Pipeline(Plan(source, engine, [ListSink()]), stats)
    seen: list[str] = []

    def tick(_: Stats) -> None:
        model = engine.spec.model
        if model not in seen[-1:]:
            seen.append(model)
        if seen == ["large"]:
            busy.set()
        elif seen[-2:] == ["large", "small"]:
            busy.clear()
        elif seen[-2:] == ["small", "large"]:
            pipeline.stop()

    pipeline.run(tick=tick, tick_seconds=0.01)
    assert seen[-3:] == ["large", "small", "large"]
    report = stats.steps()
    assert report["down"] >= 1
    assert report["up"] >= 1
    assert json.loads(json.dumps(report)) == report


def finish(engine: Engine) -> Engine:
    warm_up(engine, INFO)
    return engine


@pytest.fixture
def models(own_cache: Path) -> list[ModelSpec]:
    return [model for model in model_ladder(2) if model.name in ("tiny", "fast")]


def timed(monkeypatch: pytest.MonkeyPatch, seconds: dict[str, float]) -> None:
    monkeypatch.setattr(auto_model, "seconds_per_frame", lambda engine, info, trials: seconds[engine.spec.model])


@pytest.mark.usefixtures("own_cache")
def test_the_shipped_ladder_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    models = model_ladder(2)
    timed(monkeypatch, {"bicubic": 0.001, "tiny": 0.005, "fast": 0.009, "balanced": 0.05, "quality": 0.06})
    options = EngineOptions(backend="openvino", precision="fp32", threads=1)
    engine = open_auto_model(models, INFO, options, deadline_ns=FRAME_NS, stats=Stats(), finish=finish)
    try:
        assert engine.spec.ladder == ("bicubic", *(model.name for model in models))
        assert (engine.spec.model, engine.spec.backend) == ("fast", "openvino")
        assert "bicubic 1.0, tiny 5.0, fast 9.0, balanced 50.0" in engine.spec.notes[-1]
        warm_up(engine, INFO)
    finally:
        engine.close()


def test_what_is_hopeless_or_no_faster_here_is_left_out(
    models: list[ModelSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    def ladder(**seconds: float) -> tuple[str, ...]:
        timed(monkeypatch, seconds)
        options = EngineOptions(backend="openvino", precision="fp32", threads=1)
        engine = open_auto_model(models, INFO, options, deadline_ns=FRAME_NS, stats=Stats(), finish=finish)
        engine.close()
        return engine.spec.ladder

    assert ladder(bicubic=0.001, tiny=0.005, fast=0.2) == ("bicubic", "tiny")
    assert ladder(bicubic=0.001, tiny=0.3, fast=0.4) == ("bicubic", "tiny")  # one network stays, whatever it takes
    assert ladder(bicubic=0.001, tiny=0.0105, fast=0.01) == ("bicubic", "fast")


def test_a_preset_whose_engine_is_still_to_be_built_is_left_out(
    models: list[ModelSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    timed(monkeypatch, {"bicubic": 0.001, "tiny": 0.005, "fast": 0.009})
    monkeypatch.setattr(auto_model, "needs_build", lambda model, info, options: model.name == "fast")
    options = EngineOptions(backend="openvino", precision="fp32", threads=1)
    engine = open_auto_model(models, INFO, options, deadline_ns=FRAME_NS, stats=Stats(), finish=finish)
    engine.close()
    assert engine.spec.ladder == ("bicubic", "tiny")
    assert "engine build --model fast --scale 2 --weights clean --input-size 64x48" in engine.spec.notes[-1]
