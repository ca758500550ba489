"""The start that waits for nothing: a slow build, a crash, an error, an end in the middle; the picture always runs."""

from __future__ import annotations

import sys
import threading
from collections import deque
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from test_hot_swap import Tagged, frame_of, tag_of

from stream_sr.errors import EngineBuildError
from stream_sr.inference.backends.tensorrt import library
from stream_sr.inference.background_build import BackgroundBuildEngine
from stream_sr.inference.model import list_models
from stream_sr.pipeline.engine import EngineOptions
from stream_sr.system import machine
from stream_sr.video.frame import StreamInfo

SLOW = """
import json, pathlib, sys, time
asked = json.load(sys.stdin)
for share in (0.1, 0.3, 0.6, 1.0):
    print(json.dumps({"doing": "building it", "share": share}), flush=True)
while not pathlib.Path(asked["gate"]).exists():
    time.sleep(0.01)
print(json.dumps({"done": True}))
"""
CRASH = "import os, sys, signal; sys.stdin.read(); os.kill(os.getpid(), signal.SIGSEGV)"
ERROR = 'import sys; sys.stdin.read(); print(\'{"error": "no kernel for this GPU"}\'); sys.exit(4)'
TRACEBACK = "import sys; sys.stdin.read(); raise RuntimeError('out of ideas')"
SILENT = "import sys; sys.stdin.read()"
NOISE = 'import sys; sys.stdin.read(); print("not JSON"); print("[1]"); print(\'{"done": true}\')'
HANG = "import time; time.sleep(600)"


def starting(code: str, built: Any, ready: Tagged, **asked: str) -> BackgroundBuildEngine:
    return BackgroundBuildEngine(ready, dict(asked), built, command=(sys.executable, "-c", code))


def test_a_slow_build_is_swapped_in_between_two_frames(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "stream_sr")
    ready, better = Tagged(1, depth=2), Tagged(2, depth=2)
    gate = tmp_path / "gate"
    engine = starting(SLOW, lambda: better, ready, gate=str(gate))
    tags, flying = [], deque([engine.submit(frame_of(0))])
    for number in range(1, 50):
        flying.append(engine.submit(frame_of(number)))
        tags.append(tag_of(flying.popleft().wait()))
    assert set(tags) == {1}, "before the build is over"
    gate.touch()
    assert engine.finished.wait(30)
    for number in range(50, 60):
        flying.append(engine.submit(frame_of(number)))
        tags.append(tag_of(flying.popleft().wait()))
    assert tags == [1] * 50 + [2] * 9
    assert engine.progress == ""
    assert "building it, 100 %" in caplog.text
    assert engine.spec.notes == ("frame 50: m2 x2 on double (uint8) took over from m1 x2 on double (uint8)",)
    flying.popleft().wait()
    engine.close()
    engine.close()
    assert (ready.closed, better.closed) == (1, 1)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (CRASH, "the builder was ended by SIGSEGV"),
        (ERROR, "no kernel for this GPU"),
        (TRACEBACK, "the builder ended with code 1: RuntimeError: out of ideas"),
        (SILENT, "the builder ended without a result"),
    ],
)
def test_what_goes_wrong_leaves_the_picture_running_and_is_said(code: str, reason: str) -> None:
    ready = Tagged(1, depth=1)
    engine = starting(code, lambda: pytest.fail("nothing was built"), ready)
    assert engine.finished.wait(30)
    assert tag_of(engine.submit(frame_of(0)).wait()) == 1
    assert engine.spec.notes == (f"no other engine takes over: {reason}",)
    engine.close()


def test_an_engine_that_cannot_be_opened_is_said_too() -> None:
    def fail() -> Any:
        raise EngineBuildError("the GPU went away")

    engine = starting(NOISE, fail, Tagged(1, depth=1))
    assert engine.finished.wait(30)
    assert engine.spec.notes == ("no other engine takes over: the GPU went away",)
    engine.close()


def test_closing_ends_the_builder() -> None:
    ready = Tagged(1, depth=1)
    engine = starting(HANG, lambda: pytest.fail("nothing was built"), ready)
    engine.close()
    assert engine._process.returncode == -9
    assert (ready.closed, engine.spec.notes) == (1, ())


def test_closing_while_the_built_engine_opens_closes_it() -> None:
    opening, go_on, late = threading.Event(), threading.Event(), Tagged(2, depth=1)

    def open_slowly() -> Any:
        opening.set()
        assert go_on.wait(30)
        return late

    engine = starting(NOISE, open_slowly, Tagged(1, depth=1))
    assert opening.wait(30)
    go_on.set()
    engine.close()
    assert late.closed == 1


def test_an_engine_that_was_asked_for_meanwhile_stays(tmp_path: Path) -> None:
    ready, asked_for, built = (Tagged(n, depth=1) for n in (1, 2, 3))
    gate = tmp_path / "gate"
    engine = starting(SLOW, lambda: built, ready, gate=str(gate))
    engine.offer(asked_for)
    gate.touch()
    assert engine.finished.wait(30)
    assert tag_of(engine.submit(frame_of(0)).wait()) == 2
    assert built.closed == 1
    engine.close()


def test_a_builder_that_is_not_there() -> None:
    ready = Tagged(1, depth=1)
    with pytest.raises(FileNotFoundError):
        BackgroundBuildEngine(ready, {}, lambda: ready, command=("/no/such/builder",))
    assert ready.closed == 1


def test_what_runs_until_the_engine_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole way with the real builder and engines; only the GPU and what opens on it are doubles."""
    from stream_sr.inference import background_build
    from stream_sr.inference.availability import Availability
    from stream_sr.inference.backends.tensorrt import engine as tensorrt
    from stream_sr.inference.backends.tensorrt import library as found

    if not library.is_rtx() or machine.cuda().devices:
        pytest.skip("TensorRT-RTX on a machine without a GPU")
    monkeypatch.setenv("STREAM_SR_CACHE", str(tmp_path))
    monkeypatch.setattr(found, "can_run", lambda device: Availability(True, "1.0", "a double"))
    monkeypatch.setattr(tensorrt, "allocator", lambda device: None)
    model, info = list_models()[0], StreamInfo(32, 16, Fraction(1, 25), fps=Fraction(25))
    finished: list[Any] = []

    def finish(engine: Any) -> Any:
        finished.append(engine)
        return engine

    for fps, backend in ((Fraction(1), "openvino"), (Fraction(10**9), "bicubic")):
        options = EngineOptions(backend="tensorrt")
        slow = StreamInfo(32, 16, info.time_base, fps=fps)
        engine = background_build.open_with_background_build(model, slow, options, finish=finish)
        assert isinstance(engine, BackgroundBuildEngine)
        assert engine.spec.backend == backend
        assert any("until the TensorRT engine is built" in note for note in engine.spec.notes)
        assert engine.finished.wait(60)
        assert "no other engine takes over" in engine.spec.notes[-1], "nothing can run it here"
        engine.close()
    assert background_build.open_with_background_build(None, info, EngineOptions(), finish=finish) is None
    assert (
        background_build.open_with_background_build(model, info, EngineOptions(backend="openvino"), finish=finish)
        is None
    )
