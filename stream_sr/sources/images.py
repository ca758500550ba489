"""Still pictures taken as frames: one file, or a folder of them in natural order, 25 a second.

They are turned upright: many outputs (PNG, a window, y4m) have no place for an orientation, and the pictures of a
folder must have one size.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from stream_sr.codec.decode import FrameReader, check_format, color_of
from stream_sr.codec.picture import orientation_of
from stream_sr.codec.still import ImageContent, derived_picture, probe_image, stated_color
from stream_sr.codec.upright import upright
from stream_sr.errors import DecodeError, SourceOpenError
from stream_sr.pipeline.interfaces import SourceOptions
from stream_sr.sources.stoppable import StoppableSource
from stream_sr.system.limits import codec_threads
from stream_sr.video.color import Range, Siting
from stream_sr.video.frame import Frame, StreamInfo
from stream_sr.video.frame_pool import FramePool

log = logging.getLogger("stream_sr")

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".heic", ".heif", ".avif"}
FPS = Fraction(25)


def is_image(path: Path) -> bool:
    """Whether the name is that of a still picture."""
    return path.suffix.lower() in SUFFIXES


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sorts ``frame2`` before ``frame10``."""
    parts = re.split(r"(\d+)", name.lower())
    return [(1, int(part), part) if part.isdecimal() else (0, 0, part) for part in parts if part]


class ImageSource(StoppableSource):
    """A still picture, or the pictures of a folder (its other files are left alone). Nothing is read ahead.

    All must have the size of the first, else DecodeError names both. 8 bits; RGB becomes limited-range YUV, JPEG keeps
    its full range. Orientation (EXIF of JPEG, PNG, WebP and TIFF, the properties of HEIC and AVIF) is applied. Animated
    files in a folder, and pictures in tiles (HEIC of phones), are refused with DecodeError.
    """

    def __init__(self, path: Path, options: SourceOptions | None = None) -> None:
        options = options or SourceOptions()
        self._paths = _find(path)
        if options.duration is not None:
            exact = Fraction(options.duration).limit_denominator(1_000_000) * FPS
            self._paths = self._paths[: -(-exact.numerator // exact.denominator)]
        self._waiting = iter(enumerate(self._paths))
        super().__init__()
        try:
            first, codec = _load(self._paths[0])
        except DecodeError as error:
            raise SourceOpenError(str(error)) from error
        self._reader = FrameReader(codec=codec)
        self._reader.check(first)
        self.info = StreamInfo(
            width=first.width,
            height=first.height,
            time_base=1 / FPS,
            fps=FPS,
            color=self._reader.color(first),
            frame_count=len(self._paths),
            duration_seconds=float(len(self._paths) / FPS),
            codec=codec,
            name=str(path),
        )

    def frames(self, pool: FramePool | None = None) -> Iterator[Frame]:
        """See `Source.frames`."""
        for number, path in self._waiting:
            if self._stopping.is_set():
                return
            picture, _ = _load(path)
            captured_ns = time.monotonic_ns()
            try:
                planes, slot = self._reader.read(picture, pool)
            except DecodeError as error:
                raise DecodeError(f"{path.name}: {error}") from error
            yield Frame(
                planes,
                pts=number,
                time_base=self.info.time_base,
                duration=1,
                number=number,
                captured_ns=captured_ns,
                color=self._reader.color(picture),
                slot=slot,
            )


def _find(path: Path) -> list[Path]:
    if not path.exists():
        raise SourceOpenError(f"no such file: {path}")
    if path.is_file():
        return [path]
    if not path.is_dir():  # it could be read once only, and waiting for it could not be ended
        raise SourceOpenError(f"{path} is a pipe or a device; a still picture is read from a file: copy it into one")
    found = [entry for entry in path.iterdir() if entry.is_file() and is_image(entry)]
    if not found:
        raise SourceOpenError(f"the folder {path} holds no pictures ({' '.join(sorted(SUFFIXES))})")
    return sorted(found, key=lambda entry: (natural_key(entry.name), entry.name))


def _load(path: Path) -> tuple[av.VideoFrame, str]:
    """The picture, upright, and its codec's name. Raises DecodeError."""
    if probe_image(path) in (ImageContent.VIDEO, ImageContent.ANIMATED_WEBP):
        raise DecodeError(
            f"{path} is animated, or a video: in a folder each file must hold one picture; give it alone as the input, "
            "or take it out of the folder"
        )
    made_of = derived_picture(path)
    if made_of:
        raise DecodeError(
            f"{path} consists of {made_of}, of which only the first would be decoded; convert it first, e.g. with "
            f"FFmpeg 7.1 or newer (ffmpeg -i {path.name} {path.stem}.png) or libheif (heif-dec {path.name} "
            f"{path.stem}.png)"
        )
    try:
        # Handed over open: FFmpeg would take a % in the name as the pattern of a sequence.
        with open(path, "rb") as file, av.open(file, "r") as container:
            stream = _primary(container)
            if stream is not None and stream.codec_context is not None:
                stream.codec_context.thread_count = codec_threads()
                for picture in container.decode(stream):
                    _state_color(picture, path)
                    return _upright(picture, stream.codec_context.name, path), stream.codec_context.name
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise DecodeError(f"{path} is not a picture that can be read ({reason})") from error
    raise DecodeError(f"{path} holds no picture")


def _primary(container: InputContainer) -> VideoStream | None:
    """The picture itself: a HEIC or AVIF file may hold a thumbnail and a mask beside it."""
    streams = container.streams.video
    return next((s for s in streams if s.disposition & Disposition.default), streams[0] if streams else None)


def _state_color(picture: av.VideoFrame, path: Path) -> None:
    """Write on the picture what its file says of its colours beside the coded data, which FFmpeg leaves out of HEIC."""
    color = stated_color(path)
    if color is not None:
        picture.color_primaries, picture.color_trc, picture.colorspace = color[:3]
        picture.color_range = Range.FULL if color[3] else Range.LIMITED


def _upright(picture: av.VideoFrame, codec: str, path: Path) -> av.VideoFrame:
    """The picture turned as its file says (EXIF, or HEIF's properties)."""
    try:
        check_format(picture.format)
    except DecodeError as error:
        raise DecodeError(f"{path}: {error}") from error
    orientation = orientation_of(picture)
    if orientation is None:
        log.warning("%s asks to be turned by %d degrees; only quarter turns are kept", path, -picture.rotation % 360)
        return picture
    return upright(picture, orientation, centred=color_of(picture, codec=codec).siting == Siting.CENTER)
