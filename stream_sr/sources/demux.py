"""Packets of an open container, read by the caller or by a thread that can be left while it waits for the network."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import av
from av.container import InputContainer

from stream_sr.pipeline.ring import Overflow, RingBuffer
from stream_sr.pipeline.threads import Abandonable

QUEUED_PACKETS = 8  # read ahead by a thread; a caller that does not take them stops the reading
CLOSE_SECONDS = 0.5  # that closing waits for the native read to return before it abandons the thread


def read_packets(container: InputContainer, streams: Sequence[Any], stamped: int) -> Iterator[Any]:
    """Yield the packets of these streams in the container's order, up to its end; empty ones are left out.

    Packets of the stream with index ``stamped`` get the time at which they were read as ``opaque`` (monotonic ns).
    An FFmpegError is yielded like a packet; the next item is what FFmpeg reads after it.
    """
    while True:
        failure: av.FFmpegError
        try:
            for packet in container.demux(streams):
                if not packet.size:  # marks the end
                    continue
                if packet.stream_index == stamped:
                    packet.opaque = time.monotonic_ns()
                yield packet
            return
        except av.EOFError:
            return
        except av.FFmpegError as error:
            failure = error
        yield failure


class PacketReader:
    """Reads packets in a thread of its own and closes the container there, when no native call is inside it.

    `packets` yields what `read_packets` does, up to an error for which ``ends`` is true; the thread waits while
    ``QUEUED_PACKETS`` are not taken. `stop` and `close` may be called from any thread, also while FFmpeg waits for the
    network: the thread is then abandoned, and ends when that call returns or reaches its timeout. Whoever creates this
    object hands the container over: nobody else may read from it or close it. Its packets and streams may be used while
    ``in_use`` is held, which the closing waits for.
    """

    def __init__(
        self,
        container: InputContainer,
        streams: Sequence[Any],
        stamped: int,
        ends: Callable[[av.FFmpegError], bool],
        in_use: threading.Lock,
    ) -> None:
        self._ring = RingBuffer[Any](QUEUED_PACKETS, Overflow.BLOCK)
        self._closing = threading.Event()
        self._thread = Abandonable(
            "demux", partial(_read, container, streams, stamped, ends, in_use, self._ring, self._closing)
        )  # it does not refer to this object, which can thus be collected when its owner forgot to close it
        weakref.finalize(self, _release, self._ring, self._closing).atexit = False

    def packets(self) -> Iterator[Any]:
        """Yield what comes, waiting for it; ends at the end of the container and after `stop`."""
        return iter(self._ring)

    def stop(self) -> None:
        """End `packets` at once."""
        self._ring.abort()

    def close(self) -> None:
        """Have the container closed; waits for this up to ``CLOSE_SECONDS``. Safe to call twice."""
        _release(self._ring, self._closing)
        if not self._thread.join(CLOSE_SECONDS):
            self._thread.abandon()


def _release(ring: RingBuffer[Any], closing: threading.Event) -> None:
    ring.abort()
    closing.set()


def _read(
    container: InputContainer,
    streams: Sequence[Any],
    stamped: int,
    ends: Callable[[av.FFmpegError], bool],
    in_use: threading.Lock,
    ring: RingBuffer[Any],
    closing: threading.Event,
) -> None:
    try:
        for item in read_packets(container, streams, stamped):
            if not ring.put(item) or (isinstance(item, av.FFmpegError) and ends(item)):
                break
    finally:
        ring.end()
        closing.wait()  # the owner may still look at the streams, which closing frees
        with in_use:
            container.close()
