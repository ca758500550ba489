"""RTCP: reports, BYE, and the sender's wall clock."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_sr.rtsp.rtcp import WallClock, bye, parse_sender_reports, rtcp_types, sender_report


def test_rtcp() -> None:
    report = sender_report(7, unix_seconds=1_000_000_000.5, timestamp=90_000, packets=3, octets=4000)
    assert len(report) % 4 == 0
    assert rtcp_types(report + bye(7)) == [200, 202, 203]
    kind, length, ssrc, seconds, fraction, ticks, packets, octets = struct.unpack_from("!xBHIIIIII", report)
    assert (kind, length, ssrc, seconds, fraction) == (200, 6, 7, 1_000_000_000 + 2_208_988_800, 1 << 31)
    assert (ticks, packets, octets) == (90_000, 3, 4000)


@given(st.binary(max_size=60))
def test_any_rtcp(data: bytes) -> None:
    assert len(rtcp_types(data)) <= len(data) // 4


def test_the_wall_clock_at_a_timestamp() -> None:
    clock = WallClock(90_000)
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
