"""H.264 and HEVC in RTP: round trips, losses, senders that mark oddly, and any bytes at all."""

import struct
from collections.abc import Iterable
from typing import Any

import av
import numpy as np
import pytest
from av.video.codeccontext import VideoCodecContext
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_sr.codec import hevc
from stream_sr.codec.h264 import is_picture, join_annexb, split_annexb
from stream_sr.rtsp.rtp_video import H264, HEVC, AccessUnit, PayloadFormat, VideoDepacketiser, VideoPacketiser

pytestmark = pytest.mark.long

SPS_NAL, PPS_NAL = b"\x67\x42\xc0\x1e\x80", b"\x68\xce\x80"
CODECS = [pytest.param(H264, "libx264", id="h264"), pytest.param(HEVC, "libx265", id="hevc")]


def picture(index: int, size: int, *, key: bool, slices: int = 1) -> bytes:
    """An access unit that looks like one: the first slice begins with macroblock 0."""
    nals = [SPS_NAL, PPS_NAL] if key else []
    for number in range(slices):
        head = bytes([0x65 if key else 0x41, 0x88 if number == 0 else 0x48])
        nals.append(head + bytes([1 + (index * 7 + number) % 250]) * size + b"\x80")
    return join_annexb(nals)


def pictures(count: int, *, gop: int = 5, size: int = 3000, slices: int = 1) -> list[bytes]:
    return [picture(index, size, key=index % gop == 0, slices=slices) for index in range(count)]


def packets_of(units: list[bytes], *, mtu: int = 1400) -> list[list[bytes]]:
    packetiser = VideoPacketiser(mtu=mtu)
    return [packetiser.packetise(unit, 3000 * index) for index, unit in enumerate(units)]


def receive(packets: list[bytes], depacketiser: VideoDepacketiser | None = None) -> list[AccessUnit]:
    depacketiser = depacketiser or VideoDepacketiser()
    units = [unit for index, packet in enumerate(packets) for unit in depacketiser.push(packet, index)]
    return units + depacketiser.flush(len(packets))


def flat(groups: list[list[bytes]]) -> list[bytes]:
    return [packet for group in groups for packet in group]


def slices_of(nals: Iterable[bytes]) -> tuple[bytes, ...]:
    """Parameter sets that are lost are no loss: the last ones hold."""
    return tuple(nal for nal in nals if is_picture(nal))


def with_marker(packet: bytes, marker: bool) -> bytes:
    return packet[:1] + bytes([packet[1] & 0x7F | 0x80 * marker]) + packet[2:]


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=12), st.integers(64, 1500))
@settings(max_examples=40)
def test_packets_and_back(sizes: list[int], mtu: int) -> None:
    units = [picture(index, size, key=index == 0) for index, size in enumerate(sizes)]
    packets = flat(packets_of(units, mtu=mtu))
    assert max(map(len, packets)) <= mtu
    depacketiser = VideoDepacketiser(96)
    received = receive(packets, depacketiser)
    assert [unit.data for unit in received] == units
    assert [unit.timestamp for unit in received] == [3000 * index for index in range(len(units))]
    assert [unit.is_keyframe for unit in received] == [index == 0 for index in range(len(units))]
    assert depacketiser.bad_packets == depacketiser.lost_packets == depacketiser.damaged_units == 0


def test_a_unit_leaves_with_its_marker() -> None:
    """Only the first waits for its successor, to learn what markers mean."""
    depacketiser = VideoDepacketiser()
    groups = packets_of(pictures(4))
    came = [len([unit for packet in group for unit in depacketiser.push(packet, 0)]) for group in groups]
    assert came == [0, 2, 1, 1]


