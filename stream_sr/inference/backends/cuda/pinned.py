"""Page-locked host memory that is handed out again: to lock pages takes as long as many frames."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]


class PinnedPool:
    """A store of page-locked memory. ``lock`` makes a piece of at least so many bytes; any thread may ask.

    A piece comes back by itself when nobody has a view on it any more. It is never given back to the system.
    """

    def __init__(self, lock: Callable[[int], Bytes]) -> None:
        self._make = lock
        self._lock = threading.Lock()
        self._idle: dict[int, list[Bytes]] = {}  # by size
        self._taken: dict[int, int] = {}  # size by address
        # filled by finalisers, which may run anywhere, also within a lock of ours: they only append
        self._returned: deque[tuple[Bytes, int]] = deque()

    def take(self, nbytes: int) -> Bytes:
        """``nbytes`` of memory, content undefined."""
        with self._lock:
            self._take_back()
            idle = self._idle.get(nbytes)
            raw = idle.pop() if idle else None
        if raw is None:
            raw = self._make(max(1, nbytes))
        block = _Block(raw)
        with self._lock:
            self._taken[raw.ctypes.data] = nbytes
        weakref.finalize(block, self._returned.append, (raw, nbytes))
        return np.asarray(block)[:nbytes]

    def has(self, memory: Bytes) -> bool:
        """Whether this array begins where a piece does that somebody holds, and is no longer."""
        if self._returned:
            with self._lock:
                self._take_back()
        size = self._taken.get(memory.ctypes.data)
        return size is not None and memory.nbytes <= size and memory.flags.c_contiguous

    def _take_back(self) -> None:
        while self._returned:
            raw, nbytes = self._returned.popleft()
            self._taken.pop(raw.ctypes.data, None)
            self._idle.setdefault(nbytes, []).append(raw)


class _Block:
    """The owner that every view on a piece keeps alive."""

    def __init__(self, raw: Any) -> None:
        self.__array_interface__ = {
            "data": (raw.ctypes.data, False),
            "shape": (raw.nbytes,),
            "typestr": "|u1",
            "version": 3,
        }
