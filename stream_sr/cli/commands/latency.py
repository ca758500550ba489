"""``latency``: see `cli.latency`."""

from __future__ import annotations

from dataclasses import dataclass

from stream_sr.cli.command import ALL_GROUPS, EXIT_ABORTED, Command, ConfigOptions, JsonOptions
from stream_sr.cli.terminal import StopSignals, check_json, command_line, print_result
from stream_sr.config.kinds import ADDRESS, number
from stream_sr.config.option import argument, option


@dataclass(frozen=True, kw_only=True)
class LatencyOptions(ConfigOptions, JsonOptions):
    source: str | None = argument(ADDRESS, "SOURCE", "synthetic:..., or a camera that shows its clock", default=None)
    sink: str | None = argument(ADDRESS, "SINK", "rtsp://@:PORT/PATH, rtsp://HOST/PATH or null:", default=None)
    seconds: float = option(10.0, number(1, 86_400), "how long")


def latency_command(options: LatencyOptions) -> int:
    from stream_sr.cli.demo import free_port
    from stream_sr.cli.latency import SOURCE, format_latency, measure

    config = options.make_config()
    check_json(options.json)
    sink = options.sink or f"rtsp://@:{free_port()}/latency"
    with StopSignals() as signals:
        report = measure(options.source or SOURCE, sink, options.seconds, config, started=signals.attach)
    print_result(options.json, report | {"command": command_line()}, format_latency)
    return EXIT_ABORTED if signals.count > 1 else 0


COMMAND = Command(
    "latency",
    "glass to glass through a camera, the filter and a viewer, stage by stage",
    LatencyOptions,
    latency_command,
    groups=ALL_GROUPS,
)
