"""RTP packets (RFC 3550) of any media: read, written, framed for TCP, and put back into order after UDP. No socket.

What the packets carry is in `rtp_video` and `rtp_audio`, RTCP in `rtcp`.
"""

import secrets
import struct
from typing import NamedTuple

HEADER_BYTES = 12  # of the packets that are written here: no CSRC, no extension


class RtpPacket(NamedTuple):
    """The fields of one RTP packet; ``payload`` without header, extension and padding."""

    payload_type: int
    marker: bool
    sequence: int
    timestamp: int
    ssrc: int
    payload: bytes


def parse_rtp(data: bytes) -> RtpPacket:
    """Read a packet. Raises ValueError if the bytes are not RTP."""
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


class RtpStream:
    """The sender's state of one RTP stream: SSRC, payload type and the next sequence number. One thread."""

    def __init__(self, *, payload_type: int, mtu: int = 1400) -> None:
        self.payload_type = payload_type
        self.mtu = mtu  # bytes of the largest RTP packet
        self.ssrc = secrets.randbits(32)
        self.sequence = secrets.randbits(16)  # of the next packet

    def packet(self, payload: bytes, timestamp: int, *, marker: bool) -> bytes:
        """Return one packet with the next sequence number; ``timestamp`` is in ticks, of any size."""
        second = (0x80 if marker else 0) | self.payload_type
        header = struct.pack("!BBHII", 0x80, second, self.sequence, timestamp & 0xFFFFFFFF, self.ssrc)
        self.sequence = (self.sequence + 1) & 0xFFFF
        return header + payload


def interleave(channel: int, packet: bytes) -> bytes:
    """Frame a packet for transport inside an RTSP connection (RFC 2326, 10.12)."""
    return b"$" + bytes((channel,)) + len(packet).to_bytes(2, "big") + packet


class ReorderBuffer:
    """Puts the RTP packets of one source back into the order of their sequence numbers, for UDP.

    Packets in order pass at once. After a gap packets wait until it is filled, more than ``max_packets`` wait, or the
    oldest of them has waited ``max_wait_ns``; then the missing packets count as lost.
    """

    def __init__(self, *, max_packets: int = 32, max_wait_ns: int = 20_000_000) -> None:
        self.max_packets, self.max_wait_ns = max_packets, max_wait_ns
        self._next: int | None = None
        self._waiting: dict[int, tuple[bytes, int]] = {}  # by sequence number: packet, when it came

    def push(self, data: bytes, now_ns: int) -> list[bytes]:
        """Take a packet and return those that are due. One that is late or not RTP is returned at once."""
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
        """Return the packets that need not wait any longer for their predecessors."""
        out: list[bytes] = []
        while self._waiting and self._next is not None:
            oldest = min(came for _, came in self._waiting.values())
            if len(self._waiting) <= self.max_packets and now_ns - oldest < self.max_wait_ns:
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
