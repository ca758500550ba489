"""Training curves from a run's ``log.jsonl``. Needs matplotlib (``pip install 'stream-sr[plot]'``)."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stream_sr.errors import SourceOpenError
from stream_sr.evaluation.plots import new_figure, save_figure


def read_log(path: Path) -> list[dict[str, Any]]:
    """The validations of a run in the order of their iterations.

    Where a killed and resumed run passed one twice, the later stands. Raises SourceOpenError for a missing, empty or
    damaged log.
    """
    rows: dict[int, dict[str, Any]] = {}
    try:
        for line in path.read_text().splitlines():
            row = json.loads(line)
            rows[row["iteration"]] = row
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SourceOpenError(
            f"{path} cannot be read as a training log: {error!r}; `stream-sr train` writes it"
        ) from error
    if not rows:
        raise SourceOpenError(f"{path} holds no validation yet; wait for the first one")
    return [rows[iteration] for iteration in sorted(rows)]


def plot_curves(log: Path, out: Path) -> Path:
    """Draw the run's loss and validation PSNR against the iteration as a PNG; returns ``out``.

    Raises SourceOpenError as `read_log` does, ConfigError without matplotlib or for a picture that cannot be written.
    """
    rows = read_log(log)
    figure = new_figure(10, 4)
    loss, quality = figure.subplots(1, 2)
    for kind in dict.fromkeys(row["loss_kind"] for row in rows):
        part = [(row["iteration"], row["loss"]) for row in rows if row["loss_kind"] == kind]
        loss.plot(*zip(*part, strict=True), label=kind.upper())
    quality.plot([row["iteration"] for row in rows], [row["psnr"] for row in rows], label="validation")
    quality.axhline(rows[-1]["best_psnr"], linestyle=":", color="grey", label=f"best {rows[-1]['best_psnr']:.3f} dB")
    _dress(loss, "loss", logarithmic=True)
    _dress(quality, "PSNR, dB")
    return save_figure(figure, out)


def _dress(axes: Any, label: str, *, logarithmic: bool = False) -> None:
    axes.set_xlabel("iteration")
    axes.set_ylabel(label)
    axes.grid(visible=True, alpha=0.3)
    if logarithmic:
        axes.set_yscale("log")
    axes.legend()


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a card says of a run: ``iterations`` done, ``of``, the best ``psnr`` and the iteration it came ``at``."""
    kept = [row for row in rows if row["psnr"] == rows[-1]["best_psnr"]]  # with rounding it is not the highest
    best = kept[0] if kept else max(rows, key=lambda row: row["psnr"])
    return {"iterations": rows[-1]["iteration"], "of": rows[-1]["of"], "psnr": best["psnr"], "at": best["iteration"]}
