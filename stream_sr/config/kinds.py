"""Kinds of option values: how a text becomes a value, and how a message and the help describe what is allowed."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stream_sr.errors import ConfigError
from stream_sr.pipeline.interfaces import MOST_SIDE

MOST_TEXT = 2048  # characters of a value
MOST_SHOWN = 80  # characters of a value that a message repeats
LEAST_SIDE = 16  # pixels, of a requested size: no encoder takes a few pixels


@dataclass(frozen=True)
class Kind:
    """What an option takes. ``parse`` raises ValueError or OverflowError for another text.

    ``allowed`` completes the message "'x' is not ...". ``metavar`` stands for the value in the help. With
    ``any_characters`` control characters and any length are allowed, as in the name of a file on the command line.
    """

    parse: Callable[[str], Any]
    allowed: str
    metavar: str
    choices: tuple[str, ...] = ()
    any_characters: bool = False

    def read(self, text: str, where: str) -> Any:
        """The value of a text. Raises ConfigError that begins with ``where`` and says what is allowed."""
        if not self.any_characters:
            refuse_control_characters(text, where)
        if self.choices and text not in self.choices:
            raise ConfigError(f"{where}: '{shown(text)}' is not one of {', '.join(self.choices)}")
        try:
            return self.parse(text)
        except (ValueError, OverflowError) as error:
            raise ConfigError(f"{where}: '{shown(text)}' is not {self.allowed}") from error


def shown(value: str, most: int = MOST_SHOWN) -> str:
    """A value as a message repeats it: shortened to ``most`` characters, and what is not printable escaped."""
    short = value if len(value) <= most else f"{value[:most]}..."
    return short if short.isprintable() else ascii(short)[1:-1]


def refuse_control_characters(text: str, where: str) -> None:
    """Raise ConfigError for NUL, newline, escape and the like, and for a text that is too long for any option."""
    if len(text) > MOST_TEXT:
        raise ConfigError(f"{where}: '{shown(text)}' has {len(text)} characters; at most {MOST_TEXT} are allowed")
    if any(unicodedata.category(letter) == "Cc" for letter in text):
        raise ConfigError(f"{where}: '{shown(text)}' holds a control character; leave it out")


def whole(low: int, high: int, metavar: str = "N") -> Kind:
    """A whole number from ``low`` to ``high``."""

    def parse(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise ValueError(text)
        return value

    return Kind(parse, f"a whole number from {low} to {high}", metavar)


def number(low: float, high: float, metavar: str = "SECONDS") -> Kind:
    """A number from ``low`` to ``high``."""

    def parse(text: str) -> float:
        value = float(text)
        if not low <= value <= high:  # also of "nan"
            raise ValueError(text)
        return value

    return Kind(parse, f"a number from {low:g} to {high:g}", metavar)


def choice(*words: str) -> Kind:
    """One of these words."""
    return Kind(str, f"one of {', '.join(words)}", "|".join(words), choices=words)


def size(text: str) -> tuple[int, int]:
    """``640x360`` as (width, height). Raises ValueError."""
    width, _, height = text.lower().partition("x")
    sides = [int(side) for side in (width, height) if side.isdecimal()]
    if len(sides) < 2 or min(sides) < LEAST_SIDE or max(sides) > MOST_SIDE:
        raise ValueError(SIZE.allowed)
    return int(width), int(height)


def _bitrate(text: str) -> int:
    unit = {"k": 1_000, "m": 1_000_000}.get(text[-1:].lower(), 1)
    value = float(text[:-1] if unit > 1 else text) * unit
    if not (math.isfinite(value) and value >= 1000):
        raise ValueError(text)
    return round(value)


def _switch(text: str) -> bool:
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in words:
        raise ValueError(text)
    return words[text.lower()]


def _word(text: str) -> str:
    if not text.isprintable():  # surrogates stand for bytes of an argument or variable that are no UTF-8
        raise ValueError(text)
    return text


SIZE = Kind(size, f"a size like 640x360, from {LEAST_SIDE}x{LEAST_SIDE} to {MOST_SIDE}x{MOST_SIDE}", "WxH")
BITRATE = Kind(_bitrate, "a bit rate like 4M or 800k, or a number of bit/s", "RATE")
SWITCH = Kind(_switch, "true or false", "true|false")
WORD = Kind(_word, "a text in UTF-8 without control characters", "NAME")
FOLDER = Kind(Path, "a folder", "DIR")
MODEL = Kind(str, "a model's name, FILE.onnx or auto", "NAME|FILE.onnx|auto")
ADDRESS = Kind(str, "an address", "ADDRESS", any_characters=True)  # these three: on the command line only
FILE = Kind(Path, "a file", "FILE", any_characters=True)
TEXT = Kind(str, "a text", "TEXT", any_characters=True)
