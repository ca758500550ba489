"""The command line's parser, made from the declared options: short usage lines, each mistake as one ConfigError."""

from __future__ import annotations

import argparse
import shutil
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Any, NoReturn

from stream_sr.cli.command import Command, CommandOptions, ConfigOptions
from stream_sr.config.kinds import SWITCH
from stream_sr.config.option import Option, options_of
from stream_sr.config.renamed import RENAMED, renamed
from stream_sr.errors import ConfigError

LEAST_WIDTH = 60  # columns, for the table of addresses


class Parser(argparse.ArgumentParser):
    """Raises ConfigError where argparse would print and exit. `refuse_unknown` refuses words that are left over."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **({"formatter_class": _Formatter} | options))
        self.set_defaults(parser=self)  # of the innermost command, whose help is the one to read

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message} (see `{self.prog} --help`)")

    def refuse_unknown(self, words: list[str]) -> None:
        """Raise ConfigError for the first of ``words``, which parsing has left over; none: nothing happens."""
        if not words:
            return
        word = words[0].partition("=")[0]
        if not word.startswith("-"):
            self.error(f"'{word}' is one word too many")
        visible = [flag for flag, action in self._option_string_actions.items() if not isinstance(action, _Renamed)]
        near = get_close_matches(word, visible, 1)
        self.error(f"there is no option {word}" + (f"; is it {near[0]}?" if near else ""))

    def add_command(self, command: Command) -> None:
        """Add all options of a command."""
        own, shared = options_of(command.options), _run_options(command)
        for option in own:
            nested = command.parent and option in options_of(CommandOptions)  # its parent has set the default
            self.add_argument(*_names(option), **_settings(option) | ({"default": argparse.SUPPRESS} if nested else {}))
        boxes: dict[str, Any] = {}
        for option in shared:
            title = str(option.group)
            if title not in boxes:
                boxes[title] = self.add_argument_group(title)
            boxes[title].add_argument(*_names(option), **_settings(option))
        self._refuse_renamed({option.name for option in (*own, *shared)})

    def add_common(self) -> None:
        """Add the options of every command, for one that has actions."""
        for option in options_of(CommandOptions):
            self.add_argument(*_names(option), **_settings(option))

    def _refuse_renamed(self, names: Iterable[str]) -> None:
        for old, new in RENAMED.items():
            if new.replace("_", "-") in names:
                flag = f"--{new.replace('_', '-')}"
                self.add_argument(
                    f"--{old.replace('_', '-')}", nargs="?", action=_Renamed, const=flag, help=argparse.SUPPRESS
                )


class _Renamed(argparse.Action):
    """Refuses a flag that is called otherwise now."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: object, values: object, flag: str | None = None
    ) -> None:
        parser.error(renamed(self.option_strings[0], str(self.const)))


def _names(option: Option) -> Sequence[str]:
    if option.positional:
        return (option.key,)
    return (*([option.short] if option.short else []), f"--{option.name}")


def _settings(option: Option) -> dict[str, Any]:
    """Arguments of `add_argument`. Every value stays a text, which `read_options` reads; None: not given."""
    found: dict[str, Any] = {"help": option.help_text.replace("%", "%%")}
    if option.positional:
        return found | {"metavar": option.metavar, "nargs": "+" if option.several else None if option.required else "?"}
    found["dest"] = option.key
    if option.kind is SWITCH:
        return found | {"action": "store_const", "const": "true"}
    found |= {"metavar": option.metavar, "required": option.required}
    if option.several:
        found["nargs"] = "+"
    return found | ({"action": "append"} if option.repeated else {})


def _run_options(command: Command) -> list[Option]:
    return [replace(one, comma_list=one.key in command.lists) for one in command.run_options()]


def read_options(command: Command, parsed: argparse.Namespace) -> CommandOptions:
    """The options of a command, read from the parsed words. Raises ConfigError for a value that is not allowed."""
    given = vars(parsed)

    def read(options: Iterable[Option]) -> dict[str, Any]:
        return {one.key: _read(one, given[one.key]) for one in options if given.get(one.key) is not None}

    values = read(options_of(command.options))
    if issubclass(command.options, ConfigOptions):
        values["flags"] = read(_run_options(command))
    return command.options(**values)


def _read(option: Option, value: Any) -> Any:
    return tuple(map(option.read, value)) if isinstance(value, list) else option.read(value)


def address_help(words: Iterable[str]) -> str:
    """The forms of the addresses SOURCE or SINK, for the end of a help text, in lines that fit the terminal."""
    from stream_sr import sinks, sources

    lines: list[str] = []
    for word in words:
        forms = sources.ADDRESSES if word == "SOURCE" else sinks.ADDRESSES
        indent = max(len(form) for form, _ in forms) + 4
        width = max(LEAST_WIDTH, shutil.get_terminal_size().columns - 2) - indent
        lines += ["", f"{word} is one of"]
        for form, text in forms:
            first, *more = textwrap.wrap(text, width, break_on_hyphens=False, break_long_words=False)
            lines += [f"{'  ' + form:<{indent}}{first}", *(" " * indent + line for line in more)]
    return "\n".join(lines[1:])


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Usage names what has to be given, ``[options]`` stands for the rest, which the help lists anyway."""

    def add_usage(
        self, usage: str | None, actions: Iterable[argparse.Action], groups: Iterable[Any], prefix: str | None = None
    ) -> None:
        actions = list(actions)
        words = ["%(prog)s", *(["[options]"] if any(_optional(action) for action in actions) else [])]
        for action in actions:
            if _optional(action):
                continue
            names = action.option_strings
            metavar = names[0].lstrip("-") if names else action.dest
            words += [*names[:1], self._format_args(action, metavar)]
        super().add_usage(" ".join(words), actions, groups, prefix)


def _optional(action: argparse.Action) -> bool:
    return bool(action.option_strings) and not action.required
