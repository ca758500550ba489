"""The record of the GPU benchmark, written after every figure, so that a crash loses at most one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.record import make_record, read_record, write_record


class ResultFile:
    """A record whose result has a dictionary of figures for each section. Read once; one process writes at a time."""

    def __init__(self, path: Path, *, resume: bool) -> None:
        self.path = path
        self._record = read_record(path) if resume and path.is_file() else make_record("gpu", "", {})

    @property
    def data(self) -> dict[str, Any]:
        """The result; the caller may change it and `save`."""
        result: dict[str, Any] = self._record["result"]
        return result

    def begin(self, command: str) -> None:
        """Note the command and this machine, keep the figures, and write the file."""
        self._record = make_record("gpu", command, self.data)
        self.save()

    def has(self, section: str, key: str) -> bool:
        return key in self.data.get(section, {})

    def put(self, section: str, key: str, value: Any) -> None:
        """Add a figure and write the file."""
        self.data.setdefault(section, {})[key] = value
        self.save()

    def save(self) -> None:
        write_record(self.path, self._record)

    def reload(self) -> None:
        """Read what another process wrote."""
        self._record = read_record(self.path)
