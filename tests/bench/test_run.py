"""The engine bench measures every frame, fills the engine's depth, and prints only what was measured."""

import json
from collections import deque
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_sr.bench.engine import EngineSubject, bench_engine, make_pictures, spread
from stream_sr.bench.report import format_stages, format_trtexec
from stream_sr.errors import ConfigError, EngineRunError
from stream_sr.pipeline.engine import EngineOptions, EngineSpec
from stream_sr.pipeline.stats import Stats
from stream_sr.video.frame import Frame

BICUBIC = EngineOptions(backend="bicubic")


class Recorder:
    """An engine that hands the frame back and refuses more in flight than its depth."""

    allocate = None

    def __init__(self, depth: int) -> None:
        self.spec = EngineSpec("recorder", "none", 1, 64, 48, "uint8", "CPU")
        self.depth = depth
        self.flying: deque[Frame] = deque()
        self.deepest = 0
        self.numbers: list[int] = []
        self.closed = False

    def submit(self, frame: Frame, slot: Any = None) -> Any:
        if len(self.flying) == self.depth:
            raise EngineRunError("too many in flight")
        self.flying.append(frame)
        self.numbers.append(frame.number)
        self.deepest = max(self.deepest, len(self.flying))
        return self

    def wait(self) -> Frame:
        return self.flying.popleft()

    def close(self) -> None:
        self.closed = True


@pytest.fixture(params=[1, 2, 3])
def recorder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    engine = Recorder(request.param)
    monkeypatch.setattr("stream_sr.bench.engine.open_engine", lambda *_, **__: engine)
    return engine


def test_a_real_engine(capsys: pytest.CaptureFixture[str]) -> None:
    result = bench_engine(None, 480, 270, BICUBIC, scale=2, frames=60)
    assert (result["frames"], result["backend"], result["scale"]) == (60, "bicubic", 2)
    latency = result["latency_ms"]
    order = [latency[key] for key in ("min", "p50", "p90", "p95", "p99", "max")]
    assert order[0] > 0
    assert order == sorted(order)
    assert result["fps"] == pytest.approx(60 / result["wall_seconds"], rel=0.1)
    assert result["cpu_ms_per_frame"] > 0
    assert set(result["cpu_percent"]) == {"process", "others"}
    json.dumps(result, allow_nan=False)
    assert capsys.readouterr().out == ""


def test_the_depth_is_filled_and_every_frame_is_another(recorder: Recorder) -> None:
    result = bench_engine(None, 64, 48, BICUBIC, frames=40)
    assert recorder.deepest == recorder.depth == result["depth"]
    assert len(recorder.numbers) == 1 + 5 + 40  # the first, the warm-up, the timed
    timed = recorder.numbers[6:]
    assert all(a != b for a, b in pairwise(timed))
    assert not recorder.flying
    assert recorder.closed


def test_it_ends_after_its_time_and_when_it_is_told(recorder: Recorder) -> None:
    assert bench_engine(None, 64, 48, BICUBIC, seconds=0.02)["frames"] >= 1
    subject = EngineSubject(None, (64, 48), BICUBIC, seconds=600, stop=lambda: True)
    subject.warm_up()
    assert subject.turn().frames == 1


@pytest.mark.parametrize("nothing", [{"frames": 0}, {"seconds": 0}])
def test_nothing_to_measure_is_refused(nothing: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="at least one frame"):
        bench_engine(None, 64, 48, BICUBIC, **nothing)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (64, 36), (853, 479)])
def test_pictures_have_the_size_and_differ(width: int, height: int) -> None:
    pictures = make_pictures(width, height)
    assert 2 <= len(pictures) <= 32
    for picture in pictures:
        assert picture.planes[0].shape == (height, width)
        assert picture.planes[1].shape == picture.planes[2].shape == (-(-height // 2), -(-width // 2))
        assert not any(plane.flags.writeable for plane in picture.planes)
    if width > 1:
        assert len({picture.planes[0].tobytes() for picture in pictures}) == len(pictures)


@given(st.lists(st.integers(1, 10**10), min_size=1, max_size=200))
def test_spread_is_nearest_rank(durations: list[int]) -> None:
    figures = spread(durations)
    for percent in (50, 90, 95, 99):
        exact = np.percentile(durations, percent, method="inverted_cdf")
        assert figures[f"p{percent}"] == pytest.approx(exact / 1e6, abs=6e-4)
    assert figures["mean"] == pytest.approx(np.mean(durations) / 1e6, abs=6e-4)


def test_the_print_has_trtexec_s_lines_and_nothing_that_was_not_measured(recorder: Recorder) -> None:
    result = bench_engine(None, 64, 48, BICUBIC, frames=3)
    lines = format_trtexec(result).splitlines()
    assert f"Throughput: {result['fps']:.6g} qps" in lines
    row = next(line for line in lines if line.startswith("Latency: "))
    ms = result["latency_ms"]
    assert row == (
        f"Latency: min = {ms['min']:g} ms, max = {ms['max']:g} ms, mean = {ms['mean']:g} ms, "
        f"median = {ms['p50']:g} ms, percentile(90%) = {ms['p90']:g} ms, percentile(95%) = {ms['p95']:g} ms, "
        f"percentile(99%) = {ms['p99']:g} ms"
    )
    assert f"Enqueue Time: min = {result['enqueue_ms']['min']:g} ms" in format_trtexec(result)
    assert not [line for line in lines if line.startswith(("H2D", "D2H", "GPU Compute"))]


def test_the_stages_of_a_run_in_the_order_of_the_way() -> None:
    stats = Stats()
    stats.count("frames_in", 3)
    stats.drop("late")
    for name, ms in (("encode", 5), ("infer", 20), ("decode", 1), ("glass", 2), ("wait", 3)):
        stats.stage(name, ms * 1_000_000)
    name = stats.add_output("null:")
    stats.output(name, 0, 30_000_000, 30_000_000)
    stats.output(name, 1_000_000_000, 1_030_000_000, 1_030_000_000)
    lines = format_stages(stats.summary()).splitlines()
    titles = [line[:18].strip() for line in lines]
    assert titles[:8] == ["ms", "decode", "wait", "infer", "encode", "write", "glass", "capture to output"]
    assert lines[3].split()[1] == f"{stats.summary()['stages_ms']['infer']['p50']:.2f}"
    assert lines[-1] == "3 frames in, 2 out, 1.0 fps, dropped: late 1"


def test_a_run_without_a_frame_prints_no_figures() -> None:
    assert format_stages(Stats().summary()).splitlines()[1:] == ["0 frames in, 0 out, 0.0 fps, dropped: none"]