@given(st.sets(st.integers(0, 59), min_size=1, max_size=6), st.integers(1, 3))
@settings(max_examples=60)
def test_after_a_loss_only_whole_units_from_a_key_on(lost: set[int], slices: int) -> None:
    units = pictures(20, slices=slices)
    groups = packets_of(units)
    packets = flat(groups)
    owner = [index for index, group in enumerate(groups) for _ in group]
    depacketiser = VideoDepacketiser()
    received = receive([packet for index, packet in enumerate(packets) if index not in lost], depacketiser)
    names = [unit.timestamp for unit in received]
    assert names == sorted(set(names))
    broken = {owner[index] for index in lost if index < len(packets) and packets[index][12] & 0x1F not in (7, 8)}
    by_slices = {slices_of(split_annexb(unit)): index for index, unit in enumerate(units)}
    got = [by_slices[slices_of(unit.nals)] for unit in received]  # KeyError: a unit that never was
    assert not set(got) & broken
    for before, after in zip([-1, *got], got, strict=False):
        assert after == before + 1 or after % 5 == 0


def test_a_server_that_skips_to_a_key_loses_nothing_more() -> None:
    units = pictures(15)
    groups = packets_of(units)
    received = receive(flat(groups[:7] + groups[10:]))
    assert [unit.data for unit in received] == units[:7] + units[10:]


def test_markers_on_every_slice() -> None:
    """As live555's proxy does: the timestamp ends the unit then, from the first unit on."""
    units = pictures(6, slices=3, size=100)
    packets = [
        with_marker(packet, packet[12] & 0x1F not in (7, 8)) for packet in flat(packets_of(units))
    ]  # each slice is one packet
    depacketiser = VideoDepacketiser()
    assert [unit.data for unit in receive(packets, depacketiser)] == units
    assert depacketiser.markers_end_units is False
    assert depacketiser.damaged_units == 0


def test_markers_that_begin_to_mean_nothing_later() -> None:
    single, many = pictures(5, size=100), pictures(15, slices=3, size=100)
    groups = packets_of(single + many[5:])
    packets = flat(groups[:5]) + [with_marker(packet, packet[12] & 0x1F not in (7, 8)) for packet in flat(groups[5:])]
    depacketiser = VideoDepacketiser()
    received = [unit.data for unit in receive(packets, depacketiser)]
    assert received[:5] == single
    assert received[-5:] == many[10:]
    assert depacketiser.damaged_units == 1


def test_no_markers_at_all() -> None:
    units = pictures(6)
    packets = [with_marker(packet, False) for packet in flat(packets_of(units))]
    assert [unit.data for unit in receive(packets)] == units[:-1]  # nothing shows that the last is whole


def test_a_marker_on_parameter_sets_ends_nothing() -> None:
    units = pictures(6)
    packets = [with_marker(p, True) if p[12] & 0x1F in (7, 8) else p for p in flat(packets_of(units))]
    depacketiser = VideoDepacketiser()
    assert [unit.data for unit in receive(packets, depacketiser)] == units
    assert depacketiser.markers_end_units is True


def test_aggregated_parameter_sets() -> None:
    units = pictures(2, size=20)
    packets = flat(packets_of(units))
    both = b"".join(struct.pack("!H", len(nal)) + nal for nal in (SPS_NAL, PPS_NAL))
    sequence = struct.unpack_from("!H", packets[0], 2)[0]
    stap = packets[0][:2] + struct.pack("!H", sequence + 1 & 0xFFFF) + packets[0][4:12] + b"\x78" + both
    assert [unit.data for unit in receive([stap, *packets[2:]])] == units


def test_duplicates_and_latecomers_are_counted_and_ignored() -> None:
    units = pictures(10)
    packets = flat(packets_of(units))
    depacketiser = VideoDepacketiser()
    doubled = [copy for packet in packets for copy in (packet, packet)]
    assert [unit.data for unit in receive(doubled, depacketiser)] == units
    assert depacketiser.bad_packets == len(packets)


def test_timestamps_wrap_and_jump() -> None:
    packetiser = VideoPacketiser()
    stamps = [0xFFFFFFFF - 4000, 0xFFFFFFFF - 1000, 2000, 5000, 900_000_000, 900_003_000]
    packets = [
        p for index, stamp in enumerate(stamps) for p in packetiser.packetise(picture(index, 9, key=True), stamp)
    ]
    received = [unit.timestamp for unit in receive(packets)]
    assert received == [0, 3000, 6001, 9001, 12001, 15001]


