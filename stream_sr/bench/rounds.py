"""Several things measured in turns, so that what disturbs one disturbs all; and the medians of their rounds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from stream_sr.errors import StreamSRError
from stream_sr.system.energy import EnergyMeter
from stream_sr.system.machine import CpuMeter, GpuMeter

UNSTEADY_PERCENT = 10.0  # between the slowest and the fastest round, of the median
BUSY_PERCENT = 10.0  # of all cores, taken by others


@dataclass(frozen=True)
class Turn:
    """One round of one subject."""

    fps: float
    frames: int
    wall_seconds: float
    load: Mapping[str, Any] = field(default_factory=dict)  # what `LoadMeter.end` returned


class Subject(Protocol):
    """What is measured, opened. One thread."""

    label: str

    def warm_up(self) -> None:
        """Run once without being measured."""

    def turn(self) -> Turn | None:
        """One round; None where it was stopped before there was anything to measure."""

    def figures(self) -> dict[str, Any]:
        """What it is, and percentiles over all rounds so far."""

    def close(self) -> None: ...


class LoadMeter:
    """CPU time, load and energy between `begin` and `end`. One thread, one measurement at a time."""

    def __init__(self) -> None:
        self._gpus = GpuMeter()
        self._energy = EnergyMeter(gpus=self._gpus)
        self._cpu = CpuMeter()
        self._began = 0

    def begin(self) -> None:
        self._energy.joules()
        self._cpu.percent()
        self._began = time.process_time_ns()

    def end(self, frames: int) -> dict[str, Any]:
        """What was spent on so many frames.

        ``cpu_ms_per_frame`` (all threads of this process), ``cpu_percent`` of all cores by this ``process`` and by
        ``others``, and where the machine tells them ``gpu_percent`` (the busiest) and ``joules_per_frame``.
        """
        spent, cpu, joules = time.process_time_ns() - self._began, self._cpu.percent(), self._energy.joules()
        load: dict[str, Any] = {
            "cpu_ms_per_frame": spent / 1e6 / frames,
            "cpu_percent": {"process": cpu["process"], "others": max(0.0, cpu["machine"] - cpu["process"])},
        }
        if gpus := [gpu["percent"] for gpu in self._gpus.percent() if gpu["percent"] is not None]:
            load["gpu_percent"] = max(gpus)
        if joules:
            load["joules_per_frame"] = {name: spent / frames for name, spent in joules.items()}
        return load


def measure(
    subjects: Sequence[Subject],
    rounds: int,
    *,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[str], None] = lambda label: None,
) -> list[dict[str, Any]]:
    """A row for each subject: warmed up once, then ``rounds`` times in turns.

    ``progress`` is told the label before each of the ``(rounds + 1) * len(subjects)`` steps. When ``stop()`` is true
    it ends with what it has; subjects without a round are left out. One that fails has ``error`` in its row; where
    all fail, the first failure is raised.
    """
    turns: dict[int, list[Turn]] = {number: [] for number in range(len(subjects))}
    errors: dict[int, StreamSRError] = {}
    for step in range(rounds + 1):
        for number, subject in enumerate(subjects):
            if stop():
                break
            if number in errors:
                continue
            progress(subject.label)
            try:
                if step == 0:
                    subject.warm_up()
                elif turn := subject.turn():
                    turns[number].append(turn)
            except StreamSRError as error:
                errors[number] = error
                if len(errors) == len(subjects):
                    raise next(iter(errors.values())) from None
    rows = []
    for number, subject in enumerate(subjects):
        if number in errors:
            rows.append(subject.figures() | {"error": str(errors[number]), "exit_code": errors[number].exit_code})
        elif turns[number]:
            rows.append(subject.figures() | summarise(turns[number]))
    return rows


def summarise(turns: Sequence[Turn]) -> dict[str, Any]:
    """Medians over the rounds. ``variation_percent`` is from the slowest to the fastest; absent for a single round."""
    speeds = [turn.fps for turn in turns]
    fps = statistics.median(speeds)
    row: dict[str, Any] = {
        "fps": round(fps, 3),
        "fps_rounds": [round(speed, 3) for speed in speeds],
        "frames": sum(turn.frames for turn in turns),
        "wall_seconds": round(sum(turn.wall_seconds for turn in turns), 3),
    }
    if len(turns) > 1 and fps > 0:
        row["variation_percent"] = round(100 * (max(speeds) - min(speeds)) / fps, 1)
    return row | _medians([turn.load for turn in turns])


def _medians(loads: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The median of each figure, also inside blocks; only of those that every round has."""
    found: dict[str, Any] = {}
    for name, first in loads[0].items():
        values = [load[name] for load in loads if name in load]
        if len(values) == len(loads):
            found[name] = _medians(values) if isinstance(first, Mapping) else round(statistics.median(values), 3)
    return found


def warnings(rows: Sequence[Mapping[str, Any]], *, paced: bool) -> list[str]:
    """Why the figures may not be what the machine can do. Where the source sets the pace, speeds are not judged."""
    found = []
    unsteady = [row for row in rows if row.get("variation_percent", 0.0) > UNSTEADY_PERCENT and not paced]
    if unsteady:
        worst = max(unsteady, key=lambda row: row["variation_percent"])
        found.append(
            f"the rounds of {len(unsteady)} of {len(rows)} differ, most by {worst['variation_percent']:.0f} % "
            f"({row_name(worst)}); measure on a quiet machine, or longer (--rounds, --seconds)"
        )
    others = max((row["cpu_percent"]["others"] for row in rows if "cpu_percent" in row), default=0.0)
    if others > BUSY_PERCENT:
        found.append(f"other processes took {others:.0f} % of the processor meanwhile; the figures are too low")
    return found


def row_name(row: Mapping[str, Any]) -> str:
    """``fast x2 640x360 openvino bf16``."""
    return f"{row['model']} x{row['scale']} {row['width']}x{row['height']} {row['backend']} {row['precision']}"
