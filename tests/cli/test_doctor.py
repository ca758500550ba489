"""The doctor answers every question, names a command for all that is missing, and never falls ill itself."""

import json
import re
import shutil
import socket
import sys
import tomllib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from stream_sr.cli import doctor
from stream_sr.errors import EngineUnavailable
from stream_sr.inference.engines import BACKENDS, choose_backend
from stream_sr.inference.model import list_models
from stream_sr.system import machine

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    return doctor.examine()


def states(report: dict[str, Any], area: str) -> dict[str, str]:
    return {finding["name"]: finding["state"] for finding in report["findings"] if finding["area"] == area}


def one(findings: Any, name: str) -> doctor.Finding:
    return next(finding for finding in findings if finding.name == name)


def test_every_area_is_answered_and_nothing_could_not_be_examined(report: dict[str, Any]) -> None:
    assert {finding["area"] for finding in report["findings"]} == set(doctor.AREAS)
    assert "examination" not in {finding["name"] for finding in report["findings"]}
    assert set(states(report, "backends")) == set(BACKENDS)
    assert report["machine"] == machine.describe()
    json.dumps(report)


def test_what_is_missing_or_broken_names_its_command_and_is_counted(report: dict[str, Any]) -> None:
    ill = [finding for finding in report["findings"] if finding["state"] in ("missing", "broken")]
    assert all(finding["fix"] for finding in ill)
    assert len(ill) == report["missing"] + report["broken"]


def test_what_the_suite_itself_needs_is_found(report: dict[str, Any]) -> None:
    libraries = states(report, "libraries")
    assert {libraries[name] for name in ("numpy", "av", "openvino", "torch", "onnx", "scikit-image")} == {"ok"}
    assert states(report, "encoders")["libx264"] == "ok"
    assert states(report, "backends")["bicubic"] == "ok"
    assert report["auto"] == {"backend": choose_backend().name, "reason": choose_backend().reason}


def test_every_shipped_model_is_found_and_readable(report: dict[str, Any]) -> None:
    assert states(report, "models") == {model.label(): "ok" for model in list_models()}


def test_the_text_fits_a_terminal_and_has_every_answer(report: dict[str, Any]) -> None:
    text = doctor.format_findings(report)
    assert all(len(line) <= 80 for line in text.splitlines() if "->" not in line)
    assert "\x1b" not in text
    letters = re.sub(r"\s+", "", text)  # a long path is broken within
    for finding in report["findings"]:
        assert finding["name"] in text
        assert re.sub(r"\s+", "", finding["detail"]) in letters
        if finding["state"] in ("optional", "missing", "broken"):
            assert f"-> {finding['fix']}\n" in text
    assert text.endswith(f"{report['missing']} missing, {report['broken']} broken, {report['optional']} optional")


def test_colour_changes_nothing_but_the_colour(report: dict[str, Any]) -> None:
    colored = doctor.format_findings(report, color=True)
    assert "\x1b[32mok" in colored
    assert re.sub(r"\x1b\[\d*m", "", colored) == doctor.format_findings(report)


LIBGL = "numpy\nraise ImportError('libGL.so.1: cannot open shared object file: No such file or directory')"


@pytest.mark.parametrize(
    ("module", "detail", "fix"),
    [
        (LIBGL, "libGL.so.1", "apt-get install libgl1"),
        ("no_such_module", "No module named", "install --force-reinstall numpy"),
        ("os\nos._exit(3)", "exit code 3", "install --force-reinstall numpy"),
        ("os\nos.kill(os.getpid(), 9)", "exit code -9", "install --force-reinstall numpy"),
    ],
)
def test_a_library_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch, module: str, detail: str, fix: str) -> None:
    monkeypatch.setattr(doctor, "LIBRARIES", (("numpy", module, "arrays", ""),))
    (finding,) = doctor.Probes().findings()
    assert finding.state == "broken"
    assert detail in finding.detail
    assert finding.fix.endswith(fix)


def test_an_import_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LIBRARIES", (("numpy", "time\ntime.sleep(600)", "arrays", ""),))
    monkeypatch.setattr(doctor, "PROBE_SECONDS", 0.2)
    (finding,) = doctor.Probes().findings()
    assert (finding.state, "did not end" in finding.detail) == ("broken", True)


def test_a_library_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "libraries", dict)
    monkeypatch.setattr(doctor, "has_nvidia", lambda: False)
    findings = list(doctor.Probes().findings())
    assert one(findings, "openvino") == doctor.Finding(
        "libraries", "openvino", "missing", "not installed: inference on the CPU", machine.pip_install("openvino")
    )
    assert one(findings, "torch").state == "optional"
    assert one(findings, "torch").fix == machine.pip_install("stream-sr[torch]")
    assert one(findings, "pycuda").state == "absent"
    monkeypatch.setattr(doctor, "has_nvidia", lambda: True)
    assert one(doctor.Probes().findings(), "pycuda").state == "missing"


def test_every_library_of_the_base_is_asked_for() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    base = {re.split("[><=;[]", need)[0].strip() for need in project["dependencies"]}
    assert {name for name, _, _, extra in doctor.LIBRARIES if not extra} == base
    assert {extra for _, _, _, extra in doctor.LIBRARIES if extra} < set(project["optional-dependencies"])


def test_a_question_that_fails_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(doctor, "engine_entries", fail)
    (finding,) = doctor._ask("cache", doctor._cache)
    assert (finding.state, finding.detail) == ("broken", "could not be examined: OSError: the disk is gone")


