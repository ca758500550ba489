"""What all commands need of the terminal: the signals that stop them, the log, reports as text or JSON."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from stream_sr.errors import ConfigError
from stream_sr.system.files import write_without_waiting
from stream_sr.system.machine import PROGRAM
from stream_sr.system.printable import printable, printable_lines
from stream_sr.system.signals import HANGUP, STOPS

T = TypeVar("T")
STOPPING = b"\nstream-sr: stopping: what was captured is finished (Ctrl-C again stops now)\n"


class StoppedBeforeStart(KeyboardInterrupt):
    """The first Ctrl-C came before there was a run to stop."""


class StopSignals:
    """Ctrl-C and SIGTERM: the first stops softly, the second aborts. The handler takes no lock.

    SIGHUP does the same; or, with ``reloads``, it calls ``reload`` of what is attached. If it came before `attach`,
    `attach` calls it, because the file may have been read already.
    """

    def __init__(self, *, reloads: bool = False) -> None:
        self.count = 0
        self._reloads = reloads
        self._reload_wanted = False
        self._pipeline: Any = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        for which in STOPS:
            if signal.getsignal(which) is not signal.SIG_IGN or self._reloads:  # ignored: nohup
                self._before[which] = signal.signal(which, self._handle)
        return self

    def attach(self, pipeline: Any) -> None:
        self._pipeline = pipeline
        if self._reload_wanted:
            pipeline.reload()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == HANGUP and self._reloads:
            if self._pipeline is None:
                self._reload_wanted = True
            else:
                self._pipeline.reload()
            return
        self.count += 1
        if self._pipeline is None:
            raise StoppedBeforeStart if self.count == 1 else KeyboardInterrupt
        if self.count == 1:
            write_without_waiting(2, STOPPING)  # nobody may be reading
            self._pipeline.stop()
        else:
            self._pipeline.abort()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        for which, handler in self._before.items():
            signal.signal(which, handler)
        if self.count == 1 and self._pipeline is None and isinstance(error, Exception):
            raise StoppedBeforeStart from error  # a library that was being loaded has replaced the interrupt


class PollingLoop:
    """What is attached where no pipeline runs: the loop itself reads `StopSignals.count`, and stops after the first."""

    def stop(self) -> None:
        pass

    def abort(self) -> None:
        raise KeyboardInterrupt


def print_result(json_to: str | None, result: T, text: Callable[[T], str], *, escaped: bool = False) -> None:
    """Text to standard output, unless the JSON goes there. ``escaped``: foreign text in it is `printable` already."""
    write_json(json_to, result)
    if json_to != "-":
        print(text(result) if escaped else printable_lines(text(result)))


def print_line(line: object) -> None:
    """Print one line to standard output, escaped, of any length."""
    print(printable(line, longest=None))


def print_lines(text: object) -> None:
    """Print a table or report to standard output, each line escaped."""
    print(printable_lines(text))


def print_error(text: object) -> None:
    """Print one line to standard error, escaped and of bounded length."""
    print(f"{PROGRAM}: {printable(text)}", file=sys.stderr)


def prepare_streams() -> None:
    """Have standard output and error escape what their encoding does not have (LANG=C), instead of an exception."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def check_json(to: str | None) -> None:
    """As `check_file`; ``-`` is standard output."""
    if to not in (None, "-"):
        check_file("--json", Path(to))


def check_file(option: str, path: Path) -> None:
    """Refuse a place that cannot be written, before a long run rather than after it. Raises ConfigError."""
    if path.is_dir() or not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
        raise ConfigError(f"{option} {path} cannot be written; give a file in a folder that exists")


def check_folder(path: Path) -> None:
    """Refuse a folder that cannot be made, or written into, before any work. Raises ConfigError."""
    there = next(part for part in (path.absolute(), *path.absolute().parents) if part.exists())
    if not there.is_dir():
        raise ConfigError(f"{path} cannot be a folder: {there} is a file; give another")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"nothing can be written into the folder {there}; give another than {path}")


def write_json(to: str | None, result: Any) -> None:
    if to is None:
        return
    text = json.dumps(result, indent=2) + "\n"
    if to == "-":
        sys.stdout.write(text)
        return
    check_json(to)
    try:
        Path(to).write_text(text)
    except OSError as error:
        raise ConfigError(f"--json {to} cannot be written: {error.strerror}") from error


def command_line() -> str:
    """The command as a person would type it again, for reports."""
    from stream_sr.system.machine import command_line

    return command_line([PROGRAM, *sys.argv[1:]])


def configure_log(verbose: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    logging.getLogger("stream_sr").setLevel(logging.DEBUG if verbose else logging.INFO)


class _Formatter(logging.Formatter):
    """``stream-sr: warning: text``; plain for information. One line each, as `printable` makes it."""

    def format(self, record: logging.LogRecord) -> str:
        kind = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        return f"{PROGRAM}: {kind}{printable(record.getMessage())}"


def flush() -> None:
    with _ignore_broken_pipe():
        if sys.stdout is not None:
            sys.stdout.flush()


@contextmanager
def _ignore_broken_pipe() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
