"""RTCP (RFC 3550): sender reports and BYE, written and read, and the sender's wall clock that reports tell."""

import struct
import time
from typing import NamedTuple

from stream_sr.pipeline.packets import Packet

SENDER_REPORT, DESCRIPTION, BYE = 200, 202, 203  # packet types
UNIX_TO_NTP = 2_208_988_800  # seconds from 1900 to 1970


def sender_report(ssrc: int, *, unix_seconds: float, timestamp: int, packets: int, octets: int) -> bytes:
    """Return a sender report with a description: at ``unix_seconds`` the RTP clock showed ``timestamp``."""
    seconds = int(unix_seconds)
    fraction = int((unix_seconds - seconds) * 2**32)
    report = struct.pack(
        "!BBHIIIIII",
        0x80,
        SENDER_REPORT,
        6,
        ssrc,
        (seconds + UNIX_TO_NTP) & 0xFFFFFFFF,
        fraction,
        timestamp & 0xFFFFFFFF,
        packets & 0xFFFFFFFF,
        octets & 0xFFFFFFFF,
    )
    name = b"\x01\x09stream_sr"
    name += bytes(4 - len(name) % 4)
    return report + struct.pack("!BBHI", 0x81, DESCRIPTION, 1 + len(name) // 4, ssrc) + name


def bye(ssrc: int) -> bytes:
    """Return a BYE packet, which ends the stream."""
    return struct.pack("!BBHI", 0x81, BYE, 1, ssrc)


def rtcp_types(data: bytes) -> list[int]:
    """Return the types of the packets in an RTCP datagram, as far as it is well formed."""
    types, position = [], 0
    while position + 4 <= len(data) and data[position] >> 6 == 2:
        types.append(data[position + 1])
        position += 4 + 4 * int.from_bytes(data[position + 2 : position + 4], "big")
    return types


class SenderReport(NamedTuple):
    """One moment on the sender's wall clock and on its RTP clock."""

    ssrc: int
    wall_ns: int  # since 1970
    timestamp: int


def parse_sender_reports(data: bytes) -> list[SenderReport]:
    """Return the sender reports in an RTCP datagram, as far as it is well formed."""
    found, position = [], 0
    while position + 4 <= len(data) and data[position] >> 6 == 2:
        size = 4 + 4 * int.from_bytes(data[position + 2 : position + 4], "big")
        if data[position + 1] == SENDER_REPORT and size >= 28 and position + 28 <= len(data):
            ssrc, seconds, fraction, timestamp = struct.unpack_from("!IIII", data, position + 4)
            wall_ns = (seconds - UNIX_TO_NTP) * 10**9 + (fraction * 10**9 >> 32)
            if wall_ns > 0:
                found.append(SenderReport(ssrc, wall_ns, timestamp))
        position += size
    return found


class WallClock:
    """Converts RTP timestamps to the sender's wall clock, by its last sender report."""

    def __init__(self, clock: int) -> None:
        self.clock = clock  # RTP ticks per second
        self._report: SenderReport | None = None

    def learn(self, report: SenderReport) -> None:
        self._report = report

    def at(self, timestamp: int) -> int | None:
        """Return nanoseconds since 1970; None before the first report."""
        if self._report is None:
            return None
        ticks = (timestamp - self._report.timestamp + 0x80000000 & 0xFFFFFFFF) - 0x80000000
        return self._report.wall_ns + ticks * 10**9 // self.clock


def unix_capture_seconds(packet: Packet) -> float:
    """Return when the frame was captured: by the camera's own clock, or by ours when the frame arrived."""
    if packet.wall_ns is not None:
        return packet.wall_ns / 1e9
    return time.time() - (time.monotonic_ns() - packet.captured_ns) / 1e9
