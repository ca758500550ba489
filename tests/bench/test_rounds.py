"""Subjects take turns; medians, and what a failure, a stop or a busy machine makes of them."""

from typing import Any

import pytest

from stream_sr.bench.report import format_result
from stream_sr.bench.rounds import LoadMeter, Turn, measure, summarise, warnings
from stream_sr.errors import EngineUnavailable
from stream_sr.system.machine import describe


class Scripted:
    """A subject with given speeds that writes down when it ran."""

    def __init__(self, label: str, speeds: list[float | None], diary: list[str], *, fails: bool = False) -> None:
        self.label, self.speeds, self.diary, self.fails = label, list(speeds), diary, fails

    def warm_up(self) -> None:
        self.diary.append(f"{self.label} warm")
        if self.fails:
            raise EngineUnavailable(f"{self.label} cannot")

    def turn(self) -> Turn | None:
        self.diary.append(self.label)
        fps = self.speeds.pop(0)
        load = {"cpu_ms_per_frame": 5.0, "cpu_percent": {"process": 50.0, "others": 1.0}}
        return None if fps is None else Turn(fps, 10, 10 / fps, load)

    def figures(self) -> dict[str, Any]:
        return {"model": self.label, "scale": 2, "width": 64, "height": 48, "backend": "none", "precision": "fp32"}

    def close(self) -> None:
        self.diary.append(f"{self.label} closed")


def test_they_take_turns_and_the_median_counts() -> None:
    diary: list[str] = []
    told: list[str] = []
    rows = measure([Scripted("a", [10, 30, 20], diary), Scripted("b", [5, 5, 5], diary)], 3, progress=told.append)
    assert diary == ["a warm", "b warm", "a", "b", "a", "b", "a", "b"]
    assert told == ["a", "b"] * 4
    assert (rows[0]["fps"], rows[0]["fps_rounds"], rows[0]["frames"]) == (20, [10, 30, 20], 30)
    assert (rows[0]["variation_percent"], rows[1]["variation_percent"]) == (100.0, 0.0)
    assert rows[0]["cpu_percent"] == {"process": 50.0, "others": 1.0}
    assert rows[0]["model"] == "a"


def test_a_stop_keeps_what_there_is() -> None:
    diary: list[str] = []
    rows = measure(
        [Scripted("a", [10, 20, 30], diary), Scripted("b", [5, 5, 5], diary)], 3, stop=lambda: len(diary) >= 3
    )
    assert [row["model"] for row in rows] == ["a"]
    assert rows[0]["fps"] == 10
    assert "variation_percent" not in rows[0]


def test_one_that_fails_leaves_the_others_alone() -> None:
    diary: list[str] = []
    rows = measure([Scripted("a", [], diary, fails=True), Scripted("b", [5, None], diary)], 2)
    assert rows[0]["error"] == "a cannot"
    assert "fps" not in rows[0]
    assert rows[1]["fps_rounds"] == [5]
    with pytest.raises(EngineUnavailable, match="a cannot"):
        measure([Scripted("a", [], diary, fails=True), Scripted("b", [], diary, fails=True)], 2)
    result = {"kind": "engine", "rows": rows, "warnings": [], "stopped": False, "machine": describe()}
    lines = format_result(result).splitlines()
    assert "failed: a cannot" in lines[2]
    assert lines[3].split()[:2] == ["b", "x2"]


def test_only_figures_of_every_round_have_a_median() -> None:
    row = summarise(
        [
            Turn(1, 1, 1, {"gpu_percent": 10.0, "joules_per_frame": {"cpu": 1.0, "gpu": 2.0}}),
            Turn(1, 1, 1, {"joules_per_frame": {"cpu": 3.0}}),
        ]
    )
    assert "gpu_percent" not in row
    assert row["joules_per_frame"] == {"cpu": 2.0}


def test_an_unsteady_or_busy_machine_is_said() -> None:
    quiet = {"cpu_percent": {"process": 90.0, "others": 2.0}, "variation_percent": 3.0}
    row = Scripted("a", [], []).figures()
    assert warnings([row | quiet], paced=False) == []
    unsteady = row | quiet | {"variation_percent": 40.0}
    assert "1 of 2 differ, most by 40 % (a x2 64x48" in warnings([row | quiet, unsteady], paced=False)[0]
    assert warnings([unsteady], paced=True) == []
    busy = row | {"cpu_percent": {"process": 50.0, "others": 45.0}}
    assert "other processes took 45 %" in warnings([busy], paced=True)[0]


def test_the_load_of_this_process_is_seen() -> None:
    meter = LoadMeter()
    meter.begin()
    sum(n * n for n in range(200_000))
    load = meter.end(10)
    assert load["cpu_ms_per_frame"] > 0
    assert 0 <= load["cpu_percent"]["process"] <= 100
