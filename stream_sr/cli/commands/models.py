"""``models``: see `cli.listing`."""

from __future__ import annotations

from dataclasses import dataclass

from stream_sr.cli.command import Command, JsonOptions
from stream_sr.cli.terminal import print_result
from stream_sr.config.kinds import SWITCH
from stream_sr.config.option import option


@dataclass(frozen=True, kw_only=True)
class ModelsOptions(JsonOptions):
    measure: bool = option(False, SWITCH, "time each of them on this machine first, half a second each")


def models_command(options: ModelsOptions) -> int:
    from stream_sr.cli.listing import measure_speed, models_table
    from stream_sr.inference.model import list_models

    if options.measure:
        measure_speed(list_models())
    print_result(options.json, {"models": models_table(list_models())}, lambda _: models_text())
    return 0


def models_text() -> str:
    """The table of the models, as the command prints it."""
    from stream_sr.cli.listing import format_models, models_table
    from stream_sr.inference.model import list_models

    return format_models(models_table(list_models()))


COMMAND = Command("models", "list the models", ModelsOptions, models_command)
