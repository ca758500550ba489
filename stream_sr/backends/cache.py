"""The cache of compiled engines: one file each, under the user's cache directory, named by its `BuildKey`.

A file is one line of JSON (the key, and the SHA-256 of what follows) and the compiled bytes. It is written beside and
moved into place, so that a reader sees all of it or nothing and two processes that build at once do no harm: the last
one wins, with the same content. What is damaged is removed and built again, never loaded.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import tempfile
import time
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import platformdirs

from stream_sr.model import BuildKey, list_models

ENDING = ".engine"
STALE_SECONDS = 3600  # a partial file older than this was left by a process that died
log = logging.getLogger("stream_sr")


@dataclass(frozen=True, slots=True)
class Entry:
    """One compiled engine in the cache. ``key`` is None where the file is damaged."""

    path: Path
    key: BuildKey | None
    size_bytes: int

    def record(self) -> dict[str, Any]:
        """For JSON."""
        key = asdict(self.key) if self.key else None
        return {"path": str(self.path), "size_bytes": self.size_bytes, "damaged": key is None, "key": key}

    def __str__(self) -> str:
        if self.key is None:
            return f"{self.path} damaged"
        key = self.key
        what = f"{key.backend} {key.precision} [{key.profile}] for {key.device}, {key.backend_version}"
        return f"{self.path.name} {self.size_bytes / 1e6:.1f} MB {what}, onnx {key.onnx_sha256[:12]}"


def cache_folder() -> Path:
    """``$STREAM_SR_CACHE``, or ``stream_sr`` in the user's cache directory; below it ``engines``. Need not exist."""
    chosen = os.environ.get("STREAM_SR_CACHE")
    return (Path(chosen) if chosen else Path(platformdirs.user_cache_dir("stream_sr"))) / "engines"


def entry_path(key: BuildKey) -> Path:
    """Where the engine of this key lies, or would."""
    return cache_folder() / f"{key.digest()}{ENDING}"


def load(key: BuildKey) -> bytes | None:
    """The compiled engine of exactly this key, or None. A damaged file is removed, which is logged once."""
    path = entry_path(key)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        log.warning("the cached engine %s cannot be read (%s); it is built again", path, error)
        return None
    header, blob = _split(data)
    if header is not None and header.get("sha256") == _sha256(blob) and header.get("key") == asdict(key):
        return blob
    discard(key, "it is damaged")
    return None


def discard(key: BuildKey, reason: str) -> None:
    """Remove an engine that cannot be used, and say so."""
    path = entry_path(key)
    log.warning("the cached engine %s was removed (%s); it is built again", path, reason)
    with contextlib.suppress(OSError):
        path.unlink()


def store(key: BuildKey, blob: bytes) -> Path | None:
    """Keep a compiled engine. None, and a line in the log, where the folder cannot be written: no reason to fail."""
    path = entry_path(key)
    header = json.dumps({"key": asdict(key), "sha256": _sha256(blob)}).encode()
    partial: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=path.stem, suffix=".partial", dir=path.parent)
        partial = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            file.write(header + b"\n" + blob)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        log.warning("the compiled engine could not be kept in %s (%s); the next start compiles again", path, error)
        if partial is not None:
            with contextlib.suppress(OSError):
                partial.unlink()
        return None
    return path


def engine_entries() -> list[Entry]:
    """All cached engines, by path, damaged ones too."""
    entries = []
    for path in sorted(cache_folder().glob(f"*{ENDING}")):
        with contextlib.suppress(FileNotFoundError):  # another process prunes
            entries.append(Entry(path, _read_key(path), path.stat().st_size))
    return entries


def prune(*, everything: bool = False) -> list[Entry]:
    """Remove the engines that nothing will ask for again, or all, and return them.

    Those are damaged files, engines of other ONNX files than the shipped ones, and of another version of a backend's
    library than the installed. Partial files of dead processes go too.
    """
    models = {model.sha256() for model in list_models()}
    removed = []
    for entry in engine_entries():
        if everything or entry.key is None or entry.key.onnx_sha256 not in models or not _is_current(entry.key):
            with contextlib.suppress(FileNotFoundError):
                entry.path.unlink()
            removed.append(entry)
    for partial in cache_folder().glob("*.partial"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - partial.stat().st_mtime > STALE_SECONDS:
                partial.unlink()
    return removed


def _is_current(key: BuildKey) -> bool:
    """Whether the installed library is the one that compiled it."""
    try:
        adapter = import_module(f"stream_sr.backends.{key.backend}")
    except ImportError:
        return False
    return adapter.cache_version() == key.backend_version


def _split(data: bytes) -> tuple[dict[str, object] | None, bytes]:
    line, _, blob = data.partition(b"\n")
    try:
        header = json.loads(line)
    except ValueError:
        return None, blob
    return (header if isinstance(header, dict) else None), blob


def _read_key(path: Path) -> BuildKey | None:
    header, blob = _split(path.read_bytes())
    if header is None or header.get("sha256") != _sha256(blob):
        return None
    try:
        return BuildKey(**header["key"])  # type: ignore[arg-type]
    except (KeyError, TypeError):
        return None


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
