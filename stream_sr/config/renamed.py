"""Options that had another name: the old one is refused, and the message names the new one."""

from __future__ import annotations

RENAMED = {"tune": "weights", "fail_over": "max_regression"}  # old key: new key


def renamed(old: str, new: str) -> str:
    """The message for an old name, both as the user writes them (a flag, a variable, a key)."""
    return f"{old} is now called {new}"
