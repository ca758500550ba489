"""The byte stream of HEVC (ITU-T H.265, ISO/IEC 23008-2) as far as a receiver asks: what a NAL unit is.

A NAL unit is its bytes without the start code, the two header bytes first.
"""

from __future__ import annotations

from collections.abc import Iterable

VPS, SPS, PPS, DELIMITER, PREFIX_SEI = 32, 33, 34, 35, 39  # NAL unit types, table 7-1
FIRST_IRAP, LAST_IRAP = 16, 23  # BLA, IDR, CRA and the reserved ones


def nal_type(nal: bytes) -> int:
    """Type 0 to 63; 63, which means nothing, for less than a header."""
    return nal[0] >> 1 & 0x3F if len(nal) > 1 else 63


def is_picture(nal: bytes) -> bool:
    """Whether a NAL unit carries samples of a picture (types 0 to 31)."""
    return nal_type(nal) < 32


def begins_picture(nal: bytes) -> bool:
    """Whether it precedes all slices, or is the first (first_slice_segment_in_pic_flag)."""
    kind = nal_type(nal)
    return kind in (VPS, SPS, PPS, DELIMITER, PREFIX_SEI) or (kind < 32 and len(nal) > 2 and nal[2] >= 0x80)


def is_random_access(nals: Iterable[bytes]) -> bool:
    """Whether a decoder can start here: an intra random access point (decoders drop the pictures that lead it)."""
    return any(FIRST_IRAP <= nal_type(nal) <= LAST_IRAP for nal in nals)


def parameter_sets(nals: Iterable[bytes]) -> list[bytes]:
    """Video, sequence and picture parameter sets, each once; empty unless all three kinds are there."""
    found: dict[int, list[bytes]] = {VPS: [], SPS: [], PPS: []}
    for nal in nals:
        kept = found.get(nal_type(nal))
        if kept is not None and nal not in kept:
            kept.append(nal)
    return [nal for kept in found.values() for nal in kept] if all(found.values()) else []
