"""How RTP carries the NAL units of a video codec: H.264 (RFC 6184, non-interleaved) and HEVC (RFC 7798, no DONL).

A `Payload` knows the bytes of one codec and keeps no state: what it is given may be anything, and it raises nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from stream_sr.codec import h264, hevc

STAP_A, FU_A = 24, 28  # H.264
AP, FU = 48, 49  # HEVC


class Piece(NamedTuple):
    """What one RTP payload holds: whole NAL units, or a fragment of one (the first with the unit's header)."""

    nals: Sequence[bytes] = ()
    fragment: bytes | None = None
    first: bool = False
    last: bool = False


class Payload(Protocol):
    """The payload format of one codec."""

    codec: str  # FFmpeg's name
    encoding: str  # the name in rtpmap

    def unpack(self, payload: bytes) -> Piece | None:
        """What a payload holds; None for a form that is not known here."""
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
        """The parameter sets among NAL units, for in front of a keyframe; empty unless all kinds are there."""
        ...

    def fragments(self, nal: bytes, room: int) -> list[bytes]:
        """A NAL unit as payloads of at most ``room`` bytes."""
        ...


class H264Payload:
    """RFC 6184: single NAL units, STAP-A, FU-A."""

    codec, encoding = "h264", "H264"
    is_picture = staticmethod(h264.is_picture)
    is_random_access = staticmethod(h264.is_random_access)

    def unpack(self, payload: bytes) -> Piece | None:
        kind = payload[0] & 0x1F if payload else 0
        if 1 <= kind <= 23 and payload[0] < 0x80:
            return Piece(nals=(payload,))
        if kind == STAP_A:
            nals = _aggregated(payload, 1)
            return Piece(nals=nals) if nals else None
        if kind == FU_A and len(payload) > 2:
            first = payload[1] & 0x80 > 0
            head = bytes((payload[0] & 0xE0 | payload[1] & 0x1F,)) if first else b""
            return Piece(fragment=head + payload[2:], first=first, last=payload[1] & 0x40 > 0)
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

    def unpack(self, payload: bytes) -> Piece | None:
        if len(payload) < 3 or payload[0] & 0x80:
            return None
        kind = hevc.nal_type(payload)
        if kind < AP:
            return Piece(nals=(payload,))
        if kind == AP:
            nals = _aggregated(payload, 2)
            return Piece(nals=nals) if nals else None
        if kind == FU and len(payload) > 3:
            first = payload[2] & 0x80 > 0
            head = bytes((payload[0] & 0x81 | (payload[2] & 0x3F) << 1, payload[1])) if first else b""
            return Piece(fragment=head + payload[3:], first=first, last=payload[2] & 0x40 > 0)
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
BY_ENCODING: dict[str, Payload] = {H264.encoding: H264, HEVC.encoding: HEVC}


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
