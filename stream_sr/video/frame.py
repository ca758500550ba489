"""A frame is an immutable value that says everything about itself; a stream's description is another."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fractions import Fraction

import numpy as np

from stream_sr.errors import PictureShapeError
from stream_sr.video.color import ColorInfo
from stream_sr.video.frame_pool import Slot
from stream_sr.video.metadata import Metadata
from stream_sr.video.orientation import Orientation
from stream_sr.video.planes import Planes, chroma_shape, read_only

BAND = 32  # rows that are compared at once


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One picture, planar YUV 4:2:0, 8 bits.

    ``planes`` are luma ``[H, W]``, U and V ``[ceil(H/2), ceil(W/2)]``, uint8, read-only, rows possibly strided.
    They are valid as long as the ``slot`` is held: who takes a frame out of a ring, or keeps it, calls `release` once
    when done. A frame without a slot owns its memory and both calls do nothing. Chroma of another shape raises
    PictureShapeError.
    """

    planes: Planes
    pts: int  # in time_base units
    time_base: Fraction  # seconds
    duration: int = 0  # in time_base units; 0 is unknown
    number: int = 0  # counts from 0 in the source, with gaps where frames were dropped
    captured_ns: int = 0  # time.monotonic_ns() when the picture was there to be decoded
    color: ColorInfo = field(default_factory=ColorInfo)
    sample_aspect: Fraction = Fraction(1)
    wall_ns: int | None = None  # the camera's own wall clock at capture, ns since 1970; None where it does not tell
    discontinuity: bool = False  # the first picture after a break in the stream: what came before says nothing of it
    slot: Slot | None = None
    source: Frame | None = None  # the picture that this one was made from, held together with it, where a sink asks

    def __post_init__(self) -> None:
        luma, chroma = self.planes[0].shape, chroma_shape(self.planes[0].shape[1], self.planes[0].shape[0])
        if self.planes[1].shape != chroma or self.planes[2].shape != chroma:
            raise PictureShapeError(
                f"a frame has luma of {luma} and chroma of {self.planes[1].shape} and {self.planes[2].shape}; "
                f"4:2:0 has {chroma}"
            )

    @property
    def width(self) -> int:
        return self.planes[0].shape[1]

    @property
    def height(self) -> int:
        return self.planes[0].shape[0]

    @property
    def seconds(self) -> float:
        """Presentation time."""
        return float(self.pts * self.time_base)

    def retain(self) -> Frame:
        """Hold the memory once more, and that of ``source``; returns self."""
        if self.slot is not None:
            self.slot.retain()
        if self.source is not None:
            self.source.retain()
        return self

    def release(self) -> None:
        """Give one hold back."""
        if self.slot is not None:
            self.slot.release()
        if self.source is not None:
            self.source.release()

    def with_planes(self, planes: Planes, slot: Slot | None = None) -> Frame:
        """The same moment with other pixels (and size), without ``source``."""
        return replace(self, planes=read_only(planes), slot=slot, source=None)

    def is_duplicate_of(self, other: Frame) -> bool:
        """Whether every sample is equal, and means the same. Costs next to nothing where the middle row differs."""
        if self.planes[0].shape != other.planes[0].shape or self.color != other.color:
            return False
        if self.sample_aspect != other.sample_aspect:
            return False
        middle = self.height // 2
        if not np.array_equal(self.planes[0][middle], other.planes[0][middle]):
            return False
        pairs = zip(self.planes, other.planes, strict=True)
        return all(
            np.array_equal(mine[row : row + BAND], theirs[row : row + BAND])
            for mine, theirs in pairs
            for row in range(0, len(mine), BAND)
        )

    def __repr__(self) -> str:
        return f"Frame({self.number}, {self.width}x{self.height}, pts={self.pts}*{self.time_base})"


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """What is known of a stream before its first frame. Every frame of it has this size."""

    width: int
    height: int
    time_base: Fraction
    fps: Fraction | None = None  # nominal; None where frames come as they come
    color: ColorInfo = field(default_factory=ColorInfo)
    sample_aspect: Fraction = Fraction(1)
    orientation: Orientation = Orientation.UPRIGHT  # how a player turns and mirrors the picture
    live: bool = False  # frames come by the clock and are lost if nobody takes them
    frame_count: int | None = None  # as far as the container tells
    duration_seconds: float | None = None
    codec: str = ""
    name: str = ""  # the address without credentials
    metadata: Metadata = field(default_factory=Metadata)  # tags and chapters of a file, for an output file

    def scaled(self, width: int, height: int) -> StreamInfo:
        """The same stream at another size."""
        return replace(self, width=width, height=height)
