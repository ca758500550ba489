"""How a container is told what it holds: its options, the video stream, and packets in its time base."""

from __future__ import annotations

import io
import logging
import math
from fractions import Fraction
from typing import Any

import av
from av.stream import Disposition
from av.video.stream import VideoStream

from stream_sr.pipeline.packets import EncodedStream, Packet, Passthrough
from stream_sr.video.orientation import Orientation

log = logging.getLogger("stream_sr")

FINEST_MP4_TICK = 1_000_000  # per second; a finer time base leaves too few bits for the distance of two frames
FRAGMENT_SECONDS = 0.2  # what a kill or a full disk costs at most; shorter fragments only cost some hundred bytes each


def muxer_options(kind: str, stream: EncodedStream) -> dict[str, str]:
    """FFmpeg's options for a container: times as they are, and readable whenever the program dies."""
    # Packets come in the order of their times: a track without packets for a while must not hold the others up.
    options = {"flush_packets": "1", "avoid_negative_ts": "disabled", "max_interleave_delta": "1000000"}
    base = stream.info.time_base
    if kind in ("mp4", "mov"):
        ticks = base.denominator
        if ticks > FINEST_MP4_TICK:
            log.info("the time base %s s is too fine for MP4: times are rounded to 1/%d s", base, FINEST_MP4_TICK)
            ticks = FINEST_MP4_TICK
        options |= {
            "movflags": "+hybrid_fragmented+delay_moov",
            "frag_duration": str(round(FRAGMENT_SECONDS * 1_000_000)),
            "video_track_timescale": str(ticks),
            "movie_timescale": str(_movie_ticks(ticks, stream.passthrough)),
        }
    elif kind == "matroska":
        options["cluster_time_limit"] = str(round(FRAGMENT_SECONDS * 1000))
        options["default_mode"] = "passthrough"  # a track is the default one only where it was in the source
    elif (base / Fraction(1, 90_000)).denominator != 1:
        log.info("MPEG-TS counts in 1/90000 s, so the times of the pictures are rounded to them")
    return options


def _movie_ticks(ticks: int, passthrough: Passthrough | None) -> int:
    """Ticks per second in which MP4 says where each track begins: all the tracks' own, if their multiple is usable."""
    for track in passthrough.tracks if passthrough is not None else ():
        common = math.lcm(ticks, getattr(track.template.codec_context, "sample_rate", None) or 1000)
        ticks = common if common < 1 << 31 else ticks
    return ticks


def add_video(container: Any, stream: EncodedStream) -> VideoStream:
    """A stream that takes Annex B packets as they are.

    PyAV offers no stream with given codec parameters; one copied from a parsed template that is only the parameter sets
    is one, and what it does not know yet (size, colours) can be set before the header is written.
    """
    info = stream.info
    template: Any = av.open(io.BytesIO(stream.extradata), format=stream.codec)
    with template:
        video: VideoStream = container.add_stream_from_template(template.streams.video[0], opaque=True)
    context = video.codec_context
    context.width, context.height, context.pix_fmt = info.width, info.height, "yuv420p"
    context.extradata = stream.extradata
    context.sample_aspect_ratio = info.sample_aspect
    context.colorspace, context.color_range = int(info.color.matrix), int(info.color.range)
    context.color_primaries, context.color_trc = info.color.primaries, info.color.transfer
    if info.fps is not None:
        context.framerate = info.fps
    video.time_base = info.time_base
    video.metadata.update(info.metadata.video_tags)
    if info.metadata.video_disposition:
        video.disposition = Disposition(info.metadata.video_disposition)
    if info.orientation != Orientation.UPRIGHT:
        video.set_display_matrix(info.orientation.matrix)
    return video


def av_packet(packet: Packet, stream: VideoStream, offset: int) -> av.Packet[Any]:
    muxed: av.Packet[Any] = av.Packet(packet.data)
    muxed.time_base = packet.time_base
    muxed.pts, muxed.dts = packet.pts - offset, packet.dts - offset
    muxed.duration = packet.duration
    muxed.is_keyframe = packet.is_keyframe
    muxed.stream = stream
    return muxed
