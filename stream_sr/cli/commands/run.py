"""``run``, ``preview`` and ``restream``: one source into one or more sinks."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stream_sr.cli.command import ALL_GROUPS, EXIT_ABORTED, Command, ConfigOptions, JsonOptions
from stream_sr.cli.terminal import StopSignals, check_json, flush, write_json
from stream_sr.config.kinds import ADDRESS
from stream_sr.config.metrics_options import DEFAULT_HOST, MetricsOptions
from stream_sr.config.option import argument, option
from stream_sr.errors import ConfigError, PipelineStalled, StreamSRError

if TYPE_CHECKING:
    from stream_sr.pipeline.pipeline import Pipeline


@dataclass(frozen=True, kw_only=True)
class FilterOptions(ConfigOptions, MetricsOptions, JsonOptions):
    """Of the three commands."""

    source: str = argument(ADDRESS, "SOURCE", "an address (see below)")


@dataclass(frozen=True, kw_only=True)
class RunOptions(FilterOptions):
    sinks: tuple[str, ...] = argument(ADDRESS, "SINK", "one or more, encoded once", several=True)


@dataclass(frozen=True, kw_only=True)
class PreviewOptions(FilterOptions):
    web: str | None = option(None, ADDRESS, "serve a page for browsers instead of a window", metavar="[HOST:]PORT")


@dataclass(frozen=True, kw_only=True)
class RestreamOptions(FilterOptions):
    url: str = argument(ADDRESS, "URL", "rtsp://@:8654/path (served here) or rtsp://host/path (published)")


def run_command(options: RunOptions) -> int:
    return _filter(options, options.sinks)


def preview_command(options: PreviewOptions) -> int:
    return _filter(options, ["window:" if options.web is None else f"web:{options.web}"])


def restream_command(options: RestreamOptions) -> int:
    if not options.url.startswith("rtsp://"):
        raise ConfigError(
            f"'{options.url}' is not an RTSP address; give rtsp://@:8654/path to serve, rtsp://host/path to publish"
        )
    return _filter(options, [options.url])


COMMANDS = (
    Command(
        "run",
        "upscale a source into one or more sinks",
        RunOptions,
        run_command,
        groups=ALL_GROUPS,
        addresses=("SOURCE", "SINK"),
    ),
    Command(
        "preview",
        "show a source upscaled in a window, or in the browser",
        PreviewOptions,
        preview_command,
        groups=ALL_GROUPS,
        addresses=("SOURCE",),
    ),
    Command(
        "restream",
        "serve or publish a source at a higher resolution",
        RestreamOptions,
        restream_command,
        groups=ALL_GROUPS,
        addresses=("SOURCE",),
    ),
)


def _filter(options: FilterOptions, sinks: Sequence[str]) -> int:
    from stream_sr.app.session import RunHooks, run

    if options.json == "-" and "-" in sinks:
        raise ConfigError("the picture and --json cannot both go to standard output; give --json a file")
    check_json(options.json)
    config = options.make_config()
    if options.metrics_host is not None and options.metrics_port is None:
        raise ConfigError("--metrics-host would do nothing: there is no --metrics-port")
    with ExitStack() as stack:
        camera = None
        if options.metrics_port is not None:
            from stream_sr.app.metrics import CameraCollector, MetricsServer

            cameras = CameraCollector()
            camera = cameras.add("main")
            host = options.metrics_host or DEFAULT_HOST
            stack.enter_context(MetricsServer(cameras, options.metrics_port, host))
        signals = stack.enter_context(StopSignals())

        def started(pipeline: Pipeline) -> None:
            signals.attach(pipeline)
            if camera is not None:
                camera.attach(pipeline)

        ticked = camera.tick if camera is not None else lambda stats: None
        outcome = run(options.source, sinks, config, RunHooks(started=started, ticked=ticked))
    code = _end_of_run(options.json, outcome.report, outcome.error, signals)
    if code == 0 and "-" not in sinks and options.json != "-":
        logging.getLogger("stream_sr").info("%s", _closing_line(outcome.report))
    return code


def _end_of_run(json_to: str | None, report: Any, error: StreamSRError | None, signals: StopSignals) -> int:
    """Write the report, whatever happened; then raise the run's error, or return its exit code."""
    try:
        write_json(json_to, report)
    except ConfigError as failure:
        if error is None:
            raise
        logging.getLogger("stream_sr").error("%s", failure)  # the run's own error counts more
    if signals.count > 1:
        if isinstance(error, PipelineStalled):
            flush()
            os._exit(EXIT_ABORTED)  # a thread hangs in a library, and would hold up a normal exit
        return EXIT_ABORTED
    if error is not None:
        raise error
    return 0


def _closing_line(report: Mapping[str, Any]) -> str:
    from stream_sr.app.status import describe

    sizes = " > ".join(f"{report[side]['width']}x{report[side]['height']}" for side in ("source", "output"))
    text = describe(sizes, report["fps"], dict(report), live=report["source"]["live"])
    return f"{report['frames_out']} of {report['frames_in']} frames  {text}"
