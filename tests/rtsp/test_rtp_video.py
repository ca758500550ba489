"""H.264 and HEVC in RTP: what is cut is put together again, and any bytes are taken without a complaint."""

import itertools
from typing import Any

import av
import numpy as np
import pytest
from av.video.codeccontext import VideoCodecContext
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_sr.codec import hevc
from stream_sr.codec.h264 import join_annexb, split_annexb
from stream_sr.rtsp.rtp import Depacketiser, Packetiser, Reorder, WallClock, parse_sender_reports, sender_report
from stream_sr.rtsp.rtp_video import H264, HEVC, Payload

CODECS = [pytest.param(H264, "libx264", id="h264"), pytest.param(HEVC, "libx265", id="hevc")]


def encode(encoder: str, count: int) -> list[bytes]:
    """Access units of a moving texture; keyframes every eight."""
    context: Any = VideoCodecContext.create(encoder, "w")
    context.width, context.height, context.pix_fmt = 192, 108, "yuv420p"
    context.time_base = context.framerate = 30
    context.gop_size = 8
    quiet = {"x265-params": "log-level=none:repeat-headers=1"} if encoder == "libx265" else {}
    more = {"x264-params": "repeat-headers=1"} if encoder == "libx264" else {}
    context.options = {"preset": "ultrafast", "tune": "zerolatency"} | quiet | more
    texture = np.random.default_rng(5).integers(0, 255, (256, 320), np.uint8)
    units = []
    for index in range(count):
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(texture[index : index + 162, :192]), format="yuv420p")
        picture.pts = index
        units += [bytes(packet) for packet in context.encode(picture)]
    return units + [bytes(packet) for packet in context.encode(None)]


@pytest.mark.parametrize(("payload", "encoder"), CODECS)
@pytest.mark.parametrize("mtu", [200, 1400])
def test_real_pictures_there_and_back(payload: Payload, encoder: str, mtu: int) -> None:
    units = encode(encoder, 12)
    packetiser, depacketiser = Packetiser(payload=payload, mtu=mtu), Depacketiser(payload=payload)
    packets = [one for n, unit in enumerate(units) for one in packetiser.packetise(unit, 3000 * n)]
    assert max(map(len, packets)) <= mtu
    found = [unit for packet in packets for unit in depacketiser.push(packet, 0)] + depacketiser.flush(0)
    assert [unit.nals for unit in found] == [tuple(split_annexb(unit)) for unit in units]
    assert [index for index, unit in enumerate(found) if unit.key] == [0, 8]
    assert [unit.rtp_timestamp for unit in found] == [3000 * n for n in range(12)]
    assert payload.parameter_sets(found[0].nals)
    assert not payload.parameter_sets(found[1].nals)
    decoder: Any = VideoCodecContext.create(payload.codec, "r")
    assert len([p for unit in found for p in decoder.decode(av.Packet(unit.data))] + decoder.decode(None)) == 12


