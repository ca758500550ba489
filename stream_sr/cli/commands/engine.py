"""``engine build``, ``engine list`` and ``engine prune``: the cache of compiled engines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from stream_sr.cli.command import Command, ConfigOptions, JsonOptions
from stream_sr.cli.terminal import print_result
from stream_sr.config.kinds import SIZE, SWITCH
from stream_sr.config.option import Group, option
from stream_sr.errors import ConfigError

if TYPE_CHECKING:
    from stream_sr.inference.cache import Entry
    from stream_sr.inference.model import BuildKey


@dataclass(frozen=True, kw_only=True)
class BuildOptions(ConfigOptions, JsonOptions):
    input_size: tuple[int, int] = option((640, 360), SIZE, "of the frames", unset="640x360")
    rebuild: bool = option(False, SWITCH, "even if it is in the cache")


def build_command(options: BuildOptions) -> int:
    from stream_sr.inference import cache

    wanted = {cache.entry_path(key) for key in _build_engines(options)}
    return _print_entries("build", [entry for entry in cache.engine_entries() if entry.path in wanted], options.json)


def list_command(options: JsonOptions) -> int:
    from stream_sr.inference import cache

    return _print_entries("list", cache.engine_entries(), options.json)


def prune_command(options: JsonOptions) -> int:
    from stream_sr.inference import cache

    return _print_entries("prune", cache.prune(), options.json)


COMMANDS = (
    Command(
        "build",
        "compile TensorRT engines for one frame size; TensorRT-RTX does so without a GPU",
        BuildOptions,
        build_command,
        groups=(Group.ENGINE,),
        parent="engine",
    ),
    Command("list", "the compiled engines in the cache", JsonOptions, list_command, parent="engine"),
    Command("prune", "remove what nothing will ask for again", JsonOptions, prune_command, parent="engine"),
)


def _print_entries(action: str, entries: Sequence[Entry], json_to: str | None) -> int:
    from stream_sr.cli.listing import format_engines

    rows = [
        {
            "file": entry.path.name,
            "bytes": entry.size_bytes,
            "key": asdict(entry.key) if entry.key else None,
            "measured": dict(entry.measured),
        }
        for entry in entries
    ]
    done = {"build": "built", "list": "", "prune": "removed"}[action]
    print_result(json_to, {"action": action, "engines": rows}, lambda _: format_engines(entries, done))
    return 0


def _build_engines(options: BuildOptions) -> list[BuildKey]:
    from stream_sr.app.engine_setup import models_of_run
    from stream_sr.inference.backends.tensorrt import engine as tensorrt
    from stream_sr.video.frame import StreamInfo

    config = options.make_config()
    if config.backend not in ("auto", "tensorrt"):
        raise ConfigError(f"--backend {config.backend} compiles when it opens; `engine build` is for tensorrt")
    config.refuse({"threads"}, "TensorRT builds as it likes")
    width, height = options.input_size
    keys: list[BuildKey] = []
    built: set[str] = set()
    for live in (False, True):  # a live input takes weights for cameras, and a precision that is less exact
        info = StreamInfo(width, height, Fraction(1, 30), live=live)
        for model in models_of_run(config, info):
            rebuild = options.rebuild and model.sha256() not in built
            built.add(model.sha256())
            keys += tensorrt.build(model, info, config.engine_options(depth=1, live=live), rebuild=rebuild)
    return keys
