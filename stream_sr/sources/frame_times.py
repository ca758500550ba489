"""When a decoded frame is shown and for how long."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import av

from stream_sr.errors import SourceError


@dataclass(frozen=True, slots=True)
class FrameTimes:
    """When a picture is shown, and when its packet was read."""

    pts: int  # in the stream's time base
    duration: int
    captured_ns: int


def with_durations(pictures: Iterator[tuple[av.VideoFrame, FrameTimes]]) -> Iterator[tuple[av.VideoFrame, FrameTimes]]:
    """Each picture lasts until the next one, the last one as its packet says; holds one picture back.

    The packets' own durations are those of the decoding order, which B-frames mix up where the rate varies.
    """
    held: tuple[av.VideoFrame, FrameTimes] | None = None
    try:
        for item in pictures:
            if held is not None:
                picture, times = held
                yield picture, FrameTimes(times.pts, item[1].pts - times.pts, times.captured_ns)
            held = item
    except SourceError:
        if held is not None:
            yield held
        raise
    if held is not None:
        yield held
