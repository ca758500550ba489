"""The ring buffer between two threads, and the counted memory slots that its frames live in."""

from __future__ import annotations

import enum
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Overflow(enum.Enum):
    """What a full ring does with a new item."""

    BLOCK = "block"  # wait: nothing is lost
    DROP_OLDEST = "drop oldest"  # a live picture
    SKIP_TO_KEYFRAME = "skip to key"  # encoded packets: drop all, then everything up to the next key packet


class RingBuffer(Generic[T]):
    """A bounded queue for one producer and one consumer, with two endings.

    `end`: no more comes, the consumer still gets what is there. `abort`: everything is dropped, both sides wake.
    Dropped items are handed to ``discard`` (which gives their memory back). Those that a full ring lost are counted in
    ``dropped`` and their number told to ``lost``, in the producer's thread.
    ``is_keyframe`` tells key packets apart (SKIP_TO_KEY only).
    """

    def __init__(
        self,
        capacity: int,
        full: Overflow,
        *,
        discard: Callable[[T], None] = lambda _: None,
        lost: Callable[[int], None] = lambda _: None,
        is_keyframe: Callable[[T], bool] = lambda _: True,
    ) -> None:
        if capacity < 1:
            raise ValueError(f"capacity is {capacity}; it must be at least 1")
        self.capacity, self.full = capacity, full
        self.dropped = 0
        self._discard, self._lost, self._is_key = discard, lost, is_keyframe
        self._items: deque[T] = deque()
        self._ended = self._aborted = self._skipping = False
        self._changed = threading.Condition(threading.Lock())

    def put(self, item: T) -> bool:
        """Hand an item over. False, and the item discarded, once the ring was ended or aborted."""
        lost: list[T] = []
        with self._changed:
            if self.full is Overflow.BLOCK:
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
        if self.full is Overflow.SKIP_TO_KEYFRAME and self._skipping:
            if not self._is_key(item):
                return [item]
            self._skipping = False
        if len(self._items) < self.capacity:
            return []
        if self.full is Overflow.DROP_OLDEST:
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
