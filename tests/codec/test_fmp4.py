"""Fragmented MP4 of our own, read back by FFmpeg."""

from __future__ import annotations

import io
from fractions import Fraction

import av
import pytest
from media_files import test_picture

from stream_sr.codec import fmp4
from stream_sr.codec.encoder import Encoder
from stream_sr.errors import SinkOpenError
from stream_sr.pipeline.interfaces import EncoderOptions
from stream_sr.pipeline.packets import EncodedStream
from stream_sr.video.color import ColorInfo, Matrix, Range, Siting
from stream_sr.video.frame import Frame, StreamInfo
from stream_sr.video.planes import read_only

BASE = Fraction(1, fmp4.TIMESCALE)
COLOR = ColorInfo(Matrix.BT709, Range.FULL, 1, 1, Siting.LEFT)
INFO = StreamInfo(64, 48, BASE, Fraction(25), color=COLOR)


def stream_of(count: int) -> tuple[EncodedStream, list[bytes]]:
    encoder = Encoder(INFO, EncoderOptions(), live=True)
    parts = [fmp4.init_segment(encoder.stream)]
    for number in range(count):
        frame = Frame(read_only(test_picture(number, 64, 48)), pts=5000 + 3600 * number, time_base=BASE, duration=3600)
        for packet in encoder.encode(frame, keyframe=number == 3):
            parts.append(
                fmp4.fragment(packet.data, sequence=number, time=packet.pts, duration=3600, key=packet.is_keyframe)
            )
    return encoder.stream, parts


def test_every_picture_is_read_back_at_its_time_with_its_colours() -> None:
    stream, parts = stream_of(6)
    assert len(parts) == 7  # nothing is held back
    with av.open(io.BytesIO(b"".join(parts)), "r") as container:
        video = container.streams.video[0]
        packets = [packet for packet in container.demux(video) if packet.size]
        assert [packet.pts for packet in packets] == [5000 + 3600 * number for number in range(6)]
        assert [packet.is_keyframe for packet in packets] == [True, False, False, True, False, False]
        assert video.time_base == BASE
        assert (video.codec_context.width, video.codec_context.height) == (64, 48)
        pictures = [picture for packet in packets for picture in packet.decode()]
        assert len(pictures) + len(video.codec_context.decode(None)) == 6
        assert (int(pictures[0].colorspace), int(pictures[0].color_range)) == (Matrix.BT709, Range.FULL)
    assert fmp4.mime_type(stream).startswith('video/mp4; codecs="avc1.')


def test_a_viewer_may_begin_at_any_keyframe() -> None:
    _, parts = stream_of(6)
    with av.open(io.BytesIO(parts[0] + b"".join(parts[4:])), "r") as container:
        assert len(list(container.decode(video=0))) == 3


def test_a_stream_without_parameter_sets_is_refused() -> None:
    with pytest.raises(SinkOpenError, match="parameter sets"):
        fmp4.init_segment(EncodedStream("h264", b"", INFO))
