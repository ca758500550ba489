"""What a benchmark consists of. Standard library only: the GPU benchmark runs where little is installed."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class MeasurementFailed(Exception):
    """Nothing can be measured here, for the reason in the message. The runner prints it and exits with 1."""


@dataclass(frozen=True)
class Measurement:
    """Figures as plain values for JSON, and the names of the targets that they miss: with any, the exit code is 1."""

    result: Mapping[str, Any]
    missed: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Measures something; its module calls it ``ENTRY``.

    ``measure`` gets the parsed options and returns the figures, or None where it has written something else than a
    record. It raises StreamSRError or `MeasurementFailed`. ``plot`` draws a result into a PNG file, by default
    ``docs/`` and ``image``. The runner adds ``--out``, and ``--plot`` and ``--redraw`` where there is a plot.
    """

    add_options: Callable[[argparse.ArgumentParser], None]
    measure: Callable[[argparse.Namespace], Measurement | None]
    plot: Callable[[Mapping[str, Any], Path], object] | None = None
    image: str = ""


@dataclass(frozen=True, kw_only=True)
class Task:
    """Does something else than measure once and write a record; its module calls it ``ENTRY``.

    ``run`` gets the parsed options, with ``words`` as they were typed, and returns the exit code. It raises as
    `Benchmark.measure`.
    """

    add_options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
