"""Wait for a condition that nothing signals: the state of a thread, a file or another process."""

from __future__ import annotations

import time
from collections.abc import Callable

LIMIT_SECONDS = 60.0  # a busy machine takes its time
PERIOD_SECONDS = 0.01


def wait_until(
    condition: Callable[[], object], describe: Callable[[], str] = lambda: "", *, seconds: float = LIMIT_SECONDS
) -> None:
    """Return as soon as ``condition()`` is true; raise AssertionError with ``describe()`` after so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not true within {seconds:g} s; {describe()}"
        time.sleep(PERIOD_SECONDS)
