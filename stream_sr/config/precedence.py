"""Flag over environment over file over default: how the layers of options become one validated configuration."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from stream_sr.config.kinds import shown
from stream_sr.config.option import PREFIX, Option
from stream_sr.config.renamed import RENAMED, renamed
from stream_sr.config.run_options import RIVALS, RUN_OPTIONS, Config
from stream_sr.config.toml_file import read_toml
from stream_sr.errors import ConfigError

log = logging.getLogger("stream_sr")

NO_OPTIONS = ("STREAM_SR_CACHE", "STREAM_SR_REQUIRE_PEERS")  # of the cache, of the tests
MOST_NUMBER = 1 << 63


def make_config(
    flags: Mapping[str, Any],
    *,
    environment: Mapping[str, str] = os.environ,
    file: Path | Mapping[str, Any] | None = None,
) -> Config:
    """One configuration. ``flags`` are parsed values (None: not given), and so is a ``file`` that was read already.

    A flag goes before ``STREAM_SR_<NAME>`` in the environment, that before the file, that before the default.
    Raises ConfigError.
    """
    known = {option.key for option in RUN_OPTIONS}
    given = {key: value for key, value in flags.items() if key in known and value is not None}
    values: dict[str, Any] = {}
    for layer in (
        read_values(read_toml(file), str(file)) if isinstance(file, Path) else dict(file or {}),
        read_environment(environment),
        given,
    ):
        for one, other in RIVALS:
            if (one in layer) != (other in layer):
                values.pop(other if one in layer else one, None)
        if layer.get("backend") == "bicubic":
            values.pop("model", None)
        elif "model" in layer and values.get("backend") == "bicubic":
            values.pop("backend")
        values |= layer
    config = Config(**values, asked=frozenset(given))
    if config.backend == "bicubic":
        config.refuse({"weights"}, "--backend bicubic uses no network")
    return config


def read_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """Options in the environment, parsed, by key. A name that is none is logged. Raises ConfigError."""
    options = {option.variable: option for option in RUN_OPTIONS}
    for name in environment:
        if not name.startswith(PREFIX) or name in options or name in NO_OPTIONS:
            continue
        new = PREFIX + RENAMED.get(name.removeprefix(PREFIX).lower(), "").upper()
        if new in options:
            raise ConfigError(renamed(name, new))
        near = get_close_matches(name, options, 1)
        log.warning("%s in the environment is no option%s", name, f"; is it {near[0]}?" if near else "")
    return {option.key: option.read(environment[name], name) for name, option in options.items() if name in environment}


def read_values(raw: Mapping[str, Any], where: str, options: Iterable[Option] = RUN_OPTIONS) -> dict[str, Any]:
    """Options as they stand in a table of a TOML file, parsed, by key. Raises ConfigError."""
    known, values = {option.key: option for option in options}, dict[str, Any]()
    for name, value in raw.items():
        key = name.replace("-", "_")
        if RENAMED.get(key) in known:
            raise ConfigError(f"{where}: {renamed(name, RENAMED[key].replace('_', '-'))}")
        if key not in known:
            raise ConfigError(f"{where}: no option '{shown(name)}'; there are {', '.join(sorted(known))}")
        values[key] = known[key].read(_text_of(value, f"{where}: {name}"), f"{where}: {name}")
    return values


def _text_of(value: Any, where: str) -> str:
    """A value of a TOML file as it would stand on the command line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and abs(value) >= MOST_NUMBER:
        raise ConfigError(f"{where}: the number is too large for any option")
    if not isinstance(value, str | int | float):
        kind = {"list": "an array", "dict": "a table"}.get(type(value).__name__, f"a {type(value).__name__}")
        raise ConfigError(f"{where} is {kind}; write a text, a number, true or false")
    return str(value)
