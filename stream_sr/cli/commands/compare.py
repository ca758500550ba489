"""``bench compare``: two results of ``bench --json``."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from stream_sr.cli.command import EXIT_MISSED, Command, JsonOptions
from stream_sr.cli.terminal import check_json, print_result
from stream_sr.config.kinds import FILE, SWITCH, number
from stream_sr.config.option import argument, option
from stream_sr.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class CompareOptions(JsonOptions):
    first: Path = argument(FILE, "A.json", "the measurement to judge by")
    second: Path = argument(FILE, "B.json", "the one to judge")
    max_regression: float | None = option(
        None,
        number(0, 1e6, "PERCENT"),
        "exit with 7 where B is slower by more (fps; of live results later, p99), or lacks what A has",
    )
    force: bool = option(False, SWITCH, "judge even between different machines or settings")


def compare_command(options: CompareOptions) -> int:
    from stream_sr.bench.comparison import compare, format_comparison, missed, read_result

    check_json(options.json)
    limit = options.max_regression
    comparison = compare(read_result(options.first), read_result(options.second))
    apart = comparison["machines"] + comparison["settings"]
    if limit is not None and apart and not options.force:
        raise ConfigError(
            f"--max-regression means nothing between different machines or settings ({'; '.join(apart)}); "
            "measure again under the same, leave --max-regression out, or give --force"
        )
    worse = [] if limit is None else missed(comparison, limit)
    print_result(options.json, comparison | {"missed": worse}, format_comparison)
    if not worse:
        return 0
    logging.getLogger("stream_sr").error("worse by more than %g %%, or no longer there: %s", limit, "; ".join(worse))
    return EXIT_MISSED


COMMAND = Command("bench compare", "two results of `bench --json`, side by side", CompareOptions, compare_command)
