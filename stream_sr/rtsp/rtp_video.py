"""Video in RTP: access units to packets (`VideoPacketiser`) and back (`VideoDepacketiser`), without a socket.

A `PayloadFormat` knows the bytes of one codec and keeps no state: H.264 (RFC 6184, non-interleaved) and HEVC (RFC 7798,
without decoding order numbers). Whatever bytes come, nothing here raises: what is wrong is counted, the frame that it
belonged to is dropped, and so is everything up to the next keyframe.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from stream_sr.codec import h264, hevc
from stream_sr.rtsp.rtp import HEADER_BYTES, RtpPacket, RtpStream, parse_rtp

VIDEO_CLOCK = 90_000  # RTP ticks per second of video
JUMP = 10 * VIDEO_CLOCK  # a longer step of the timestamp is a new clock
OLD = 64  # a packet so far behind is late or a duplicate; further behind, the sequence numbers began again
STAP_A, FU_A = 24, 28  # H.264
AP, FU = 48, 49  # HEVC


class UnpackedPayload(NamedTuple):
    """What one RTP payload holds: whole NAL units, or a fragment of one (the first with the unit's header)."""

    nals: Sequence[bytes] = ()
    fragment: bytes | None = None
    first: bool = False
    last: bool = False


class PayloadFormat(Protocol):
    """The RTP payload format of one codec: NAL units to payloads and back."""

    codec: str  # FFmpeg's name
    encoding: str  # the name in rtpmap

    def unpack(self, payload: bytes) -> UnpackedPayload | None:
        """Return what a payload holds; None for an unknown or broken one."""
        ...

    def carries_picture(self, payload: bytes) -> bool:
        """Whether it holds samples: a slice, or part of one."""
        ...

    def begins_picture(self, payload: bytes) -> bool:
        """Whether nothing of the access unit can have come before it."""
        ...

    def is_picture(self, nal: bytes) -> bool:
        """Whether a NAL unit carries samples."""
        ...

    def is_random_access(self, nals: Iterable[bytes]) -> bool:
        """Whether a decoder can start at this access unit."""
        ...

    def parameter_sets(self, nals: Iterable[bytes]) -> list[bytes]:
        """Return the parameter sets among NAL units, to be put before a keyframe; none unless all kinds are there."""
        ...

    def fragments(self, nal: bytes, room: int) -> list[bytes]:
        """A NAL unit as payloads of at most ``room`` bytes."""
        ...


class H264Payload:
    """RFC 6184: single NAL units, STAP-A, FU-A."""

    codec, encoding = "h264", "H264"
    is_picture = staticmethod(h264.is_picture)
    is_random_access = staticmethod(h264.is_random_access)

    def unpack(self, payload: bytes) -> UnpackedPayload | None:
        kind = payload[0] & 0x1F if payload else 0
        if 1 <= kind <= 23 and payload[0] < 0x80:
            return UnpackedPayload(nals=(payload,))
        if kind == STAP_A:
            nals = _aggregated(payload, 1)
            return UnpackedPayload(nals=nals) if nals else None
        if kind == FU_A and len(payload) > 2:
            first = payload[1] & 0x80 > 0
            head = bytes((payload[0] & 0xE0 | payload[1] & 0x1F,)) if first else b""
            return UnpackedPayload(fragment=head + payload[2:], first=first, last=payload[1] & 0x40 > 0)
        return None

    def carries_picture(self, payload: bytes) -> bool:
        kind = payload[0] & 0x1F if payload else 0
        return 1 <= kind <= 5 or (kind == FU_A and len(payload) > 1 and 1 <= payload[1] & 0x1F <= 5)

    def begins_picture(self, payload: bytes) -> bool:
        """What precedes slices, or a slice from macroblock 0 on (first_mb_in_slice, Exp-Golomb: a leading 1 is 0)."""
        kind = payload[0] & 0x1F if payload else 0
        if kind == FU_A and len(payload) > 2:
            return payload[1] & 0x80 > 0 and 1 <= payload[1] & 0x1F <= 5 and payload[2] >= 0x80
        if 1 <= kind <= 5:
            return len(payload) > 1 and payload[1] >= 0x80
        if kind == STAP_A and len(payload) > 3:
            kind = payload[3] & 0x1F
        return kind in (h264.SPS, h264.DELIMITER, h264.SEI)

    def parameter_sets(self, nals: Iterable[bytes]) -> list[bytes]:
        sps, pps = h264.parameter_sets(nals)
        return sps + pps if sps and pps else []

    def fragments(self, nal: bytes, room: int) -> list[bytes]:
        if len(nal) <= room:
            return [nal]
        indicator, kind, step = nal[0] & 0xE0 | FU_A, nal[0] & 0x1F, room - 2
        return [bytes((indicator, kind | mark)) + nal[at : at + step] for mark, at in _cuts(len(nal), 1, step)]


class HevcPayload:
    """RFC 7798: single NAL units, aggregation packets, fragmentation units; without decoding order numbers."""

    codec, encoding = "hevc", "H265"
    is_picture = staticmethod(hevc.is_picture)
    is_random_access = staticmethod(hevc.is_random_access)
    parameter_sets = staticmethod(hevc.parameter_sets)

    def unpack(self, payload: bytes) -> UnpackedPayload | None:
        if len(payload) < 3 or payload[0] & 0x80:
            return None
        kind = hevc.nal_type(payload)
        if kind < AP:
            return UnpackedPayload(nals=(payload,))
        if kind == AP:
            nals = _aggregated(payload, 2)
            return UnpackedPayload(nals=nals) if nals else None
        if kind == FU and len(payload) > 3:
            first = payload[2] & 0x80 > 0
            head = bytes((payload[0] & 0x81 | (payload[2] & 0x3F) << 1, payload[1])) if first else b""
            return UnpackedPayload(fragment=head + payload[3:], first=first, last=payload[2] & 0x40 > 0)
        return None

    def carries_picture(self, payload: bytes) -> bool:
        kind = hevc.nal_type(payload)
        return (kind < 32 and len(payload) > 2) or (kind == FU and len(payload) > 2 and payload[2] & 0x3F < 32)

    def begins_picture(self, payload: bytes) -> bool:
        """What precedes slices, or a slice with first_slice_segment_in_pic_flag."""
        kind = hevc.nal_type(payload)
        if kind == FU and len(payload) > 3:
            return payload[2] & 0x80 > 0 and payload[2] & 0x3F < 32 and payload[3] >= 0x80
        if kind == AP and len(payload) > 6:
            return hevc.begins_picture(payload[4:])
        return hevc.begins_picture(payload)

    def fragments(self, nal: bytes, room: int) -> list[bytes]:
        if len(nal) <= room:
            return [nal]
        head, kind, step = bytes((nal[0] & 0x81 | FU << 1, nal[1])), hevc.nal_type(nal), room - 3
        return [head + bytes((kind | mark,)) + nal[at : at + step] for mark, at in _cuts(len(nal), 2, step)]


H264, HEVC = H264Payload(), HevcPayload()
PAYLOAD_FORMATS: dict[str, PayloadFormat] = {H264.encoding: H264, HEVC.encoding: HEVC}


def _aggregated(payload: bytes, start: int) -> list[bytes]:
    """NAL units with 16-bit sizes in front; none where the sizes do not fit."""
    nals, position = [], start
    while position < len(payload):
        size = int.from_bytes(payload[position : position + 2], "big")
        nal = payload[position + 2 : position + 2 + size]
        if not size or len(nal) < size:
            return []
        nals.append(nal)
        position += 2 + size
    return nals


def _cuts(length: int, start: int, step: int) -> list[tuple[int, int]]:
    """(start and end marks, position) of each fragment."""
    places = list(range(start, length, step))
    return [((0x80 if at == places[0] else 0) | (0x40 if at == places[-1] else 0), at) for at in places]


class VideoPacketiser(RtpStream):
    """Cuts access units into RTP packets: a NAL unit that fits is a packet, a longer one goes in fragments."""

    def __init__(self, *, payload_format: PayloadFormat = H264, payload_type: int = 96, mtu: int = 1400) -> None:
        super().__init__(payload_type=payload_type, mtu=mtu)
        self.payload_format = payload_format

    def packetise(self, data: bytes, timestamp: int) -> list[bytes]:
        """Return the packets of one access unit in Annex B form, the last with the marker; none for no NAL units."""
        room = self.mtu - HEADER_BYTES
        payloads: list[bytes] = []
        for nal in h264.split_annexb(data):
            payloads += self.payload_format.fragments(nal, room)
        last = len(payloads) - 1
        return [self.packet(payload, timestamp, marker=index == last) for index, payload in enumerate(payloads)]


@dataclass(frozen=True, slots=True)
class AccessUnit:
    """One encoded frame as it came out of RTP."""

    nals: tuple[bytes, ...]
    timestamp: int  # RTP ticks, unwrapped, 0 at the first unit seen; in decoding order, so it may step back
    is_keyframe: bool  # a decoder can start here
    arrived_ns: int  # when it was complete, on the clock of the caller
    rtp_timestamp: int = 0  # as it came, 32 bits

    @property
    def data(self) -> bytes:
        """The NAL units in Annex B form."""
        return h264.join_annexb(self.nals)


class VideoDepacketiser:
    """Assembles access units. Starts with a keyframe, and continues with one after any loss.

    A unit is complete at its marker. Some senders (live555's proxy) mark every slice and some mark nothing, so the
    first unit is held until the next one begins, which shows what markers mean; where they mean nothing, every unit is
    held so. Memory is bounded by ``limit_bytes`` a unit. One thread.
    """

    def __init__(
        self,
        payload_type: int | None = None,
        *,
        payload_format: PayloadFormat = H264,
        limit_bytes: int = 16 << 20,
        limit_nals: int = 2048,
    ) -> None:
        self.payload_type, self.payload_format = payload_type, payload_format
        self.limit_bytes, self.limit_nals = limit_bytes, limit_nals
        self.bad_packets = 0  # not RTP, of another payload type, or unknown to the payload format
        self.lost_packets = 0  # gaps in the sequence numbers
        self.damaged_units = 0  # units of which something was missing
        self.skipped_units = 0  # whole units that no decoder can use: before the first keyframe, or after a loss
        self.units = 0  # complete ones seen, skipped or not
        self.markers_end_units: bool | None = None  # None until it is known
        self._needs_keyframe = True
        self._ssrc: int | None = None
        self._expected = 0
        self._raw: int | None = None  # timestamp of the unit that is being assembled, as it came
        self._last_raw: int | None = None  # timestamp of the unit before
        self._clock = 0
        self._step = VIDEO_CLOCK // 30
        self._marked = False
        self._begin(damaged=False)
        self._closed = True

    def push(self, data: bytes, now_ns: int) -> list[AccessUnit]:
        """Take one packet and return the units that it completed: none or one, or two when a marker was missing."""
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
        """Return the unit that waited for its successor, at the end of the stream."""
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
            self._needs_keyframe = self._damaged = True
        if packet.timestamp != self._raw:
            if not self._closed:
                done += self._finish(now_ns)
                if self.markers_end_units is None and self._marked:
                    self.markers_end_units = True
            unsure = gap or self._raw is None  # something may have come before
            self._raw = packet.timestamp
            self._begin(damaged=unsure and not self.payload_format.begins_picture(packet.payload))
        elif self._closed:
            if not self.payload_format.carries_picture(packet.payload):
                return done
            # The marker did not end the unit, which is gone already, and incomplete.
            self.markers_end_units = False
            self._needs_keyframe = True
            self._begin(damaged=True)
        elif self._marked and self.payload_format.carries_picture(packet.payload):
            self.markers_end_units = False
        self._take(packet.payload)
        if packet.marker and (self._damaged or any(map(self.payload_format.is_picture, self._nals))):
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
        """Add a payload to the unit; one that does not fit there damages the unit."""
        if self._damaged and self._size == 0 and not self._nals:
            return  # the rest of a unit that is lost anyway
        piece = self.payload_format.unpack(payload)
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
        """Return the assembled unit, if it is complete and can be decoded."""
        timestamp = self._unwrap()
        if self._damaged or self._fragment is not None:
            self.damaged_units += 1
            self._needs_keyframe = True
            return []
        if not any(map(self.payload_format.is_picture, self._nals)):
            return []
        self.units += 1
        keyframe = self.payload_format.is_random_access(self._nals)
        if self._needs_keyframe and not keyframe:
            self.skipped_units += 1
            return []
        self._needs_keyframe = False
        return [AccessUnit(tuple(self._nals), timestamp, keyframe, now_ns, self._raw or 0)]

    def _unwrap(self) -> int:
        """Return the timestamp without its wrap at 32 bits; a jump (a new clock) counts as one more step."""
        raw = self._raw or 0
        if self._last_raw is not None:
            step = (raw - self._last_raw + 0x80000000 & 0xFFFFFFFF) - 0x80000000
            if abs(step) > JUMP:
                step = self._step
            elif step > 0:
                self._step = step
            self._clock += step
        self._last_raw = raw
        return self._clock
