"""The file of cameras: whatever stands in it, running cameras are not harmed. With real processes and signals."""

from __future__ import annotations

import os
import random
import signal
import string
from collections.abc import Callable, Iterator
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

import pytest
from peers import free_port
from program import Monitor, Program

from stream_sr.app.fleet import check_fleet, read_fleet
from stream_sr.cli import main
from stream_sr.config import make_config
from stream_sr.config.run_options import RUN_OPTIONS
from stream_sr.errors import ConfigError

pytestmark = [pytest.mark.network, pytest.mark.long]

CAMERA = """
[camera.first]
source = "synthetic:128x96@30"
sinks = ["null:"]
backend = "bicubic"
"""
SECOND = '\n[camera.{}]\nsource = "{}"\nsinks = ["{}"]\n{}\n'


def second(name: str = "second", source: str = "synthetic:", sink: str = "null:", options: str = "") -> bytes:
    return (CAMERA + SECOND.format(name, source, sink, options)).encode()


def a_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def a_loop(file: Path) -> None:
    file.unlink()
    file.symlink_to(file)


BAD: dict[str, tuple[bytes | Callable[[Path], Any], str]] = {
    "a NUL byte in a file name": (second(sink=r"a\u0000b.mkv"), "control character"),
    "a NUL byte in the source": (second(source=r"rtsp://h/\u0000"), "control character"),
    "a NUL byte in an option": (second(options=r'model = "a\u0000.onnx"'), "control character"),
    "a control character in a name": (second(name=r'"a\u001b[2J"'), "control character"),
    "a name of 300 characters": (second(name="n" * 300), "1 to 100 characters"),
    "no name": (second(name='""'), "1 to 100 characters"),
    "a file name of 300 characters": (second(sink="f" * 300 + ".mkv"), "no name of a file"),
    "a time that makes a long name": (second(sink="%a" * 120 + ".mkv"), "no name of a file"),
    "a source of 300 characters": (second(source="s" * 300, options="x = 1"), "no option 'x'"),
    "a model of 300 characters": (second(options=f'model = "{"m" * 300}"'), "no model"),
    "an unknown model": (second(options='model = "nonsense"'), "no model 'nonsense'"),
    "a model file that is not there": (second(options='model = "none.onnx"'), "no model file"),
    "an untrained scale": (second(options='model = "tiny"\nscale = 1'), "not trained for x1"),
    "100,000 brackets": (CAMERA.encode() + b"x = " + b"[" * 100_000, "characters"),
    "100,000 brackets, a line each": (CAMERA.encode() + b"x = " + b"[\n" * 100_000, "nested too deeply"),
    "an array 200 deep": (second(options="model = " + "[" * 200 + "]" * 200), "an array"),
    "a key of 100,000 parts": (CAMERA.encode() + b"a." * 100_000 + b"b = 1", "characters"),
    "a key of 2,000 parts": (CAMERA.encode() + b"a." * 2_000 + b"b = 1", "a key of more than 32 parts"),
    "a number of 5,000 digits": (second(options="gop = " + "9" * 5000), "too many digits"),
    "a number of 5,000 digits, to base 16": (second(options="gop = 0x" + "f" * 5000), "too large"),
    "a metrics port of 5,000 digits": (b"metrics-port = 0x" + b"f" * 5000 + CAMERA.encode(), "metrics-port"),
    "a metrics port that is a tree": (b"metrics-port = " + b"[" * 100 + b"]" * 100 + CAMERA.encode(), "metrics-port"),
    "a metrics host that is none": (b'metrics-host = "\\u0000"' + CAMERA.encode(), "metrics-host"),
    "infinity": (second(options="duration = inf"), "number from"),
    "not a number": (second(options="crf = nan"), "0 to 51"),
    "a date": (second(options="model = 2024-01-01"), "a date"),
    "a table": (second(options="model = {a = 1}"), "a table"),
    "mixed sinks": (CAMERA.encode() + b'[camera.b]\nsource = "synthetic:"\nsinks = ["null:", 3]', "has no sinks"),
    "no UTF-8": (CAMERA.encode() + b"# \xff\xfe", "not UTF-8"),
    "no TOML": (b"\x00\x01\x02", "not TOML"),
    "an empty file": (b"", "names no camera"),
    "a file of 2 MiB": (CAMERA.encode() + b"# x\n" * (1 << 19), "more than"),
    "a folder": (a_folder, "Is a directory"),
    "a pipe that nobody writes": (a_pipe, "not an ordinary file"),
    "a file that is gone": (lambda file: file.unlink(), "No such file"),
    "a loop of links": (a_loop, "cannot be read"),
    "a folder that does not exist": (second(sink="/no/such/folder/a.mkv"), "does not exist"),
    "no folder for recordings": (
        second(sink="web:0", options='record-dir = "/no/such/folder"'),
        "/no/such/folder is no folder",
    ),
    "a synthetic source that is none": (second(source="synthetic:5x5"), "the size must be"),
    "a camera without a host": (second(source="rtsp://"), "the host is missing"),
    "a port that is none": (second(source="http://h:99999/x"), "cannot be read"),
    "a port of a server that is none": (second(sink="rtsp://@:99999/x"), "cannot be read"),
    "a page at no port": (second(sink="web:no"), "no port"),
    "an option that does not apply": (second(options="start = 3"), "does not apply"),
    "an encoder without a preset": (second(sink="a.mkv", options='encoder-preset = "x"'), "is unknown"),
    "an old name of an option": (second(options='tune = "camera"'), "[camera.second]: tune is now called weights"),
    "an old name of an option for all": (
        b'[all]\ntune = "camera"\n' + CAMERA.encode(),
        "[all]: tune is now called weights",
    ),
    "a precision that the backend lacks": (second(options='backend = "openvino"\nprecision = "fp16"'), "no precision"),
    "one port for two pages": (
        second(sink="web:8080") + SECOND.format("third", "synthetic:", "web:127.0.0.1:8080", "").encode(),
        "port 8080",
    ),
    "one port for a page and a stream": (
        second(sink="web:8080") + SECOND.format("third", "synthetic:", "rtsp://@0.0.0.0:8080/x", "").encode(),
        "8080",
    ),
    "one path twice": (
        second(sink="rtsp://@:8554/x") + SECOND.format("third", "synthetic:", "rtsp://@127.0.0.1:8554/x", "").encode(),
        "port 8554",
    ),
    "the port of the metrics": (b"metrics-port = 8080" + second(sink="web:8080"), "taken by metrics-port"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_wrong_is_one_error_and_no_other(tmp_path: Path, what: str) -> None:
    content, words = BAD[what]
    file = tmp_path / "c.toml"
    file.write_bytes(content if isinstance(content, bytes) else CAMERA.encode())
    if not isinstance(content, bytes):
        content(file)
    with pytest.raises(ConfigError) as caught:
        check_fleet(file)
    message = str(caught.value)
    assert words in message
    assert message.isprintable(), "one line, and nothing that a terminal obeys"
    assert len(message) < 1500


def test_no_file_harms_a_running_camera(tmp_path: Path) -> None:
    """One daemon lives through all of them: an error each, and the camera goes on as the same run."""
    file, port = tmp_path / "c.toml", free_port()
    file.write_text(CAMERA)
    with Program("serve", file, "--metrics-port", port) as program:
        monitor = Monitor(port)
        program.line("bicubic")
        for what, (content, words) in BAD.items():
            if file.is_dir():
                file.rmdir()
            else:
                file.unlink(missing_ok=True)
            file.write_bytes(content if isinstance(content, bytes) else CAMERA.encode())
            if not isinstance(content, bytes):
                content(file)
            program.send(signal.SIGHUP)
            message = program.line("keep running as they are|reloaded")
            assert words in message, what
            assert message.startswith("stream-sr: error: "), what
        frames = monitor.until("stream_sr_frames_in_total", 1, camera="first")
        monitor.until("stream_sr_frames_in_total", frames + 5, camera="first")
        assert monitor.figure("stream_sr_restarts_total", camera="first") == 0
        assert monitor.health() == {"status": "ok", "cameras": {"first": "live"}, "errors": {}}
        file.unlink()
        file.write_bytes(second(name='"Tür \\"1\\" \\\\"', options='backend = "bicubic"'))
        for _ in range(500):
            program.send(signal.SIGHUP)
        program.line('reloaded .*: new Tür "1"')
        monitor.until("stream_sr_frames_in_total", 1, camera=r"Tür \"1\" \\")
        monitor.until("stream_sr_frames_in_total", frames + 10, camera="first")
        program.send(signal.SIGTERM)
        assert program.end() == 0
    assert sum("this is a defect" in message or "Traceback" in message for message in program.messages) == 0


@pytest.mark.slow
def test_a_camera_that_cannot_start_after_a_reload_leaves_the_others_alone(tmp_path: Path) -> None:
    file, port = tmp_path / "c.toml", free_port()
    file.write_text(CAMERA)
    with Program("serve", file, "--metrics-port", port) as program:
        monitor = Monitor(port)
        program.line("bicubic")
        file.write_bytes(second(sink=f"web:{port}", options='backend = "bicubic"'))  # the port is in use
        program.send(signal.SIGHUP)
        program.line("second: .*taken.*starting it again")
        frames = monitor.until("stream_sr_frames_in_total", 1, camera="first")
        monitor.until("stream_sr_frames_in_total", frames + 5, camera="first")
        assert monitor.figure("stream_sr_restarts_total", camera="first") == 0


@pytest.mark.slow
def test_sighup_while_it_starts_ends_nothing(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text(CAMERA)
    hook = "import os, signal, sys; from stream_sr import __main__ as m; sys.argv[0] = 'stream-sr'; "
    early = "real = m.share_arenas; m.share_arenas = lambda: (os.kill(os.getpid(), signal.SIGHUP), real()); "
    with Program("serve", file, command=(os.sys.executable, "-c", f"{hook}{early}sys.exit(m.main())")) as program:  # type: ignore[attr-defined]
        program.line("bicubic")
        program.send(signal.SIGTERM)
        assert program.end() == 0


@pytest.mark.parametrize(("option", "what"), [("--config", "a pipe that nobody writes"), ("serve", "100,000 brackets")])
def test_a_bad_file_at_the_start_is_one_line_and_exit_code_2(tmp_path: Path, option: str, what: str) -> None:
    file, (content, _) = tmp_path / "c.toml", BAD[what]
    file.write_bytes(content if isinstance(content, bytes) else b"")
    if not isinstance(content, bytes):
        content(file)
    words = ["serve", file] if option == "serve" else ["run", "synthetic:", "null:", "--config", file]
    with Program(*words) as program:
        assert program.end() == 2
        assert len(program.messages) == 1
        assert program.messages[0].startswith("stream-sr: error: ")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("STREAM_SR_GOP", "9" * 5000),
        ("STREAM_SR_MODEL", "m" * 300),
        ("STREAM_SR_MODEL", "\x1b[2J"),
        ("STREAM_SR_BITRATE", "1e999999"),
        ("STREAM_SR_VIEWER_USER", "\udcff"),
        ("STREAM_SR_RECORD_DIR", "d" * 5000),
    ],
)
def test_a_bad_variable_is_one_line_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    assert main.main(["run", "synthetic:", "null:"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("stream-sr: error: ")
    assert line.isprintable()


@pytest.mark.parametrize("words", [["s" * 300, "null:"], ["synthetic:", "f" * 300 + ".mkv"], ["synthetic:", "web:0"]])
def test_a_long_name_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    monkeypatch.setenv("STREAM_SR_RECORD_DIR", "d" * 300)
    assert main.main(["run", *words]) in (3, 5)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("stream-sr: error: ")


# --- random values


def values(chance: random.Random, depth: int = 0) -> Any:
    """Something that a TOML file may hold, often at the edge of what is allowed."""
    letters = string.printable + "\0\x1b\x7f\x9b\u202e\u2028äß漢🎥\\/%:@[]"
    kind = chance.randrange(9 if depth < 3 else 7)
    if kind == 0:
        return chance.choice([0, 1, -1, 2, 4, 51, 65535, 2**31, 2**63, -(2**63), 10**400, 16**5000])
    if kind == 1:
        return chance.choice([0.0, -0.0, 0.5, 1e308, float("inf"), float("-inf"), float("nan")])
    if kind == 2:
        return chance.random() < 0.5
    if kind == 3:
        return chance.choice([date(2024, 1, 1), time(1, 2, 3), datetime(2024, 1, 1, 0, 0)])
    if kind == 4:
        return "".join(chance.choice(letters) for _ in range(chance.choice([0, 1, 3, 10, 300])))
    if kind == 5:
        return chance.choice(
            [
                "auto",
                "tiny",
                "640x360",
                "9" * 5000 + "x9",
                "1e999k",
                "4M",
                "-",
                "a.mkv",
                "rtsp://[",
                "web:",
                "rtsp://@:1/x",
                "http://h:x/",
                "synthetic:1x1@0/1",
                "%",
                "%s%n%C.mkv",
                "..",
                "/",
                "2024",
            ]
        )
    if kind == 6:
        return chance.choice(letters) * chance.choice([1, 255, 4097])
    if kind == 7:
        return [values(chance, depth + 1) for _ in range(chance.randrange(4))]
    return {str(number): values(chance, depth + 1) for number in range(chance.randrange(4))}


def toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return hex(value) if value >= 0 else str(value)
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(letter):08x}" for letter in value) + '"'
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml(key)} = {toml(part)}" for key, part in value.items()) + "}"
    return str(value.isoformat())