@pytest.mark.parametrize(("payload", "encoder"), CODECS)
@pytest.mark.parametrize("lost", range(4, 60, 7))
def test_after_a_loss_only_from_a_key_on(payload: Payload, encoder: str, lost: int) -> None:
    units = encode(encoder, 20)
    packetiser, depacketiser = Packetiser(payload=payload, mtu=300), Depacketiser(payload=payload)
    packets = [(n, one) for n, unit in enumerate(units) for one in packetiser.packetise(unit, 3000 * n)]
    hit = packets[lost][0]
    del packets[lost]
    found = [unit for _, packet in packets for unit in depacketiser.push(packet, 0)] + depacketiser.flush(0)
    numbers = [unit.rtp_timestamp // 3000 for unit in found]
    again = -(-(hit + 1) // 8) * 8
    assert numbers == [*range(hit), *range(again, 20)]
    for unit in found:
        whole = [nal for nal in split_annexb(units[unit.rtp_timestamp // 3000]) if payload.is_picture(nal)]
        assert [nal for nal in unit.nals if payload.is_picture(nal)] == whole


def test_hevc_aggregation() -> None:
    units = encode("libx265", 1)
    nals = split_annexb(units[0])
    sets = HEVC.parameter_sets(nals)
    assert [hevc.nal_type(nal) for nal in sets] == [hevc.VPS, hevc.SPS, hevc.PPS]
    together = b"\x60\x01" + b"".join(len(nal).to_bytes(2, "big") + nal for nal in sets)
    piece = HEVC.unpack(together)
    assert piece is not None
    assert list(piece.nals) == sets
    assert HEVC.begins_picture(together)
    assert not HEVC.carries_picture(together)


@pytest.mark.parametrize("payload", [H264, HEVC])
@given(data=st.binary(max_size=40))
@settings(max_examples=300)
def test_any_bytes(payload: Payload, data: bytes) -> None:
    piece = payload.unpack(data)
    if piece is not None:
        assert sum(map(len, piece.nals)) + len(piece.fragment or b"") <= len(data)
    payload.carries_picture(data)
    payload.begins_picture(data)
    payload.is_picture(data)
    payload.is_random_access([data])
    payload.parameter_sets([data])
    if len(data) > 2:
        assert join_annexb(payload.fragments(data, 20))


# --- the order of UDP


def packet(number: int) -> bytes:
    return b"\x80\x60" + (number & 0xFFFF).to_bytes(2, "big") + bytes(8)


def numbers(packets: list[bytes]) -> list[int]:
    return [int.from_bytes(one[2:4], "big") for one in packets]


@given(st.permutations(range(8)))
def test_whatever_order_within_reach_is_put_right(order: list[int]) -> None:
    reorder = Reorder(most=16)
    out = numbers(reorder.push(packet(65532), 0))
    for index in order:
        out += numbers(reorder.push(packet(65533 + index), 0))
    assert out == [number & 0xFFFF for number in range(65532, 65532 + 9)]


def test_in_order_nothing_waits() -> None:
    reorder = Reorder()
    assert [numbers(reorder.push(packet(number), 0)) for number in range(5)] == [[0], [1], [2], [3], [4]]


def test_a_gap_is_given_up_after_a_while_or_so_many() -> None:
    reorder = Reorder(most=3, patience_ns=100)
    assert numbers(reorder.push(packet(0), 0)) == [0]
    assert reorder.push(packet(2), 10) == []
    assert reorder.push(packet(3), 20) == []
    assert reorder.expire(109) == []
    assert numbers(reorder.expire(110)) == [2, 3]
    assert numbers(reorder.push(packet(1), 120)) == [1]  # late: counted further on
    for number in (6, 7, 8):
        assert reorder.push(packet(number), 130) == []
    assert numbers(reorder.push(packet(9), 130)) == [6, 7, 8, 9]
    assert reorder.push(b"short", 0) == [b"short"]


@given(st.lists(st.integers(0, 65535), max_size=200))
def test_any_numbers_leave_nothing_behind(order: list[int]) -> None:
    reorder = Reorder(most=8)
    out = list(itertools.chain.from_iterable(reorder.push(packet(number), 0) for number in order))
    out += reorder.expire(10**12)
    assert set(numbers(out)) == set(order)


# --- the camera's clock


def test_the_wall_clock_at_a_timestamp() -> None:
    clock = WallClock()
    assert clock.at(5) is None
    report = sender_report(7, unix_seconds=1_700_000_000.25, timestamp=2**32 - 90_000, packets=1, octets=1)
    reports = parse_sender_reports(report)
    assert [one.ssrc for one in reports] == [7]
    clock.learn(reports[0])
    assert clock.at(2**32 - 90_000) == pytest.approx(1_700_000_000_250_000_000, abs=300)
    assert clock.at(45_000) == pytest.approx(1_700_000_001_750_000_000, abs=300)  # across the wrap
    assert clock.at(2**32 - 180_000) == pytest.approx(1_699_999_999_250_000_000, abs=300)


@given(st.binary(max_size=80))
def test_any_report(data: bytes) -> None:
    parse_sender_reports(data)
    parse_sender_reports(b"\x80\xc8\x00\x06" + data)
