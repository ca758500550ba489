"""Training logs are read as they are written, and drawn."""

import json
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stream_sr.errors import ConfigError, SourceOpenError
from stream_sr.training.plots import plot_curves, read_log, summary


def write_log(path: Path, rows: list[tuple[int, str, float]]) -> Path:
    lines = [
        {"iteration": n, "of": 40, "loss": 0.1 / n, "loss_kind": kind, "psnr": psnr, "best_psnr": best}
        for (n, kind, psnr), best in zip(rows, accumulate((row[2] for row in rows), max), strict=True)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_a_resumed_log_is_put_in_order_and_the_later_row_stands(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.jsonl", [(10, "l1", 30.0), (20, "l1", 31.0), (20, "l1", 31.5), (30, "l2", 31.2)])
    rows = read_log(log)
    assert [(row["iteration"], row["psnr"]) for row in rows] == [(10, 30.0), (20, 31.5), (30, 31.2)]
    assert summary(rows) == {"iterations": 30, "of": 40, "psnr": 31.5, "at": 20}


def test_the_best_of_a_run_that_rounds_comes_after_rounding_began() -> None:
    rows = [
        {"iteration": 10, "of": 30, "psnr": 31.0, "best_psnr": 31.0},
        {"iteration": 20, "of": 30, "psnr": 30.8, "best_psnr": 30.8},
        {"iteration": 30, "of": 30, "psnr": 30.9, "best_psnr": 30.9},
    ]
    assert summary(rows) == {"iterations": 30, "of": 30, "psnr": 30.9, "at": 30}


@pytest.mark.parametrize("content", [None, "", "{", '{"psnr": 1}\n', "[1]\n"])
def test_a_bad_log_is_refused(tmp_path: Path, content: str | None) -> None:
    log = tmp_path / "log.jsonl"
    if content is not None:
        log.write_text(content)
    with pytest.raises(SourceOpenError, match=r"log\.jsonl"):
        read_log(log)


def test_curves_are_drawn(tmp_path: Path) -> None:
    rows = [(10, "l1", 30.0), (20, "l1", 31.0), (30, "l2", 31.2)]
    log = write_log(tmp_path / "log.jsonl", rows)
    picture = plot_curves(log, tmp_path / "new" / "curves.png")
    with Image.open(picture) as image:
        assert image.size == (1000, 400)
        assert len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 20
    again = plot_curves(log, tmp_path / "again.png")
    assert again.read_bytes() == picture.read_bytes()


def test_every_kind_of_loss_is_drawn(tmp_path: Path) -> None:
    curves = [
        plot_curves(write_log(tmp_path / "log.jsonl", [(10, kind, 30.0), (20, kind, 31.0)]), tmp_path / f"{kind}.png")
        for kind in ("l1", "bce")
    ]
    assert curves[0].read_bytes() != curves[1].read_bytes()  # the name in the legend


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    log = write_log(tmp_path / "a.jsonl", [(10, "l1", 30.0)])
    with pytest.raises(ConfigError, match="cannot be written"):
        plot_curves(log, log / "curves.png")


def test_without_matplotlib_the_error_says_what_to_install(tmp_path: Path, monkeypatch: Any) -> None:
    log = write_log(tmp_path / "a.jsonl", [(10, "l1", 30.0)])
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(ConfigError, match=r"stream-sr\[plot\]"):
        plot_curves(log, tmp_path / "curves.png")
