"""Figures as PNG, by matplotlib, which is in the extra [plot]."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stream_sr.errors import ConfigError
from stream_sr.system.machine import pip_install


def new_figure(width: float, height: float) -> Any:
    """An empty figure of this size in inches. Raises ConfigError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError(f"a plot needs matplotlib ({error}); {pip_install('stream-sr[plot]')}") from error
    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Any, out: Path) -> Path:
    """Write it as PNG, whatever the name ends in; the same figure gives the same bytes. Raises ConfigError."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, dpi=100, format="png", metadata={"Software": None})
    except OSError as error:
        raise ConfigError(f"{out} cannot be written: {error}; give another file") from error
    return out
