"""The counted memory slots that frames live in."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from stream_sr.video.planes import Planes, chroma_shape

Allocate = Callable[[int], npt.NDArray[np.uint8]]


POISON = 0xA5


class Slot:
    """Memory of one frame: writable contiguous ``planes`` (I420 in one buffer). Counted; back in the pool at zero."""

    __slots__ = ("_holds", "_pool", "buffer", "planes")

    def __init__(self, pool: FramePool, width: int, height: int) -> None:
        rows, columns = chroma_shape(width, height)
        self.buffer = pool.allocate(width * height + 2 * rows * columns)
        luma, chroma = width * height, rows * columns
        self.planes: Planes = (
            self.buffer[:luma].reshape(height, width),
            self.buffer[luma : luma + chroma].reshape(rows, columns),
            self.buffer[luma + chroma :].reshape(rows, columns),
        )
        self._pool = pool
        self._holds = 0

    def retain(self) -> None:
        with self._pool.lock:
            if self._holds == 0:
                raise RuntimeError("a frame was retained after its memory was given back")
            self._holds += 1

    def release(self) -> None:
        with self._pool.lock:
            if self._holds == 0:
                raise RuntimeError("a frame was released more often than it was held")
            self._holds -= 1
            if self._holds == 0:
                self._pool.take_back(self)


class FramePool:
    """A fixed number of slots for frames of one size.

    ``count`` must cover ring capacity + frames in flight + what the producer and the consumers hold; `lease` raises
    RuntimeError beyond it, because that is a leak and waiting would hide it. ``allocate(nbytes)`` returns a 1-D uint8
    array (pinned memory for a GPU). ``poison`` overwrites returned slots, for tests. Thread-safe.
    """

    def __init__(
        self, width: int, height: int, count: int, *, allocate: Allocate | None = None, poison: bool = False
    ) -> None:
        self.width, self.height, self.count = width, height, count
        self.allocate = allocate or (lambda nbytes: np.empty(nbytes, np.uint8))
        self.poison = poison
        self.lock = threading.Lock()
        self._made = 0
        self._free: list[Slot] = []

    def lease(self) -> Slot:
        """A slot held once by the caller, content undefined."""
        with self.lock:
            if self._free:
                slot = self._free.pop()
            elif self._made < self.count:
                slot = Slot(self, self.width, self.height)
                self._made += 1
            else:
                raise RuntimeError(f"all {self.count} frame slots are held: a frame was not released")
            slot._holds = 1
            return slot

    def take_back(self, slot: Slot) -> None:
        """Called by the slot, with the lock held."""
        if self.poison:
            slot.buffer.fill(POISON)
        self._free.append(slot)

    @property
    def held(self) -> int:
        """Slots that somebody holds now."""
        with self.lock:
            return self._made - len(self._free)


class Pools:
    """Pools like a first one, for frames of other sizes; the last two sizes are kept. One thread."""

    def __init__(self, first: FramePool | None) -> None:
        """None: frames own their memory, whatever their size."""
        self._like = first
        self._pools = {} if first is None else {(first.width, first.height): first}

    def of(self, width: int, height: int) -> FramePool | None:
        """The pool for frames of this size."""
        like = self._like
        if like is None or (width, height) in self._pools:
            return self._pools.get((width, height))
        pool = FramePool(width, height, like.count, allocate=like.allocate, poison=like.poison)
        while len(self._pools) > 1:
            del self._pools[next(iter(self._pools))]
        self._pools[width, height] = pool
        return pool
