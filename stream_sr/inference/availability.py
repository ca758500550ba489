"""Whether a backend can be used on this machine, and how many processor threads it may use."""

from __future__ import annotations

from dataclasses import dataclass

from stream_sr.errors import ConfigError
from stream_sr.pipeline.engine import EngineOptions
from stream_sr.system import machine


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether a backend can be used here, and if not, why and how to fix it."""

    usable: bool
    version: str = ""
    reason: str = ""  # what was found or is missing
    fix: str = ""  # a command


def cpu_threads(options: EngineOptions) -> int:
    """Return the threads to compute with: as asked for, or all cores that this process may use."""
    if options.threads is not None:
        if options.threads < 1:
            raise ConfigError(f"threads is {options.threads}; it must be at least 1")
        return options.threads
    return machine.cores()
