"""The cache of compiled engines: one file each, under the user's cache directory, named by its `BuildKey`.

A file is one line of JSON (the key, what was measured, the SHA-256 of what follows) and the compiled bytes. It is
written beside and moved into place, so that a reader sees all of it or nothing and two processes that build at once do
no harm: the last one wins, with the same content; `building` lets the second wait for the first. What is damaged is
removed and built again, never loaded. An engine that was built and found wrong is kept as its refusal, without bytes,
so that it is not built again. Beside an engine may lie what its library learned (`companion`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from stream_sr.inference.backends import load_adapter
from stream_sr.inference.model import BuildKey, list_models
from stream_sr.system.files import locked

ENDING = ".engine"
COMPANIONS = (".timing", ".runtime")
LOCK = ".lock"
REFUSED = "refused"
STALE_SECONDS = 3600  # a partial file older than this was left by a process that died
log = logging.getLogger("stream_sr")


@dataclass(frozen=True, slots=True)
class Entry:
    """One compiled engine in the cache. ``key`` is None where the file is damaged."""

    path: Path
    key: BuildKey | None
    size_bytes: int
    measured: Mapping[str, Any] = field(default_factory=dict)  # what was written beside the key

    @property
    def refused(self) -> str:
        """Why the engine may not be used; empty for one that may."""
        return str(self.measured.get(REFUSED, ""))

    def record(self) -> dict[str, Any]:
        """For JSON."""
        key = asdict(self.key) if self.key else None
        return {
            "path": str(self.path),
            "size_bytes": self.size_bytes,
            "damaged": key is None,
            "key": key,
            "measured": dict(self.measured),
        }

    def __str__(self) -> str:
        if self.key is None:
            return f"{self.path} damaged"
        key = self.key
        what = f"{key.backend} {key.precision} [{key.profile}] for {key.device}, {key.backend_version}"
        return f"{self.path.name} {self.size_bytes / 1e6:.1f} MB {what}, onnx {key.onnx_sha256[:12]}"


def cache_folder() -> Path:
    """``$STREAM_SR_CACHE``, or ``stream_sr`` in the user's cache directory; below it ``engines``. Need not exist."""
    chosen = os.environ.get("STREAM_SR_CACHE")
    if chosen:
        return Path(chosen) / "engines"
    import platformdirs  # not on a machine that only measures, which says where

    return Path(platformdirs.user_cache_dir("stream_sr")) / "engines"


def entry_path(key: BuildKey) -> Path:
    """Where the engine of this key lies, or would."""
    return cache_folder() / f"{key.digest()}{ENDING}"


def load(key: BuildKey) -> bytes | None:
    """The compiled engine of exactly this key, or None. A damaged file is removed, which is logged once."""
    found = _read(key)
    return found[1] if found is not None and REFUSED not in found[0] else None


def measured(key: BuildKey) -> dict[str, Any]:
    """What was recorded with the engine of this key; empty where there is none."""
    found = _read(key)
    return found[0] if found is not None else {}


def _read(key: BuildKey) -> tuple[dict[str, Any], bytes] | None:
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
        return _measured(header), blob
    discard(key, "it is damaged")
    return None


def discard(key: BuildKey, reason: str) -> None:
    """Remove an engine that cannot be used, and say so."""
    path = entry_path(key)
    log.warning("the cached engine %s was removed (%s); it is built again", path, reason)
    with contextlib.suppress(OSError):
        path.unlink()


def store(key: BuildKey, blob: bytes, measured: Mapping[str, Any] | None = None) -> Path | None:
    """Keep a compiled engine, and what was measured of it (for JSON).

    None, and a line in the log, where the folder cannot be written: no reason to fail.
    """
    path = entry_path(key)
    header = json.dumps({"key": asdict(key), "measured": dict(measured or {}), "sha256": _sha256(blob)}).encode()
    try:
        write_atomically(path, header + b"\n" + blob)
    except OSError as error:
        log.warning("the compiled engine could not be kept in %s (%s); the next start compiles again", path, error)
        return None
    return path


