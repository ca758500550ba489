"""Calls of one system: they occur in `stream_sr.system` alone, and the program runs where they are missing."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import pytest
from peers import free_port
from program import Program

import stream_sr
from stream_sr.codec.y4m import parse_header
from stream_sr.system.features import missing_features

pytestmark = pytest.mark.long

ROOT = Path(stream_sr.__file__).parent

# -- where they occur --------------------------------------------------------------------------------------------

MODULES = {"fcntl", "resource", "termios", "tty", "pty", "pwd", "grp", "msvcrt", "winreg", "ctypes", "mmap"}
ATTRIBUTES = {
    "os": """name sched_getaffinity sched_setaffinity pidfd_open memfd_create posix_spawn posix_spawnp posix_fallocate
        posix_fadvise getuid geteuid getgid getegid setsid getpgid killpg sysconf readv writev preadv pwritev sendfile
        statvfs O_NONBLOCK O_CLOEXEC O_NOFOLLOW O_BINARY wait3 wait4 getloadavg mkfifo fork set_blocking uname nice
        eventfd getppid""",
    "signal": """SIGHUP SIGQUIT SIGTSTP SIGKILL SIGUSR1 SIGUSR2 SIGALRM alarm setitimer pthread_sigmask siginterrupt
        sigwait pidfd_send_signal set_wakeup_fd""",
    "socket": "AF_UNIX SO_REUSEADDR SO_REUSEPORT MSG_WAITALL",
    "select": "poll epoll kqueue",
    "time": "clock_gettime clock_gettime_ns CLOCK_BOOTTIME CLOCK_MONOTONIC",
    "sys": "platform",
}
FOLDERS = ("/proc/", "/sys/", "/dev/shm")
OPTIONS = {"pass_fds", "preexec_fn", "start_new_session", "creationflags"}
SOCKETS = {"sinks/window_process", "rtsp/publisher_connection"}  # wait for sockets, which every system can


def calls(tree: ast.AST) -> Iterator[str]:
    """Names in a module that belong to one system."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES | {"select"})
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES | {"select", *ATTRIBUTES}:
            names = ATTRIBUTES.get(node.module, "").split()
            yield from (alias.name for alias in node.names if node.module in MODULES or alias.name in names)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.attr in ATTRIBUTES.get(node.value.id, "").split():
                yield f"{node.value.id}.{node.attr}"
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith(FOLDERS):
            yield node.value
        elif isinstance(node, ast.keyword) and node.arg in OPTIONS:
            yield node.arg


def test_calls_of_one_system_occur_in_the_package_for_them_alone() -> None:
    found: dict[str, set[str]] = {}
    for path in sorted(ROOT.rglob("*.py")):
        name = path.relative_to(ROOT).with_suffix("").as_posix()
        if not name.startswith("system/"):
            names = set(calls(ast.parse(path.read_text()))) - ({"select"} if name in SOCKETS else set())
            found |= {name: names} if names else {}
    assert found == {}


def test_such_calls_are_found() -> None:
    code = """
import fcntl, os, select, signal
from os import sched_getaffinity
os.open("/proc/self/stat", os.O_RDONLY | os.O_NONBLOCK); signal.signal(signal.SIGHUP, print); run(pass_fds=(1,))
"""
    expected = {"fcntl", "select", "sched_getaffinity", "/proc/self/stat", "os.O_NONBLOCK", "signal.SIGHUP", "pass_fds"}
    assert set(calls(ast.parse(code))) == expected


# -- a system without them ---------------------------------------------------------------------------------------

ELSEWHERE = {"PYTHONPATH": str(Path(__file__).parents[1] / "support" / "other_system"), "HOME": str(Path.home())}
SOURCE = "synthetic:128x96@30"
BICUBIC = ("--backend", "bicubic")


def run(
    *words: object, given: bytes | None = None, program: Sequence[str] = ("-m", "stream_sr")
) -> subprocess.CompletedProcess[bytes]:
    """Run the command line to its end on the other system."""
    command = [sys.executable, *program, *map(str, words)]
    return subprocess.run(
        command, input=given, capture_output=True, timeout=240, check=False, env=os.environ | ELSEWHERE
    )


