"""Changing the engine of a running filter: checked at once, made on another thread, refused without harm."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import pytest

from stream_sr.app.controls import RunControls
from stream_sr.config import Config
from stream_sr.errors import ConfigError, EngineBuildError
from stream_sr.inference.auto_model import AutoModelEngine
from stream_sr.inference.engines import open_engine
from stream_sr.inference.model import PRESETS, find_model
from stream_sr.pipeline.engine import Engine, EngineOptions
from stream_sr.pipeline.stats import Stats
from stream_sr.video.frame import Frame, StreamInfo
from stream_sr.video.planes import empty_planes, read_only

INFO = StreamInfo(64, 48, Fraction(1, 25))


@dataclass
class Opened:
    """Opens bicubic engines whatever is asked for, and remembers what was; ``gate`` holds it until it is set."""

    requests: list[Config] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)
    done: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    fail: bool = False

    def __call__(self, config: Config, info: StreamInfo, size: tuple[int, int]) -> Engine:
        self.requests.append(config)
        self.done.release()
        assert self.gate.wait(20)
        if self.fail:
            raise EngineBuildError("it cannot be built")
        assert size == (128, 96)
        return open_engine(None, info, EngineOptions(backend="bicubic"), scale=2)


class Tape:
    def __init__(self) -> None:
        self.on = False

    def switch(self, on: bool) -> None:
        self.on = on

    def state(self) -> dict[str, Any]:
        return {"on": self.on}


@pytest.fixture
def opened() -> Opened:
    found = Opened()
    found.gate.set()
    return found


@pytest.fixture
def controls(opened: Opened) -> Iterator[RunControls]:
    made = RunControls(Config(backend="bicubic"), opened, Tape())
    yield made
    opened.gate.set()
    made.close()


def wrapped(controls: RunControls) -> Any:
    return controls.wrap(open_engine(None, INFO, EngineOptions(backend="bicubic"), scale=2), INFO)


def run_frame(engine: Engine) -> None:
    planes = empty_planes(64, 48)
    for plane in planes:
        plane.fill(100)
    engine.submit(Frame(read_only(planes), pts=0, time_base=INFO.time_base)).wait()


def wait_for_message(controls: RunControls, text: str) -> None:
    for _ in range(2000):
        if text in controls.state()["message"] and (text or not controls.state()["message"]):
            return
        threading.Event().wait(0.01)
    raise AssertionError(controls.state())


def test_a_change_is_made_beside_the_running_engine_and_takes_over_with_a_frame(
    controls: RunControls, opened: Opened
) -> None:
    engine = wrapped(controls)
    opened.gate.clear()
    controls.change("model", "fsrcnn-s")
    assert opened.done.acquire(timeout=20)
    run_frame(engine)  # meanwhile
    assert engine.spec.notes == ()
    assert "preparing" in controls.state()["message"]
    opened.gate.set()
    wait_for_message(controls, "")
    run_frame(engine)
    assert "took over" in engine.spec.notes[-1]
    assert (opened.requests[0].model, opened.requests[0].backend) == ("fsrcnn-s", "auto")
    engine.close()


def test_of_many_requests_the_newest_is_made(controls: RunControls, opened: Opened) -> None:
    engine = wrapped(controls)
    opened.gate.clear()
    controls.change("model", "fsrcnn-s")
    assert opened.done.acquire(timeout=20)
    for scale in ("2", "3", "4"):
        controls.change("scale", scale)
    opened.gate.set()
    assert opened.done.acquire(timeout=20)
    wait_for_message(controls, "")
    assert [request.scale for request in opened.requests] == [None, 4]
    engine.close()


def test_an_engine_that_cannot_be_opened_leaves_the_other_alone_and_says_why(
    controls: RunControls, opened: Opened
) -> None:
    engine = wrapped(controls)
    opened.fail = True
    controls.change("scale", "4")
    wait_for_message(controls, "it cannot be built")
    run_frame(engine)
    assert engine.spec.notes == ()
    assert controls.config.scale is None  # what could not be is no beginning for the next request
    engine.close()


@pytest.mark.parametrize(("name", "value"), [
    ("model", "nonsense"), ("model", ""), ("model", "../../etc/passwd"), ("model", "/tmp/x.onnx"), ("scale", "9"),
    ("backend", "nonsense"), ("record", "maybe"), ("threads", "1000"), ("size", "1x1"),
])  # fmt: skip
def test_what_is_no_choice_is_refused_at_once(controls: RunControls, opened: Opened, name: str, value: str) -> None:
    engine = wrapped(controls)
    with pytest.raises(ConfigError):
        controls.change(name, value)
    assert opened.requests == []
    engine.close()


def test_choices_say_what_is_and_what_may_be(controls: RunControls) -> None:
    engine = wrapped(controls)
    choices = controls.state()["choices"]
    assert choices["scale"] == {"value": "2", "values": ["1", "2", "3", "4"], "keys": ["1", "2", "3", "4"]}
    assert choices["backend"]["value"] == "bicubic"
    names = choices["model"]["values"]
    assert "fsrcnn-s" in names
    assert "weights" not in choices  # which weights there are is the networks' affair
    presets = [name for name in names if name in PRESETS]
    assert choices["model"]["keys"] == names[1:], "the first key is the first model, also while none runs"
    assert names == ["", *sorted(presets, key=PRESETS.index), *sorted(set(names) - {"", *presets})]
    engine.close()


def test_of_a_live_input_auto_may_be_chosen_and_left(opened: Opened) -> None:
    """The loop is on while the engine has a ladder, whatever rung it is on."""
    live = replace(INFO, live=True)
    controls = RunControls(Config(model="auto"), opened)
    bottom = open_engine(None, INFO, EngineOptions(backend="bicubic"), scale=2)
    top = open_engine(find_model("tiny", 2), INFO, EngineOptions(backend="openvino", precision="fp32", threads=1))
    ladder = AutoModelEngine([bottom, top], [90e6, 91e6], deadline_ns=1e6, stats=Stats())
    engine = controls.wrap(ladder, live)
    assert engine.spec.model == "bicubic"  # for the moment
    choices = controls.state()["choices"]
    assert choices["model"]["value"] == "auto"
    assert choices["model"]["values"][-1] == "auto"
    assert "auto" not in choices["model"]["keys"]
    assert choices["scale"]["values"] == ["2", "3", "4"]
    assert choices["weights"]["values"] == ["clean", "camera"]
    for name, value in (("weights", "clean"), ("model", "fast"), ("model", "auto")):
        controls.change(name, value)
        assert opened.done.acquire(timeout=20)
        wait_for_message(controls, "")
    assert [(request.model, request.weights) for request in opened.requests] == [
        ("auto", "clean"),
        ("fast", None),
        ("auto", None),
    ]
    run_frame(engine)
    assert controls.state()["choices"]["model"]["value"] != "auto"  # what was opened is no ladder
    controls.close()
    engine.close()


def test_a_file_has_no_auto(controls: RunControls) -> None:
    engine = wrapped(controls)
    with pytest.raises(ConfigError, match="not 'auto'"):
        controls.change("model", "auto")
    engine.close()


def test_an_engine_that_runs_no_more_gets_no_other(controls: RunControls, opened: Opened) -> None:
    engine, other = wrapped(controls), wrapped(controls)
    other.close()
    controls.change("scale", "3")
    assert opened.done.acquire(timeout=20)
    wait_for_message(controls, "")
    controls.close()
    assert len(opened.requests) == 1
    engine.close()


def test_recording_is_switched(controls: RunControls) -> None:
    engine = wrapped(controls)
    controls.change("record", "on")
    assert controls.state()["recording"] == {"on": True}
    controls.change("record", "off")
    assert controls.state()["recording"] == {"on": False}
    without = RunControls(Config(), Opened())
    with pytest.raises(ConfigError, match="--record-dir"):
        without.change("record", "on")
    engine.close()


def test_after_closing_a_change_is_nothing(controls: RunControls, opened: Opened) -> None:
    engine = wrapped(controls)
    controls.close()
    controls.change("scale", "3")
    assert opened.requests == []
    engine.close()
