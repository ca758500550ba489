"""What FFmpeg's muxer leaves wrong in a finished MP4 or MOV (ISO/IEC 14496-12), corrected in the file."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

Field = tuple[int, str]  # where a number stands, and its format
Extent = tuple[int, int]  # where a box's content begins, and where it ends

COVERS = {"mjpeg": 13, "png": 14, "bmp": 27}  # FFmpeg's codec of a cover image: the type of its data atom (QuickTime)


def add_covers(path: Path, covers: Sequence[tuple[str, bytes]]) -> bool:
    """Put cover images, each FFmpeg's name of the codec and the file's bytes, into the tags of a finished MP4.

    FFmpeg's muxer takes them as video streams, which in a fragmented file leave an empty track behind. Returns whether
    there was a place for them: an item list (``moov/udta/meta/ilst``) in an index at the end of the file, which our
    muxer always writes. Raises OSError.
    """
    atoms = b"".join(
        _box(b"covr", _box(b"data", struct.pack(">II", COVERS[codec], 0) + data)) for codec, data in covers
    )
    with path.open("r+b") as file:
        size = file.seek(0, 2)
        extent, sizes = (0, size), []
        for kind in (b"moov", b"udta", b"meta", b"ilst"):
            found = [one for one in _boxes(file, extent) if one[0] == kind]
            if not found:
                return False
            extent = found[-1][1]
            sizes.append(extent[0] - 8)
            if kind == b"moov" and extent[1] != size:
                return False
            if kind == b"meta":  # a full box: version and flags come first
                extent = (extent[0] + 4, extent[1])
        file.seek(extent[1])
        rest = file.read()
        file.seek(extent[1])
        file.write(atoms + rest)
        for place in sizes:
            value = _number(file, (place, ">I"))
            file.seek(place)
            file.write(struct.pack(">I", value + len(atoms)))
    return True


def _box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content) + 8) + kind + content


def lengthen_video(path: Path, seconds: Fraction) -> bool:
    """Let the pictures of the file be shown for ``seconds`` from the first to the end of the last.

    Where a fragment begins after the picture that is shown last (which comes earlier in decoding), FFmpeg takes the
    beginning of that for the end of the video, and players leave it out. Returns whether the file said less. Raises
    OSError; a file without a whole index (one that was not finished) is left alone. Of an index, which holds a hundred
    bytes a picture, only what is needed is read.
    """
    with path.open("r+b") as file:
        size = file.seek(0, 2)
        index = dict(_boxes(file, (0, size))).get(b"moov", (0, 0))
        if index[1] > size:
            return False
        movie = dict(_boxes(file, index))
        for kind, extent in _boxes(file, index):
            if kind != b"trak":
                continue
            track = dict(_boxes(file, extent))
            media = dict(_boxes(file, track[b"mdia"]))
            if _read(file, (media[b"hdlr"][0] + 8, ">4s")) != b"vide":
                continue
            edits = dict(_boxes(file, track[b"edts"])).get(b"elst") if b"edts" in track else None
            ticks, length = _times(file, media[b"mdhd"][0])
            movie_ticks, movie_length = _times(file, movie[b"mvhd"][0])
            shown = _length_of_track(file, track[b"tkhd"][0])
            grown = _at_least(file, length, round(seconds * ticks))
            if edits is None:
                grown += _at_least(file, shown, round(seconds * movie_ticks))
            else:  # the track is as long as its edits, of which one before may be a pause
                more = _at_least(file, _last_edit(file, edits[0]), round(seconds * movie_ticks))
                grown += more + _at_least(file, shown, _number(file, shown) + more)
            return grown + _at_least(file, movie_length, _number(file, shown)) > 0
    return False


def _boxes(file: IO[bytes], extent: Extent) -> Iterator[tuple[bytes, Extent]]:
    place, end = extent
    while place + 8 <= end:
        size, kind = _number(file, (place, ">I")), _read(file, (place + 4, ">4s"))
        header = 16 if size == 1 else 8  # a size of 64 bits follows
        if size == 1 and place + header <= end:
            size = _number(file, (place + 8, ">Q"))
        if size < header:
            return
        yield kind, (place + header, place + size)
        place += size


def _times(file: IO[bytes], begin: int) -> tuple[int, Field]:
    """Ticks per second and the duration of ``mvhd`` or ``mdhd``; 64 bits in version 1."""
    if _version(file, begin):
        return _number(file, (begin + 20, ">I")), (begin + 24, ">Q")
    return _number(file, (begin + 12, ">I")), (begin + 16, ">I")


def _length_of_track(file: IO[bytes], begin: int) -> Field:
    return (begin + 28, ">Q") if _version(file, begin) else (begin + 20, ">I")


def _last_edit(file: IO[bytes], begin: int) -> Field:
    size, form = (20, ">Q") if _version(file, begin) else (12, ">I")
    return begin + 8 + size * (_number(file, (begin + 4, ">I")) - 1), form


def _version(file: IO[bytes], begin: int) -> int:
    return _number(file, (begin, ">B"))


def _number(file: IO[bytes], field: Field) -> int:
    return int(_read(file, field))


def _read(file: IO[bytes], field: Field) -> Any:
    place, form = field
    file.seek(place)
    return struct.unpack(form, file.read(struct.calcsize(form)))[0]


def _at_least(file: IO[bytes], field: Field, least: int) -> int:
    """Make the number at least so large; by how much it grew."""
    value = _number(file, field)
    if value < least:
        file.seek(field[0])
        file.write(struct.pack(field[1], least))
    return max(0, least - value)
