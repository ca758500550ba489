"""The picture of the page: what is left when it is ended on the way."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import peers
import pytest

from stream_sr.cli.screenshot import find_chromium

pytestmark = [pytest.mark.browser, pytest.mark.serial]


def children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended
            continue
        if parent == pid:
            found.append(int(stat.parent.name))
    return found


def test_ended_on_the_way_it_takes_chromium_along(tmp_path: Path) -> None:
    peers.need(find_chromium() is not None, "Chromium", "chromium")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        words = [sys.executable, "-m", "stream_sr.cli.screenshot", url, str(tmp_path / "page.png")]
        process = subprocess.Popen(words, stderr=subprocess.DEVNULL)
        silent.settimeout(60)
        with silent.accept()[0]:  # Chromium asks for the page, which never comes
            (browser,) = children(process.pid)
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == -signal.SIGTERM
        deadline = time.monotonic() + 10
        while Path(f"/proc/{browser}").exists():
            assert time.monotonic() < deadline, "Chromium is still there"
            time.sleep(0.05)
