"""Results of measurements on this machine, valid until something of their key changes: JSON files in the user's cache.

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

MAX_ENTRIES = 500  # entries of a file; the oldest go


def load(kind: str) -> dict[str, Any]:
    """All entries of a kind (``speed``, ``fidelity``, ``tuning``), by key."""
    try:
        found = json.loads(path_of(kind).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def store(kind: str, entries: Mapping[str, Any]) -> None:
    """Add entries to those of the file. Raises OSError."""
    known = {key: value for key, value in load(kind).items() if key not in entries} | dict(entries)
    text = json.dumps(dict(list(known.items())[-MAX_ENTRIES:]), indent=1)
    cache.write_atomically(path_of(kind), text.encode())


def try_store(kind: str, key: str, value: Any) -> None:
    """Store one entry; where the folder cannot be written it is measured again at the next start."""
    with contextlib.suppress(OSError):
        store(kind, {key: value})


def path_of(kind: str) -> Path:
    return cache.cache_folder().parent / f"{kind}.json"
