"""H.264 as fragmented MP4 (ISO/IEC 14496-12 and -15), one fragment a picture, for Media Source Extensions.

FFmpeg's muxer holds each fragment until the next picture comes; this writer does not, which is one frame interval.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from stream_sr.codec import h264
from stream_sr.errors import SinkOpenError
from stream_sr.pipeline.packets import EncodedStream

TIMESCALE = 90_000
PARAMETER_SETS = (7, 8, 9)  # SPS, PPS and delimiters: said in the init segment, not in the samples
KEY_SAMPLE, OTHER_SAMPLE = 0x02000000, 0x01010000  # sample_depends_on and sample_is_non_sync_sample
UNITY = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)  # transformation matrix


def mime_type(stream: EncodedStream) -> str:
    """What ``MediaSource.isTypeSupported`` is asked: profile and level stand in the SPS."""
    return f'video/mp4; codecs="avc1.{h264.profile_level_id(_sets(stream)[0])}"'


def init_segment(stream: EncodedStream) -> bytes:
    """``ftyp`` and ``moov`` of an endless stream in units of 1/90000 s. Raises SinkOpenError without parameter sets."""
    mvhd = _full(
        b"mvhd",
        0,
        0,
        struct.pack(">4I", 0, 0, TIMESCALE, 0),
        struct.pack(">IH10x", 0x10000, 0x100),
        UNITY,
        bytes(24),
        struct.pack(">I", 2),
    )
    trex = _full(b"trex", 0, 0, struct.pack(">5I", 1, 1, 0, 0, 0))
    moov = _box(b"moov", mvhd, _track(stream), _box(b"mvex", trex))
    return _box(b"ftyp", b"iso5", struct.pack(">I", 512), b"iso5iso6mp41") + moov


def fragment(data: bytes, *, sequence: int, time: int, duration: int, key: bool) -> bytes:
    """``moof`` and ``mdat`` of one access unit in Annex B form. ``time`` and ``duration`` are in 1/90000 s."""
    sample = b"".join(
        struct.pack(">I", len(nal)) + nal for nal in h264.split_annexb(data) if h264.nal_type(nal) not in PARAMETER_SETS
    )
    flags = KEY_SAMPLE if key else OTHER_SAMPLE
    size = 0
    for _ in range(2):  # the offset of the data stands inside the box whose size it is
        moof = _box(
            b"moof",
            _full(b"mfhd", 0, 0, struct.pack(">I", sequence & 0xFFFFFFFF)),
            _box(
                b"traf",
                _full(b"tfhd", 0, 0x020000, struct.pack(">I", 1)),  # default-base-is-moof
                _full(b"tfdt", 1, 0, struct.pack(">Q", time)),
                _full(b"trun", 0, 0x000701, struct.pack(">IIIII", 1, size + 8, duration, len(sample), flags)),
            ),
        )
        size = len(moof)
    return moof + _box(b"mdat", sample)


def _sets(stream: EncodedStream) -> tuple[bytes, bytes]:
    sps, pps = h264.parameter_sets(h264.split_annexb(stream.extradata))
    if not sps or not pps:
        raise SinkOpenError("the encoder gave no parameter sets, without which no browser plays the stream")
    return sps[0], pps[0]


def _track(stream: EncodedStream) -> bytes:
    info = stream.info
    tkhd = _full(
        b"tkhd",
        0,
        3,
        struct.pack(">5I", 0, 0, 1, 0, 0),
        bytes(16),
        UNITY,
        struct.pack(">II", info.width << 16, info.height << 16),
    )
    mdhd = _full(b"mdhd", 0, 0, struct.pack(">4IHH", 0, 0, TIMESCALE, 0, 0x55C4, 0))  # language "und"
    hdlr = _full(b"hdlr", 0, 0, struct.pack(">I4s12x", 0, b"vide"), b"video\0")
    dinf = _box(b"dinf", _full(b"dref", 0, 0, struct.pack(">I", 1), _full(b"url ", 0, 1)))
    empty = (_full(kind, 0, 0, bytes(4)) for kind in (b"stts", b"stsc", b"stco"))
    stbl = _box(
        b"stbl",
        _full(b"stsd", 0, 0, struct.pack(">I", 1), _sample_entry(stream)),
        *empty,
        _full(b"stsz", 0, 0, bytes(8)),
    )
    minf = _box(b"minf", _full(b"vmhd", 0, 1, bytes(8)), dinf, stbl)
    return _box(b"trak", tkhd, _box(b"mdia", mdhd, hdlr, minf))


def _sample_entry(stream: EncodedStream) -> bytes:
    info, color = stream.info, stream.info.color
    sps, pps = _sets(stream)
    avcc = _box(
        b"avcC",
        b"\x01" + sps[1:4] + b"\xff\xe1",
        struct.pack(">H", len(sps)),
        sps,
        b"\x01",
        struct.pack(">H", len(pps)),
        pps,
    )
    colr = _box(
        b"colr",
        b"nclx",
        struct.pack(">HHHB", color.primaries, color.transfer, int(color.matrix), 0x80 if color.full_range else 0),
    )
    visual = struct.pack(">6xH16xHHII4xH32xHh", 1, info.width, info.height, 0x480000, 0x480000, 1, 0x18, -1)
    return _box(b"avc1", visual, avcc, colr)


def _box(kind: bytes, *parts: bytes) -> bytes:
    return _join(kind, parts)


def _full(kind: bytes, version: int, flags: int, *parts: bytes) -> bytes:
    return _join(kind, (struct.pack(">I", version << 24 | flags), *parts))


def _join(kind: bytes, parts: Iterable[bytes]) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I4s", 8 + len(body), kind) + body
