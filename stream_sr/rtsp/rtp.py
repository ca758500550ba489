"""RTP (RFC 3550) of video: access units to packets and back, without a socket. The codecs are in rtp_video.py.

Whatever bytes come, the depacketiser raises nothing: what is wrong is counted, the picture it belonged to is dropped,
and so is everything up to the next picture that a decoder can start on.
"""

import secrets
import struct
from dataclasses import dataclass
from typing import NamedTuple

from stream_sr.codec.h264 import join_annexb, split_annexb
from stream_sr.rtsp.rtp_video import H264, Payload

CLOCK = 90_000  # RTP ticks per second of video
SENDER_REPORT, DESCRIPTION, GOODBYE = 200, 202, 203  # RTCP packet types
UNIX_TO_NTP = 2_208_988_800  # seconds from 1900 to 1970
JUMP = 10 * CLOCK  # a longer step of the timestamp is a new clock
OLD = 64  # a packet so far behind is late or a duplicate; further behind, the numbers began anew


class RtpPacket(NamedTuple):
    """The fields of one RTP packet; ``payload`` without header, extension and padding."""

    payload_type: int
    marker: bool
    sequence: int
    timestamp: int
    ssrc: int
    payload: bytes


def parse_rtp(data: bytes) -> RtpPacket:
    """Read a packet. Raises ValueError for what is none."""
    if len(data) < 12 or data[0] >> 6 != 2:
        raise ValueError("no RTP packet of version 2")
    first, second, sequence, timestamp, ssrc = struct.unpack_from("!BBHII", data)
    start, end = 12 + 4 * (first & 0x0F), len(data)
    if first & 0x10:
        if start + 4 > end:
            raise ValueError("the header extension is cut short")
        start += 4 + 4 * int.from_bytes(data[start + 2 : start + 4], "big")
    if first & 0x20:
        end -= data[-1]
    if start > end or (first & 0x20 and not data[-1]):
        raise ValueError("header and padding are longer than the packet")
    return RtpPacket(second & 0x7F, second >= 0x80, sequence, timestamp, ssrc, data[start:end])


class Packetiser:
    """Cuts access units into RTP packets: a NAL unit that fits is a packet, a longer one goes in fragments."""

    def __init__(self, *, payload: Payload = H264, payload_type: int = 96, mtu: int = 1400) -> None:
        self.payload = payload
        self.payload_type = payload_type
        self.mtu = mtu  # bytes of the largest RTP packet
        self.ssrc = secrets.randbits(32)
        self.sequence = secrets.randbits(16)  # of the next packet

    def packetise(self, data: bytes, timestamp: int) -> list[bytes]:
        """The packets of one access unit in Annex B form; the last one carries the marker. None for no NAL units."""
        room = self.mtu - 12
        payloads: list[bytes] = []
        for nal in split_annexb(data):
            payloads += self.payload.fragments(nal, room)
        last = len(payloads) - 1
        return [self.packet(payload, timestamp, marker=index == last) for index, payload in enumerate(payloads)]

    def packet(self, payload: bytes, timestamp: int, *, marker: bool) -> bytes:
        """One packet with the next sequence number."""
        second = (0x80 if marker else 0) | self.payload_type
        header = struct.pack("!BBHII", 0x80, second, self.sequence, timestamp & 0xFFFFFFFF, self.ssrc)
        self.sequence = (self.sequence + 1) & 0xFFFF
        return header + payload


def interleave(channel: int, packet: bytes) -> bytes:
    """A packet as it travels inside an RTSP connection (RFC 2326, 10.12)."""
    return b"$" + bytes((channel,)) + len(packet).to_bytes(2, "big") + packet


@dataclass(frozen=True, slots=True)
class AccessUnit:
    """One encoded picture as it came out of RTP."""

    nals: tuple[bytes, ...]
    timestamp: int  # RTP ticks, unwrapped, 0 at the first unit seen; in decoding order, so it may step back
    key: bool  # a decoder can start here
    arrived_ns: int  # when it was complete, on the clock of the caller
    rtp_timestamp: int = 0  # as it came, 32 bits

    @property
    def data(self) -> bytes:
        """In Annex B form."""
        return join_annexb(self.nals)


