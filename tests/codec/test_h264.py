"""The byte stream of H.264: round trips, and parameter sets against what x264 and FFmpeg make of them."""

from fractions import Fraction

import av
import numpy as np
import pytest
from av.video.codeccontext import VideoCodecContext
from hypothesis import given
from hypothesis import strategies as st

from stream_sr.codec import h264
from stream_sr.video.color import Range, Siting

NALS = st.lists(
    st.binary(min_size=1, max_size=40).map(lambda data: b"\x65" + data.replace(b"\x00", b"\x07") + b"\x80"), max_size=6
)


def encode(
    width: int, height: int, *, frames: int = 1, pix_fmt: str = "yuv420p", params: str = "", full: bool = False
) -> list[bytes]:
    """Access units of a grey picture by libx264, each key with its parameter sets."""
    context = VideoCodecContext.create("libx264", "w")
    assert isinstance(context, VideoCodecContext)
    context.width, context.height, context.pix_fmt = width, height, pix_fmt
    context.time_base, context.framerate = Fraction(1, 30), Fraction(30)
    context.color_range = 2 if full else 0
    context.options = {"preset": "ultrafast", "tune": "zerolatency", "x264-params": f"repeat-headers=1:{params}"}
    units = []
    for index in range(frames):
        frame = av.VideoFrame.from_ndarray(np.full((height, width), 40 + index, np.uint8), format="gray")
        frame = frame.reformat(format=pix_fmt)
        frame.pts = index
        units += [bytes(packet) for packet in context.encode(frame)]
    return units + [bytes(packet) for packet in context.encode(None)]


def sps_of(unit: bytes) -> bytes:
    return h264.parameter_sets(h264.split_annexb(unit))[0][0]


@given(NALS)
def test_splitting_undoes_joining(nals: list[bytes]) -> None:
    stream = h264.join_annexb(nals)
    assert h264.split_annexb(stream) == nals


@given(st.binary(max_size=60))
def test_any_bytes_can_be_split(data: bytes) -> None:
    again = h264.split_annexb(h264.join_annexb(h264.split_annexb(data)))
    assert again == h264.split_annexb(data)


def test_three_byte_start_codes_and_trailing_zeros() -> None:
    assert h264.split_annexb(b"x\x00\x00\x01\x67a\x00\x00\x00\x01\x68b\x00\x00\x00") == [b"\x67a", b"\x68b"]


def test_unescape() -> None:
    assert h264.unescape(b"\x00\x00\x03\x01\x00\x00\x03\x00\x00\x03") == b"\x00\x00\x01\x00\x00\x00\x00"
    assert h264.unescape(b"\x00\x03\x00") == b"\x00\x03\x00"


@pytest.mark.parametrize("size", [(64, 48), (852, 478), (1920, 1080), (16, 16)])
def test_size_with_cropping(size: tuple[int, int]) -> None:
    info = h264.parse_sps(sps_of(encode(*size)[0]))
    assert (info.width, info.height) == size
    assert (info.chroma_format, info.bit_depth, info.interlaced, info.fps) == (1, 8, False, Fraction(30))


def test_what_the_vui_says() -> None:
    params = "sar=4/3:colorprim=bt709:transfer=smpte170m:colormatrix=bt470bg:chromaloc=1"
    info = h264.parse_sps(sps_of(encode(64, 48, params=params, full=True)[0]))
    color = info.color
    assert info.sample_aspect == Fraction(4, 3)
    assert (color.primaries, color.transfer, color.matrix, color.range) == (1, 6, 5, Range.FULL)
    assert color.siting == Siting.CENTER


def test_what_the_vui_does_not_say_is_unknown() -> None:
    color = h264.parse_sps(sps_of(encode(64, 48)[0])).color
    assert (color.matrix, color.primaries, color.transfer, color.range, color.siting) == (2, 2, 2, 0, 0)


@pytest.mark.parametrize(
    ("pix_fmt", "params", "expected"),
    [
        ("yuv422p", "", (2, 8, False)),
        ("yuv444p", "", (3, 8, False)),
        ("yuv420p", "interlaced=1", (1, 8, True)),
        ("yuv420p10le", "", (1, 10, False)),
        ("yuv420p", "cqm=jvt:8x8dct=1", (1, 8, False)),  # scaling lists
    ],
)
def test_formats(pix_fmt: str, params: str, expected: tuple[int, int, bool]) -> None:
    info = h264.parse_sps(sps_of(encode(96, 64, pix_fmt=pix_fmt, params=params)[0]))
    assert (info.chroma_format, info.bit_depth, info.interlaced) == expected
    assert (info.width, info.height) == (96, 64)


@given(st.binary(max_size=80))
def test_no_bytes_break_the_parser(data: bytes) -> None:
    try:
        info = h264.parse_sps(b"\x67" + data)
    except ValueError:
        return
    assert 0 < info.width <= 16384
    assert 0 < info.height <= 16384


def test_a_cut_parameter_set_is_refused() -> None:
    sps = sps_of(encode(64, 48)[0])
    for size in range(8):
        with pytest.raises(ValueError, match=r"cut short|no sequence parameter set"):
            h264.parse_sps(sps[:size])


def test_which_unit_a_decoder_can_start_on() -> None:
    first, second = encode(64, 48, frames=2)
    assert h264.is_random_access(h264.split_annexb(first))
    assert not h264.is_random_access(h264.split_annexb(second))
    assert h264.profile_level_id(sps_of(first)).startswith("42")


def test_intra_refresh_has_recovery_points_and_no_second_idr() -> None:
    units = [h264.split_annexb(unit) for unit in encode(64, 48, frames=12, params="intra-refresh=1:keyint=4")]
    assert [index for index, unit in enumerate(units) if any(h264.nal_type(nal) == h264.IDR for nal in unit)] == [0]
    assert any(h264.is_random_access(unit) for unit in units[1:])


def test_a_recovery_point_behind_a_long_message() -> None:
    other = b"\x05" + b"\xff\x02" + bytes([9]) * 257
    assert h264.is_random_access([b"\x06" + other + b"\x06\x01\x84\x80"])
    assert not h264.is_random_access([b"\x06" + other + b"\x80"])
    assert not h264.is_random_access([b"\x06\xff\xff"])
