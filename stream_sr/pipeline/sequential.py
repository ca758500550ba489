"""A run in one thread: what the threaded `pipeline.Pipeline` is compared with."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace

from stream_sr.pipeline.packets import Packet
from stream_sr.pipeline.plan import Plan, branch_passthrough, split_sinks
from stream_sr.pipeline.stages import upscale
from stream_sr.pipeline.stats import Stats
from stream_sr.video.frame import Frame


def run_sequential(plan: Plan) -> Stats:
    """The same run in one thread, frame by frame, with the same result bit for bit. Not for live sources.

    Raises the first failure, after the sinks were closed.
    """
    stats, clock, output = Stats(), plan.clock, plan.output
    frame_sinks, packet_sinks = split_sinks(plan.sinks)
    names = [stats.add_output(sink.name) for sink in plan.sinks]
    encoder = plan.make_encoder(output) if packet_sinks and plan.make_encoder else None

    def captured() -> Iterator[Frame]:
        for frame in plan.source.frames():
            stats.count("frames_in")
            yield replace(frame, color=output.color)

    def send(packets: Sequence[Packet]) -> None:
        for packet in packets:
            for sink in packet_sinks:
                sink.write(packet)

    with ExitStack() as stack:
        for closing in [*plan.sinks, *([encoder] if encoder else [])]:
            stack.callback(closing.close)
        for frame_sink in frame_sinks:
            frame_sink.open(output)
        if encoder is not None:
            for sink, passthrough in zip(
                packet_sinks, branch_passthrough(plan.source.passthrough, packet_sinks), strict=True
            ):
                sink.open(encoder.stream.with_passthrough(passthrough))
        for frame in upscale(captured(), plan.engine, clock=clock, stats=stats, with_source=plan.with_source):
            began = clock.now_ns()
            for frame_sink in frame_sinks:
                frame_sink.write(frame)
            if encoder is not None:
                send(encoder.encode(frame))
            for name in names:
                stats.output(name, frame.captured_ns, began, clock.now_ns())
        if encoder is not None:
            send(encoder.flush())
        for sink in packet_sinks:
            sink.complete()
    return stats
