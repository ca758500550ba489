"""A run of real parts: the threads change no bit of what comes out."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import replace
from fractions import Fraction
from hashlib import sha256
from pathlib import Path
from queue import Queue
from typing import Any

import av
import pytest
from media_files import write_video
from peers import free_port
from websockets import Origin
from websockets.sync.client import connect

from stream_sr.app import engine_setup
from stream_sr.app.engine_setup import choose_model, open_fitted_engine
from stream_sr.app.report import expected_frames
from stream_sr.app.session import RunHooks, RunResult, run
from stream_sr.codec.encoder import Encoder
from stream_sr.config import Config
from stream_sr.errors import ModelError
from stream_sr.inference.backends.openvino import precision as openvino_precision
from stream_sr.pipeline.interfaces import EncoderOptions, SinkOptions, SourceOptions
from stream_sr.pipeline.pipeline import Pipeline
from stream_sr.pipeline.plan import Plan
from stream_sr.pipeline.sequential import run_sequential
from stream_sr.pipeline.threads import Worker
from stream_sr.sinks import open_sink
from stream_sr.sources import open_source
from stream_sr.video.frame import StreamInfo

pytestmark = pytest.mark.network


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_threaded_and_sequential_files_are_the_same_bytes(tmp_path: Path, ending: str, precision: str) -> None:
    """Decoder, network, encoder and muxer as shipped, with sound; two frames in flight in the one, one in the other."""
    if precision == "bf16" and not openvino_precision.cpu().bf16:
        pytest.skip("this CPU has no bf16")
    write_video(tmp_path / "in.mkv", width=128, height=96, count=40, audio_seconds=1.6)
    config = Config(precision=precision)
    for threaded in (True, False):
        with ExitStack() as stack:
            sink = stack.enter_context(closing(open_sink(str(tmp_path / f"{threaded}.{ending}"), SinkOptions())))
            source = stack.enter_context(closing(open_source(str(tmp_path / "in.mkv"), SourceOptions())))
            engine = open_fitted_engine(config, source.info, live=not threaded)
            stack.callback(engine.close)
            assert engine.depth == (2 if threaded else 1)
            plan = Plan(
                source,
                engine,
                [sink],
                make_encoder=lambda info: Encoder(info, EncoderOptions(), live=False),
                poison=True,
            )
            stats = Pipeline(plan).run() if threaded else run_sequential(plan)
            assert stats.summary()["frames_out"] == 40
    with_threads, without = (tmp_path / f"{threaded}.{ending}" for threaded in (True, False))
    assert with_threads.stat().st_size > 10_000
    if ending == "mkv":  # Matroska gives each file a random identity
        assert packets(with_threads) == packets(without)
        assert with_threads.stat().st_size == without.stat().st_size
    else:
        assert with_threads.read_bytes() == without.read_bytes()


def packets(file: Path) -> list[tuple[str, int | None, int | None, bool, str]]:
    """Every packet in the order of the file."""
    with av.open(str(file)) as container:
        return [
            (packet.stream.type, packet.pts, packet.dts, packet.is_keyframe, sha256(bytes(packet)).hexdigest())
            for packet in container.demux()
        ]


@pytest.mark.usefixtures("own_cache")
def test_what_a_page_asks_for_happens_in_the_running_filter(tmp_path: Path) -> None:
    """Another network between two frames, another scale at the same size, and a recording that is whole."""
    port = free_port()
    host = f"127.0.0.1:{port}"
    running: Queue[Pipeline] = Queue()
    outcomes: list[RunResult] = []

    def work() -> None:
        config = Config(model="fsrcnn-s", record_dir=tmp_path)
        hooks = RunHooks(started=running.put, show_status=False)
        outcomes.append(run("synthetic:128x96@30", ["null:", f"web:{port}"], config, hooks))

    worker = Worker("filter", work)
    pipeline = running.get(timeout=60)
    try:
        with connect(f"ws://{host}/stream", origin=Origin(f"http://{host}"), compression=None) as page:

            def wait_for(condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
                while True:
                    message = page.recv(timeout=60)
                    said = json.loads(message) if isinstance(message, str) else {}
                    if said.get("type") == "figures" and condition(said):
                        return said

            def ask(name: str, value: str) -> None:
                page.send(json.dumps({"type": "set", "name": name, "value": value}))

            assert wait_for(lambda f: f["frames_out"] > 0)["engine"]["model"] == "fsrcnn-s"
            ask("record", "on")
            wait_for(lambda f: f["controls"]["recording"]["seconds"] > 0)
            ask("model", "fsrcnn")
            figures = wait_for(lambda f: f["engine"]["model"] == "fsrcnn")
            assert figures["controls"]["choices"]["model"]["value"] == "fsrcnn"
            ask("scale", "3")
            figures = wait_for(lambda f: f["engine"]["scale"] == 3)
            assert (figures["output"]["width"], figures["output"]["height"]) == (256, 192)
            ask("backend", "bicubic")
            wait_for(lambda f: f["engine"]["backend"] == "bicubic")
            ask("record", "off")
            name = wait_for(lambda f: not f["controls"]["recording"]["on"])["controls"]["recording"]["file"]
            last = wait_for(lambda f: True)["frames_out"]
            wait_for(lambda f: f["frames_out"] > last + 3)
    finally:
        pipeline.stop()
        assert worker.join(60)
    assert worker.error is None
    assert outcomes[0].error is None
    assert outcomes[0].report["dropped"].get("unfinished", 0) == 0
    with av.open(str(tmp_path / name), "r") as film:
        pictures = [(picture.width, picture.height, picture.pts) for picture in film.decode(video=0)]
    assert len(pictures) > 3
    assert {picture[:2] for picture in pictures} == {(256, 192)}
    assert pictures == sorted(pictures)


@pytest.mark.usefixtures("own_cache")
def test_the_page_turns_auto_off_and_on(tmp_path: Path) -> None:
    """Begun with --model auto; a model that is named ends it, auto begins it again; the report knows the ladder."""
    port = free_port()
    host = f"127.0.0.1:{port}"
    running: Queue[Pipeline] = Queue()
    outcomes: list[RunResult] = []

    def work() -> None:
        hooks = RunHooks(started=running.put, show_status=False)
        outcomes.append(run("synthetic:128x96@30", ["null:", f"web:{port}"], Config(model="auto"), hooks))

    worker = Worker("filter", work)
    pipeline = running.get(timeout=60)
    try:
        with connect(f"ws://{host}/stream", origin=Origin(f"http://{host}"), compression=None) as page:

            def wait_for(value: str, on: bool) -> dict[str, Any]:
                while True:
                    message = page.recv(timeout=60)
                    said = json.loads(message) if isinstance(message, str) else {}
                    choices = said.get("controls", {}).get("choices", {})
                    if choices and choices["model"]["value"] == value and bool(said.get("auto", {}).get("on")) == on:
                        return said

            assert wait_for("auto", True)["auto"]["ladder"][0] == "bicubic"
            page.send(json.dumps({"type": "set", "name": "model", "value": "fsrcnn-s"}))
            assert wait_for("fsrcnn-s", False)["engine"]["model"] == "fsrcnn-s"
            page.send(json.dumps({"type": "set", "name": "model", "value": "auto"}))
            wait_for("auto", True)
    finally:
        pipeline.stop()
        assert worker.join(60)
    assert worker.error is None
    assert outcomes[0].error is None
    assert outcomes[0].report["auto"]["on"]
    assert outcomes[0].report["model"] in outcomes[0].report["auto"]["ladder"]


def test_a_live_stream_takes_the_weights_that_are_tuned_for_cameras() -> None:
    film = StreamInfo(640, 360, Fraction(1, 25))
    camera = replace(film, live=True)

    def weights(config: Config, info: StreamInfo | None) -> str:
        model, _ = choose_model(config, info)
        assert model is not None
        return model.weights

    assert [weights(Config(model="fast"), info) for info in (None, film, camera)] == ["clean", "clean", "camera"]
    assert weights(Config(model="fast", weights="clean"), camera) == "clean"
    assert weights(Config(model="fsrcnn"), camera) == "clean"  # there is no other
    with pytest.raises(ModelError, match="is not tuned for camera, only for clean"):
        choose_model(Config(model="fsrcnn", weights="camera"), film)


@pytest.mark.parametrize(
    ("info", "options", "wanted"),
    [
        ({"frame_count": 999}, {}, False),
        ({"frame_count": 1000}, {}, True),
        ({"frame_count": 1000}, {"duration": 3.0}, False),
        ({"duration_seconds": 10.0}, {}, False),
        ({"duration_seconds": 100.0}, {"duration": 90.0}, True),
        ({}, {}, True),  # a pipe
    ],
)
def test_only_a_long_file_is_worth_a_measurement(info: dict[str, Any], options: dict[str, Any], wanted: bool) -> None:
    stream = StreamInfo(64, 48, Fraction(1, 25), Fraction(25), **info)
    assert engine_setup._is_long(Config(**options), stream) == wanted


def test_how_many_frames_are_expected() -> None:
    info = StreamInfo(64, 48, Fraction(1, 1000), Fraction(25), duration_seconds=10.0)
    assert expected_frames(info, Config()) == 250  # a container that does not count them
    assert expected_frames(replace(info, frame_count=248), Config()) == 248
    assert expected_frames(replace(info, frame_count=248), Config(duration=2)) == 50
    started = replace(info, duration_seconds=4.0)  # a source tells what is left after --start
    assert expected_frames(started, Config(start=6)) == 100
    assert expected_frames(replace(info, duration_seconds=None), Config()) is None
    assert expected_frames(replace(info, fps=None), Config(duration=2)) is None
