"""Reads a TOML file whose content nobody has checked: a bounded size, ordinary files only, one error for all of it."""

from __future__ import annotations

import os
import stat
import tomllib
from pathlib import Path
from typing import Any

from stream_sr.config.kinds import shown
from stream_sr.errors import ConfigError
from stream_sr.system.files import open_without_waiting

MOST_FILE_BYTES = 1 << 20
MOST_LINE = 8192  # characters of a line: the time to read a dotted key grows with the square of its length
MOST_DOTS = 32  # in a line in front of an equals sign


def read_toml(file: Path) -> dict[str, Any]:
    """A TOML file of at most 1 MiB. Raises ConfigError, whatever the file holds."""
    text = _read_text(file)
    longest = max(map(len, text.splitlines()), default=0)
    if longest > MOST_LINE:
        raise ConfigError(f"configuration {file} has a line of {longest} characters; at most {MOST_LINE} are allowed")
    if any(line.partition("=")[0].partition("#")[0].count(".") > MOST_DOTS for line in text.splitlines()):
        raise ConfigError(f"configuration {file} has a key of more than {MOST_DOTS} parts")  # their cost grows squared
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"configuration {file} is not TOML: {shown(str(error), 200)}") from error
    except RecursionError as error:
        raise ConfigError(f"configuration {file}: brackets or tables are nested too deeply") from error
    except ValueError as error:  # of more than 4300 digits: Python's limit
        raise ConfigError(f"configuration {file}: a number has too many digits") from error
    except Exception as error:  # no content of a file may do more harm than this
        raise ConfigError(f"configuration {file} cannot be read as TOML: {type(error).__name__}") from error


def _read_text(file: Path) -> str:
    """An ordinary file, as UTF-8. A pipe or a device is refused rather than waited for."""
    try:
        with open_without_waiting(file) as opened:
            if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
                raise ConfigError(f"configuration {file} is not an ordinary file; give a file with TOML in it")
            content = opened.read(MOST_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"configuration {file} cannot be read: {error.strerror}") from error
    except ValueError as error:  # a NUL byte in the name
        raise ConfigError(f"configuration {shown(str(file))} cannot be read: {error}") from error
    if len(content) > MOST_FILE_BYTES:
        raise ConfigError(f"configuration {file} has more than {MOST_FILE_BYTES} bytes; is it the right file?")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"configuration {file} is not TOML: byte {error.start} is not UTF-8") from error
