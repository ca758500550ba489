"""A file to measure on, for whoever has none: the synthetic source, encoded as fast as it can be drawn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from stream_sr.codec.encoder import Encoder
from stream_sr.inference.engines import open_engine
from stream_sr.pipeline.engine import EngineOptions
from stream_sr.pipeline.interfaces import EncoderOptions, SinkOptions, Source, SourceOptions
from stream_sr.pipeline.packets import Passthrough
from stream_sr.pipeline.plan import Plan
from stream_sr.pipeline.sequential import run_sequential
from stream_sr.sinks import open_sink
from stream_sr.sources.synthetic import SyntheticSource, parse_scene
from stream_sr.video.frame import Frame, StreamInfo
from stream_sr.video.frame_pool import FramePool
from stream_sr.video.timing import ManualClock


class DrawnClip:
    """The synthetic source by a clock that does not wait; not live, so that nothing is dropped."""

    passthrough: Passthrough | None = None

    def __init__(self, address: str, seconds: float) -> None:
        options = SourceOptions(duration=seconds)
        self._source = SyntheticSource(parse_scene(address), options, clock=ManualClock())
        self.info: StreamInfo = replace(self._source.info, live=False)

    def frames(self, pool: FramePool | None = None) -> Iterator[Frame]:
        return self._source.frames(pool)

    def stop(self) -> None:
        self._source.stop()

    def counters(self) -> dict[str, int]:
        return {}

    def close(self) -> None:
        self._source.close()


def make_clip(address: str, seconds: float, path: Path) -> Path:
    """Encode ``seconds`` of a ``synthetic:`` address as H.264 into ``path``; the same pictures each time.

    Raises ConfigError for another address, SourceOpenError where photographs are wanted and not installed, and what a
    file sink raises.
    """
    return write_clip(DrawnClip(address, seconds), path, crf=18)


def write_clip(source: Source, path: Path, *, crf: float) -> Path:
    """Encode a source as it is, by libx264 ultrafast, and close it. Raises what a source and a file sink raise."""
    engine = open_engine(None, source.info, EngineOptions(backend="bicubic"), scale=1)
    options = EncoderOptions(encoder="libx264", crf=crf, preset="ultrafast")
    try:
        sink = open_sink(str(path), SinkOptions(overwrite=True))
        run_sequential(Plan(source, engine, [sink], make_encoder=lambda info: Encoder(info, options, live=False)))
    finally:
        engine.close()
        source.close()
    return path
