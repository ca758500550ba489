"""A file on a disk that may be full, removed or moved away while it is written."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import av

from stream_sr.codec.metadata import METADATA_ERRORS
from stream_sr.errors import SinkOpenError
from stream_sr.sinks.tracks import FFMPEG_ERRORS


class OutputFile:
    """The file under the muxer: created exclusively, written whole, and its first failure remembered."""

    def __init__(self, name: str, path: Path, replace: bool) -> None:
        self.name, self.path = name, path
        self.error: OSError | None = None
        try:
            if replace:
                # A new file, so that a reader or another link of the old one keeps what it has.
                path.unlink(missing_ok=True)
            self._file = open(path, "xb", buffering=0)  # noqa: SIM115
        except FileExistsError as error:
            raise SinkOpenError(f"{name} exists; choose another name, or give --overwrite") from error
        except OSError as error:
            raise SinkOpenError(f"{name} cannot be written: {error.strerror}") from error
        state = os.fstat(self._file.fileno())
        self._identity = state.st_dev, state.st_ino
        # Some network file systems do not name a file alike by descriptor and by path, or count no links.
        self._identified, self._linked = self._is_same(), state.st_nlink > 0

    def in_place(self) -> bool:
        """Whether the file still lies where it was created: not removed, renamed, replaced or hidden by a mount."""
        if self._linked and not self._file.closed and os.fstat(self._file.fileno()).st_nlink == 0:
            return False
        if not self._identified:
            return os.path.lexists(self.path)
        try:
            return self._is_same()
        except OSError:
            return True  # nobody can tell: no right to look, a server that does not answer

    def _is_same(self) -> bool:
        """Raises OSError where the path cannot be looked up for another reason than that it is not there."""
        try:
            found = os.stat(self.path)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE):
                return False
            raise
        return (found.st_dev, found.st_ino) == self._identity

    @property
    def closed(self) -> bool:
        return self._file.closed

    def write(self, data: bytes) -> int:
        if self.error is not None:
            raise self.error
        view = memoryview(data)
        try:
            while view:
                view = view[self._file.write(view) or 0 :]
        except OSError as error:
            self.error = error
            raise
        return len(data)

    def has_failed(self) -> bool:
        return self.error is not None

    def size(self) -> int:
        return os.fstat(self._file.fileno()).st_size

    def sync(self) -> None:
        """Wait until the data is on the disk: what it is to replace would be gone otherwise, if the power fails."""
        os.fsync(self._file.fileno())

    def cut(self, size: int) -> None:
        """After a failed write: drop what came after ``size``. Part of a fragment would spoil the whole file."""
        if self.error is not None:
            self._file.truncate(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.close()


def holds_picture(path: Path) -> bool:
    """Whether a player finds a picture in the file."""
    try:
        with av.open(f"file:{path}", "r", metadata_errors=METADATA_ERRORS) as container:
            return any(packet.size > 0 for packet in container.demux(video=0))
    except (*FFMPEG_ERRORS, IndexError):
        return False


def free_name(path: Path) -> Path:
    """The path, or where that is taken with a number: ``door.mkv``, ``door-2.mkv``..."""
    free, number = path, 1
    while os.path.lexists(free):
        number += 1
        free = path.with_stem(f"{path.stem}-{number}")
    return free


def is_same_file(path: Path, source: str) -> bool:
    try:
        return bool(source) and os.path.samefile(path, source)
    except OSError:
        return False
