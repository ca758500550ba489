"""Still pictures taken as frames: one file, or a folder of them in natural order, 25 a second."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av

from stream_sr.codec.decode import PictureReader
from stream_sr.errors import DecodeError, SourceOpenError
from stream_sr.frame import Frame, StreamInfo
from stream_sr.limits import codec_threads
from stream_sr.media import Lane, SourceOptions
from stream_sr.ring import FramePool

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
FPS = Fraction(25)


def is_image(path: Path) -> bool:
    """Whether the name is that of a still picture."""
    return path.suffix.lower() in SUFFIXES


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sorts ``frame2`` before ``frame10``."""
    parts = re.split(r"(\d+)", name.lower())
    return [(1, int(part), part) if part.isdecimal() else (0, 0, part) for part in parts if part]


class ImageSource:
    """A still picture, or the pictures of a folder (its other files are left alone). Nothing is read ahead.

    All must have the size of the first, else DecodeError names both. 8 bits; RGB becomes limited-range YUV, JPEG keeps
    its full range. A JPEG's EXIF orientation is not applied.
    """

    lane: Lane | None = None

    def __init__(self, path: Path, options: SourceOptions | None = None) -> None:
        options = options or SourceOptions()
        self._paths = _find(path)
        if options.duration is not None:
            exact = Fraction(options.duration).limit_denominator(1_000_000) * FPS
            self._paths = self._paths[: -(-exact.numerator // exact.denominator)]
        self._waiting = iter(enumerate(self._paths))
        self._stopping = threading.Event()
        try:
            first, codec = _load(self._paths[0])
        except DecodeError as error:
            raise SourceOpenError(str(error)) from error
        self._reader = PictureReader(codec=codec)
        try:
            self._reader.check(first)
        except DecodeError as error:
            raise SourceOpenError(f"{self._paths[0]}: {error}") from error
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

    def stop(self) -> None:
        """See `Source.stop`."""
        self._stopping.set()

    def counters(self) -> dict[str, int]:
        """Nothing can go wrong without being an error."""
        return {}

    def close(self) -> None:
        """See `Source.close`."""
        self._stopping.set()


def _find(path: Path) -> list[Path]:
    if not path.exists():
        raise SourceOpenError(f"no such file: {path}")
    if not path.is_dir():
        return [path]
    found = [entry for entry in path.iterdir() if entry.is_file() and is_image(entry)]
    if not found:
        raise SourceOpenError(f"the folder {path} holds no pictures ({' '.join(sorted(SUFFIXES))})")
    return sorted(found, key=lambda entry: (natural_key(entry.name), entry.name))


def _load(path: Path) -> tuple[av.VideoFrame, str]:
    """The picture and its codec's name. Raises DecodeError."""
    try:
        # Handed over open: FFmpeg would take a % in the name as the pattern of a sequence.
        with open(path, "rb") as file, av.open(file, "r") as container:
            if container.streams.video:
                stream = container.streams.video[0]
                stream.codec_context.thread_count = codec_threads()
                for picture in container.decode(stream):
                    return picture, stream.codec_context.name
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise DecodeError(f"{path} is not a picture that can be read ({reason})") from error
    raise DecodeError(f"{path} holds no picture")
