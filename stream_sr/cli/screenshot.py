"""A picture of the page in a real browser: Chromium, if it is installed, told over its DevTools protocol.

python -m stream_sr.cli.screenshot http://127.0.0.1:8080/ page.png
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

from stream_sr.errors import SinkOpenError
from stream_sr.system.processes import OWN_GROUP, is_root

NAMES = ("chromium", "chromium-browser", "google-chrome")
SIZE = (1280, 800)
PATIENCE_SECONDS = 40.0
READY = "window.streamSr && streamSr.shown.pictures > 30 && streamSr.figures !== null && streamSr.figures.fps_out > 0"


def find_chromium() -> str | None:
    """The program, or None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def screenshot(url: str, path: Path, *, size: tuple[int, int] = SIZE) -> None:
    """Open the page, wait until it plays, and save it as PNG. Raises SinkOpenError if that cannot be done."""
    try:
        with _chromium(size) as address, connect(address, max_size=None, compression=None) as connection:
            browser = _Browser(connection)
            target = browser.ask("Target.createTarget", url=url)["targetId"]
            browser.session = browser.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            browser.wait_for(READY)
            picture = browser.ask("Page.captureScreenshot", format="png")["data"]
        path.write_bytes(base64.b64decode(picture))
    except (OSError, TimeoutError, KeyError, WebSocketException) as error:
        raise SinkOpenError(f"no screenshot of {url}: {type(error).__name__}: {error}") from error


@contextmanager
def _chromium(size: tuple[int, int]) -> Iterator[str]:
    """A browser without a window; the address of its DevTools."""
    program = find_chromium()
    if program is None:
        raise SinkOpenError("Chromium is not installed; on Debian: apt-get install chromium")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        sandbox = ["--no-sandbox"] if is_root() else []  # Chromium's does not work for root
        process = subprocess.Popen(
            [program, "--headless=new", "--remote-debugging-port=0", f"--user-data-dir={profile}", "--no-first-run",
             f"--window-size={size[0]},{size[1]}", *sandbox, "about:blank"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **OWN_GROUP,
        )  # fmt: skip
        try:
            yield _address(Path(profile) / "DevToolsActivePort", process)
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _address(file: Path, process: subprocess.Popen[bytes]) -> str:
    """Chromium writes its port and a secret path there once it listens."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        lines = file.read_text().split("\n") if file.exists() else []
        if len(lines) == 2:
            return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
        time.sleep(0.05)
    raise TimeoutError("Chromium did not start")


class _Browser:
    """One question at a time."""

    def __init__(self, connection: ClientConnection) -> None:
        self.session = ""
        self._connection = connection
        self._numbers = itertools.count(1)

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        self._connection.send(json.dumps(message | ({"sessionId": self.session} if self.session else {})))
        while True:
            answer = json.loads(self._connection.recv(timeout=PATIENCE_SECONDS))
            if answer.get("id") == number:
                if "error" in answer:
                    raise OSError(f"{method}: {answer['error'].get('message')}")
                return dict(answer["result"])

    def wait_for(self, expression: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self.ask("Runtime.evaluate", expression=expression)["result"].get("value"):
            if time.monotonic() > deadline:
                raise TimeoutError("the page did not play")
            time.sleep(0.1)


def main() -> None:
    """Ended by SIGTERM, it takes Chromium along."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        screenshot(sys.argv[1], Path(sys.argv[2]))
    except KeyboardInterrupt:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
