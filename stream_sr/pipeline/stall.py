"""How long a thread has been inside one call of a library: a stalled inference is told from a slow one by that."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from stream_sr.errors import FrameStalled

STEP_NS = 1_000_000_000  # counted between two looks at most: a process that was stopped (Ctrl-Z) has not worked

_calls: dict[int, _Call] = {}  # by thread


class _Call:
    """One call, told from others by its identity."""

    def __init__(self, what: str) -> None:
        self.what = what


@contextmanager
def working(what: str) -> Iterator[None]:
    """The calling thread works on one frame in a library, until the block ends. An inner block changes nothing."""
    thread = threading.get_ident()
    if thread in _calls:
        yield
        return
    _calls[thread] = _Call(what)
    try:
        yield
    finally:
        del _calls[thread]


class StallWatch:
    """Adds up how long threads have been in their calls. `look` is to be called several times a second."""

    def __init__(self, limit_seconds: float | None) -> None:
        """``limit_seconds``: of one call; None: none is too long."""
        self._limit = limit_seconds
        self._looked_ns: int | None = None
        self._ages: dict[_Call, int] = {}

    @property
    def busy_seconds(self) -> float:
        """Of the longest call that was going on at the last look. From any thread."""
        return max(self._ages.values(), default=0) / 1e9

    def look(self, threads: Iterable[int | None], now_ns: int) -> None:
        """Raises FrameStalled if one of these threads has been in one call for longer than the limit."""
        step = 0 if self._looked_ns is None else min(max(0, now_ns - self._looked_ns), STEP_NS)
        self._looked_ns = now_ns
        calls = [call for call in (_calls.get(thread) for thread in threads if thread is not None) if call is not None]
        self._ages = {call: self._ages[call] + step if call in self._ages else 0 for call in calls}
        for call, age_ns in self._ages.items():
            if self._limit is not None and age_ns > self._limit * 1e9:
                raise FrameStalled(
                    f"the {call.what} has worked on one frame for {self._limit:g} s and has not returned; "
                    "give another --model or --backend, or a longer --stall-timeout"
                )