def test_no_backend_to_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> None:
        raise EngineUnavailable("no backend runs networks here; pip install openvino")

    monkeypatch.setattr(doctor, "choose_backend", none)
    auto = doctor._auto()
    assert auto == {"backend": None, "reason": "no backend runs networks here; pip install openvino"}
    text = doctor.format_findings({"findings": [], "auto": auto, "optional": 0, "missing": 0, "broken": 0})
    assert text.startswith("--backend auto finds nothing to run: no backend")


def write_model(folder: Path, onnx: bytes | None, toml: str | None = None) -> None:
    folder.mkdir(parents=True)
    good = 'name = "m"\nscale = 2\nparameters = 1\nmacs_per_pixel = 1\n[network]\n'
    (folder / "model.toml").write_text(toml or good)
    if onnx is not None:
        (folder / "model.onnx").write_bytes(onnx)


def test_damaged_models_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "engines_folder", lambda: tmp_path / "engines")
    assert [finding.state for finding in doctor._models()] == ["missing"]
    write_model(tmp_path / "engines" / "a", b"not a graph")
    write_model(tmp_path / "engines" / "b", None)
    write_model(tmp_path / "engines" / "c", b"", toml="name = ")
    findings = list(doctor._models())
    assert {finding.state for finding in findings} == {"broken"}
    assert "is missing" in one(findings, "b").detail
    assert "cannot be used" in one(findings, "c").detail
    assert "cannot be read" in one(findings, "m x2").detail


def test_the_cache(tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (finding,) = doctor._cache()
    assert (finding.state, finding.detail.split(",")[0]) == ("ok", "0")
    assert not own_cache.exists()  # looking changes nothing
    (own_cache / "engines").mkdir(parents=True)
    (own_cache / "engines" / "x.engine").write_bytes(b"damaged")
    (finding,) = doctor._cache()
    assert (finding.state, finding.fix) == ("broken", "stream-sr engine prune")
    (tmp_path / "file").touch()
    monkeypatch.setenv("STREAM_SR_CACHE", str(tmp_path / "file"))
    (finding,) = doctor._cache()
    assert (finding.state, finding.fix) == ("broken", "export STREAM_SR_CACHE=FOLDER")


def display(monkeypatch: pytest.MonkeyPatch, **environment: str) -> str:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    (finding,) = doctor._display()
    return finding.state


def test_the_display(monkeypatch: pytest.MonkeyPatch) -> None:
    assert display(monkeypatch) == "optional"
    assert display(monkeypatch, WAYLAND_DISPLAY="wayland-0") == "ok"
    assert display(monkeypatch, DISPLAY=":98765") == "broken"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(doctor, "DISPLAY_SECONDS", 0.5)
        number = silent.getsockname()[1] - 6000
        assert display(monkeypatch, DISPLAY=f"127.0.0.1:{number}") == "broken"
    monkeypatch.setattr(doctor, "DISPLAY", "answers = True")
    assert display(monkeypatch, DISPLAY=":98766.0") == "ok"


def test_the_machine_names_neither_host_nor_user_nor_path() -> None:
    described = machine.describe()
    assert described["cores"] >= 1
    assert described["memory_gib"] > 0
    assert described["libraries"]["numpy"]
    text = json.dumps(described)
    assert socket.gethostname() not in text.replace(described["cpu"], "")
    assert str(Path.home()) not in text
    assert described["cpu"] in machine.format_line(described)


def test_a_command_that_stands_for_several_is_shown_once() -> None:
    findings = [doctor.Finding("libraries", name, "optional", "", "install both") for name in ("one", "two")]
    lines = [line for pair in doctor.group(list(map(asdict, findings))) for line in doctor._lines(*pair, False, 80)]
    assert [line.strip() for line in lines] == ["optional one", "optional two", "-> install both"]


def test_commands_are_told_as_this_shell_finds_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stream-sr", "pip", "python"):
        (tmp_path / "bin" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text("")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["bin/stream-sr", "doctor"])
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    monkeypatch.setenv("PATH", "/nowhere")
    assert machine.program() == "bin/stream-sr"
    assert machine.pip_install("stream-sr[torch]") == "bin/python -m pip install 'stream-sr[torch]'"
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert shutil.which("pip")
    assert machine.program() == "stream-sr"
    assert machine.pip_install("onnx") == "pip install onnx"
    monkeypatch.setattr(sys, "argv", ["stream_sr/__main__.py"])
    (tmp_path / "bin" / "stream-sr").unlink()
    assert machine.program() == "bin/python -m stream_sr"


def test_a_command_line_is_printed_without_passwords() -> None:
    command = machine.command_line(["stream-sr", "run", "rtsp://me:secret@camera/1", "out file.mp4"])
    assert command == "stream-sr run rtsp://camera/1 'out file.mp4'"


def test_a_command_in_a_report_has_no_passwords() -> None:
    words = ["stream-sr", "run", "rtsp://me:secret@camera/x", "web:1", "--viewer-password", "secret", "--json", "x"]
    assert machine.command_line(words) == "stream-sr run rtsp://camera/x web:1 --viewer-password ... --json x"
    assert "secret" not in machine.command_line(["a", "--viewer-password=secret"])
    assert machine.command_line(["a", "--viewer-password"]) == "a --viewer-password ..."
