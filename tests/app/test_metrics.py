"""What Prometheus and an orchestrator ask."""

import json
import re
import socket
import urllib.error
import urllib.request
from dataclasses import replace
from typing import Any

import pytest
from doubles import ByteEncoder, CountingSource, DoublingEngine, ListSink, PacketList

from stream_sr.app import metrics
from stream_sr.app.metrics import CameraCollector, MetricsServer
from stream_sr.errors import ConfigError
from stream_sr.pipeline.interfaces import FrameSink, PacketSink
from stream_sr.pipeline.pipeline import Pipeline
from stream_sr.pipeline.plan import Plan
from stream_sr.pipeline.stats import Histogram, ModelStep

pytestmark = [pytest.mark.network, pytest.mark.usefixtures("no_threads_left")]


def ask(server: MetricsServer, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.read().decode()


def value(text: str, name: str, **labels: str) -> float:
    """The sample of this name and these labels."""
    for line in text.splitlines():
        found = re.match(rf"{name}(?:\{{(.*)\}})? (\S+)$", line)
        if found and dict(re.findall(r'(\w+)="([^"]*)"', found[1] or "")) == labels:
            return float(found[2])
    raise AssertionError(f"no {name} {labels} in\n{text}")


def ran(count: int) -> Pipeline:
    sinks: list[FrameSink | PacketSink] = [ListSink(), PacketList()]
    plan = Plan(CountingSource(count), DoublingEngine(), sinks, make_encoder=ByteEncoder)
    pipeline = Pipeline(plan)
    pipeline.run()
    return pipeline


def test_a_run_in_figures() -> None:
    cameras = CameraCollector()
    camera = cameras.add("door")
    with MetricsServer(cameras, 0) as server:
        assert value(ask(server, "/metrics")[1], "stream_sr_up", camera="door") == 0
        camera.attach(ran(12))
        camera.restarts = 3
        status, text = ask(server, "/metrics")
    assert status == 200
    assert value(text, "stream_sr_up", camera="door") == 1
    assert value(text, "stream_sr_restarts_total", camera="door") == 3
    assert value(text, "stream_sr_frames_in_total", camera="door") == 12
    assert value(text, "stream_sr_frames_out_total", camera="door", output="list") == 12
    assert value(text, "stream_sr_latency_seconds_count", camera="door") == 12
    assert value(text, "stream_sr_latency_seconds_bucket", camera="door", le="+Inf") == 12
    assert value(text, "stream_sr_stage_seconds_count", camera="door", stage="infer") == 12
    assert value(text, "stream_sr_queue_depth", camera="door", queue="inference") == 0
    assert value(text, "stream_sr_signal", camera="door") == 1
    assert value(text, "process_resident_memory_bytes") > 10**6


def test_the_model_in_use_and_its_steps() -> None:
    cameras = CameraCollector()
    camera = cameras.add("door")
    pipeline = ran(2)
    engine: Any = pipeline.plan.engine
    with MetricsServer(cameras, 0) as server:
        camera.attach(pipeline)
        fixed = ask(server, "/metrics")[1]
        engine.spec = replace(engine.spec, ladder=("double", "larger"))
        pipeline.stats.step(ModelStep(0, "larger", "double", up=False, why=""))
        auto = ask(server, "/metrics")[1]
    assert value(fixed, "stream_sr_model", camera="door", model="double") == 1
    assert "larger" not in fixed
    assert value(auto, "stream_sr_model", camera="door", model="double") == 1
    assert value(auto, "stream_sr_model", camera="door", model="larger") == 0
    assert value(auto, "stream_sr_model_steps_total", camera="door", direction="down") == 1
    assert value(auto, "stream_sr_model_steps_total", camera="door", direction="up") == 0


def test_health(monkeypatch: pytest.MonkeyPatch) -> None:
    cameras = CameraCollector()
    camera, other = cameras.add("door"), cameras.add("yard")
    with MetricsServer(cameras, 0) as server:
        camera.attach(pipeline := ran(3))
        other.detach("restarting", OSError("away"))
        status, text = ask(server, "/healthz")
        assert status == 200
        assert json.loads(text)["cameras"] == {"door": "live", "yard": "restarting"}
        assert json.loads(text)["errors"] == {"yard": "away"}
        pipeline.plan.source.signal = False  # type: ignore[attr-defined]
        assert json.loads(ask(server, "/healthz")[1])["cameras"]["door"] == "no signal"
        monkeypatch.setattr(metrics, "STUCK_SECONDS", -1.0)
        assert ask(server, "/healthz")[0] == 503
        camera.detach("failed", ConfigError("no such model"))
        status, text = ask(server, "/healthz")
        assert (status, json.loads(text)["errors"]["door"]) == (503, "no such model")
        cameras.remove(camera)
        assert ask(server, "/healthz")[0] == 200
        assert ask(server, "/etc/passwd")[0] == 404


def test_a_client_that_says_nothing_does_not_hold_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics._Handler, "timeout", 0.05)
    with MetricsServer(CameraCollector(), 0) as server, socket.create_connection(("127.0.0.1", server.port)) as silent:
        silent.sendall(b"GET /metr")
        assert ask(server, "/healthz")[0] == 200


def test_a_port_that_is_taken() -> None:
    with MetricsServer(CameraCollector(), 0) as server, pytest.raises(ConfigError, match="cannot be had"):
        MetricsServer(CameraCollector(), server.port)


@pytest.mark.parametrize("ns", [0, 999, 1000, 5_000_000, 10**13])
def test_cumulative_counts(ns: int) -> None:
    histogram: Any = Histogram()
    for duration in (1_000, 2_000_000, 7_000_000, 10**12):
        histogram.record(duration)
    assert histogram.below(ns) == sum(duration <= ns for duration in (1_000, 2_000_000, 7_000_000, 10**12))
