"""Which video stream of a container is read, and what is known of it and of the tracks beside it."""

from __future__ import annotations

import logging
from fractions import Fraction
from typing import Any

import av
from av.container import InputContainer

from stream_sr.codec.decoder import detached
from stream_sr.codec.picture import orientation_of
from stream_sr.codec.still import ANIMATED_BRANDS, STILL_BRANDS
from stream_sr.errors import SourceOpenError
from stream_sr.pipeline.packets import Track
from stream_sr.video.orientation import Orientation

logger = logging.getLogger(__name__)

TEXT_CODECS = {"ansi", "bintext", "xbin", "idf"}  # FFmpeg paints a text file as a terminal would


def choose_video_stream(container: InputContainer, name: str) -> Any:
    """The best video stream that is not a cover picture."""
    streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if not streams:
        kinds = ", ".join(sorted({s.type for s in container.streams})) or "nothing"
        raise SourceOpenError(f"{name} has no video stream (it holds: {kinds})")
    brand = container.metadata.get("major_brand", "").encode()
    if brand in STILL_BRANDS and len(streams) > 1:
        raise SourceOpenError(f"{name} is a picture of several parts (HEIC, AVIF); give it as a local file")
    if brand in ANIMATED_BRANDS:  # its first picture is there once more, as a still
        streams = [s for s in streams if s.frames != 1] or streams
    stream = next((s for s in streams if s.disposition & av.stream.Disposition.default), streams[0])
    if stream.codec_context is None:
        raise SourceOpenError(f"{name}: its video codec is not known to this FFmpeg")
    if stream.codec_context.name in TEXT_CODECS:
        raise SourceOpenError(f"{name} is a text file, not a video")
    return stream


def describe_track(index: int, stream: Any) -> Track:
    codec = stream.codec_context
    rate, layout = getattr(codec, "sample_rate", None), getattr(codec, "layout", None)
    return Track(
        index,
        stream.type,
        codec.name,
        detached(stream),
        rate or 0,
        layout.nb_channels if layout is not None else 0,
        bytes(codec.extradata or b""),
    )


def sample_aspect(stream: Any) -> Fraction:
    ratio = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio
    return Fraction(ratio) if ratio and ratio > 0 else Fraction(1)


def stated_orientation(picture: av.VideoFrame, name: str) -> Orientation:
    """What the display matrix states, be it of the container or of the bitstream. Only quarter turns can be kept."""
    orientation = orientation_of(picture)
    if orientation is None:
        degrees = -picture.rotation % 360  # FFmpeg counts the other way
        logger.warning("%s asks to be turned by %d degrees; only quarter turns are kept", name, degrees)
        return Orientation.UPRIGHT
    return orientation
