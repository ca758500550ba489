"""What a picture file holds, by its content: one picture, several that follow in time, or tiles of one.

A name says little: an APNG is usually called .png, a GIF often .jpg. Only a few bytes are read, nothing is decoded.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Iterator
from typing import BinaryIO

EBML = bytes.fromhex("1a45dfa3")
PNG = b"\x89PNG\r\n\x1a\n"
# Major brands of ISO base media files that are a single picture (ISO/IEC 23008-12 annex B, AVIF 1.1 section 6)
STILL_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"mif1", b"mif2", b"avif", b"avci", b"jpeg", b"j2ki", b"miaf"}
ANIMATED_BRANDS = {b"avis", b"msf1", b"hevc", b"hevx"}
DERIVED = {b"grid": "tiles", b"iovl": "an overlay of several pictures", b"iden": "a picture derived from another"}
LARGEST_BOX = 64 << 20  # bytes; tables of a picture are far smaller


class ImageContent(enum.Enum):
    """Which kind of file it is."""

    UNKNOWN = "unknown"  # by its content neither of these
    STILL = "a still picture"
    HEIF = "a still picture in an ISO base media file: HEIC or AVIF"
    VIDEO = "a video, or an animated picture that FFmpeg decodes"
    ANIMATED_WEBP = "an animated WebP"


def probe_image(path: str | os.PathLike[str]) -> ImageContent:
    """What the file is. UNKNOWN for one that is no ordinary file or cannot be read."""
    try:
        if not os.path.isfile(path):  # reading from a pipe would take its data away
            return ImageContent.UNKNOWN
        with open(path, "rb") as file:
            return _content(file)
    except OSError:
        return ImageContent.UNKNOWN


def _content(file: BinaryIO) -> ImageContent:
    head = file.read(32)
    if head.startswith(PNG):
        return ImageContent.VIDEO if _is_animated_png(file) else ImageContent.STILL
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        animated = head[12:16] == b"VP8X" and len(head) > 20 and head[20] & 2
        return ImageContent.ANIMATED_WEBP if animated else ImageContent.STILL
    if head[:6] in (b"GIF87a", b"GIF89a") or head[:4] == EBML or (head[:4] == b"RIFF" and head[8:12] == b"AVI "):
        return ImageContent.VIDEO
    if head[4:8] == b"ftyp":
        return ImageContent.HEIF if head[8:12] in STILL_BRANDS else ImageContent.VIDEO
    return ImageContent.UNKNOWN


def _is_animated_png(file: BinaryIO) -> bool:
    """Whether there is an animation of more than one picture before the image data (PNG 3rd edition, 11.3.6)."""
    file.seek(len(PNG))
    while len(head := file.read(8)) == 8:
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        if kind == b"acTL":
            return int.from_bytes(file.read(4), "big") > 1
        if kind == b"IDAT":
            return False
        file.seek(length + 4, os.SEEK_CUR)
    return False


def demuxer_of(path: str | os.PathLike[str]) -> str | None:
    """FFmpeg's name of the format where it could take the file's name for the pattern of a sequence (``100%d.png``)."""
    if "%" not in os.fspath(path) or probe_image(path) is not ImageContent.VIDEO:
        return None
    with open(path, "rb") as file:
        head = file.read(12)
    names = {PNG[:4]: "apng", b"GIF8": "gif", EBML: "matroska", b"RIFF": "avi"}
    return names.get(head[:4], "mp4" if head[4:8] == b"ftyp" else None)


def webp_delays(path: str | os.PathLike[str]) -> list[int]:
    """How long each picture of an animated WebP is shown, in ms, as its ANMF chunks say."""
    delays = []
    with open(path, "rb") as file:
        file.seek(12)
        while len(head := file.read(8)) == 8:
            length = int.from_bytes(head[4:], "little")
            following = file.tell() + length + length % 2
            if head[:4] == b"ANMF":
                delays.append(int.from_bytes(file.read(16)[12:15], "little"))
            file.seek(following)
    return delays


def derived_picture(path: str | os.PathLike[str]) -> str:
    """What the picture of a HEIC or AVIF file is made of, where FFmpeg's decoder would give only a part of it.

    Empty for a picture that is coded as one, and for a file that is no such file or is damaged.
    """
    boxes = _meta(path)
    return DERIVED.get(_item_types(boxes.get(b"iinf", b"")).get(_primary(boxes), b""), "")


def stated_color(path: str | os.PathLike[str]) -> tuple[int, int, int, bool] | None:
    """Primaries, transfer and matrix (ITU-T H.273) of a HEIC or AVIF picture, and whether its range is full.

    They stand beside the coded picture (``colr`` of the kind ``nclx``) and replace what that says (ISO/IEC 23008-12,
    6.5.5). None where there are none.
    """
    boxes = _meta(path)
    parts = dict(_parts(boxes.get(b"iprp", b"")))
    properties = list(_parts(parts.get(b"ipco", b"")))
    for index in _uses(parts.get(b"ipma", b""), _primary(boxes)):
        kind, data = properties[index - 1] if 0 < index <= len(properties) else (b"", b"")
        if kind == b"colr" and data[:4] == b"nclx" and len(data) >= 11:
            primaries, transfer, matrix = (int.from_bytes(data[at : at + 2], "big") for at in (4, 6, 8))
            return primaries, transfer, matrix, bool(data[10] & 0x80)
    return None


def _meta(path: str | os.PathLike[str]) -> dict[bytes, bytes]:
    """The boxes of the picture's description, by type; none where there is none, or it is damaged."""
    try:
        with open(path, "rb") as file:
            if file.read(8)[4:] != b"ftyp":
                return {}
            file.seek(0)
            end = os.fstat(file.fileno()).st_size
            meta = next((file.read(size) for kind, size in _boxes(file, end) if kind == b"meta"), b"")
    except (OSError, ValueError):
        return {}
    return dict(_parts(meta[4:]))  # version and flags come first


