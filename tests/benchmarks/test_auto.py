"""The benchmark auto: a short run comes to its end, and its figures become a table; its marks see what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.record import ROOT
from benchmarks.speed import auto, tables
from stream_sr.errors import ConfigError

pytestmark = [pytest.mark.long, pytest.mark.serial]

COMMAND = (sys.executable, "-m", "benchmarks", "auto")


def test_the_size_is_the_largest_that_the_largest_preset_holds() -> None:
    def rows(*held: tuple[str, str]) -> list[dict[str, object]]:
        return [
            {"size": size, "model": model, "holds": (size, model) in held}
            for size in ("small", "middle", "large")
            for model in ("tiny", "fast")
        ]

    models = ["tiny", "fast"]
    both = [("small", "tiny"), ("small", "fast"), ("middle", "tiny")]
    assert auto.choose_size(rows(*both), models) == "small"
    assert auto.choose_size(rows(*both, ("middle", "fast")), models) == "middle"
    assert auto.choose_size(rows(("small", "tiny"), ("middle", "tiny")), models) == "middle"
    with pytest.raises(ConfigError, match="no preset holds"):
        auto.choose_size(rows(), models)


def test_marks_and_table() -> None:
    step = {"seconds": 20.3, "from": "fast", "to": "tiny", "why": ""}
    quiet = {
        "model": "fast",
        "seconds": 300.0,
        "steps": [],
        "dropped": 0,
        "frames": 9000,
        "p99": 21.0,
        "within_one_step": True,
    }
    loaded = {
        "busy": 1,
        "during": {"p50": 20.0, "p99": 30.1, "frames": 600, "dropped": 0},
        "down_after": 0.3,
        "up_after": None,
        "steps": [step],
    }
    marks = auto.judge(quiet, loaded)
    assert [name for name, met in marks.items() if not met] == ["steps up again"]
    marks = auto.judge(quiet | {"dropped": 1}, loaded | {"up_after": 4.0, "during": loaded["during"] | {"p99": 40.0}})  # type: ignore[operator]
    assert [name for name, met in marks.items() if not met] == ["drops nothing", "p99 under the deadline meanwhile"]
    row = {"model": "fast", "size": "640x360", "fps": 30.0, "dropped": 0, "p50": 11.0, "p99": 20.0, "holds": True}
    data = {
        "size": "640x360",
        "scale": 2,
        "fps": 30,
        "fixed": [row],
        "quiet": quiet,
        "loaded": loaded,
    }
    text = tables.auto(data)
    assert "| fast | 640x360 | 30.0 | 0 | 11.0 / 20.0 | yes |" in text
    assert "fast after 300 s alone, 0 steps, 0 of 9000 dropped, p99 21.0" in text
    assert "While 1 other process computed: p99 30.1, 0 of 600 dropped; down after 0.3 s, never up." in text


def test_a_recording_holds_every_model(tmp_path: Path) -> None:
    out = tmp_path / "times.csv"
    words = ["--record", str(out), "--sizes", "64x48", "--seconds", "0.6"]
    subprocess.run([*COMMAND, *words], check=True, timeout=120, capture_output=True, cwd=ROOT)
    head, *rows = out.read_text().splitlines()
    assert head.startswith("seconds,bicubic,")
    assert len(rows) > 3
    assert all(len(row.split(",")) == len(head.split(",")) for row in rows)


def test_a_short_run_comes_to_its_end(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    out, png = tmp_path / "auto.json", tmp_path / "auto.png"
    words = ["--seconds", "1", "--load-seconds", "3", "--fixed-seconds", "1", "--sizes", "128x96", "--threads", "1"]
    words += ["--out", str(out), "--plot", str(png)]
    done = subprocess.run([*COMMAND, *words], check=False, timeout=240, capture_output=True, text=True, cwd=ROOT)
    if done.returncode == ConfigError.exit_code:
        assert "no preset holds" in done.stderr  # this machine is too busy now
        return
    result = json.loads(out.read_text())["result"]
    assert done.returncode == (0 if all(result["marks"].values()) else 1), done.stderr
    assert result["loaded"]["times"]
    assert png.read_bytes().startswith(b"\x89PNG")
