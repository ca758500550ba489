"""Joules that the processor and the GPUs took, where the machine tells: RAPL (Linux powercap) and NVML."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stream_sr.system.machine import GpuMeter

POWERCAP = Path("/sys/class/powercap")


@dataclass(frozen=True, slots=True)
class Domain:
    """A processor package as RAPL counts it: microjoules that begin again at 0 after ``range_uj``."""

    counter: Path
    range_uj: int


class EnergyMeter:
    """Joules between two looks. ``cpu`` is every processor package with all that runs on it, ``gpu`` all GPUs.

    What the machine does not tell is absent: RAPL needs a processor that has it and, on most systems, root. One thread.
    """

    def __init__(self, *, powercap: Path = POWERCAP, gpus: GpuMeter | None = None) -> None:
        self._packages = packages(powercap)
        self._gpus = gpus or GpuMeter()
        self._last = self._read()

    def joules(self) -> dict[str, float]:
        """What was taken since the last look, or since the meter was made."""
        now, last = self._read(), self._last
        self._last = now
        found: dict[str, float] = {}
        if self._packages and now[0] is not None and last[0] is not None:
            spent = zip(self._packages, last[0], now[0], strict=True)
            found["cpu"] = sum(since(before, after, domain.range_uj) for domain, before, after in spent) / 1e6
        if now[1] is not None and last[1] is not None:
            found["gpu"] = now[1] - last[1]
        return found

    def _read(self) -> tuple[list[int] | None, float | None]:
        values = [_number(domain.counter) for domain in self._packages]
        return [v for v in values if v is not None] if None not in values else None, self._gpus.joules()


def packages(powercap: Path) -> list[Domain]:
    """The packages that can be read; not their parts, which they contain, and not the platform, which contains them."""
    found = []
    for folder in sorted(powercap.glob("intel-rapl:*")):
        counter, limit = _number(folder / "energy_uj"), _number(folder / "max_energy_range_uj")
        whole = folder.name.count(":") == 1 and _text(folder / "name").startswith("package")
        if whole and counter is not None and limit is not None:
            found.append(Domain(folder / "energy_uj", limit))
    return found


def since(before: int, after: int, limit: int) -> int:
    """Counts between two readings of a counter that begins again after ``limit``, at most once."""
    return after - before if after >= before else after + limit + 1 - before


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text.isdecimal() else None


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