class Depacketiser:
    """Puts access units together again. Begins with, and after any loss continues with, a unit that is ``key``.

    A unit is complete at its marker. Some senders (live555's proxy) mark every slice and some mark nothing, so the
    first unit is held until the next one begins, which shows what markers mean; where they mean nothing, every unit is
    held so. Memory is bounded by ``limit_bytes`` a unit. One thread.
    """

    def __init__(
        self,
        payload_type: int | None = None,
        *,
        payload: Payload = H264,
        limit_bytes: int = 16 << 20,
        limit_nals: int = 2048,
    ) -> None:
        self.payload_type, self.payload = payload_type, payload
        self.limit_bytes, self.limit_nals = limit_bytes, limit_nals
        self.bad_packets = 0  # not RTP, of another payload type, or of a form that its payload format does not know
        self.lost_packets = 0  # gaps in the sequence numbers
        self.damaged_units = 0  # units of which something was missing
        self.skipped_units = 0  # whole units that nobody could decode: before the first key, or after a loss
        self.units = 0  # complete ones seen, skipped or not
        self.markers_end_units: bool | None = None  # None until it is known
        self._waiting = True
        self._ssrc: int | None = None
        self._expected = 0
        self._raw: int | None = None  # timestamp of the unit that is being put together, as it came
        self._clock_raw: int | None = None  # timestamp of the unit before
        self._clock = 0
        self._step = CLOCK // 30
        self._marked = False
        self._begin(damaged=False)
        self._closed = True

    def push(self, data: bytes, now_ns: int) -> list[AccessUnit]:
        """Take one packet; the units that it completed, none or one, two when a marker was missing."""
        try:
            packet = parse_rtp(data)
        except ValueError:
            self.bad_packets += 1
            return []
        if self.payload_type is not None and packet.payload_type != self.payload_type:
            self.bad_packets += 1
            return []
        gap = self._follow(packet)
        if gap is None:
            self.bad_packets += 1
            return []
        return self._place(packet, gap, now_ns)

    def flush(self, now_ns: int) -> list[AccessUnit]:
        """At the end of the stream: the unit that waited for its successor."""
        done = [] if self._closed or not self._marked else self._finish(now_ns)
        self._closed = True
        return done

    def _follow(self, packet: RtpPacket) -> bool | None:
        """Whether packets are missing before this one; None for one that came late or twice."""
        ahead = (packet.sequence - self._expected) & 0xFFFF
        if packet.ssrc == self._ssrc and ahead >= 0x10000 - OLD:
            return None
        gap = self._ssrc is not None and (packet.ssrc != self._ssrc or ahead != 0)
        if gap:
            self.lost_packets += ahead if packet.ssrc == self._ssrc else 1
        self._ssrc, self._expected = packet.ssrc, (packet.sequence + 1) & 0xFFFF
        return gap

    def _place(self, packet: RtpPacket, gap: bool, now_ns: int) -> list[AccessUnit]:
        done: list[AccessUnit] = []
        if gap:
            self._waiting = self._damaged = True
        if packet.timestamp != self._raw:
            if not self._closed:
                done += self._finish(now_ns)
                if self.markers_end_units is None and self._marked:
                    self.markers_end_units = True
            unsure = gap or self._raw is None  # something may have come before
            self._raw = packet.timestamp
            self._begin(damaged=unsure and not self.payload.begins_picture(packet.payload))
        elif self._closed:
            if not self.payload.carries_picture(packet.payload):
                return done
            # The marker did not end the unit, which is gone already, and incomplete.
            self.markers_end_units = False
            self._waiting = True
            self._begin(damaged=True)
        elif self._marked and self.payload.carries_picture(packet.payload):
            self.markers_end_units = False
        self._take(packet.payload)
        if packet.marker and (self._damaged or any(map(self.payload.is_picture, self._nals))):
            self._marked = True
            if self.markers_end_units:
                done += self._finish(now_ns)
                self._closed = True
        return done

    def _begin(self, *, damaged: bool) -> None:
        self._nals: list[bytes] = []
        self._fragment: bytearray | None = None
        self._size = 0
        self._damaged = damaged
        self._marked = self._closed = False

    def _take(self, payload: bytes) -> None:
        """Add a payload to the unit; what cannot be damages it."""
        if self._damaged and self._size == 0 and not self._nals:
            return  # the rest of a unit that is lost anyway
        piece = self.payload.unpack(payload)
        if piece is None:
            right = False
        elif piece.fragment is not None:
            right = self._join(piece.fragment, piece.first, piece.last)
        else:
            right = self._fragment is None and all(map(self._add, piece.nals))
        if not right:
            self.bad_packets += 1
            self._begin(damaged=True)

    def _add(self, nal: bytes) -> bool:
        self._size += len(nal)
        self._nals.append(nal)
        return self._size <= self.limit_bytes and len(self._nals) <= self.limit_nals

    def _join(self, fragment: bytes, first: bool, last: bool) -> bool:
        if first == (self._fragment is not None):
            return False
        self._fragment = bytearray() if self._fragment is None else self._fragment
        self._fragment += fragment
        if self._size + len(self._fragment) > self.limit_bytes:
            return False
        if last:
            nal, self._fragment = bytes(self._fragment), None
            return self._add(nal)
        return True

    def _finish(self, now_ns: int) -> list[AccessUnit]:
        """The unit that was put together, if it is whole and can be decoded."""
        timestamp = self._unwrap()
        if self._damaged or self._fragment is not None:
            self.damaged_units += 1
            self._waiting = True
            return []
        if not any(map(self.payload.is_picture, self._nals)):
            return []
        self.units += 1
        key = self.payload.is_random_access(self._nals)
        if self._waiting and not key:
            self.skipped_units += 1
            return []
        self._waiting = False
        return [AccessUnit(tuple(self._nals), timestamp, key, now_ns, self._raw or 0)]

    def _unwrap(self) -> int:
        """The timestamp without its wrap at 32 bits; a jump (a new clock) is taken as one more step."""
        raw = self._raw or 0
        if self._clock_raw is not None:
            step = (raw - self._clock_raw + 0x80000000 & 0xFFFFFFFF) - 0x80000000
            if abs(step) > JUMP:
                step = self._step
            elif step > 0:
                self._step = step
            self._clock += step
        self._clock_raw = raw
        return self._clock


