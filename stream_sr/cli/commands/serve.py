"""``serve``: many streams in one process, from a file of cameras."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from stream_sr.cli.command import EXIT_ABORTED, Command, CommandOptions
from stream_sr.cli.terminal import StopSignals, flush, print_line
from stream_sr.config.kinds import FILE, SWITCH
from stream_sr.config.metrics_options import MetricsOptions
from stream_sr.config.option import argument, option
from stream_sr.errors import ConfigError, PipelineStalled
from stream_sr.system.printable import redact


@dataclass(frozen=True, kw_only=True)
class ServeOptions(MetricsOptions, CommandOptions):
    file: Path = argument(FILE, "FILE.toml", "[camera.NAME] with source, sinks and options each")
    check: bool = option(False, SWITCH, "read the file, print what it means, and end")


def serve_command(options: ServeOptions) -> int:
    with ExitStack() as stack:
        signals = stack.enter_context(StopSignals(reloads=True))  # first: SIGHUP would end the program
        from stream_sr.app.fleet import check_fleet
        from stream_sr.app.metrics import CameraCollector, MetricsServer
        from stream_sr.app.supervisor import Supervisor

        if options.check:
            for plan in check_fleet(options.file).cameras:
                print_line(f"{plan.name}: {redact(plan.source)} > {', '.join(map(redact, plan.sinks))}")
            return 0
        cameras = CameraCollector()
        supervisor = Supervisor(options.file, cameras)
        fleet = supervisor.fleet
        signals.attach(supervisor)
        port = fleet.metrics_port if options.metrics_port is None else options.metrics_port
        if port is None and options.metrics_host is not None:
            raise ConfigError("--metrics-host would do nothing: there is no --metrics-port, nor one in the file")
        if port is not None:
            stack.enter_context(MetricsServer(cameras, port, options.metrics_host or fleet.metrics_host))
        try:
            supervisor.run()
        except PipelineStalled:
            if signals.count < 2:
                raise
            flush()
            os._exit(EXIT_ABORTED)  # a thread hangs in a library, and would hold up a normal exit
    return EXIT_ABORTED if signals.count > 1 else 0


COMMAND = Command("serve", "many streams in one process; SIGHUP reads the file again", ServeOptions, serve_command)
