from fractions import Fraction
from pathlib import Path

import av
import pytest

from stream_sr.codec.y4m import format_header, parse_header
from stream_sr.errors import DecodeError
from stream_sr.video.color import ColorInfo, Range, Siting
from stream_sr.video.frame import StreamInfo


@pytest.mark.parametrize("siting", [Siting.CENTER, Siting.LEFT, Siting.TOPLEFT])
@pytest.mark.parametrize("color_range", [Range.LIMITED, Range.FULL])
def test_round_trip(siting: Siting, color_range: Range) -> None:
    info = StreamInfo(
        853,
        479,
        Fraction(1, 90000),
        fps=Fraction(30000, 1001),
        color=ColorInfo(range=color_range, siting=siting),
        sample_aspect=Fraction(16, 15),
    )
    header = parse_header(format_header(info))
    assert (header.info.width, header.info.height) == (853, 479)
    assert header.info.fps == info.fps
    assert header.info.time_base == Fraction(1001, 30000)
    assert header.info.sample_aspect == info.sample_aspect
    assert header.info.color == info.color
    assert header.pixels == "yuv420p"


@pytest.mark.parametrize(
    ("line", "pixels"),
    [
        (b"YUV4MPEG2 W64 H48 F25:1\n", "yuv420p"),
        (b"YUV4MPEG2 W64 H48 F25:1 Ip A0:0 C420jpeg XYSCSS=420JPEG", "yuv420p"),
        (b"YUV4MPEG2 C422 W64 H48 F25:1 I?\n", "yuv422p"),
        (b"YUV4MPEG2 W64 H48 F25:1 C444\n", "yuv444p"),
        (b"YUV4MPEG2 W64 H48 F25:1 Cmono\n", "gray"),
    ],
)
def test_forms(line: bytes, pixels: str) -> None:
    header = parse_header(line)
    assert (header.width, header.height) == (64, 48)
    assert header.fps == 25
    assert header.sample_aspect == 1
    assert header.pixels == pixels


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"\x00\x00\x00\x18ftypmp42", "not y4m"),
        (b"YUV4MPEG2 W64 F25:1\n", "no usable height"),
        (b"YUV4MPEG2 W0 H48 F25:1\n", "no usable width"),
        (b"YUV4MPEG2 W-5 H48 F25:1\n", "no usable width"),
        (b"YUV4MPEG2 W64 H48\n", "no frame rate"),
        (b"YUV4MPEG2 W64 H48 F0:0\n", "no frame rate"),
        (b"YUV4MPEG2 W64 H48 F25:1 It\n", "interlaced .*bwdif"),
        (b"YUV4MPEG2 W64 H48 F25:1 C420p10 XYSCSS=420P10\n", "C420p10 cannot be read: more than 8 bits"),
        (b"YUV4MPEG2 W64 H48 F25:1 Cmono16\n", "more than 8 bits"),
        (b"YUV4MPEG2 W64 H48 F25:1 C444alpha\n", "C444alpha cannot be read: this chroma format"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(line: bytes, message: str) -> None:
    with pytest.raises(DecodeError, match=message) as caught:
        parse_header(line)
    assert "\n" not in str(caught.value)


def test_ffmpeg_reads_our_header(tmp_path: Path) -> None:
    info = StreamInfo(
        66, 50, Fraction(1, 50), fps=Fraction(50), color=ColorInfo(range=2, siting=1), sample_aspect=Fraction(4, 3)
    )
    path = tmp_path / "x.y4m"
    path.write_bytes(format_header(info) + b"FRAME\n" + bytes(66 * 50 * 3 // 2))
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height) == (66, 50)
        assert stream.average_rate == 50
        assert stream.sample_aspect_ratio == Fraction(4, 3)
        assert stream.codec_context.color_range == 2
