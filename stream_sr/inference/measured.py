"""What was measured on this machine and holds until something of its key changes: small JSON files in the user's cache.

A key names all that the figure depends on. Losing a file costs a measurement, nothing else: one that cannot be read or
written counts as empty. Two processes that write at once: the last one wins, whole.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stream_sr.inference import cache

MOST = 500  # entries of a file; the oldest go


def recall(kind: str) -> dict[str, Any]:
    """All entries of a kind (``speed``, ``fidelity``, ``tuning``), by key."""
    try:
        found = json.loads(path_of(kind).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def remember(kind: str, entries: Mapping[str, Any]) -> None:
    """Keep these beside what is there. Raises OSError."""
    known = {key: value for key, value in recall(kind).items() if key not in entries} | dict(entries)
    text = json.dumps(dict(list(known.items())[-MOST:]), indent=1)
    cache.write_atomically(path_of(kind), text.encode())


def remember_if_possible(kind: str, key: str, value: Any) -> None:
    """The same where nobody waits for it: without a folder it is measured again at the next start."""
    with contextlib.suppress(OSError):
        remember(kind, {key: value})


def path_of(kind: str) -> Path:
    return cache.cache_folder().parent / f"{kind}.json"
