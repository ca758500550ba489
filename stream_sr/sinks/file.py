"""A video file through FFmpeg's muxers. Pictures come encoded and are only put into the container."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import stat
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.video.stream import VideoStream

from stream_sr.codec import mp4
from stream_sr.codec.metadata import add_attachments, write_metadata
from stream_sr.errors import OutputRemoved, SinkError, SinkOpenError, SinkWriteError
from stream_sr.pipeline.interfaces import ORIENTATION_LOST, SinkOptions
from stream_sr.pipeline.packets import EncodedStream, Packet
from stream_sr.sinks.muxer import add_video, av_packet, muxer_options
from stream_sr.sinks.output_file import OutputFile, holds_picture, is_same_file
from stream_sr.sinks.tracks import FFMPEG_ERRORS, Tracks
from stream_sr.video.orientation import Orientation

log = logging.getLogger("stream_sr")

CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".ts": "mpegts"}
LOOK_SECONDS = 1.0  # between looks at whether the file is still where it was created
MOST_NAME_BYTES = 255  # of a file, on every usual file system


class FileSink:
    """An MP4, MOV, Matroska or MPEG-TS file: the encoded pictures, and the source's audio and subtitles bit for bit.

    - Presentation times are exact in MP4, MOV (their time scale is that of the stream, up to 1 MHz) and MPEG-TS
      (90 kHz); Matroska counts milliseconds. What is rounded is said in the log. A live stream's file begins at 0.
    - Colour and sample aspect stand in the container as in the bitstream, orientation as a display matrix (not in
      MPEG-TS, which has none).
    - Until it is closed an MP4 or MOV consists of fragments of a fifth of a second, and closing makes it an ordinary
      one: it is playable up to there if the program dies or the disk is full. Its index (some 100 bytes a frame) is
      held in memory; Matroska's is not.
    - Audio that the container cannot hold is refused, subtitles are left out, which is said once. The passthrough is
      written up to the video's time with each picture, and on closing after `complete` to its end: a source that ends
      early (``--duration``) puts nothing later than that into it. MPEG-TS wraps AAC into ADTS headers.

    An existing file is replaced only with ``overwrite``. If it is the input itself, the output is written beside it
    (``clip.part.mp4``) and takes its place on closing after `complete`; otherwise both stay, which the log says.

    A file that is removed, renamed or replaced while it is written is noticed within a second of writing, and on
    closing: OutputRemoved is raised. One that was renamed is finished where it is now. After a failure a file in which
    there is no picture is removed.
    """

    paced = False

    def __init__(self, path: str, options: SinkOptions, *, now: Callable[[], float] = time.monotonic) -> None:
        self.name = path
        self._now, self._look_at = now, 0.0
        self.takes_passthrough = options.audio != "none"
        self._path = Path(path)
        self._options = options
        self._disk: OutputFile | None = None
        self._container: Any = None
        self._video: VideoStream | None = None
        self._tracks: Tracks | None = None
        self._replace = False  # the output is the input, and overwriting was asked for
        self._failed = self._is_complete = False
        self._offset: int | None = None
        self._written = False  # at least one picture
        self._begin: Fraction | None = None  # of the first picture that is shown, s
        self._end = Fraction(0)
        self._covers: list[tuple[str, bytes]] = []  # cover images, for the finished file

    def check(self) -> None:
        """Refuse what can be seen before any work: ending, folder, rights, an existing file. Raises SinkOpenError."""
        path = self._path
        if path.suffix.lower() not in CONTAINERS:
            raise SinkOpenError(ending_refused(self.name))
        if any(len(os.fsencode(part)) > MOST_NAME_BYTES for part in path.parts):
            raise SinkOpenError(
                f"{self.name[:80]}...: the name has more than {MOST_NAME_BYTES} bytes; give a shorter one"
            )
        if path.is_dir():
            raise SinkOpenError(f"{self.name} is a folder; name a file in it, e.g. {path / 'out.mp4'}")
        if not path.parent.is_dir():
            raise SinkOpenError(f"{self.name}: the folder {path.parent} does not exist; make it first (mkdir -p)")
        self._replace = is_same_file(path, self._options.source)
        if not self._options.overwrite:
            if self._replace:
                raise SinkOpenError(f"{self.name} is the input itself; choose another name, or give --overwrite")
            if os.path.lexists(path):
                raise SinkOpenError(f"{self.name} exists; choose another name, or give --overwrite")
        if path.exists() and not stat.S_ISREG(path.stat().st_mode):
            raise SinkOpenError(f"{self.name} is not an ordinary file, so a video cannot be written over it")
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise SinkOpenError(f"{self.name}: no right to write into the folder {path.parent}")

    def open(self, stream: EncodedStream) -> None:
        """Create the file and write its header."""
        self.check()
        self._disk = OutputFile(self.name, *self._target())
        kind = CONTAINERS[self._path.suffix.lower()]
        try:
            self._container = av.open(
                self._disk, "w", format=kind, container_options=muxer_options(kind, stream), buffer_size=1 << 17
            )
            metadata = stream.info.metadata
            self._video = add_video(self._container, stream)
            if stream.passthrough is not None and self.takes_passthrough:
                self._tracks = Tracks(
                    self.name,
                    self._container,
                    stream.passthrough,
                    audio=self._options.audio,
                    live=stream.info.live,
                    failed=self._disk.has_failed,
                )
            write_metadata(self._container, metadata)
            left_out = [*metadata.unsupported, *add_attachments(self._container, metadata)]
            self._container.start_encoding()
        except SinkError:
            self._discard()
            raise
        except FFMPEG_ERRORS as error:
            self._discard()
            what = (
                ", ".join(f"{track.codec} {track.kind}" for track in stream.passthrough.tracks)
                if stream.passthrough
                else ""
            )
            hint = f" (with {what}); write .mkv, or leave the audio out with --audio none" if what else ""
            raise SinkOpenError(f"{self.name}: the file cannot be begun: {_reason(error)}{hint}") from error
        self._offset = None if stream.info.live else 0
        if left_out:
            log.warning("%s: %s files cannot hold everything; left out: %s", self.name, kind, ", ".join(left_out))
        self._covers = [(one.codec, one.data) for one in metadata.attachments if one.codec in mp4.COVERS]
        if kind == "mpegts" and stream.info.orientation != Orientation.UPRIGHT:
            log.warning(ORIENTATION_LOST, self.name, "MPEG-TS", stream.info.orientation)
        if kind == "matroska" and (stream.info.time_base / Fraction(1, 1000)).denominator != 1:
            log.info("%s: Matroska counts milliseconds, so the times of the pictures are rounded to them", self.name)

    def write(self, packet: Packet) -> None:
        """Add a picture, and the audio and subtitles up to its end."""
        if self._video is None or self._disk is None or self._failed:
            raise SinkWriteError(f"{self.name} is not open")
        if self._now() >= self._look_at:
            self._look_at = self._now() + LOOK_SECONDS
            self._check_in_place(self._disk)
        if self._offset is None:
            self._offset = packet.pts
        began = packet.pts * packet.time_base
        self._begin = began if self._begin is None else min(self._begin, began)
        self._end = max(self._end, began + packet.duration * packet.time_base)
        good = self._disk.size()
        try:
            self._container.mux_one(av_packet(packet, self._video, self._offset))
            if self._tracks is not None:
                self._tracks.write(until=self._end, offset=self._offset * packet.time_base)
        except FFMPEG_ERRORS as error:
            self._failed = True
            self._disk.cut(good)
            raise SinkWriteError(
                f"{self.name}: writing failed after {float(self._end):.1f} s of video: {_reason(error)}"
            ) from error
        self._written = True

    def _check_in_place(self, disk: OutputFile) -> None:
        if not disk.in_place():
            name, seconds = str(disk.path) if self._replace else self.name, float(self._end)
            raise OutputRemoved(
                f"{name} was removed, renamed or replaced while it was written, after {seconds:.1f} s of video"
            )

    def wants_keyframe(self) -> bool:
        return False

    def complete(self) -> None:
        """The input may be replaced, if it is the output."""
        self._is_complete = True

    def counters(self) -> dict[str, int]:
        """See `interfaces.PacketSink`: a file has nobody to tell of."""
        return {}

    def close(self) -> None:
        """Write what remains of the passthrough and the index. After a failed write the file is left as it is, playable
        as far as it came. Raises SinkWriteError if the end cannot be written."""
        container, disk, self._container, self._disk = self._container, self._disk, None, None
        if disk is None:
            return
        ended = False
        try:
            ended = self._end_file(container, disk)
        finally:
            disk.close()
            if not ended and self._written and not holds_picture(disk.path):
                self._written = False  # it was in the muxer's buffer, or on a full disk
            if not disk.in_place():
                self._replace = False
            elif self._replace:
                self._replace_target(disk.path, whole=ended and self._is_complete)
            elif not self._written:
                disk.path.unlink()  # without a picture it could not be played, and would stand in the next run's way
                if not self._failed:  # else the error has said more
                    log.warning("%s: no picture came, so there is no file", self.name)

    def _end_file(self, container: Any, disk: OutputFile) -> bool:
        """Write what remains and free all; whether the file is as it should be."""
        good = disk.size()
        try:
            if container is None or self._failed or disk.error is not None:
                return False
            if self._tracks is not None and self._offset is not None and self._video is not None:
                until = None if self._is_complete else self._end  # a part ends with its last picture
                offset = self._offset * (self._video.time_base or Fraction(1))
                self._tracks.write(until=until, offset=offset)
                self._tracks.flush(offset=offset)
            container.close()
            self._check_in_place(disk)
            if self._written and disk.error is None and CONTAINERS[disk.path.suffix.lower()] in ("mp4", "mov"):
                mp4.lengthen_video(disk.path, self._end - (self._begin or 0))
                if self._covers and disk.path.suffix.lower() != ".mov":
                    mp4.add_covers(disk.path, self._covers)
            if self._replace:
                disk.sync()
            return disk.error is None
        except OutputRemoved:
            self._failed = True
            raise
        except FFMPEG_ERRORS as error:
            self._failed = True
            disk.cut(good)
            raise SinkWriteError(f"{self.name}: the end of the file cannot be written: {_reason(error)}") from error
        finally:
            # PyAV writes no trailer to a closed file: after a full disk half a trailer would spoil the fragments.
            disk.close()
            if container is not None:
                with contextlib.suppress(*FFMPEG_ERRORS):
                    container.close()
            self._video = self._tracks = None

    def _replace_target(self, part: Path, *, whole: bool) -> None:
        """Put the output in the input's place, if it is whole; else leave both, unless there is not one picture."""
        self._replace = False
        if self._written and whole:
            try:
                os.replace(part, self._path.resolve())
            except OSError as error:
                raise SinkWriteError(
                    f"{self.name}: the input cannot be replaced ({_reason(error)}); the output is {part}"
                ) from error
        elif self._written:
            log.warning(
                "%s: the run was not complete: the input is left alone, and what was made is %s", self.name, part
            )
        else:
            part.unlink(missing_ok=True)
            log.warning("%s: nothing was written: the input is left alone", self.name)

    def _target(self) -> tuple[Path, bool]:
        """Where to write, and whether something there is to be replaced."""
        path = self._path.resolve()
        if not self._replace:
            return path, self._options.overwrite
        names = itertools.chain(["part"], (f"part{number}" for number in itertools.count(2)))
        beside = (path.with_name(f"{path.stem}.{name}{path.suffix}") for name in names)
        return next(part for part in beside if not os.path.lexists(part)), False

    def _discard(self) -> None:
        """Undo a failed opening: no empty file stays behind."""
        self._failed, self._replace = True, False
        disk = self._disk
        self.close()
        if disk is not None and disk.in_place():
            disk.path.unlink(missing_ok=True)


def ending_refused(address: str) -> str:
    """What a user is told who names a file that no muxer of ours writes."""
    ending = Path(address).suffix or "(none)"
    return f"{address}: the ending {ending} is not a container that we write; use one of {', '.join(CONTAINERS)}"


def _reason(error: Exception) -> str:
    """FFmpeg's or the system's words without the address, which may hold a password."""
    return getattr(error, "strerror", None) or type(error).__name__
