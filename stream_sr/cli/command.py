"""What a command is: its options, declared as the fields of a frozen dataclass, and the function that runs it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stream_sr.config import Config, make_config
from stream_sr.config.kinds import FILE, SWITCH, TEXT
from stream_sr.config.option import Group, Option, option
from stream_sr.config.run_options import in_groups

EXIT_MISSED = 7  # `bench compare`: slower than --max-regression allows
EXIT_ABORTED = 130  # by a second Ctrl-C
ALL_GROUPS = tuple(Group)


@dataclass(frozen=True, kw_only=True)
class CommandOptions:
    """Options of every command."""

    verbose: bool = option(False, SWITCH, "more log lines, and tracebacks of internal errors", short="-v")


@dataclass(frozen=True, kw_only=True)
class JsonOptions(CommandOptions):
    """Of a command that makes a report."""

    json: str | None = option(None, TEXT, "write the report there (- for standard output)", metavar="FILE")


@dataclass(frozen=True, kw_only=True)
class ConfigOptions(CommandOptions):
    """Of a command that takes options of a run (see `Command.groups`). ``flags`` are those given, parsed, by key."""

    flags: Mapping[str, Any] = field(default_factory=dict)
    config: Path | None = option(None, FILE, "options from a file", metavar="FILE.toml")

    def make_config(self) -> Config:
        """Flags over environment over file over defaults. Raises ConfigError."""
        return make_config(self.flags, file=self.config)


@dataclass(frozen=True)
class Command:
    """One command. ``run`` gets an instance of ``options`` and returns the exit code.

    ``groups`` of the options of a run are taken too, but for ``without``; those in ``lists`` as comma lists. A command
    with a ``parent`` is one of its actions, as in ``stream-sr engine build``. ``addresses``: SOURCE and SINK, which the
    end of the help explains, below ``notes``.
    """

    name: str
    help: str
    options: type[CommandOptions]
    run: Callable[[Any], int]
    groups: Collection[Group] = ()
    without: Collection[str] = ()
    lists: Collection[str] = ()
    parent: str = ""
    notes: str = ""
    addresses: Collection[str] = ()

    @property
    def full_name(self) -> str:
        return f"{self.parent} {self.name}".strip()

    def run_options(self) -> tuple[Option, ...]:
        """The options of a run that it takes."""
        return tuple(one for one in in_groups(*self.groups) if one.key not in self.without)
