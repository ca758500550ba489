"""What FFmpeg's muxer leaves wrong in a finished MP4 or MOV (ISO/IEC 14496-12): how long its pictures are shown."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

Box = tuple[bytes, int, int]  # type, where its content begins, where it ends
HEADER = 8  # bytes of size and type


def lengthen_video(path: Path, seconds: Fraction) -> bool:
    """Let the pictures of the file be shown for ``seconds`` from the first to the end of the last; whether that was
    longer than what it said.

    Where a fragment begins after the picture that is shown last (which comes earlier in decoding), FFmpeg takes the
    beginning of that for the end of the video, and players leave it out. Raises OSError; a file without an index at its
    end (one that was not finished) is left alone.
    """
    with path.open("r+b") as file:
        index = b""
        start = place = 0
        while len(header := file.read(16)) >= HEADER:
            size, kind = struct.unpack_from(">I4s", header)
            if size == 1:  # of 64 bits
                size = int.from_bytes(header[HEADER:]) if len(header) == 16 else 0
            if size < HEADER:
                break
            if kind == b"moov":
                file.seek(place)
                start, index = place, file.read(size)
                if len(index) < size:
                    return False
            place += size
            file.seek(place)
        changed = bytearray(index)
        if not _lengthen(changed, seconds):
            return False
        file.seek(start)
        file.write(changed)
        return True


def _lengthen(index: bytearray, seconds: Fraction) -> bool:
    """The same for ``moov``, in place."""
    boxes = {kind: (begin, end) for kind, begin, end in _boxes(index, HEADER, len(index)) if kind != b"trak"}
    for kind, begin, end in _boxes(index, HEADER, len(index)):
        if kind != b"trak":
            continue
        track = {kind: (begin, end) for kind, begin, end in _boxes(index, begin, end)}
        media = {kind: (begin, end) for kind, begin, end in _boxes(index, *track[b"mdia"])}
        if index[media[b"hdlr"][0] + 8 : media[b"hdlr"][0] + 12] != b"vide":
            continue
        ticks, length = _times(index, media[b"mdhd"][0])
        movie_ticks, movie_length = _times(index, boxes[b"mvhd"][0])
        shown = _length_of_track(index, track[b"tkhd"][0])
        before = bytes(index)
        _raise(index, length, round(seconds * ticks))
        lists = [begin for kind, begin, _ in _boxes(index, *track.get(b"edts", (0, 0))) if kind == b"elst"]
        for begin in lists:  # the track is as long as its edits, of which one before may be a pause
            more = _raise(index, _last_edit(index, begin), round(seconds * movie_ticks))
            _raise(index, shown, _get(index, shown) + more)
        if not lists:
            _raise(index, shown, round(seconds * movie_ticks))
        _raise(index, movie_length, _get(index, shown))
        return index != before
    return False


def _boxes(data: bytearray, begin: int, end: int) -> Iterator[Box]:
    while begin + HEADER <= end:
        size, kind = struct.unpack_from(">I4s", data, begin)
        if size < HEADER:  # of 64 bits: only media data is that large
            return
        yield kind, begin + HEADER, begin + size
        begin += size


Field = tuple[int, str]  # where, and its format


def _times(data: bytearray, begin: int) -> tuple[int, Field]:
    """Ticks per second and the duration of ``mvhd`` or ``mdhd``; 64 bits in version 1."""
    if data[begin]:
        return struct.unpack_from(">I", data, begin + 20)[0], (begin + 24, ">Q")
    return struct.unpack_from(">I", data, begin + 12)[0], (begin + 16, ">I")


def _length_of_track(data: bytearray, begin: int) -> Field:
    return (begin + 28, ">Q") if data[begin] else (begin + 20, ">I")


def _last_edit(data: bytearray, begin: int) -> Field:
    size, form = (20, ">Q") if data[begin] else (12, ">I")
    return begin + 8 + size * (struct.unpack_from(">I", data, begin + 4)[0] - 1), form


def _get(data: bytearray, field: Field) -> int:
    return int(struct.unpack_from(field[1], data, field[0])[0])


def _raise(data: bytearray, field: Field, least: int) -> int:
    """Make the number at least so large; by how much it grew."""
    value = _get(data, field)
    struct.pack_into(field[1], data, field[0], max(value, least))
    return max(0, least - value)
