"""HEIC files, their boxes made by hand (ISO/IEC 23008-12) around pictures that x265 coded."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
from av.video.codeccontext import VideoCodecContext
from media_files import Picture, video_frame


def box(kind: bytes, *parts: bytes) -> bytes:
    data = b"".join(parts)
    return struct.pack(">I4s", 8 + len(data), kind) + data


def full(kind: bytes, version: int, *parts: bytes, flags: int = 0) -> bytes:
    return box(kind, struct.pack(">I", version << 24 | flags), *parts)


def coded(picture: tuple[Picture, Picture, Picture]) -> tuple[bytes, bytes]:
    """The configuration record (``hvcC``, ISO/IEC 14496-15, 8.3.3) of a picture, and its data in units with lengths."""
    context = av.CodecContext.create("libx265", "w")
    assert isinstance(context, VideoCodecContext)
    context.height, context.width = picture[0].shape
    context.pix_fmt, context.time_base, context.framerate = "yuv420p", Fraction(1, 25), Fraction(25)
    context.options = {"crf": "4", "x265-params": "log-level=none:ctu=16:keyint=1:info=0"}
    frame = video_frame(picture)
    frame.pts = 0
    stream = b"".join(bytes(packet) for part in (frame, None) for packet in context.encode(part))
    units = [unit.rstrip(b"\0") for unit in stream.replace(b"\0\0\0\1", b"\0\0\1").split(b"\0\0\1")[1:]]
    kinds = [unit[0] >> 1 & 63 for unit in units]
    sets = {kind: units[kinds.index(kind)] for kind in (32, 33, 34)}
    profile = sets[33].replace(b"\0\0\3", b"\0\0")[3:15]
    record = b"\1" + profile + bytes.fromhex("f000fcfdf8f800000f03")
    for kind, unit in sets.items():
        record += struct.pack(">BHH", 0x80 | kind, 1, len(unit)) + unit
    pictures = [unit for unit, kind in zip(units, kinds, strict=True) if kind < 32]
    return box(b"hvcC", record), b"".join(struct.pack(">I", len(unit)) + unit for unit in pictures)


def write_heic(
    path: Path,
    tiles: Sequence[tuple[Picture, Picture, Picture]],
    *,
    columns: int = 0,
    turns: int = 0,
    mirror: int | None = None,
    nclx: tuple[int, int, int, bool] | None = None,
    thumbnail: tuple[Picture, Picture, Picture] | None = None,
) -> None:
    """One picture, or with ``columns`` a grid of tiles. ``turns`` are quarter turns counterclockwise (``irot``).

    ``mirror`` is the axis of ``imir``: 0 top to bottom, 1 left to right, applied after the turn. ``nclx`` is
    (primaries, transfer, matrix, full range). A ``thumbnail`` is the first item, before the picture itself.
    """
    pictures = [*([thumbnail] if thumbnail else []), *tiles]
    made = [coded(picture) for picture in pictures]
    properties, uses = [], list[tuple[int, list[int]]]()
    for number, ((record, _), picture) in enumerate(zip(made, pictures, strict=True), 1):
        height, width = picture[0].shape
        properties += [record, full(b"ispe", 0, struct.pack(">II", width, height))]
        uses.append((number, [2 * number - 1, 2 * number]))
    height, width = tiles[0][0].shape
    items, idat, references = list(range(1, len(pictures) + 1)), b"", b""
    primary = len(pictures)
    if columns:
        rows, primary = len(tiles) // columns, len(pictures) + 1
        whole = columns * width, rows * height
        idat = struct.pack(">BBBBHH", 0, 0, rows - 1, columns - 1, *whole)
        properties.append(full(b"ispe", 0, struct.pack(">II", *whole)))
        uses.append((primary, [len(properties)]))
        numbers = items[-len(tiles) :]
        references += box(b"dimg", struct.pack(f">HH{len(tiles)}H", primary, len(tiles), *numbers))
    if thumbnail:
        references += box(b"thmb", struct.pack(">HHH", 1, 1, primary))
    for kind, value in ((b"irot", turns), (b"imir", mirror)):
        if value:
            properties.append(box(kind, bytes([value])))
            uses[-1][1].append(0x80 | len(properties))
        elif value is not None and kind == b"imir":
            properties.append(box(kind, b"\0"))
            uses[-1][1].append(0x80 | len(properties))
    if nclx is not None:
        properties.append(box(b"colr", b"nclx", struct.pack(">HHHB", *nclx[:3], nclx[3] << 7)))
        uses[-1][1].append(len(properties))
    infos = [full(b"infe", 2, struct.pack(">HH4s", n, 0, b"hvc1"), b"\0") for n in items]
    if columns:
        infos.append(full(b"infe", 2, struct.pack(">HH4s", primary, 0, b"grid"), b"\0"))
    ipma = struct.pack(">I", len(uses)) + b"".join(struct.pack(">HB", n, len(of)) + bytes(of) for n, of in uses)

    def meta(begin: int) -> bytes:
        places, at = b"", begin
        for number, (_, data) in zip(items, made, strict=True):
            places += struct.pack(">HHHHII", number, 0, 0, 1, at, len(data))
            at += len(data)
        if columns:
            places += struct.pack(">HHHHII", primary, 1, 0, 1, 0, len(idat))
        iloc = full(b"iloc", 1, b"\x44\0", struct.pack(">H", len(items) + bool(columns)), places)
        return full(
            b"meta",
            0,
            full(b"hdlr", 0, bytes(4), b"pict", bytes(13)),
            full(b"pitm", 0, struct.pack(">H", primary)),
            iloc,
            full(b"iinf", 0, struct.pack(">H", len(infos)), *infos),
            full(b"iref", 0, references) if references else b"",
            box(b"iprp", box(b"ipco", *properties), full(b"ipma", 0, ipma)),
            box(b"idat", idat) if idat else b"",
        )

    ftyp = box(b"ftyp", b"heic", bytes(4), b"mif1heic")
    begin = len(ftyp) + len(meta(0)) + 8
    path.write_bytes(ftyp + meta(begin) + box(b"mdat", *(data for _, data in made)))
