"""How an option is declared: a field of a frozen dataclass, made by `option` or `argument`.

    max_latency: float = option(500.0, number(1, 1e6, "MS"), "drop live frames that are older ...", group=Group.OUTPUT)

Its name gives ``--max-latency``, ``STREAM_SR_MAX_LATENCY`` and the key ``max-latency`` of a TOML file.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import MISSING, dataclass, field, fields, replace
from enum import StrEnum
from typing import Any

from stream_sr.config.kinds import Kind
from stream_sr.errors import ConfigError

PREFIX = "STREAM_SR_"


class Group(StrEnum):
    """Under which heading the help lists an option of a run; commands take whole groups."""

    ENGINE = "engine"
    INPUT = "input"
    OUTPUT = "output"
    DISPLAY = "page and window"


class Need(StrEnum):
    """What a run must have for an option to do something. Without it a flag is refused."""

    LIVE_INPUT = "a live input"
    RESTART = "a live input, or `serve`"
    LOSABLE = "a live input, or an output published to a server"
    ENCODED_OUTPUT = "an output that is encoded"
    FILE_OUTPUT = "an output file"
    SERVED_OUTPUT = "an output served here: rtsp://@ or web:"
    PAGE = "an output web:"
    DISPLAY = "an output web: or window:"


@dataclass(frozen=True, kw_only=True)
class Option:
    """One option, or one positional argument of a command."""

    name: str = ""  # as on the command line, without the dashes
    key: str = ""  # name of the field
    kind: Kind
    help: str  # what it does, without the default
    metavar: str = ""
    default: Any = None  # of the field
    unset: str = ""  # what happens without it, where the default is None
    group: Group | None = None
    need: Need | None = None
    short: str = ""  # such as -v
    positional: bool = False
    required: bool = False
    repeated: bool = False  # may be given several times
    several: bool = False  # takes one or more words
    comma_list: bool = False  # takes values with commas between them

    @property
    def flag(self) -> str:
        return self.metavar if self.positional else f"--{self.name}"

    @property
    def variable(self) -> str:
        """Its name in the environment."""
        return PREFIX + self.key.upper()

    @property
    def default_text(self) -> str:
        """The default as the help and the documents write it; empty where there is none to tell."""
        if self.unset or self.default in (None, False, ()):
            return self.unset
        return f"{self.default:g}" if isinstance(self.default, int | float) else str(self.default)

    @property
    def help_text(self) -> str:
        """What it does, and its default."""
        default = self.default_text
        return f"{self.help} (default{':' if ' ' in default else ''} {default})" if default else self.help

    def read(self, text: str, where: str = "") -> Any:
        """The value of a text; a tuple of values for a comma list. Raises ConfigError that says what is allowed."""
        where = where or self.flag
        if not self.comma_list:
            return self.kind.read(text, where)
        parts = [part.strip() for part in text.split(",")]
        if "" in parts:
            raise ConfigError(f"{where}: '{text}' has an empty part; write a list like {self.kind.metavar},...")
        return tuple(self.kind.read(part, where) for part in parts)


def option(default: Any, kind: Kind, help: str, *, name: str = "", repr: bool = True, **more: Any) -> Any:
    """A field of a dataclass that is an option. ``name`` where the flag is called otherwise than the field."""
    declared = Option(kind=kind, help=help, name=name, default=default, **({"metavar": kind.metavar} | more))
    return field(default=default, repr=repr, metadata={"option": declared})


def required(kind: Kind, help: str, *, name: str = "", **more: Any) -> Any:
    """As `option`, for one that must be given."""
    declared = Option(kind=kind, help=help, name=name, required=True, **({"metavar": kind.metavar} | more))
    return field(metadata={"option": declared})


def argument(kind: Kind, metavar: str, help: str, *, default: Any = MISSING, several: bool = False) -> Any:
    """A field of a dataclass that is a positional argument; it may be left out where a ``default`` is given."""
    must = default is MISSING
    declared = Option(
        kind=kind,
        metavar=metavar,
        help=help,
        default=None if must else default,
        positional=True,
        required=must,
        several=several,
    )
    return field(default=default, metadata={"option": declared})


def options_of(owner: type) -> tuple[Option, ...]:
    """The options that a dataclass declares, in the order of its fields."""
    found = []
    for part in fields(owner):
        if "option" in part.metadata:
            declared: Option = part.metadata["option"]
            found.append(replace(declared, key=part.name, name=declared.name or part.name.replace("_", "-")))
    return tuple(found)


def keys(options: Iterable[Option]) -> frozenset[str]:
    """The names of the fields of these options."""
    return frozenset(option.key for option in options)
