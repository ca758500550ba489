"""The task train-models: every run comes after what it needs, and is given it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks.processes import environment
from benchmarks.record import ROOT
from benchmarks.training import train_models
from stream_sr.training.loop import CHECKPOINT


def test_each_run_comes_after_what_it_needs() -> None:
    names = [job.name for job in train_models.jobs([Path("stills")], Path("clips"))]
    assert len(set(names)) == len(names)
    for place, job in enumerate(train_models.jobs([Path("stills")], Path("clips"))):
        assert job.iterations > 0
        assert set(job.after) | ({job.teacher} if job.teacher else set()) <= set(names[:place])


def test_a_run_goes_on_where_it_was_and_learns_from_the_largest(tmp_path: Path) -> None:
    by_name = {job.name: job for job in train_models.jobs([Path("stills")], Path("clips"), [Path("frames")])}
    job = by_name["fast-x3"]
    assert not train_models.ready(job, tmp_path, by_name)
    words = job.command(tmp_path)
    assert words[words.index("--from") + 1] == str(tmp_path / "fast-x2" / CHECKPOINT)
    assert "--teacher" not in words
    assert "--unlabelled" not in words
    for name in ("fast-x2", "quality-x3", "fast-x3"):
        (tmp_path / name).mkdir()
        (tmp_path / name / CHECKPOINT).touch()
        (tmp_path / name / "log.jsonl").write_text(f'{{"iteration": {by_name[name].iterations}}}\n')
    assert train_models.ready(job, tmp_path, by_name)
    assert job.done(tmp_path) == job.iterations
    words = job.command(tmp_path)
    assert "--resume" in words
    assert words[words.index("--teacher") + 1] == str(tmp_path / "quality-x3" / CHECKPOINT)
    assert words[words.index("--unlabelled") + 1] == "frames"


def test_the_runs_take_this_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "before")
    assert environment()["PYTHONPATH"].split(os.pathsep) == [str(ROOT), "before"]
    monkeypatch.delenv("PYTHONPATH")
    assert environment()["PYTHONPATH"] == str(ROOT)
