"""A video file through FFmpeg's muxers. Pictures come encoded and are only put into the container."""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import logging
import math
import os
import stat
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.stream import Disposition
from av.video.stream import VideoStream

from stream_sr.codec import mp4
from stream_sr.codec.metadata import METADATA_ERRORS, add_attachments, write_metadata
from stream_sr.errors import OutputRemoved, SinkError, SinkOpenError, SinkWriteError
from stream_sr.pipeline.interfaces import ORIENTATION_LOST, SinkOptions
from stream_sr.pipeline.packets import EncodedStream, Packet, Passthrough
from stream_sr.sinks.tracks import FFMPEG_ERRORS, Tracks
from stream_sr.video.orientation import Orientation

log = logging.getLogger("stream_sr")

CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".ts": "mpegts"}
FINEST_MP4_TICK = 1_000_000  # per second; a finer time base leaves too few bits for the distance of two frames
LOOK_SECONDS = 1.0  # between looks at whether the file is still where it was created
MOST_NAME_BYTES = 255  # of a file, on every usual file system
FRAGMENT_SECONDS = 0.2  # what a kill or a full disk costs at most; shorter fragments only cost some hundred bytes each


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
        self._disk: _Disk | None = None
        self._container: Any = None
        self._video: VideoStream | None = None
        self._tracks: Tracks | None = None
        self._replace = False  # the output is the input, and overwriting was asked for
        self._failed = self._whole = False
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
        self._replace = _same_file(path, self._options.source)
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
        self._disk = _Disk(self.name, *self._target())
        kind = CONTAINERS[self._path.suffix.lower()]
        try:
            self._container = av.open(
                self._disk, "w", format=kind, container_options=_muxer_options(kind, stream), buffer_size=1 << 17
            )
            metadata = stream.info.metadata
            self._video = _add_video(self._container, stream)
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
            self._container.mux_one(_av_packet(packet, self._video, self._offset))
            if self._tracks is not None:
                self._tracks.write(until=self._end, offset=self._offset * packet.time_base)
        except FFMPEG_ERRORS as error:
            self._failed = True
            self._disk.cut(good)
            raise SinkWriteError(
                f"{self.name}: writing failed after {float(self._end):.1f} s of video: {_reason(error)}"
            ) from error
        self._written = True

    def _check_in_place(self, disk: _Disk) -> None:
        if not disk.in_place():
            name, seconds = str(disk.path) if self._replace else self.name, float(self._end)
            raise OutputRemoved(
                f"{name} was removed, renamed or replaced while it was written, after {seconds:.1f} s of video"
            )

    def wants_keyframe(self) -> bool:
        return False

    def complete(self) -> None:
        """The input may be replaced, if it is the output."""
        self._whole = True

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
                self._settle(disk.path, whole=ended and self._whole)
            elif not self._written:
                disk.path.unlink()  # without a picture it could not be played, and would stand in the next run's way
                if not self._failed:  # else the error has said more
                    log.warning("%s: no picture came, so there is no file", self.name)

    def _end_file(self, container: Any, disk: _Disk) -> bool:
        """Write what remains and free all; whether the file is as it should be."""
        good = disk.size()
        try:
            if container is None or self._failed or disk.error is not None:
                return False
            if self._tracks is not None and self._offset is not None and self._video is not None:
                until = None if self._whole else self._end  # a part ends with its last picture
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

    def _settle(self, part: Path, *, whole: bool) -> None:
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


class _Disk:
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


def _same_file(path: Path, source: str) -> bool:
    try:
        return bool(source) and os.path.samefile(path, source)
    except OSError:
        return False


def _muxer_options(kind: str, stream: EncodedStream) -> dict[str, str]:
    """FFmpeg's options for a container: times as they are, and readable whenever the program dies."""
    # Packets come in the order of their times: a track without packets for a while must not hold the others up.
    options = {"flush_packets": "1", "avoid_negative_ts": "disabled", "max_interleave_delta": "1000000"}
    base = stream.info.time_base
    if kind in ("mp4", "mov"):
        ticks = base.denominator
        if ticks > FINEST_MP4_TICK:
            log.info("the time base %s s is too fine for MP4: times are rounded to 1/%d s", base, FINEST_MP4_TICK)
            ticks = FINEST_MP4_TICK
        options |= {
            "movflags": "+hybrid_fragmented+delay_moov",
            "frag_duration": str(round(FRAGMENT_SECONDS * 1_000_000)),
            "video_track_timescale": str(ticks),
            "movie_timescale": str(_movie_ticks(ticks, stream.passthrough)),
        }
    elif kind == "matroska":
        options["cluster_time_limit"] = str(round(FRAGMENT_SECONDS * 1000))
        options["default_mode"] = "passthrough"  # a track is the default one only where it was in the source
    elif (base / Fraction(1, 90_000)).denominator != 1:
        log.info("MPEG-TS counts in 1/90000 s, so the times of the pictures are rounded to them")
    return options


def _movie_ticks(ticks: int, passthrough: Passthrough | None) -> int:
    """Ticks per second in which MP4 says where each track begins: all the tracks' own, if their multiple is usable."""
    for track in passthrough.tracks if passthrough is not None else ():
        common = math.lcm(ticks, getattr(track.template.codec_context, "sample_rate", None) or 1000)
        ticks = common if common < 1 << 31 else ticks
    return ticks


def _add_video(container: Any, stream: EncodedStream) -> VideoStream:
    """A stream that takes Annex B packets as they are.

    PyAV offers no stream with given codec parameters; one copied from a parsed template that is only the parameter sets
    is one, and what it does not know yet (size, colours) can be set before the header is written.
    """
    info = stream.info
    template: Any = av.open(io.BytesIO(stream.extradata), format=stream.codec)
    with template:
        video: VideoStream = container.add_stream_from_template(template.streams.video[0], opaque=True)
    context = video.codec_context
    context.width, context.height, context.pix_fmt = info.width, info.height, "yuv420p"
    context.extradata = stream.extradata
    context.sample_aspect_ratio = info.sample_aspect
    context.colorspace, context.color_range = int(info.color.matrix), int(info.color.range)
    context.color_primaries, context.color_trc = info.color.primaries, info.color.transfer
    if info.fps is not None:
        context.framerate = info.fps
    video.time_base = info.time_base
    video.metadata.update(info.metadata.video_tags)
    if info.metadata.video_disposition:
        video.disposition = Disposition(info.metadata.video_disposition)
    if info.orientation != Orientation.UPRIGHT:
        video.set_display_matrix(info.orientation.matrix)
    return video


def _av_packet(packet: Packet, stream: VideoStream, offset: int) -> av.Packet[Any]:
    muxed: av.Packet[Any] = av.Packet(packet.data)
    muxed.time_base = packet.time_base
    muxed.pts, muxed.dts = packet.pts - offset, packet.dts - offset
    muxed.duration = packet.duration
    muxed.is_keyframe = packet.is_keyframe
    muxed.stream = stream
    return muxed


def _reason(error: Exception) -> str:
    """FFmpeg's or the system's words without the address, which may hold a password."""
    return getattr(error, "strerror", None) or type(error).__name__
