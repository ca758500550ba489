"""A file that a program writes for weeks: named when it is begun, and begun again after a full disk or a removal."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from stream_sr.errors import OutputRemoved, SinkError, SinkOpenError
from stream_sr.pipeline.interfaces import SinkOptions
from stream_sr.pipeline.packets import EncodedStream, Packet
from stream_sr.sinks.file import FileSink
from stream_sr.sinks.output_file import free_name

AGAIN_SECONDS = 60.0  # after a disk that was full, or refused for another reason
FOLDER_SECONDS = 5.0  # while the folder is not there: looking costs nothing
MOST_NAME_BYTES, MOST_PATH_BYTES = 240, 4000  # the system takes 255 and 4095
SETTLED_SECONDS = 10.0  # a part that fails sooner than this is the same failure still

log = logging.getLogger("stream_sr")


class RestartingFile:
    """A `FileSink` for each part. See `interfaces.PacketSink` and `interfaces.CheckedSink`.

    ``name`` may hold the time at which a part begins, as strftime writes it. Where the name is taken it gets a number:
    a part never stands in the way of the next, and is never replaced by it. Only the first part of a run replaces what
    was there before, with ``overwrite``.

    Of a live stream, a failure of a part ends that part, as playable as it is, and is logged; a minute later another is
    begun, with a keyframe. So viewers lose nothing to a full disk. After a part that was removed or renamed the next
    begins at once; while its folder is missing, 5 s after the folder is back. Of a file everything is needed: a failure
    is raised.
    """

    paced = False

    def __init__(self, name: str, options: SinkOptions, *, now: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self.takes_passthrough = options.audio != "none"
        self._options, self._now = options, now
        self._stream: EncodedStream | None = None
        self._file: FileSink | None = None
        self._failures = 0
        self._began = self._again = 0.0  # when this part has begun, and when the next may
        self._logged = ""  # the failure that was logged last
        self._keyframe_requested = self._asked = False  # for a keyframe, to begin with

    def check(self) -> None:
        """Refuse what can be seen before any work. Raises SinkOpenError."""
        self._part().check()

    def open(self, stream: EncodedStream) -> None:
        """Begin the first part. Raises SinkOpenError where the stream is not live."""
        self._stream = stream
        self._begin(stream)

    def write(self, packet: Packet) -> None:
        """Add a picture, or begin with it. Raises SinkWriteError where the stream is not live."""
        stream = self._stream
        assert stream is not None
        if self._file is None and not self._ready(stream, packet):
            return
        assert self._file is not None
        try:
            self._file.write(packet)
        except SinkError as error:
            self._fail(stream, error)
        else:
            if self._logged and self._now() - self._began > SETTLED_SECONDS:
                self._logged = ""
                log.info("recording again, into %s", self._file.name)

    def wants_keyframe(self) -> bool:
        """See `interfaces.PacketSink`."""
        requested, self._keyframe_requested = self._keyframe_requested, False
        return requested

    def complete(self) -> None:
        """See `interfaces.PacketSink`."""
        if self._file is not None:
            self._file.complete()

    def counters(self) -> dict[str, int]:
        """Whether it is ``recording`` now, and the ``failures``."""
        return {"recording": int(self._file is not None), "failures": self._failures}

    def close(self) -> None:
        """See `FileSink.close`."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _ready(self, stream: EncodedStream, packet: Packet) -> bool:
        """Start a new part with this packet, if it is time and the packet is a keyframe; return whether that worked."""
        if stream.passthrough is not None and self.takes_passthrough:
            for _ in stream.passthrough.take():  # the sound of pictures that are not written
                pass
        if self._now() < self._again:
            return False
        if not packet.is_keyframe:
            self._keyframe_requested, self._asked = self._keyframe_requested or not self._asked, True
            return False
        self._begin(stream)
        return self._file is not None

    def _begin(self, stream: EncodedStream) -> None:
        self._asked = False
        file = self._part()
        try:
            file.open(stream)
        except SinkError as error:
            self._fail(stream, error)
        else:
            self._file, self._began = file, self._now()
            log.log(logging.DEBUG if self._logged else logging.INFO, "recording into %s", file.name)

    def _part(self) -> FileSink:
        path = part_name(self.name)
        if self._options.overwrite and not self._failures:
            return FileSink(str(path), self._options, now=self._now)
        return FileSink(str(free_name(path)), self._options, now=self._now)

    def _fail(self, stream: EncodedStream, error: SinkError) -> None:
        if not stream.info.live:
            raise error
        file, self._file = self._file, None
        self._failures += 1
        wait = self._wait(error)
        self._again = self._now() + wait
        # without the name, which may be another each time
        reason = "removed" if isinstance(error, OutputRemoved) else error.__cause__ or error
        level = logging.DEBUG if str(reason) == self._logged else logging.ERROR
        log.log(level, "%s; the stream goes on, and another file is tried in %.0f s", error, wait)
        self._logged = str(reason)
        if file is not None:
            try:
                file.close()
            except SinkError as later:
                log.debug("closing it failed too: %s", later)

    def _wait(self, error: SinkError) -> float:
        """Seconds until the next part may begin."""
        if not os.path.isdir(Path(time.strftime(self.name)).parent):
            return FOLDER_SECONDS
        if isinstance(error, OutputRemoved):  # at once, unless something removes every file soon after it was begun
            return 0.0 if self._now() - self._began > SETTLED_SECONDS or not self._logged else FOLDER_SECONDS
        return AGAIN_SECONDS


def part_name(name: str) -> Path:
    """The path of a part that begins now. Raises SinkOpenError where no file can have this name."""
    try:
        path = Path(time.strftime(name))
    except ValueError as error:
        raise SinkOpenError(f"{name}: {error}; write a time as in door-%Y%m%d-%H%M%S.mkv") from error
    longest = max((len(os.fsencode(part)) for part in path.parts), default=0)
    if not path.name or longest > MOST_NAME_BYTES or len(os.fsencode(path)) > MOST_PATH_BYTES:
        raise SinkOpenError(
            f"{str(path)[:80]}... is no name of a file: a name has up to {MOST_NAME_BYTES} bytes (some are kept for a "
            f"number), a path up to {MOST_PATH_BYTES}"
        )
    return path
