"""H.264 in RTP: round trips, losses, senders that mark oddly, and any bytes at all."""

import struct
from collections.abc import Iterable
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_sr.codec.h264 import is_picture, join_annexb, split_annexb
from stream_sr.rtsp import rtp
from stream_sr.rtsp.rtp import AccessUnit, Depacketiser, Packetiser
from stream_sr.rtsp.sdp import build_sdp, parse_sdp

SPS_NAL, PPS_NAL = b"\x67\x42\xc0\x1e\x80", b"\x68\xce\x80"


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
    packetiser = Packetiser(mtu=mtu)
    return [packetiser.packetise(unit, 3000 * index) for index, unit in enumerate(units)]


def receive(packets: list[bytes], depacketiser: Depacketiser | None = None) -> list[AccessUnit]:
    depacketiser = depacketiser or Depacketiser()
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
    depacketiser = Depacketiser(96)
    received = receive(packets, depacketiser)
    assert [unit.data for unit in received] == units
    assert [unit.timestamp for unit in received] == [3000 * index for index in range(len(units))]
    assert [unit.key for unit in received] == [index == 0 for index in range(len(units))]
    assert depacketiser.bad_packets == depacketiser.lost_packets == depacketiser.damaged_units == 0


def test_a_unit_leaves_with_its_marker() -> None:
    """Only the first waits for its successor, to learn what markers mean."""
    depacketiser = Depacketiser()
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
    depacketiser = Depacketiser()
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
    depacketiser = Depacketiser()
    assert [unit.data for unit in receive(packets, depacketiser)] == units
    assert depacketiser.markers_end_units is False
    assert depacketiser.damaged_units == 0


def test_markers_that_begin_to_mean_nothing_later() -> None:
    single, many = pictures(5, size=100), pictures(15, slices=3, size=100)
    groups = packets_of(single + many[5:])
    packets = flat(groups[:5]) + [with_marker(packet, packet[12] & 0x1F not in (7, 8)) for packet in flat(groups[5:])]
    depacketiser = Depacketiser()
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
    depacketiser = Depacketiser()
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
    depacketiser = Depacketiser()
    doubled = [copy for packet in packets for copy in (packet, packet)]
    assert [unit.data for unit in receive(doubled, depacketiser)] == units
    assert depacketiser.bad_packets == len(packets)


def test_timestamps_wrap_and_jump() -> None:
    packetiser = Packetiser()
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
    depacketiser = Depacketiser(limit_bytes=10_000)
    packets = flat(packets_of([picture(0, 50_000, key=True), picture(1, 10, key=True), picture(2, 10, key=True)]))
    received = receive(packets, depacketiser)
    assert len(received) == 2
    assert depacketiser.damaged_units == 1


def test_the_extension_and_padding_are_taken_off() -> None:
    head = struct.pack("!BBHIII", 0x80 | 0x20 | 0x10 | 1, 96, 1, 2, 3, 4)
    packet = rtp.parse_rtp(head + struct.pack("!HHI", 0xBEDE, 1, 5) + b"data" + b"\x00\x02")
    assert packet.payload == b"data"


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
    depacketiser = Depacketiser(limit_bytes=200, limit_nals=8)
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
    depacketiser = Depacketiser(96)
    other = Packetiser(payload_type=97).packetise(picture(0, 9, key=True), 0)
    for bad in (b"", b"x" * 40, bytes(12), *other):
        assert depacketiser.push(bad, 0) == []
    assert depacketiser.bad_packets == 3 + len(other)


def test_rtcp() -> None:
    report = rtp.sender_report(7, unix_seconds=1_000_000_000.5, timestamp=90_000, packets=3, octets=4000)
    assert len(report) % 4 == 0
    assert rtp.rtcp_types(report + rtp.goodbye(7)) == [200, 202, 203]
    kind, length, ssrc, seconds, fraction, ticks, packets, octets = struct.unpack_from("!xBHIIIIII", report)
    assert (kind, length, ssrc, seconds, fraction) == (200, 6, 7, 1_000_000_000 + 2_208_988_800, 1 << 31)
    assert (ticks, packets, octets) == (90_000, 3, 4000)


@given(st.binary(max_size=60))
def test_any_rtcp(data: bytes) -> None:
    assert len(rtp.rtcp_types(data)) <= len(data) // 4


def test_the_description_is_read_as_written() -> None:
    text = build_sdp(host="127.0.0.1", name="x", sets=[SPS_NAL, PPS_NAL], fps=Fraction(30000, 1001))
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
    session = parse_sdp(text)
    assert session.control == "rtsp://h/base"
    audio, video, empty = session.media
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
