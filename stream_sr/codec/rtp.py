"""RTP (RFC 3550) and its payload of H.264 (RFC 6184): access units to packets and back, without a socket.

Whatever bytes come, the depacketiser raises nothing: what is wrong is counted, the picture it belonged to is dropped,
and so is everything up to the next picture that a decoder can start on.
"""

import secrets
import struct
from dataclasses import dataclass
from typing import NamedTuple

from stream_sr.codec.h264 import DELIMITER, SEI, SPS, is_picture, is_random_access, join_annexb, split_annexb

CLOCK = 90_000  # RTP ticks per second of video
STAP_A, FU_A = 24, 28
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
    """Cuts access units into RTP packets: a NAL unit that fits is a packet, a longer one goes in fragments (FU-A)."""

    def __init__(self, *, payload_type: int = 96, mtu: int = 1400) -> None:
        self.payload_type = payload_type
        self.mtu = mtu  # bytes of the largest RTP packet
        self.ssrc = secrets.randbits(32)
        self.sequence = secrets.randbits(16)  # of the next packet

    def packetise(self, data: bytes, timestamp: int) -> list[bytes]:
        """The packets of one access unit in Annex B form; the last one carries the marker. None for no NAL units."""
        room = self.mtu - 12
        payloads: list[bytes] = []
        for nal in split_annexb(data):
            payloads += [nal] if len(nal) <= room else _fragments(nal, room)
        packets = []
        for index, payload in enumerate(payloads):
            marker = 0x80 if index == len(payloads) - 1 else 0
            second = marker | self.payload_type
            header = struct.pack("!BBHII", 0x80, second, self.sequence, timestamp & 0xFFFFFFFF, self.ssrc)
            packets.append(header + payload)
            self.sequence = (self.sequence + 1) & 0xFFFF
        return packets


def _fragments(nal: bytes, room: int) -> list[bytes]:
    """A NAL unit as FU-A payloads of at most ``room`` bytes (RFC 6184, 5.8)."""
    indicator, kind, step = nal[0] & 0xE0 | FU_A, nal[0] & 0x1F, room - 2
    pieces = [nal[start : start + step] for start in range(1, len(nal), step)]
    last = len(pieces) - 1
    return [
        bytes((indicator, kind | (0x80 if index == 0 else 0) | (0x40 if index == last else 0))) + piece
        for index, piece in enumerate(pieces)
    ]


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

    def __init__(self, payload_type: int | None = None, *, limit_bytes: int = 16 << 20, limit_nals: int = 2048) -> None:
        self.payload_type = payload_type
        self.limit_bytes, self.limit_nals = limit_bytes, limit_nals
        self.bad_packets = 0  # not RTP, of another payload type, or of a form that RFC 6184 does not know here
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
            self._begin(damaged=unsure and not _begins_picture(packet.payload))
        elif self._closed:
            if not _carries_picture(packet.payload):
                return done
            # The marker did not end the unit, which is gone already, and incomplete.
            self.markers_end_units = False
            self._waiting = True
            self._begin(damaged=True)
        elif self._marked and _carries_picture(packet.payload):
            self.markers_end_units = False
        self._take(packet.payload)
        if packet.marker and (self._damaged or any(map(is_picture, self._nals))):
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
        kind = payload[0] & 0x1F if payload else 0
        if self._damaged and self._size == 0 and not self._nals:
            return  # the rest of a unit that is lost anyway
        if 1 <= kind <= 23 and payload[0] < 0x80:
            right = self._fragment is None and self._add(payload)
        elif kind == STAP_A:
            right = self._fragment is None and self._aggregate(payload)
        elif kind == FU_A:
            right = self._fragmented(payload)
        else:
            right = False
        if not right:
            self.bad_packets += 1
            self._begin(damaged=True)

    def _add(self, nal: bytes) -> bool:
        self._size += len(nal)
        self._nals.append(nal)
        return self._size <= self.limit_bytes and len(self._nals) <= self.limit_nals

    def _aggregate(self, payload: bytes) -> bool:
        position = 1
        while position < len(payload):
            size = int.from_bytes(payload[position : position + 2], "big")
            nal = payload[position + 2 : position + 2 + size]
            if not size or len(nal) < size or not self._add(nal):
                return False
            position += 2 + size
        return position > 1

    def _fragmented(self, payload: bytes) -> bool:
        if len(payload) < 3:
            return False
        header = payload[1]
        if header & 0x80:
            if self._fragment is not None:
                return False
            self._fragment = bytearray((payload[0] & 0xE0 | header & 0x1F,))
        elif self._fragment is None:
            return False
        self._fragment += payload[2:]
        if self._size + len(self._fragment) > self.limit_bytes:
            return False
        if header & 0x40:
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
        if not any(map(is_picture, self._nals)):
            return []
        self.units += 1
        key = is_random_access(self._nals)
        if self._waiting and not key:
            self.skipped_units += 1
            return []
        self._waiting = False
        return [AccessUnit(tuple(self._nals), timestamp, key, now_ns)]

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


def _carries_picture(payload: bytes) -> bool:
    kind = payload[0] & 0x1F if payload else 0
    return 1 <= kind <= 5 or (kind == FU_A and len(payload) > 1 and 1 <= payload[1] & 0x1F <= 5)


def _begins_picture(payload: bytes) -> bool:
    """Whether nothing of the unit can have come before: what precedes slices, or a slice from macroblock 0 on."""
    kind = payload[0] & 0x1F if payload else 0
    if kind == FU_A and len(payload) > 2:
        return payload[1] & 0x80 > 0 and 1 <= payload[1] & 0x1F <= 5 and payload[2] >= 0x80
    if 1 <= kind <= 5:
        return len(payload) > 1 and payload[1] >= 0x80  # first_mb_in_slice, Exp-Golomb: a leading 1 is 0
    if kind == STAP_A and len(payload) > 3:
        kind = payload[3] & 0x1F
    return kind in (SPS, DELIMITER, SEI)


def sender_report(ssrc: int, *, unix_seconds: float, timestamp: int, packets: int, octets: int) -> bytes:
    """An RTCP sender report with a description: at ``unix_seconds`` the RTP clock showed ``timestamp``."""
    seconds = int(unix_seconds)
    fraction = int((unix_seconds - seconds) * 2**32)
    report = struct.pack(
        "!BBHIIIIII", 0x80, SENDER_REPORT, 6, ssrc, (seconds + UNIX_TO_NTP) & 0xFFFFFFFF, fraction,
        timestamp & 0xFFFFFFFF, packets & 0xFFFFFFFF, octets & 0xFFFFFFFF,
    )  # fmt: skip
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