def sender_report(ssrc: int, *, unix_seconds: float, timestamp: int, packets: int, octets: int) -> bytes:
    """An RTCP sender report with a description: at ``unix_seconds`` the RTP clock showed ``timestamp``."""
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


def goodbye(ssrc: int) -> bytes:
    """An RTCP packet that ends the stream."""
    return struct.pack("!BBHI", 0x81, GOODBYE, 1, ssrc)


def rtcp_types(data: bytes) -> list[int]:
    """Types of the packets in an RTCP datagram, as far as it is well formed."""
    types, position = [], 0
    while position + 4 <= len(data) and data[position] >> 6 == 2:
        types.append(data[position + 1])
        position += 4 + 4 * int.from_bytes(data[position + 2 : position + 4], "big")
    return types


class SenderReport(NamedTuple):
    """What an RTCP sender report ties together: the sender's wall clock and its RTP clock."""

    ssrc: int
    wall_ns: int  # since 1970
    timestamp: int


def parse_sender_reports(data: bytes) -> list[SenderReport]:
    """The sender reports in an RTCP datagram, as far as it is well formed."""
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
    """The sender's wall clock at an RTP timestamp, by its last sender report."""

    def __init__(self, clock: int = CLOCK) -> None:
        self.clock = clock  # RTP ticks per second
        self._report: SenderReport | None = None

    def learn(self, report: SenderReport) -> None:
        self._report = report

    def at(self, timestamp: int) -> int | None:
        """Nanoseconds since 1970; None before the first report."""
        if self._report is None:
            return None
        ticks = (timestamp - self._report.timestamp + 0x80000000 & 0xFFFFFFFF) - 0x80000000
        return self._report.wall_ns + ticks * 10**9 // self.clock


class Reorder:
    """Puts RTP packets that UDP has mixed up back into their order, for one source of them.

    What comes in order passes at once. After a gap packets wait until it is filled, or until ``most`` wait, or the
    oldest of them has waited ``patience_ns``; then the gap is given up.
    """

    def __init__(self, *, most: int = 32, patience_ns: int = 20_000_000) -> None:
        self.most, self.patience_ns = most, patience_ns
        self._next: int | None = None
        self._waiting: dict[int, tuple[bytes, int]] = {}  # by sequence number: packet, when it came

    def push(self, data: bytes, now_ns: int) -> list[bytes]:
        """Take a packet; those that can go on now. What is no RTP, late or from another sender goes on at once."""
        if len(data) < 12:
            return [data]
        number = int.from_bytes(data[2:4], "big")
        ahead = 0 if self._next is None else (number - self._next) & 0xFFFF
        if ahead == 0:
            self._next = (number + 1) & 0xFFFF
            return [data, *self._run()]
        if ahead >= 0x8000:
            return [data]  # late: the depacketiser knows
        self._waiting[number] = (data, now_ns)
        return self.expire(now_ns)

    def expire(self, now_ns: int) -> list[bytes]:
        """Packets whose predecessors are given up."""
        out: list[bytes] = []
        while self._waiting and self._next is not None:
            oldest = min(came for _, came in self._waiting.values())
            if len(self._waiting) <= self.most and now_ns - oldest < self.patience_ns:
                break
            first = min(self._waiting, key=lambda number: (number - (self._next or 0)) & 0xFFFF)
            self._next = first
            out += self._run()
        return out

    def _run(self) -> list[bytes]:
        out = []
        while self._next is not None and self._next in self._waiting:
            out.append(self._waiting.pop(self._next)[0])
            self._next = (self._next + 1) & 0xFFFF
        return out
