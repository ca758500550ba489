"""Session descriptions."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_sr.rtsp.sdp import build_sdp, parse_sdp

SPS_NAL, PPS_NAL = b"\x67\x42\xc0\x1e\x80", b"\x68\xce\x80"


def test_the_description_is_read_as_written() -> None:
    text = build_sdp(host="127.0.0.1", name="x", parameter_sets=[SPS_NAL, PPS_NAL], fps=Fraction(30000, 1001))
    (media,) = parse_sdp(text).media
    assert (media.kind, media.codec, media.clock, media.payload_type) == ("video", "H264", 90000, 96)
    assert media.parameter_sets() == [SPS_NAL, PPS_NAL]
    assert media.parameters["profile-level-id"] == "42C01E"
    assert media.fps == Fraction(30000, 1001)
    assert media.control == "track1"


def test_a_description_with_more_than_we_want() -> None:
    text = (
        "v=0\r\na=control:rtsp://h/base\r\nm=audio 0 RTP/AVP 0\r\na=rtpmap:0 PCMU/8000/1\r\nm=video 0 RTP/AVP 97 98\n"
        "a=rtpmap:98 H265/90000\na=rtpmap:97 h264/90000\na=fmtp:97 ; sprop-parameter-sets=!!,Z0LAHg==;odd\n"
        "a=framerate:nan\nm=\nnonsense\n"
    )
    description = parse_sdp(text)
    assert description.control == "rtsp://h/base"
    audio, video, empty = description.media
    assert (audio.codec, audio.clock) == ("PCMU", 8000)
    assert (video.codec, video.payload_type, video.fps) == ("H264", 97, None)
    assert video.parameter_sets() == [b"\x67\x42\xc0\x1e"]
    assert (empty.kind, empty.payload_type) == ("", None)


@given(st.text(max_size=200))
def test_any_description(text: str) -> None:
    for media in parse_sdp("m=video 0 RTP/AVP 96\n" + text).media:
        media.parameter_sets()


@pytest.mark.parametrize(
    ("text", "rate"), [("25", 25), ("29.97", "30000/1001"), ("25.000", 25), ("0", None), ("1e9", None)]
)
def test_frame_rates(text: str, rate: object) -> None:
    expected = None if rate is None else Fraction(str(rate))
    assert parse_sdp(f"m=video 0 RTP/AVP 96\na=framerate:{text}\n").media[0].fps == expected
