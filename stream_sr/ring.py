"""The ring buffer between two threads, and the counted memory slots that its frames live in."""

from __future__ import annotations

import enum
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from stream_sr.frame import Planes, chroma_shape

T = TypeVar("T")
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


class Full(enum.Enum):
    """What a full ring does with a new item."""

    BLOCK = "block"  # wait: nothing is lost
    DROP_OLDEST = "drop oldest"  # a live picture
    SKIP_TO_KEY = "skip to key"  # encoded packets: drop all, then everything up to the next key packet


class RingBuffer(Generic[T]):
    """A bounded queue for one producer and one consumer, with two endings.

    `end`: no more comes, the consumer still gets what is there. `abort`: everything is dropped, both sides wake.
    Dropped items are handed to ``discard`` (which gives their memory back). Those that a full ring lost are counted in
    ``dropped`` and their number told to ``lost``, in the producer's thread.
    ``is_key`` tells key packets apart (SKIP_TO_KEY only).
    """

    def __init__(
        self,
        capacity: int,
        full: Full,
        *,
        discard: Callable[[T], None] = lambda _: None,
        lost: Callable[[int], None] = lambda _: None,
        is_key: Callable[[T], bool] = lambda _: True,
    ) -> None:
        if capacity < 1:
            raise ValueError(f"capacity is {capacity}; it must be at least 1")
        self.capacity, self.full = capacity, full
        self.dropped = 0
        self._discard, self._lost, self._is_key = discard, lost, is_key
        self._items: deque[T] = deque()
        self._ended = self._aborted = self._skipping = False
        self._changed = threading.Condition(threading.Lock())

    def put(self, item: T) -> bool:
        """Hand an item over. False, and the item discarded, once the ring was ended or aborted."""
        lost: list[T] = []
        with self._changed:
            if self.full is Full.BLOCK:
                while len(self._items) >= self.capacity and not (self._ended or self._aborted):
                    self._changed.wait()
            taken = not (self._ended or self._aborted)
            if not taken:
                lost.append(item)
            else:
                lost += self._make_room(item)
                self.dropped += len(lost)
                if not lost or lost[-1] is not item:
                    self._items.append(item)
                self._changed.notify_all()
        for one in lost:
            self._discard(one)
        if taken and lost:
            self._lost(len(lost))
        return taken

    def _make_room(self, item: T) -> list[T]:
        if self.full is Full.SKIP_TO_KEY and self._skipping:
            if not self._is_key(item):
                return [item]
            self._skipping = False
        if len(self._items) < self.capacity:
            return []
        if self.full is Full.DROP_OLDEST:
            return [self._items.popleft()]
        lost = list(self._items)
        self._items.clear()
        if not self._is_key(item):
            self._skipping = True
            lost.append(item)
        return lost

    def get(self, timeout: float | None = None) -> T | None:
        """The oldest item, waiting for one; None when the ring is ended and empty, or aborted.

        Raises TimeoutError after ``timeout`` seconds without one.
        """
        with self._changed:
            while not self._items and not (self._ended or self._aborted):
                if not self._changed.wait(timeout):
                    raise TimeoutError
            if not self._items:
                return None
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    def __iter__(self) -> Iterator[T]:
        while (item := self.get()) is not None:
            yield item

    def __len__(self) -> int:
        with self._changed:
            return len(self._items)

    def end(self) -> None:
        """No more items will come. What is there is still handed out; a blocked producer wakes and is refused."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def abort(self) -> None:
        """Drop everything and wake both sides."""
        with self._changed:
            self._aborted = True
            lost = list(self._items)
            self._items.clear()
            self._changed.notify_all()
        for one in lost:
            self._discard(one)
