"""The figures that displays are shown, from a real run of the doubles."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from doubles import CountingSource, DoublingEngine, ListSink

from stream_sr.app.telemetry import (
    LATEST_NOTES,
    LATEST_STEPS,
    Telemetry,
    _named,
    auto_figures,
    auto_line,
    engine_figures,
    strip_folder,
)
from stream_sr.pipeline.engine import EngineSpec
from stream_sr.pipeline.pipeline import Pipeline
from stream_sr.pipeline.plan import Plan
from stream_sr.pipeline.stats import ModelStep, Stats


def test_figures_of_a_run_are_json_and_add_up() -> None:
    sink = ListSink(close_at=200)
    plan = Plan(CountingSource(None), DoublingEngine(), [sink])
    telemetry = Telemetry(plan)
    seen: list[dict[str, Any]] = [telemetry.figures(Stats())]
    Pipeline(plan).run(tick=lambda stats: seen.append(telemetry.figures(stats)), tick_seconds=0.005)
    first, last = seen[0], json.loads(json.dumps(seen[-1], allow_nan=False))
    assert first["latency_ms"] == {"p50": None, "p99": None}
    assert last["frames_out"] == 200
    assert last["fps_out"] > 0
    assert 0 < last["latency_ms"]["p50"] <= last["latency_ms"]["p99"]
    assert (last["source"]["width"], last["output"]["width"]) == (16, 32)
    assert last["signal"] is True
    assert last["memory_mib"] > 1
    assert last["outputs"]["list"]["frames"] == 200


def test_only_the_latest_notes_are_told() -> None:
    spec = EngineSpec("b", "m", 2, 4, 4, "fp32", "CPU", notes=tuple(str(number) for number in range(50)))
    assert engine_figures(spec)["notes"] == [str(number) for number in range(50 - LATEST_NOTES, 50)]


def stepped() -> Stats:
    stats = Stats()
    stats.add_output("null:")
    stats.output("null:", 0, 0, 10**9)
    for second in range(2, 10):
        down = second % 2 == 0
        models = ("large", "small") if down else ("small", "large")
        stats.step(ModelStep(second * 10**9, *models, up=not down, why="it was so"))
    return stats


def test_steps_of_the_model_are_told() -> None:
    fixed = EngineSpec("b", "large", 2, 4, 4, "fp32", "CPU")
    chosen = replace(fixed, ladder=("small", "large"))
    assert auto_figures(fixed, Stats()) == {}
    assert auto_line(fixed, stepped()) == ""
    assert auto_figures(chosen, Stats())["auto"]["steps"] == []
    told = auto_figures(chosen, stepped(), LATEST_STEPS)["auto"]
    assert (told["on"], told["ladder"], told["up"], told["down"]) == (True, ["small", "large"], 4, 4)
    assert len(told["steps"]) == LATEST_STEPS
    assert told["steps"][-1] == {"seconds": 8.0, "from": "small", "to": "large", "why": "it was so"}
    assert len(auto_figures(chosen, stepped())["auto"]["steps"]) == 8
    ended = auto_figures(fixed, stepped())["auto"]  # a person chose a model
    assert (ended["on"], ended["ladder"], len(ended["steps"])) == (False, [], 8)
    assert auto_line(chosen, stepped()) == "auto: large, 8 steps"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("/home/me/secret project/out.mp4", "out.mp4"),
        ("out.mp4", "out.mp4"),
        ("synthetic photographs",) * 2,
        ("rtsp://camera/stream",) * 2,
        ("images:/home/me/%d.png", "images:%d.png"),
        ("web:[::1]:8080",) * 2,
        ("v4l2:/dev/video3", "v4l2:video3"),
    ],
)
def test_a_page_does_not_tell_where_files_lie(name: str, shown: str) -> None:
    assert strip_folder(name) == shown


def test_two_outputs_of_one_name_are_both_told() -> None:
    assert _named({"/a/out.mp4": 1, "web:8080": 2, "/b/out.mp4": 3}) == {"out.mp4": 1, "web:8080": 2, "out.mp4 (3)": 3}
