"""The benchmark sweep asks for what its options say, and its record has what the table and the plot need."""

import argparse
from pathlib import Path
from typing import Any

import pytest

from benchmarks.quality import tables
from benchmarks.training import sweep


def test_the_sweep_of_the_options_becomes_a_result(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rows = [
        {"width": 8, "depth": 2, "parameters": 1537, "macs_per_pixel": 1516, "psnr": 30.1},
        {"width": 16, "depth": 2, "parameters": 4001, "macs_per_pixel": 3900, "psnr": 30.6},
    ]
    asked: dict[str, Any] = {}

    def train(recipe: Any, axes: Any, **options: Any) -> list[dict[str, Any]]:
        asked.update(options, recipe=recipe, axes=axes)
        return rows

    monkeypatch.setattr(sweep, "sweep", train)
    parser = argparse.ArgumentParser()
    sweep.add_options(parser)
    words = ["--data", str(tmp_path), "--scale", "3", "--iterations", "7", "--axes", "width=8,16", "--runs", "r"]
    measurement = sweep.measure(parser.parse_args(words))
    assert (asked["recipe"].name, asked["recipe"].scale, asked["recipe"].iterations) == ("fast", 3, 7)
    assert (asked["axes"], asked["folders"], asked["out"]) == ({"width": [8, 16]}, [tmp_path], Path("r"))
    assert measurement.result == {"recipe": "fast", "scale": 3, "rows": rows}
    assert "| 16 | 2 | 4,001 | 3,900 | **30.60** |" in tables.sweep(measurement.result)
    pytest.importorskip("matplotlib")
    assert sweep.plot(measurement.result, tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")
