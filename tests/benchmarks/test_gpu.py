"""benchmarks/gpu.py says why it cannot measure, and its rehearsal runs where only torch, onnx and numpy are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.nvidia.result_file import ResultFile
from benchmarks.nvidia.sections import Sections
from benchmarks.record import ROOT, make_record
from stream_sr.inference.model import list_models

pytestmark = [pytest.mark.long, pytest.mark.gpu]

SCRIPT = ROOT / "benchmarks" / "gpu.py"
BLOCKED = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("av", "cv2", "openvino", "platformdirs", "aiortsp", "websockets", "pynvml"):
            raise ImportError(f"{name} is blocked by the test")

sys.meta_path.insert(0, Blocker())
"""


def gpu(tmp_path: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    blocker = tmp_path / "blocker"
    blocker.mkdir(exist_ok=True)
    (blocker / "sitecustomize.py").write_text(BLOCKED)
    environment = os.environ | {"PYTHONPATH": f"{blocker}{os.pathsep}{SCRIPT.parent.parent}"} | variables
    return subprocess.run(
        [sys.executable, str(SCRIPT), "--out", str(tmp_path), *words],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
        check=False,
    )


@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu_one_line_says_why(tmp_path: Path) -> None:
    done = gpu(tmp_path)
    assert done.returncode == 4
    assert done.stdout == ""
    assert done.stderr.startswith("error: nothing was measured: no NVIDIA driver")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.glob("*.json"))


def test_a_rehearsal_measures_and_goes_on_where_it_was(tmp_path: Path) -> None:
    sections = [word for one in ("limits", "tensorrt", "conformance", "rows", "layers") for word in ("--only", one)]
    done = gpu(tmp_path, "--rehearse", *sections)
    assert done.returncode == 0, done.stderr
    result = tmp_path / "gpu-rehearsal.json"
    record = json.loads(result.read_text())
    data = record["result"]
    assert data["rehearsal"] is True
    conformance = data["conformance"]
    assert {name.split()[-1] for name in conformance} == {"fp32", "fp16", "bf16"}
    exact = next(cell["33x21"] for name, cell in conformance.items() if name.endswith("fp32"))
    assert exact["luma_levels"] <= 1
    assert all(cell["in_flight"]["differ"] == 0 < cell["in_flight"]["frames"] for cell in conformance.values())
    for key, row in data["rows"].items():
        assert "error" not in row, key
        assert set(row["stages_ms"]) == {"upload", "compute", "download"}
        assert set(row["heads_ms"]) == {"convolution + depth-to-space", "deconvolution"}
        assert row["overlapped_fps"] > 0
        assert set(row["floor_ms"]) == {"upload", "download", "memory", "arithmetic"}
        assert key in done.stdout
    (layers,) = data["layers"].values()
    assert [row["name"].split()[0] for row in layers["rows"]].count("Conv2d") == 9
    assert all(row["ms"] > 0 and row["read"] > 0 and row["written"] > 0 for row in layers["rows"])
    assert data["tensorrt"]["runs"].keys() == {"skipped"}
    assert "TensorRT" in done.stdout
    assert "overlap at least 0.9" in done.stdout

    kept = dict(data["rows"])
    lost = next(iter(kept))
    del data["rows"][lost]
    result.write_text(json.dumps(record))
    again = gpu(tmp_path, "--rehearse", "--resume", *sections)
    assert again.returncode == 0, again.stderr
    rows: dict[str, Any] = json.loads(result.read_text())["result"]["rows"]
    assert set(rows) == set(kept)
    assert {key: row for key, row in rows.items() if key != lost} == {k: r for k, r in kept.items() if k != lost}


def test_the_page_of_floors_is_in_step_with_the_results() -> None:
    """GPU.md is written from the networks and the committed results; its floors follow from bytes and arithmetic."""
    words = [sys.executable, "-m", "benchmarks", "gpu-layers", "--check"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    text = SCRIPT.with_name("GPU.md").read_text()
    # 1920 x 1080 x 16 channels of two bytes, read and written, over 4.8 TB/s
    least = 2 * 1920 * 1080 * 16 * 2 / 4800 / 1e6
    assert any(line.startswith("| ReLU") and f" {least:.4f} " in line for line in text.splitlines())


def test_when_the_time_is_over_it_says_how_to_go_on(tmp_path: Path) -> None:
    done = gpu(tmp_path, "--rehearse", "--seconds", "0.2")
    assert done.returncode == 3
    assert "go on with --resume" in done.stdout


def test_what_ends_the_process_is_recorded_and_passed_by(tmp_path: Path) -> None:
    """A section whose process dies is started again behind what broke it."""
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "torch.py").write_text("import os\nos._exit(9)\n")
    path = os.pathsep.join([str(tmp_path / "broken"), str(SCRIPT.parent.parent)])
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--rehearse", "--only", "limits", "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
        timeout=120,
        check=False,
    )
    assert "the process ended with code 9" in done.stdout
    assert done.returncode == 0


def test_a_section_that_cannot_even_begin_is_given_up_at_once(tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "torch.py").write_text("import os\nos._exit(9)\n")
    before: dict[str, Any] = {
        "running": ["limits", "limits"],
        "limits": {"limits": {"error": "a figure of the run before"}},
    }
    (tmp_path / "gpu-rehearsal.json").write_text(json.dumps(make_record("gpu", "c", before)))
    path = os.pathsep.join([str(tmp_path / "broken"), str(SCRIPT.parent.parent)])
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--rehearse", "--resume", "--only", "limits", "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
        timeout=120,
        check=False,
    )
    assert done.stdout.count("limits: the process ended with code 9 at 'start'") == 1
    assert (
        json.loads((tmp_path / "gpu-rehearsal.json").read_text())["result"]["limits"]["limits"]
        == before["limits"]["limits"]
    )


def test_what_is_timed_is_timed_once_and_what_is_checked_is_every_model(tmp_path: Path) -> None:
    parsed = Namespace(rehearse=False, device=0, model=None)
    sections = Sections(ResultFile(tmp_path / "x.json", resume=False), parsed)
    cells = [key for key, *_ in sections._cells()]
    assert len(cells) == len(set(cells))
    assert {key.rsplit(" ", 2)[0] for key in cells} == {f"{one.name} x{one.scale}" for one in list_models()}
    doubles = [" x2 " in key for key in cells]
    assert doubles == sorted(doubles, reverse=True), "those with a bar come first"
    checks = [key for key, _ in sections._conformance()]
    assert len(checks) == len(set(checks)) == 3 * len(list_models())