def files(seed: int, amount: int) -> Iterator[str]:
    chance = random.Random(seed)
    names = [option.name for option in RUN_OPTIONS] + ["source", "sinks"]
    for number in range(amount):
        table = {"source": "synthetic:", "sinks": ["null:"]}
        for name in chance.sample(names, chance.choice([1, 1, 2, 5])):
            table[name] = values(chance)
        if chance.random() < 0.3:
            table["sinks"] = [values(chance, 3) for _ in range(2)]
        name = toml(values(chance)) if chance.random() < 0.2 else f"c{number}"
        head = f"{chance.choice(['metrics-port', 'metrics-host', 'all', 'x'])} = {toml(values(chance))}\n"
        lines = "\n".join(f"{toml(key)} = {toml(value)}" for key, value in table.items())
        yield (head if chance.random() < 0.2 else "") + f"[camera.{name}]\n{lines}\n"


def check_random_files(tmp_path: Path, seed: int, amount: int) -> None:
    file, good, wrong = tmp_path / "c.toml", 0, list[str]()
    for text in files(seed, amount):
        file.write_text(text)
        try:
            read_fleet(file)
            good += 1
        except ConfigError as error:
            wrong.append(str(error))
    assert all(map(str.isprintable, wrong))
    assert good, "most values are wrong, not all"


def test_random_values_raise_config_error_or_nothing(tmp_path: Path) -> None:
    check_random_files(tmp_path, seed=1, amount=300)


@pytest.mark.slow
def test_many_random_values_raise_config_error_or_nothing(tmp_path: Path) -> None:
    for seed in range(2, 12):
        check_random_files(tmp_path, seed, amount=500)


@pytest.mark.parametrize("option", RUN_OPTIONS, ids=lambda option: option.name)
def test_random_texts_of_each_option(option: Any) -> None:
    chance, wrong = random.Random(option.name), list[str]()
    for _ in range(60):
        value = values(chance, 3)
        text = value if isinstance(value, str) else hex(value) if isinstance(value, int) else str(value)
        try:
            make_config({}, environment={f"STREAM_SR_{option.key.upper()}": text})
        except ConfigError as error:
            wrong.append(str(error))
    assert all(map(str.isprintable, wrong))