def frames(path: Path) -> list[tuple[int, int]]:
    with av.open(str(path), "r") as container:
        return [(picture.width, picture.height) for picture in container.decode(video=0)]


def test_the_other_system_lacks_them() -> None:
    code = "import os, signal, pathlib; print(hasattr(os, 'sched_getaffinity') or hasattr(signal, 'SIGHUP'))"
    code += "\nprint(pathlib.Path('/proc/self/stat').exists())\ntry: import fcntl\nexcept ImportError: print('none')"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | ELSEWHERE)
    assert answer.stdout.split() == ["False", "False", "none"]


def test_from_file_to_file_and_through_pipes(tmp_path: Path) -> None:
    made, enlarged = tmp_path / "made.mkv", tmp_path / "enlarged.mp4"
    assert run("run", SOURCE, made, "--duration", "0.5", "--backend", "openvino").returncode == 0
    answer = run("run", made, enlarged, *BICUBIC)
    assert (answer.returncode, frames(enlarged)) == (0, [(512, 384)] * 15), answer.stderr.decode()
    piped = run("run", made, "-", *BICUBIC)
    answer = run("run", "-", "-", *BICUBIC, given=piped.stdout)
    assert (piped.returncode, answer.returncode) == (0, 0), answer.stderr.decode()
    header = parse_header(answer.stdout.partition(b"\n")[0] + b"\n").info
    assert (header.width, header.height, answer.stdout.count(b"FRAME\n")) == (1024, 768, 15)


def test_rtsp_served_and_read(tmp_path: Path) -> None:
    url, path = f"rtsp://127.0.0.1:{free_port()}/live", tmp_path / "read.mkv"
    with Program("run", SOURCE, url.replace("127.0.0.1", "@"), *BICUBIC, environment=ELSEWHERE) as server:
        server.line("rtsp://")
        answer = run("run", url, path, "--duration", "0.5", *BICUBIC)
        assert answer.returncode == 0, answer.stderr.decode()
        assert len(frames(path)) >= 5
        server.process.terminate()
        assert server.end() == 0


def test_the_page() -> None:
    port = free_port()
    with Program("run", SOURCE, f"web:{port}", *BICUBIC, environment=ELSEWHERE) as program:
        program.line(f"http://.*:{port}")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as page:
            assert (page.status, b"<video" in page.read()) == (200, True)
        program.process.terminate()
        assert program.end() == 0


def report(*words: object, program: Sequence[str] = ("-m", "stream_sr")) -> Any:
    answer = run(*words, "--json", "-", program=program)
    assert answer.returncode == 0, answer.stderr.decode()
    return json.loads(answer.stdout)


def test_bench() -> None:
    found = report("bench", "--size", "64x48", "--rounds", "1", "--seconds", "0.1", *BICUBIC)
    assert found["machine"]["cores"] == os.cpu_count()


BASE_ONLY = """
import sys
from stream_sr import __main__
from stream_sr.cli import doctor
doctor.LIBRARIES = tuple(row for row in doctor.LIBRARIES if not row[3])
sys.exit(__main__.main())
"""  # the libraries of the extras take half a minute to import


@pytest.mark.parametrize(
    "program", [("-c", BASE_ONLY), pytest.param(("-m", "stream_sr"), marks=pytest.mark.slow)], ids=["base", "all"]
)
def test_doctor_names_what_the_system_lacks(program: Sequence[str]) -> None:
    found = report("doctor", program=program)
    assert not [finding for finding in found["findings"] if finding["name"] == "examination"]
    (system,) = (finding for finding in found["findings"] if finding["name"] == "operating system")
    for words in ("CPU affinity", "SIGHUP", "file locks", "the watchdog", "/proc"):
        assert words in system["detail"]
    assert found["auto"]["backend"] == "openvino"


def test_nothing_is_missing_on_linux() -> None:
    if sys.platform != "linux":
        pytest.skip("another system")
    assert missing_features() == []
