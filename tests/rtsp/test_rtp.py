"""RTP packets of any media: the header, and the order of UDP."""

import itertools
import struct

from hypothesis import given
from hypothesis import strategies as st

from stream_sr.rtsp.rtp import ReorderBuffer, parse_rtp


def test_the_extension_and_padding_are_taken_off() -> None:
    head = struct.pack("!BBHIII", 0x80 | 0x20 | 0x10 | 1, 96, 1, 2, 3, 4)
    packet = parse_rtp(head + struct.pack("!HHI", 0xBEDE, 1, 5) + b"data" + b"\x00\x02")
    assert packet.payload == b"data"


def packet(number: int) -> bytes:
    return b"\x80\x60" + (number & 0xFFFF).to_bytes(2, "big") + bytes(8)


def numbers(packets: list[bytes]) -> list[int]:
    return [int.from_bytes(one[2:4], "big") for one in packets]


@given(st.permutations(range(8)))
def test_whatever_order_within_reach_is_put_right(order: list[int]) -> None:
    buffer = ReorderBuffer(max_packets=16)
    out = numbers(buffer.push(packet(65532), 0))
    for index in order:
        out += numbers(buffer.push(packet(65533 + index), 0))
    assert out == [number & 0xFFFF for number in range(65532, 65532 + 9)]


def test_in_order_nothing_waits() -> None:
    buffer = ReorderBuffer()
    assert [numbers(buffer.push(packet(number), 0)) for number in range(5)] == [[0], [1], [2], [3], [4]]


def test_a_gap_is_given_up_after_a_while_or_so_many() -> None:
    buffer = ReorderBuffer(max_packets=3, max_wait_ns=100)
    assert numbers(buffer.push(packet(0), 0)) == [0]
    assert buffer.push(packet(2), 10) == []
    assert buffer.push(packet(3), 20) == []
    assert buffer.expire(109) == []
    assert numbers(buffer.expire(110)) == [2, 3]
    assert numbers(buffer.push(packet(1), 120)) == [1]  # late: counted further on
    for number in (6, 7, 8):
        assert buffer.push(packet(number), 130) == []
    assert numbers(buffer.push(packet(9), 130)) == [6, 7, 8, 9]
    assert buffer.push(b"short", 0) == [b"short"]


@given(st.lists(st.integers(0, 65535), max_size=200))
def test_any_numbers_leave_nothing_behind(order: list[int]) -> None:
    buffer = ReorderBuffer(max_packets=8)
    out = list(itertools.chain.from_iterable(buffer.push(packet(number), 0) for number in order))
    out += buffer.expire(10**12)
    assert set(numbers(out)) == set(order)
