"""Text from files, cameras and networks on its way to a terminal, a log and a display; with real processes."""

from __future__ import annotations

import io
import logging
import os
import re
import socket
import subprocess
import sys
import unicodedata
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_sr.app.metrics import CameraCollector
from stream_sr.app.telemetry import _named
from stream_sr.cli import doctor
from stream_sr.cli.terminal import _Formatter
from stream_sr.pipeline.threads import Worker
from stream_sr.sinks.window import overlay
from stream_sr.system.printable import ESCAPED, KEPT, LONGEST, printable, printable_lines

pytestmark = pytest.mark.long

EVIL = "a\x1b]0;owned\x07\x1b[2Jb\r\nstream-sr: forged\u202egnp.exe\u2066\x9b31m\x00\u2028\x7f\ufeff"
FORBIDDEN = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


@given(st.text(st.characters(categories=["Cc", "Cf", "Cs", "Zl", "Zp", "L", "S"]), max_size=700))
def test_nothing_that_could_act_on_a_terminal_is_left(text: str) -> None:
    line = printable(text)
    assert len(line) <= LONGEST
    assert all(unicodedata.category(one) not in ESCAPED or one in KEPT for one in line)
    line.encode()
    assert printable(line) == line


def test_what_is_escaped_can_be_read() -> None:
    assert printable("a\tb\n\x1b[0m\r\x00") == r"a\tb\n\x1b[0m\r\x00"
    assert printable("\x9b31m\u202eabc\u2066\u2028") == r"\x9b31m\u202eabc\u2066\u2028"
    assert printable(os.fsdecode(b"caf\xe9.mp4")) == r"caf\xe9.mp4"
    assert printable("\ud800") == r"\ud800"
    assert printable("Grüße, 日本, naïve \U0001f600, C:\\x") == "Grüße, 日本, naïve \U0001f600, C:\\x"
    assert printable_lines("one\ntwo\x1b\n") == "one\ntwo\\x1b\n"


def test_of_a_long_text_both_ends_are_kept() -> None:
    line = printable("begin " + "x" * 10**6 + " end")
    assert len(line) == LONGEST
    assert line.startswith("begin ")
    assert line.endswith(" end")
    assert printable("x" * LONGEST) == "x" * LONGEST


def test_a_log_line_is_one_line() -> None:
    record = logging.LogRecord("stream_sr", logging.WARNING, "", 0, "the camera says %s", (EVIL,), None)
    assert not FORBIDDEN.search(_Formatter().format(record))
    assert "\n" not in _Formatter().format(record)


def test_displays_and_metrics_get_it_escaped() -> None:
    assert not FORBIDDEN.search(overlay({}, EVIL))
    assert not FORBIDDEN.search("".join(_named({f"file:/x/{EVIL}": 1})))
    cameras = CameraCollector()
    cameras.add(EVIL + os.fsdecode(b"\xff"))
    labels = [label for metric in cameras.collect() for sample in metric.samples for label in sample.labels.values()]
    assert labels
    assert not any(FORBIDDEN.search(label) for label in labels)


def test_doctor_keeps_its_own_colours_only() -> None:
    finding = {"area": doctor.AREAS[0], "name": EVIL, "state": doctor.MISSING, "detail": EVIL, "fix": EVIL}
    report = {"findings": [finding], "auto": {"backend": "x", "reason": EVIL}, "missing": 1, "broken": 0, "optional": 0}
    text = doctor.format_findings(report, color=True)
    assert len(re.findall(r"\x1b\[\d+m", text)) == 2
    assert not FORBIDDEN.search(re.sub(r"\x1b\[\d+m", "", text))


def run(*words: str | bytes, environment: Mapping[str, str] | None = None) -> tuple[int, bytes, bytes]:
    done = subprocess.run(
        [sys.executable, "-m", "stream_sr", *words],
        capture_output=True,
        check=False,
        timeout=60,
        stdin=subprocess.DEVNULL,
        env=os.environ | dict(environment or {}),
    )
    return done.returncode, done.stdout, done.stderr


ASCII = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "LANG": "C"}
BAD_NAME = b"\x1b[2J\xff\n\xe2\x80\xae.mp4"


@pytest.mark.parametrize("environment", [pytest.param({}, marks=pytest.mark.slow), ASCII], ids=["usual", "ASCII"])
def test_a_files_name_cannot_act_on_the_terminal(environment: Mapping[str, str], tmp_path: Path) -> None:
    path = os.path.join(os.fsencode(tmp_path), BAD_NAME)
    with open(path, "wb") as file:
        file.write(b"no video")
    code, out, err = run("run", path, "null:", environment=environment)
    assert code == 3
    assert rb"\x1b[2J\xff\n\u202e.mp4" in err
    assert err.count(b"\n") == 1
    assert not FORBIDDEN.search((out + err).decode())
    code, out, err = run("run", "-v", path, "null:", "--no-such\x1b[0m\u202e", environment=environment)
    assert code == 2
    assert not FORBIDDEN.search((out + err).decode())


def test_a_film_with_such_a_name_is_upscaled_and_named_in_the_log(tmp_path: Path) -> None:
    out = os.path.join(os.fsencode(tmp_path), BAD_NAME)
    code, stdout, err = run(
        "run", "synthetic:128x96@25", out, "--backend", "bicubic", "--duration", "1", "--json", "-", environment=ASCII
    )
    assert code == 0, err
    assert os.path.getsize(out) > 0
    assert not FORBIDDEN.search(err.decode())
    assert stdout.isascii()


def test_a_table_on_an_ascii_terminal_raises_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "m\u00fcller\x1b[2J"
    folder.mkdir()
    code, out, err = run("engine", "list", environment=ASCII | {"STREAM_SR_CACHE": str(folder)})
    assert code == 0, err
    assert out.isascii()
    assert not FORBIDDEN.search((out + err).decode())


def answer(listener: socket.socket) -> None:
    """An RTSP server whose reason phrase is meant for a terminal."""
    listener.settimeout(30)
    with listener.accept()[0] as connection:
        request = connection.recv(4096).decode()
        sequence = next(line for line in request.split("\r\n") if line.lower().startswith("cseq"))
        reason = "Nope \x1b]0;owned\x07\x1b[31m\x9b2J\u202e" + "x" * 5000
        connection.sendall(f"RTSP/1.0 500 {reason}\r\n{sequence}\r\nServer: \x1b[2J\r\n\r\n".encode())
        connection.recv(4096)


def test_a_servers_reason_phrase_cannot_act_on_the_terminal() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        worker = Worker("server", lambda: answer(listener))
        code, out, err = run("run", f"rtsp://127.0.0.1:{listener.getsockname()[1]}/x", "null:")
        assert code == 3, err
        assert worker.join(30)
    text = (out + err).decode()
    assert "500 Nope" in text
    assert not FORBIDDEN.search(text)
    assert max(map(len, text.split("\n"))) <= LONGEST + 30


def test_streams_that_are_no_files_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from stream_sr.cli.terminal import prepare_streams

    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setattr(sys, "stderr", None)
    prepare_streams()
