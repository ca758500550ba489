"""A run of real parts: the threads change no bit of what comes out."""

from __future__ import annotations

from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from media_files import write_video

from stream_sr.backends import openvino
from stream_sr.codec.encoder import Encoder
from stream_sr.config import Config
from stream_sr.media import EncoderOptions, SinkOptions, SourceOptions
from stream_sr.pipeline import Pipeline, Plan, run_sequential
from stream_sr.session import open_fitted_engine
from stream_sr.sinks import open_sink
from stream_sr.sources import open_source


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_threaded_and_sequential_files_are_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, precision: str
) -> None:
    """Decoder, network, encoder and muxer as shipped, with sound; two frames in flight in the one, one in the other."""
    if precision == "bf16" and not openvino.cpu()[1]:
        pytest.skip("this CPU has no bf16")
    monkeypatch.setenv("STREAM_SR_CACHE", str(tmp_path / "cache"))
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
    with_threads, without = ((tmp_path / f"{threaded}.{ending}").read_bytes() for threaded in (True, False))
    assert len(with_threads) > 10_000
    if ending == "mkv":  # Matroska gives each file a random identity
        assert len(with_threads) == len(without)
    else:
        assert with_threads == without
