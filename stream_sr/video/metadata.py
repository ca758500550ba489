"""What a container says about its content besides frames: tags, chapters, pictures and files that are attached."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

Tags = tuple[tuple[str, str], ...]  # (FFmpeg's name of the tag, value); a tuple, so that a description can be hashed


@dataclass(frozen=True, slots=True)
class Chapter:
    """A part of the film, in seconds of presentation time of the output. ``end`` is greater than ``start``."""

    start: Fraction
    end: Fraction
    tags: Tags = ()  # the title


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file inside the container: a cover image, or a font that subtitles use."""

    name: str
    mimetype: str
    data: bytes
    codec: str = ""  # FFmpeg's name of the codec of a cover image; empty: not an image
    size: tuple[int, int] = (0, 0)  # width and height of a cover image

    @property
    def is_cover(self) -> bool:
        return bool(self.codec)


@dataclass(frozen=True, slots=True)
class Metadata:
    """Everything of a container that an output file keeps if its format has a place for it."""

    tags: Tags = ()
    chapters: tuple[Chapter, ...] = ()
    attachments: tuple[Attachment, ...] = ()
    video_tags: Tags = ()  # language, title... of the video track
    video_disposition: int = 0  # FFmpeg's AV_DISPOSITION_ flags of the video track
    unsupported: tuple[str, ...] = ()  # tracks that no output takes, in words: "timecode track"
