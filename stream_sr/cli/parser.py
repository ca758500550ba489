"""The command line's parser: short usage lines, and every mistake as one ConfigError that says where to read on."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import Any, NoReturn

from stream_sr.config import Option
from stream_sr.errors import ConfigError


class Parser(argparse.ArgumentParser):
    """Raises ConfigError where argparse would print and exit. A word too many is refused by `refuse_unknown`."""

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
        near = get_close_matches(word, self._option_string_actions, 1)
        self.error(f"there is no option {word}" + (f"; is it {near[0]}?" if near else ""))


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


def reading(name: str, parse: Callable[[str], Any] = str, choices: tuple[str, ...] = ()) -> Callable[[str], Any]:
    """A ``type`` for argparse that refuses as every other option does: see `Option.read`."""
    option = Option(name, "", parse, choices=choices)
    return lambda text: option.read(text, f"--{name}")
