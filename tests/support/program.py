"""The program as a process: started, sent signals, and read line by line. Nothing here waits by sleeping."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from waiting import LIMIT_SECONDS


class Program:
    """``stream-sr`` with these words. Its messages are read by `line`; it is killed at the end of the block."""

    def __init__(
        self,
        *words: object,
        environment: Mapping[str, str] | None = None,
        command: Sequence[str] | None = None,
        stdin: int = subprocess.DEVNULL,
    ) -> None:
        self.process = subprocess.Popen(
            [*(command or (sys.executable, "-m", "stream_sr")), *map(str, words)],
            stdin=stdin,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env=os.environ | dict(environment or {}),
        )
        assert self.process.stderr is not None
        self._pipe = self.process.stderr.fileno()
        self._rest = b""
        self.messages: list[str] = []

    def __enter__(self) -> Program:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is not None and hasattr(error, "add_note"):
            error.add_note("the program wrote:\n" + "\n".join(self.messages))
        self.process.kill()
        self.process.wait()
        assert self.process.stderr is not None
        self.process.stderr.close()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def send(self, *signals: signal.Signals) -> None:
        for one in signals:
            self.process.send_signal(one)

    def line(self, pattern: str, seconds: float = LIMIT_SECONDS) -> str:
        """The next message that the pattern is found in."""
        deadline = time.monotonic() + seconds
        while True:
            while b"\n" in self._rest or b"\r" in self._rest:
                first, self._rest = re.split(rb"[\r\n]", self._rest, maxsplit=1)
                text = first.decode(errors="replace")
                self.messages.append(text)
                if re.search(pattern, text):
                    return text
            left = deadline - time.monotonic()
            ready, _, _ = select.select([self._pipe], [], [], max(0.0, left))
            data = os.read(self._pipe, 65536) if ready else b""
            if not data:
                raise AssertionError(f"no message with {pattern!r} came" + ("" if ready else f" in {seconds:g} s"))
            self._rest += data

    def end(self, seconds: float = LIMIT_SECONDS) -> int:
        """Wait for the end; the exit code, of a signal its negative number."""
        code = self.process.wait(seconds)
        while data := os.read(self._pipe, 65536):
            self._rest += data
        self.messages += self._rest.decode(errors="replace").splitlines()
        self._rest = b""
        return code


class Monitor:
    """What a running program answers at its metrics port."""

    def __init__(self, port: int) -> None:
        self._at = f"http://127.0.0.1:{port}"

    def health(self) -> dict[str, Any]:
        """``/healthz``, whatever its status."""
        try:
            with urllib.request.urlopen(f"{self._at}/healthz", timeout=10) as answer:
                return dict(json.load(answer))
        except urllib.error.HTTPError as error:
            with error:
                return dict(json.load(error))

    def figure(self, name: str, **labels: str) -> float | None:
        """The first sample of this name that has these labels."""
        with urllib.request.urlopen(f"{self._at}/metrics", timeout=10) as answer:
            for row in answer.read().decode().splitlines():
                found = re.fullmatch(r"(\w+)\{(.*)\} (\S+)", row)
                if found and found[1] == name and all(f'{key}="{value}"' in found[2] for key, value in labels.items()):
                    return float(found[3])
        return None

    def until(self, name: str, least: float, **labels: str) -> float:
        """Wait until a figure is as large; its value then."""
        deadline = time.monotonic() + LIMIT_SECONDS
        while time.monotonic() < deadline:
            value = self.figure(name, **labels)
            if value is not None and value >= least:
                return value
        raise AssertionError(f"{name} has not reached {least:g}; it is {value}")