def test_another_sender_begins_with_a_key() -> None:
    units = pictures(10)
    one, two = packets_of(units)[:3], packets_of(units)[3:]
    assert [unit.data for unit in receive(flat(one + two))] == units[:3] + units[5:]


def test_a_unit_without_end_is_bounded() -> None:
    depacketiser = VideoDepacketiser(limit_bytes=10_000)
    packets = flat(packets_of([picture(0, 50_000, key=True), picture(1, 10, key=True), picture(2, 10, key=True)]))
    received = receive(packets, depacketiser)
    assert len(received) == 2
    assert depacketiser.damaged_units == 1


HEADER = st.builds(
    lambda marker, sequence, stamp: struct.pack("!BBHII", 0x80, 96 | marker << 7, sequence, stamp, 7),
    st.booleans(),
    st.integers(0, 40),
    st.integers(0, 3),
)
PAYLOAD = st.builds(
    lambda kind, rest: bytes([kind]) + rest,
    st.sampled_from([0x41, 0x65, 0x67, 0x78, 0x7C, 0x7C, 0x7C, 0x1D, 0x06]),
    st.binary(max_size=40),
)


@given(st.lists(st.one_of(st.binary(max_size=60), st.builds(lambda a, b: a + b, HEADER, PAYLOAD)), max_size=60))
@settings(max_examples=300)
def test_any_bytes(packets: list[bytes]) -> None:
    """Nothing is raised, what comes out is whole, what is held is bounded."""
    depacketiser = VideoDepacketiser(limit_bytes=200, limit_nals=8)
    for index, packet in enumerate(packets):
        for unit in depacketiser.push(packet, index):
            assert unit.nals
            assert sum(map(len, unit.nals)) <= 200
        held = sum(map(len, depacketiser._nals)) + len(depacketiser._fragment or b"")
        assert held <= 200 + 60
        assert len(depacketiser._nals) <= 9
    depacketiser.flush(0)
    assert depacketiser.bad_packets <= len(packets)


def test_what_is_no_rtp_is_counted() -> None:
    depacketiser = VideoDepacketiser(96)
    other = VideoPacketiser(payload_type=97).packetise(picture(0, 9, key=True), 0)
    for bad in (b"", b"x" * 40, bytes(12), *other):
        assert depacketiser.push(bad, 0) == []
    assert depacketiser.bad_packets == 3 + len(other)


# --- real encoders


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
def test_real_pictures_there_and_back(payload: PayloadFormat, encoder: str, mtu: int) -> None:
    units = encode(encoder, 12)
    packetiser, depacketiser = (
        VideoPacketiser(payload_format=payload, mtu=mtu),
        VideoDepacketiser(payload_format=payload),
    )
    packets = [one for n, unit in enumerate(units) for one in packetiser.packetise(unit, 3000 * n)]
    assert max(map(len, packets)) <= mtu
    found = [unit for packet in packets for unit in depacketiser.push(packet, 0)] + depacketiser.flush(0)
    assert [unit.nals for unit in found] == [tuple(split_annexb(unit)) for unit in units]
    assert [index for index, unit in enumerate(found) if unit.is_keyframe] == [0, 8]
    assert [unit.rtp_timestamp for unit in found] == [3000 * n for n in range(12)]
    assert payload.parameter_sets(found[0].nals)
    assert not payload.parameter_sets(found[1].nals)
    decoder: Any = VideoCodecContext.create(payload.codec, "r")
    assert len([p for unit in found for p in decoder.decode(av.Packet(unit.data))] + decoder.decode(None)) == 12


@pytest.mark.parametrize(("payload", "encoder"), CODECS)
@pytest.mark.parametrize("lost", range(4, 60, 7))
def test_after_a_loss_only_from_a_key_on(payload: PayloadFormat, encoder: str, lost: int) -> None:
    units = encode(encoder, 20)
    packetiser, depacketiser = (
        VideoPacketiser(payload_format=payload, mtu=300),
        VideoDepacketiser(payload_format=payload),
    )
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
def test_any_payload(payload: PayloadFormat, data: bytes) -> None:
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
