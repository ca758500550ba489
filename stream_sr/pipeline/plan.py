"""What a run consists of, and which of its sinks take frames, packets and the passthrough tracks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeGuard

from stream_sr.pipeline.engine import Engine
from stream_sr.pipeline.interfaces import FrameEncoder, FrameSink, PacketSink, Source
from stream_sr.pipeline.packets import Passthrough
from stream_sr.video.color import guess_unknown
from stream_sr.video.frame import Frame, StreamInfo
from stream_sr.video.timing import Clock, MonotonicClock


@dataclass(frozen=True)
class Plan:
    """Everything that a run consists of, opened but for the sinks."""

    source: Source
    engine: Engine
    sinks: Sequence[FrameSink | PacketSink]
    make_encoder: Callable[[StreamInfo], FrameEncoder] | None = None  # needed by packet sinks
    max_latency_ns: int | None = None  # live frames older than this are dropped before inference
    seen: Callable[[Frame, Frame], None] = lambda before, after: None  # shown each pair, both borrowed
    clock: Clock = field(default_factory=MonotonicClock)
    stall_seconds: float | None = None  # that engine or encoder may work on one frame; None: for ever
    poison: bool = False  # overwrite returned frame memory, for tests

    @property
    def output(self) -> StreamInfo:
        """Size and colour of what the sinks get. What the source leaves unsaid is guessed from *its* size."""
        info, (width, height) = self.source.info, self.engine.spec.output_size
        color = guess_unknown(info.color, width=info.width, height=info.height)
        return replace(info, width=width, height=height, color=color)

    @property
    def with_source(self) -> bool:
        """Whether a sink asks for the source pictures beside the results."""
        return any(sink.with_source for sink in split_sinks(self.sinks)[0])


def branch_passthrough(passthrough: Passthrough | None, sinks: Sequence[PacketSink]) -> list[Passthrough | None]:
    """A passthrough for each sink that takes one; packets that nobody takes are dropped at once."""
    if passthrough is None:
        return [None for _ in sinks]
    branches: list[Passthrough | None] = []
    first: Passthrough | None = passthrough
    for sink in sinks:
        if not sink.takes_passthrough:
            branches.append(None)
            continue
        branches.append(passthrough.branch() if first is None else first)
        first = None
    if first is not None:
        first.shut()
    return branches


def is_packet_sink(sink: FrameSink | PacketSink) -> TypeGuard[PacketSink]:
    """Whether a sink takes encoded packets."""
    return hasattr(sink, "wants_keyframe")


def counters_of(sink: FrameSink | PacketSink) -> dict[str, int]:
    """What an output counts, see `interfaces.PacketSink`; nothing where it does not. From any thread."""
    counters: Callable[[], dict[str, int]] | None = getattr(sink, "counters", None)
    return {} if counters is None else counters()


def split_sinks(sinks: Sequence[FrameSink | PacketSink]) -> tuple[list[FrameSink], list[PacketSink]]:
    """Those that take frames and those that take packets."""
    packets = [sink for sink in sinks if is_packet_sink(sink)]
    return [sink for sink in sinks if sink not in packets], packets  # type: ignore[misc]
