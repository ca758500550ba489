"""The decoder of a video track, which loses only the damaged frames of a damaged file."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import av
from av.codec.context import ThreadType

from stream_sr.pipeline.stats import Counters
from stream_sr.system.limits import codec_threads

log = logging.getLogger("stream_sr")

KEPT_PACKETS = 2000  # for decoding again; in a longer group of pictures frames next to a damaged one may be lost
FRAMES_INSIDE = 48  # that a decoder may hold back: 16 threads, and frames for reordering


class Origin(NamedTuple):
    """Where a picture comes from; the ``opaque`` of packets and pictures."""

    packet: int  # counts from 0 in the order of decoding
    captured_ns: int  # when the packet was read


class VideoDecoder:
    """Decodes the packets of one stream, in their order. One thread.

    With frame threads FFmpeg decodes several frames at once. Where one is damaged, frames that are decoded at the same
    time get lost at the end of the stream and conceal their damage from references that are not finished. So the first
    error makes this decoder begin again at the keyframe before, in a second instance (``reopen``) that decodes one
    frame at a time; it delivers the frames that were not delivered yet, and goes on with the rest.

    In ``counts`` it counts ``corrupt_packets``, which were skipped while decoding again or at the end, and
    ``corrupt_pictures``, frames with concealed damage.
    """

    def __init__(self, stream: Any, reopen: Callable[[], Any] | None, counts: Counters) -> None:
        """``reopen`` returns the same stream of a container of its own, whose decoder is not open yet.

        None where ``stream`` does not decode with frame threads (a live source, a hardware decoder).
        """
        self._counts = counts
        self._stream, self._reopen = stream, reopen
        self._second: Any = None  # the container of the second instance
        self._number = 0  # of the next packet
        self._kept: deque[Any] = deque()  # packets since a keyframe that is older than what the decoder holds
        self._delivered: set[int] = set()  # numbers of the packets in ``_kept`` whose pictures were delivered
        self._clean = False  # a keyframe was delivered undamaged
        stream.codec_context.copy_opaque = True

    def decode(self, packet: Any, captured_ns: int | None = None) -> list[av.VideoFrame]:
        """The pictures that are complete, in presentation order. Raises FFmpegError for a packet without any."""
        packet.opaque = Origin(self._number, time.monotonic_ns() if captured_ns is None else captured_ns)
        self._number += 1
        if self._reopen is None:
            return self._counted(self._decode(packet))
        self._keep(packet)
        try:
            pictures = self._decode(packet)
        except av.FFmpegError:
            return self._again()
        if self._clean and any(picture.is_corrupt for picture in pictures):
            return self._again()
        self._note(pictures)
        return self._counted(pictures)

    def drain(self) -> list[av.VideoFrame]:
        """The pictures that the decoder holds back, at the end of the stream."""
        held = [packet.opaque.packet for packet in self._kept if packet.opaque.packet not in self._delivered]
        usual = all(number >= self._number - FRAMES_INSIDE for number in held)
        try:
            pictures: list[av.VideoFrame] = self._decode(None)
        except av.EOFError:
            return []
        except av.FFmpegError:
            if self._reopen is None:
                self._counts.add("corrupt_packets")
                return []
            return self._again() + self.drain()
        # PyAV hides an error behind pictures that came before it: then some of those behind it are missing.
        missing = usual and len(pictures) < len(held)
        if self._reopen is not None and (missing or any(picture.is_corrupt for picture in pictures)):
            return self._again() + self.drain()
        return self._counted(pictures)

    def close(self) -> None:
        """Free the second instance, if there is one. Safe to call twice."""
        second, self._second = self._second, None
        if second is not None:
            second.close()

    def _decode(self, packet: Any) -> list[av.VideoFrame]:
        pictures: list[av.VideoFrame] = self._stream.codec_context.decode(packet)
        return pictures

    def _counted(self, pictures: list[av.VideoFrame]) -> list[av.VideoFrame]:
        self._counts.add("corrupt_pictures", sum(picture.is_corrupt for picture in pictures))
        return pictures

    def _keep(self, packet: Any) -> None:
        kept = self._kept
        if packet.is_keyframe:
            old = [one for one in kept if one.is_keyframe and one.opaque.packet < self._number - FRAMES_INSIDE]
            while old and kept[0] is not old[-1]:
                self._delivered.discard(kept.popleft().opaque.packet)
        kept.append(packet)
        if len(kept) > KEPT_PACKETS:
            self._delivered.discard(kept.popleft().opaque.packet)

    def _note(self, pictures: list[av.VideoFrame]) -> None:
        for picture in pictures:
            if isinstance(picture.opaque, Origin):
                self._delivered.add(picture.opaque.packet)
            self._clean = self._clean or (bool(picture.key_frame) and not picture.is_corrupt)

    def _again(self) -> list[av.VideoFrame]:
        """Decode what is kept in the second instance; the pictures that were not delivered yet."""
        assert self._reopen is not None
        log.debug("a damaged packet: decoding goes on one frame at a time, from the keyframe before it")
        self._stream, self._reopen = self._reopen(), None
        self._second = self._stream.container
        self._stream.codec_context.copy_opaque = True
        self._stream.thread_type = ThreadType.SLICE
        self._stream.codec_context.thread_count = codec_threads()
        pictures = []
        for packet in self._kept:
            try:
                pictures += self._decode(packet)
            except av.FFmpegError:
                self._counts.add("corrupt_packets", packet.opaque.packet not in self._delivered)
        fresh = [one for one in pictures if isinstance(one.opaque, Origin) and one.opaque.packet not in self._delivered]
        self._kept.clear()
        self._delivered.clear()
        return self._counted(fresh)
