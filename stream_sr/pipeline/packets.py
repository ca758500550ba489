"""What travels between sources and sinks besides frames: encoded pictures, and the tracks that are passed through."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

from stream_sr.video.frame import StreamInfo

LIVE_PASSTHROUGH_BYTES = 4 << 20  # audio of a live stream that may wait for its frames


@dataclass(frozen=True, slots=True)
class Packet:
    """One encoded picture: an access unit in Annex B form, whole, with no access unit delimiter."""

    data: bytes
    pts: int
    dts: int
    duration: int
    time_base: Fraction
    is_keyframe: bool  # an IDR picture, with its parameter sets in front
    captured_ns: int
    number: int
    wall_ns: int | None = None  # of the frame


@dataclass(frozen=True, slots=True)
class EncodedStream:
    """What a packet sink is told before the first packet."""

    codec: str  # "h264"
    extradata: bytes  # parameter sets in Annex B form
    info: StreamInfo  # size, fps, colour, aspect and orientation of the encoded picture; time_base of the packets
    passthrough: Passthrough | None = None  # passthrough tracks of the source, for the one sink that takes them

    def with_passthrough(self, passthrough: Passthrough | None) -> EncodedStream:
        """The same stream beside these tracks."""
        return replace(self, passthrough=passthrough)


@dataclass(frozen=True, slots=True)
class Track:
    """A stream handed through untouched: audio or subtitles. Its packets are PyAV's.

    ``template`` is a stream object of the library that outlives the source's container; None where the source is no
    container, then the rest says all.
    """

    index: int
    kind: str  # "audio", "subtitle"
    codec: str  # FFmpeg's name: aac, opus, pcm_mulaw...
    template: Any
    sample_rate: int = 0  # of audio
    channels: int = 0
    config: bytes = b""  # the codec's extradata: AAC's AudioSpecificConfig

    @property
    def signature(self) -> tuple[str, str, int, int, bytes]:
        """What two tracks must have in common for the one to go on as the other."""
        return self.kind, self.codec, self.sample_rate, self.channels, self.config


@dataclass(slots=True)
class Passthrough:
    """Passthrough packets beside the frames: bounded in bytes, in the order they were read. Thread-safe.

    The source puts, one sink takes; each further sink has a `branch`, which gets the same packets, so a taker must not
    change them. It never blocks the source (a blocked demuxer could not deliver the video that the
    sink waits for): `put` says that the passthrough is full and the source raises.
    """

    tracks: tuple[Track, ...]
    limit_bytes: int = 256 << 20
    bytes_held: int = 0
    unwanted: bool = False
    _branches: list[Passthrough] = field(default_factory=list)
    _items: deque[tuple[int, int, Any]] = field(default_factory=deque)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def put(self, track: int, packet: Any, size: int) -> bool:
        """Add a packet of ``tracks[track]``; False when the passthrough or a branch of it is full."""
        with self._lock:
            taken = True
            for branch in self._branches:
                taken &= branch.put(track, packet, size)
            if self.unwanted:
                return taken
            if self.bytes_held + size > self.limit_bytes:
                return False
            self._items.append((track, size, packet))
            self.bytes_held += size
            return taken

    def branch(self) -> Passthrough:
        """A copy for one more sink, with what the source has put already. To be called before anything is taken."""
        with self._lock:
            passthrough = Passthrough(self.tracks, self.limit_bytes, self.bytes_held, _items=deque(self._items))
            self._branches.append(passthrough)
            return passthrough

    def shut(self) -> None:
        """Nobody takes the packets (any more): those here and those to come are dropped."""
        with self._lock:
            self.unwanted = True
            self._items.clear()
            self.bytes_held = 0

    def first_packets(self) -> dict[int, Any]:
        """The oldest packet of each track that waits here now, by track number. They stay."""
        with self._lock:
            found: dict[int, Any] = {}
            for track, _, packet in self._items:
                found.setdefault(track, packet)
            return found

    def take(self) -> Iterator[tuple[int, Any]]:
        """All packets that are there now, as (track number, packet)."""
        while True:
            with self._lock:
                if not self._items:
                    return
                track, size, packet = self._items.popleft()
                self.bytes_held -= size
            yield track, packet