def refuse(key: BuildKey, reason: str) -> None:
    """Remember that the engine of this key gives wrong results, in place of the engine."""
    store(key, b"", {REFUSED: reason})


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that others see all of it or what was there before. Raises OSError.

    What processes left beside it that were killed while they wrote goes, after an hour.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(path.parent)
    descriptor, name = tempfile.mkstemp(prefix=path.stem, suffix=".partial", dir=path.parent)
    partial = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:  # a signal's too
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


def _remove_stale(folder: Path) -> None:
    """Writing takes a second. If the clock jumps meanwhile, who writes finds its file gone and does without."""
    for partial in folder.glob("*.partial"):
        with contextlib.suppress(OSError):
            if time.time() - partial.stat().st_mtime > STALE_SECONDS:
                partial.unlink()


def companion(key: BuildKey, ending: str) -> Path:
    """Where what belongs to the engine of this key lies, or would: its timings, its runtime's cache."""
    return entry_path(key).with_suffix(ending)


def shared(key: BuildKey) -> BuildKey:
    """The key of what all engines of one library version and device have in common: its timings."""
    return replace(key, onnx_sha256="", precision="", profile="", head="")


@contextlib.contextmanager
def building(key: BuildKey) -> Iterator[None]:
    """Let one process at a time build the engine of this key; another waits. No lock where that is impossible.

    The lock ends with the process, however that ends.
    """
    with locked(entry_path(key).with_suffix(LOCK)):
        yield


def engine_entries() -> list[Entry]:
    """All cached engines, by path, damaged ones too."""
    entries = []
    for path in sorted(cache_folder().glob(f"*{ENDING}")):
        with contextlib.suppress(FileNotFoundError):  # another process prunes
            header = _read_header(path)
            key = _key(header)
            entries.append(Entry(path, key, path.stat().st_size, _measured(header) if key and header else {}))
    return entries


def prune(*, everything: bool = False) -> list[Entry]:
    """Remove the engines that nothing will ask for again, or all, and return them.

    Those are damaged files, engines of other ONNX files than the shipped ones, and of another version of a backend's
    library than the installed. Partial files of dead processes, and what belonged to an engine that is gone, go too.
    """
    models = set[str]().union(*(model.digests() for model in list_models()))
    removed = []
    for entry in engine_entries():
        if everything or entry.key is None or entry.key.onnx_sha256 not in models or not _is_current(entry.key):
            with contextlib.suppress(FileNotFoundError):
                entry.path.unlink()
            removed.append(entry)
    for folder in (cache_folder(), cache_folder().parent):
        _remove_stale(folder)
    kept = {path.stem for path in cache_folder().glob(f"*{ENDING}")}
    kept |= {entry_path(shared(entry.key)).stem for entry in engine_entries() if entry.key is not None}
    for ending in COMPANIONS:
        for beside in cache_folder().glob(f"*{ending}"):
            if beside.stem not in kept:
                beside.unlink(missing_ok=True)
    for lock in cache_folder().glob(f"*{LOCK}"):
        if lock.stem not in kept:
            with locked(lock, wait=False) as held:
                if held:  # not while it is built
                    lock.unlink(missing_ok=True)
    return removed


def _is_current(key: BuildKey) -> bool:
    """Whether the installed library is the one that compiled it."""
    try:
        adapter = load_adapter(key.backend)
    except (ImportError, KeyError):
        return False
    return adapter.cache_version() == key.backend_version


def _split(data: bytes) -> tuple[dict[str, Any] | None, bytes]:
    line, _, blob = data.partition(b"\n")
    try:
        header = json.loads(line)
    except ValueError:
        return None, blob
    return (header if isinstance(header, dict) else None), blob


def _read_header(path: Path) -> dict[str, Any] | None:
    """The header of a whole file."""
    header, blob = _split(path.read_bytes())
    return header if header is not None and header.get("sha256") == _sha256(blob) else None


def _key(header: dict[str, Any] | None) -> BuildKey | None:
    try:
        return BuildKey(**header["key"]) if header is not None else None
    except (KeyError, TypeError):
        return None


def _measured(header: dict[str, Any]) -> dict[str, Any]:
    found = header.get("measured", {})
    return found if isinstance(found, dict) else {}


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