def _primary(boxes: dict[bytes, bytes]) -> int:
    """Number of the item that is the picture (ISO/IEC 14496-12, 8.11.4)."""
    primary = boxes.get(b"pitm", b"")
    return int.from_bytes(primary[4:8] if primary[:1] == b"\x01" else primary[4:6], "big")


def _uses(ipma: bytes, item: int) -> list[int]:
    """Which properties an item has, counted from 1 (ISO/IEC 23008-12, 9.3)."""
    number, index = 4 if ipma[:1] == b"\x01" else 2, 2 if ipma[3:4] and ipma[3] & 1 else 1
    at = 8
    while at + number < len(ipma):
        found, count = int.from_bytes(ipma[at : at + number], "big"), ipma[at + number]
        at += number + 1
        if found == item:
            places = [ipma[n : n + index] for n in range(at, at + count * index, index)]
            return [int.from_bytes(place, "big") & (1 << 8 * index - 1) - 1 for place in places]
        at += count * index
    return []


def _item_types(iinf: bytes) -> dict[int, bytes]:
    """Number and type of the items (ISO/IEC 14496-12, 8.11.6); only versions 2 and 3 of an entry have a type."""
    types = {}
    for kind, entry in _parts(iinf[8 if iinf[:1] != b"\x00" else 6 :]):
        if kind == b"infe" and entry[:1] in (b"\x02", b"\x03"):
            width = 2 if entry[0] == 2 else 4
            types[int.from_bytes(entry[4 : 4 + width], "big")] = entry[6 + width : 10 + width]
    return types


def _boxes(file: BinaryIO, end: int) -> Iterator[tuple[bytes, int]]:
    """Type and size of the content of each box at the file's level; the file stands at that content. ValueError."""
    while file.tell() + 8 <= end:
        start = file.tell()
        size, kind, head = int.from_bytes(file.read(4), "big"), file.read(4), 8
        if size == 1:
            size, head = int.from_bytes(file.read(8), "big"), 16
        size = size or end - start
        if size < head or (kind == b"meta" and size > LARGEST_BOX):
            raise ValueError(f"a box {kind!r} of {size} bytes")
        yield kind, size - head
        file.seek(start + size)


def _parts(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Type and content of the boxes in a piece of data, up to the first that is damaged."""
    at = 0
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if size < 8:
            return
        yield data[at + 4 : at + 8], data[at + 8 : at + size]
        at += size
