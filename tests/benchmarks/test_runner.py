"""The runner: every benchmark is listed and has options; records, commands, plots, missed targets and failures."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import runner
from benchmarks.interface import Benchmark, Measurement, MeasurementFailed, Task
from benchmarks.processes import quarters
from benchmarks.record import RESULTS, ROOT, earlier_result, make_record, read_record, write_record
from stream_sr.errors import ConfigError
from stream_sr.system import machine


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path)
    parser.add_argument("--rounds", type=int, default=3)


def draw(result: Mapping[str, Any], out: Path) -> None:
    out.write_text(str(result["rounds"]))


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that makes an entry the only one, under the name ``double``."""

    def register(entry: Benchmark | Task) -> None:
        monkeypatch.setattr(runner, "MODULES", {"double": "double"})
        monkeypatch.setattr(runner, "import_module", lambda name: SimpleNamespace(ENTRY=entry, __doc__="A double."))

    return register


def benchmark(*missed: str, plot: bool = False) -> Benchmark:
    return Benchmark(
        add_options=add_options,
        measure=lambda parsed: Measurement({"rounds": parsed.rounds}, missed),
        plot=draw if plot else None,
    )


def test_every_benchmark_is_listed_and_has_help() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--list"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(runner.MODULES)
    assert all(len(line.split(maxsplit=1)[1]) > 20 for line in lines)
    pytest.importorskip("playwright")
    pytest.importorskip("torch")
    for name in runner.MODULES:
        entry, parser = runner.open_entry(name)
        assert f"benchmarks {name}" in parser.format_help() or name == "gpu"
        assert ("--out FILE" in parser.format_help()) == isinstance(entry, Benchmark)


def test_committed_records_are_of_registered_benchmarks() -> None:
    for path in RESULTS.glob("*.json"):
        record = read_record(path)
        assert record["benchmark"] in runner.MODULES
        assert set(record) == {"benchmark", "command", "machine", "wall_seconds", "result"}
        command = record["command"].split()
        assert command[:3] == ["python", "-m", "benchmarks"] or path.stem in ("sweep", "gpu")


def test_a_run_writes_its_record(registered: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    registered(benchmark())
    out = tmp_path / "new" / "double.json"
    words = ["double", "--rounds", "5", "--data", f"{tmp_path}/", "--out", str(out)]
    assert runner.main(words) == 0
    record = json.loads(out.read_text())
    assert record["benchmark"] == "double"
    assert record["command"] == "python -m benchmarks double --rounds 5 --data DIR --out FILE"
    assert record["machine"] == machine.describe()
    assert record["result"] == {"rounds": 5}
    assert 0 <= record["wall_seconds"] < 60
    assert list(out.parent.iterdir()) == [out]
    assert "wrote double.json" in capsys.readouterr().out


def test_paths_of_this_machine_are_not_in_the_command(tmp_path: Path) -> None:
    clip, folder = tmp_path / "clip.mp4", Path("data") / "eval"
    parsed = argparse.Namespace(
        clip=clip,
        data=[tmp_path, folder],
        out=Path("results") / "x.json",
        words=["--clip", str(clip), f"--data={tmp_path}", "--data", "data/eval", "--out", "results/x.json"],
    )
    expected = "--clip FILE --data=DIR --data FILE --out results/x.json"
    assert runner.shown_command("x", parsed) == f"python -m benchmarks x {expected}"


def test_a_missed_target_is_exit_code_1(registered: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    registered(benchmark("memory grew by 90 MiB"))
    out = tmp_path / "double.json"
    assert runner.main(["double", "--out", str(out)]) == 1
    assert capsys.readouterr().err == "missed: memory grew by 90 MiB\n"
    assert read_record(out)["result"] == {"rounds": 3}


def test_the_plot_is_drawn_and_redrawn(registered: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    registered(benchmark(plot=True))
    out, plot = tmp_path / "double.json", tmp_path / "double.png"
    words = ["double", "--out", str(out), "--plot", str(plot)]
    assert runner.main([*words, "--redraw"]) == 1
    assert "error: --redraw needs a record:" in capsys.readouterr().err
    assert runner.main([*words, "--rounds", "4"]) == 0
    assert plot.read_text() == "4"
    plot.unlink()
    before = out.read_bytes()
    assert runner.main([*words, "--redraw", "--rounds", "9"]) == 0
    assert (plot.read_text(), out.read_bytes()) == ("4", before)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (MeasurementFailed("no browser"), 1, "error: no browser\n"),
        (ConfigError("a bad size"), ConfigError.exit_code, "error: a bad size\n"),
        (ModuleNotFoundError("x", name="torch"), 1, "error: double needs the module torch, which is not installed\n"),
    ],
)
def test_a_failure_writes_no_record(
    registered: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], error: Exception, code: int, message: str
) -> None:
    def fail(parsed: argparse.Namespace) -> Measurement:
        raise error

    registered(Benchmark(add_options=add_options, measure=fail))
    assert runner.main(["double", "--out", str(tmp_path / "double.json")]) == code
    assert capsys.readouterr().err == message
    assert list(tmp_path.iterdir()) == []


def test_a_task_gets_its_words_and_returns_its_code(registered: Any) -> None:
    registered(Task(add_options=add_options, run=lambda parsed: len(parsed.words)))
    assert runner.main(["double", "--rounds", "7"]) == 2


def test_an_unknown_name_names_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert runner.main(["nothing"]) == 2
    assert "error: no benchmark is named 'nothing'; there are overlap, overhead" in capsys.readouterr().err


def test_an_earlier_result_counts_on_the_same_processor(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    assert earlier_result(path) == {}
    record = make_record("x", "c", {"rows": [1]})
    write_record(path, record)
    assert earlier_result(path) == {"rows": [1]}
    write_record(path, record | {"machine": record["machine"] | {"cpu": "another"}})
    assert earlier_result(path) == {}
    path.write_text("{}")
    with pytest.raises(ValueError, match=r"x\.json is no record"):
        read_record(path)


def test_quarters_leave_the_last_sample_out() -> None:
    assert quarters([1, 1, 2, 2, 3, 3, 4, 4, 900]) == (2, 4)
    assert quarters([5]) == (5, 5)


def test_the_runner_starts_without_the_libraries(tmp_path: Path) -> None:
    """A machine for the GPU benchmark has a checkout, NumPy, torch and onnx, and may have nothing else."""
    blocked = (
        "av",
        "cv2",
        "openvino",
        "platformdirs",
        "aiortsp",
        "websockets",
        "playwright",
        "torch",
        "onnx",
        "pynvml",
    )
    (tmp_path / "sitecustomize.py").write_text(
        f"import sys\nsys.modules.update(dict.fromkeys({blocked!r}))  # an import of one of them fails\n"
    )
    script = ROOT / "benchmarks" / "gpu.py"
    done = subprocess.run(
        [sys.executable, str(script), "--help"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert "--rehearse" in done.stdout
