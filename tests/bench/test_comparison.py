"""Two results are compared row by row, and what makes the comparison doubtful is said."""

import json
from pathlib import Path
from typing import Any

import pytest

from stream_sr.bench.comparison import compare, format_comparison, missed, read_result
from stream_sr.bench.plot import plot_result
from stream_sr.errors import ConfigError
from stream_sr.system.machine import describe


def row(model: str, fps: float, p99: float = 10.0) -> dict[str, Any]:
    return {
        "model": model, "scale": 2, "width": 640, "height": 360, "backend": "openvino", "precision": "bf16",
        "fps": fps, "fps_rounds": [fps, fps + 1], "cpu_ms_per_frame": 20.0, "variation_percent": 2.0,
        "latency_ms": {"p50": 5.0, "p95": 8.0, "p99": p99},
    }  # fmt: skip


def result(*rows: dict[str, Any], kind: str = "engine") -> dict[str, Any]:
    return {"kind": kind, "rows": list(rows), "settings": {"threads": "2"}, "machine": describe(), "command": ""}


def test_ratios_and_what_is_worse() -> None:
    found = compare(result(row("a", 100), row("b", 50), row("c", 1)), result(row("b", 45), row("a", 120), row("d", 1)))
    assert [(one["name"].split()[0], one["ratio"], one["worse_percent"]) for one in found["rows"]] == [
        ("a", 1.2, -20.0),
        ("b", 0.9, 10.0),
    ]
    assert missed(found, 9.9) == ["b x2 640x360 openvino bf16", "c x2 640x360 openvino bf16"]
    assert missed(found, 10.1) == ["c x2 640x360 openvino bf16"]
    text = format_comparison(found)
    assert "only in A: c x2" in text
    assert "only in B: d x2" in text
    assert "warning" not in text


def test_rows_that_turned_out_alike_are_compared_in_their_order() -> None:
    """``--precision auto,bf16`` on a machine whose auto is bf16."""
    twice = result(row("a", 100), row("a", 50))
    found = compare(twice, result(row("a", 100), row("a", 40)))
    assert [one["ratio"] for one in found["rows"]] == [1.0, 0.8]
    assert not compare(twice, twice)["missing"]
    assert len(compare(twice, result(row("a", 100)))["missing"]) == 1


def test_live_results_are_judged_by_their_latency() -> None:
    found = compare(result(row("a", 30, p99=20), kind="live"), result(row("a", 30, p99=25), kind="live"))
    assert found["rows"][0]["worse_percent"] == 25.0
    assert missed(found, 20)


def test_other_machines_settings_and_libraries_are_said() -> None:
    other = result(row("a", 10))
    other["machine"] = other["machine"] | {"cores": 99, "libraries": {"openvino": "1.0"}}
    other["settings"] = {"threads": "1"}
    found = compare(result(row("a", 10)), other)
    assert found["machines"] == [f"cores: A {describe()['cores']}, B 99"]
    assert found["settings"] == ["threads: A 2, B 1"]
    assert any(text.startswith("openvino: ") and text.endswith(", B 1.0") for text in found["libraries"])
    lines = format_comparison(found).splitlines()
    assert lines[0].startswith("warning: different machines: cores")
    assert lines[1] == "warning: different settings: threads: A 2, B 1"


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="different things"):
        compare(result(row("a", 1)), result(row("a", 1), kind="live"))
    with pytest.raises(ConfigError, match="nothing to compare"):
        compare(result(row("a", 1)), result(row("b", 1)))
    with pytest.raises(ConfigError, match="cannot be read"):
        read_result(tmp_path / "none.json")
    rows = [json.dumps(result() | {"rows": found}) for found in ([{"fps": 1}], [1], 3)]
    for text in ("{", "[]", '{"kind": "engine"}', *rows):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(ConfigError, match=r"bad\.json (is n|has rows)"):
            read_result(tmp_path / "bad.json")
    (tmp_path / "good.json").write_text(json.dumps(result(row("a", 1))))
    assert read_result(tmp_path / "good.json")["rows"][0]["model"] == "a"


@pytest.mark.parametrize("kind", ["engine", "live"])
def test_the_plot_is_a_picture(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("matplotlib")
    broken = {key: value for key, value in row("c", 1).items() if key != "fps"} | {"error": "no"}
    out = plot_result(result(row("a", 100), row("b", 50), broken, kind=kind), tmp_path / "plot.png")
    assert out.read_bytes().startswith(b"\x89PNG")
