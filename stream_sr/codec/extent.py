"""How many bytes a container file promises, so that a truncated one is told from one that ends.

FFmpeg reads a truncated file up to the break and then reports an ordinary end. MP4, Matroska and RIFF (AVI) state
their extent; a transport stream or a raw elementary stream does not, and ends wherever it ends.
"""

from __future__ import annotations

import os
from typing import BinaryIO

from av.container import InputContainer

EBML, SEGMENT = bytes.fromhex("1a45dfa3"), bytes.fromhex("18538067")


def is_truncated(path: str | os.PathLike[str], container: InputContainer) -> bool:
    """Whether the file is shorter than its headers or its index say. False where the format does not say."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(12)
        if head[:4] == b"RIFF":
            promised = int.from_bytes(head[4:8], "little") + 8
            return promised not in (8, 0xFFFFFFFF + 8) and promised > size + 1  # the pad byte is often missing
        if head[:4] == EBML:
            promised = _matroska_end(file)
            return promised > size
    return _index_end(container) > size


def lacks_index(path: str | os.PathLike[str]) -> bool:
    """Whether this is an MP4 without its ``moov`` box: a recording that was cut off before it was finished."""
    with open(path, "rb") as file:
        if file.read(8)[4:] != b"ftyp":
            return False
        file.seek(0)
        end = os.fstat(file.fileno()).st_size
        while file.tell() + 8 <= end:
            start = file.tell()
            length, kind = int.from_bytes(file.read(4), "big"), file.read(4)
            if kind in (b"moov", b"moof"):
                return False
            if length == 1:
                length = int.from_bytes(file.read(8), "big")
            if length < 8:
                return True
            file.seek(start + length)
    return True


def _index_end(container: InputContainer) -> int:
    """End of the last indexed sample; 0 without an index. The index of an MP4 is complete once it is open."""
    if "mp4" not in container.format.name:
        return 0
    ends = [0]
    for stream in container.streams:
        entries = stream.index_entries
        if len(entries):
            last = entries[len(entries) - 1]
            ends.append(last.pos + last.size)
    return max(ends)


def _matroska_end(file: BinaryIO) -> int:
    """End of the segment; 0 when its size is unknown (a live recording)."""
    file.seek(0)
    for _ in range(2):
        kind = file.read(4)
        length = _vint(file)
        if length is None:
            return 0
        if kind == SEGMENT:
            return file.tell() + length
        file.seek(length, os.SEEK_CUR)
    return 0


def _vint(file: BinaryIO) -> int | None:
    """An EBML variable-length size (RFC 8794, section 6); None when unknown (all ones) or broken."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    width = 9 - first[0].bit_length()
    value = int.from_bytes(first + file.read(width - 1), "big") & ((1 << 7 * width) - 1)
    return None if value == (1 << 7 * width) - 1 else value
