"""Make docs/options.md of the tables of options: ``python -m stream_sr.cli.options_page docs/options.md``."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from stream_sr import sinks, sources
from stream_sr.cli.command import Command, CommandOptions, ConfigOptions, JsonOptions
from stream_sr.cli.commands import COMMANDS
from stream_sr.config.kinds import SWITCH
from stream_sr.config.metrics_options import MetricsOptions
from stream_sr.config.option import Group, Option, options_of
from stream_sr.config.run_options import RIVALS, in_groups
from stream_sr.system.machine import PROGRAM

HEAD = f"""\
# Options

<!-- Made by `make docs` from the tables in stream_sr/config and stream_sr/cli/commands. Change those. -->

`{PROGRAM} COMMAND --help` shows the same for one command; `--backend=help` lists what an option takes.

## Options of a run

Each can be given in three ways. The first that names it counts:

1. a flag of the command: `--max-latency 200`
2. a variable in the environment: `STREAM_SR_MAX_LATENCY=200`
3. a key in the TOML file that `--config FILE.toml` names: `max-latency = 200`

In the file of `{PROGRAM} serve` the keys stand in `[camera.NAME]`, which counts before the environment, or in `[all]`
for every camera, which counts after it. A key is the flag without its dashes. A switch, such as `--overwrite`, takes no
value as a flag, and `true` or `false` elsewhere.

A flag that would do nothing in this run is refused (exit code 2); a variable or a key is ignored then. These exclude
each other: {{rivals}}. If two of the three ways give one of a pair each, the first way counts.

The commands `run`, `preview`, `restream`, `latency` and the file of `serve` take all of them.
"""
SERVE = f"""\
## The file of `serve`

`{PROGRAM} serve --check FILE` reads it and prints what it means. An example: [cameras.toml](cameras.toml).

| key | value | |
| --- | --- | --- |
{{metrics}}
| `[all]` | options of a run | for every camera |
| `[camera.NAME]` | `source`, `sinks` and options of a run | one stream; `sinks` is a list of addresses |
"""


def options_page() -> str:
    """The whole page, as Markdown."""
    rivals = " and ".join(f"`--{one}` with `--{other}`" for one, other in RIVALS)
    parts = [HEAD.format(rivals=rivals)]
    parts += [f"### {group.value.capitalize()}\n\n{_run_table(in_groups(group))}" for group in Group]
    parts.append(SERVE.format(metrics="\n".join(_metric(one) for one in options_of(MetricsOptions))))
    parts.append("## Commands\n\nEvery command takes `-v`, `--verbose`: " + options_of(CommandOptions)[0].help + ".\n")
    parts += [_command(command) for command in COMMANDS]
    parts.append("## Addresses\n")
    for word, forms in (("SOURCE", sources.ADDRESSES), ("SINK", sinks.ADDRESSES)):
        parts.append(_table((word, ""), ((f"`{form}`", text) for form, text in forms)))
    return "\n".join(parts)


def _run_table(options: Iterable[Option]) -> str:
    rows = [
        (f"`{_written(one)}`", f"`{one.variable}`", _value(one), one.default_text, one.help, _applies(one))
        for one in options
    ]
    return _table(("flag", "variable", "value", "default", "what it does", "only with"), rows)


def _applies(option: Option) -> str:
    """Inputs or outputs that it applies to; empty: all."""
    if option.need is not None:
        return option.need
    kinds = [kind for kind, keys in sources.APPLICABLE_OPTIONS.items() if option.key in keys]
    return "" if len(kinds) == len(sources.APPLICABLE_OPTIONS) else ", ".join(kinds)


def _metric(option: Option) -> str:
    text = option.help_text.removeprefix("... ")
    return (
        "| " + " | ".join(_cell(part) for part in (f"`{option.name}`", option.kind.allowed.split(";")[0], text)) + " |"
    )


def _command(command: Command) -> str:
    own = [one for one in options_of(command.options) if one not in options_of(CommandOptions)]
    words = " ".join([PROGRAM, command.full_name, *(_word(one) for one in own if one.positional)])
    lines = [f"### `{words}`\n", f"{command.help[:1].upper()}{command.help[1:]}."]
    if command.groups:
        groups = "all groups" if set(command.groups) == set(Group) else ", ".join(command.groups)
        left_out = f", without {', '.join(f'`--{key}`' for key in command.without)}" if command.without else ""
        lists = f"; {', '.join(f'`--{key}`' for key in command.lists)} take lists with commas" if command.lists else ""
        lines[-1] += f" It takes the options of a run in: {groups}{left_out}{lists}."
    shared = options_of(ConfigOptions) + options_of(JsonOptions) + options_of(MetricsOptions)
    rows = [(f"`{_written(one)}`", _value(one), _default(one), one.help) for one in own if one not in shared]
    also = [f"`{_written(one)}`" for one in own if one in shared]
    if also:
        lines[-1] += f" Also: {', '.join(also)}."
    return "\n".join([*lines, "", _table(("", "value", "default", "what it is"), rows) if rows else ""]).rstrip() + "\n"


def _word(option: Option) -> str:
    word = f"{option.metavar}..." if option.several else option.metavar
    return word if option.required else f"[{word}]"


def _written(option: Option) -> str:
    """The option as it is typed."""
    if option.positional or option.kind is SWITCH:
        return option.flag
    metavar = "" if option.kind.choices else f" {option.metavar}"
    return option.flag + metavar + ("..." if option.several else "")


def _value(option: Option) -> str:
    if option.kind.choices:
        return ", ".join(f"`{word}`" for word in option.kind.choices)
    return "" if option.kind.any_characters else option.kind.allowed


def _default(option: Option) -> str:
    return "required" if option.required and not option.positional else option.default_text


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [list(head), ["---"] * len(head), *(list(map(_cell, row)) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(options_page())
