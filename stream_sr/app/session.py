"""Composes one run from addresses and options: opens source, engine and sinks, runs the pipeline, makes the report."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from typing import Any

from stream_sr.app.controls import RunControls
from stream_sr.app.engine_setup import (
    choose_model,
    open_fitted_engine,
    open_live_engine,
    open_other_engine,
    open_watched,
)
from stream_sr.app.report import expected_frames, make_report
from stream_sr.app.status import Status, open_status
from stream_sr.app.telemetry import Telemetry, auto_line
from stream_sr.codec.encoder import Encoder, check_options
from stream_sr.config import Config
from stream_sr.config.option import Need
from stream_sr.errors import ConfigError, PipelineStalled, StreamSRError
from stream_sr.inference.resize import MultiFormatEngine
from stream_sr.pipeline.interfaces import Display, FrameSink, PacketSink, ResizingSource, SinkOptions
from stream_sr.pipeline.pipeline import Pipeline
from stream_sr.pipeline.plan import Plan, split_sinks
from stream_sr.pipeline.stats import Stats
from stream_sr.sinks import is_file, is_page, is_published, is_served, open_sink
from stream_sr.sinks.record import RecordSink
from stream_sr.sources import applicable, is_live_address, open_reconnecting_source
from stream_sr.system.printable import redact
from stream_sr.video.frame import Frame

log = logging.getLogger("stream_sr")


@dataclass(frozen=True)
class RunHooks:
    """What the caller of a run wants to know while it goes."""

    started: Callable[[Pipeline], None] = lambda _: None  # just before the first frame; keep it to stop the run
    ticked: Callable[[Stats], None] = lambda _: None  # four times a second, in the thread of the run
    show_status: bool = True
    seen: Callable[[Frame, Frame], None] = lambda before, after: None  # shown each input and result, both borrowed
    open_sink: Callable[[str, SinkOptions], FrameSink | PacketSink] = open_sink
    cancelled: threading.Event | None = None  # set it to give up opening source and engine
    supervised: bool = False  # somebody starts it again: a stall ends it even where the input is not live


@dataclass(frozen=True)
class RunResult:
    """How a run ended. The report of a failed run is worth having, so the error stands beside it."""

    report: dict[str, Any]
    error: StreamSRError | None


def run(source: str, sinks: Sequence[str], config: Config, hooks: RunHooks | None = None) -> RunResult:
    """Run the filter to its end. Raises only what happens before the first frame; later errors are in the outcome."""
    hooks = hooks or RunHooks()
    _refuse_duplicates(sinks)
    _refuse_overwriting_input(source, sinks, config)
    choose_model(config)  # a wrong name is refused before anything is opened
    with ExitStack() as stack:
        outputs = [stack.enter_context(closing(hooks.open_sink(sink, config.sink_options(source)))) for sink in sinks]
        displays = [sink for sink in outputs if isinstance(sink, Display)]
        recorder = _recorder(config, displays, stack)
        if recorder is not None:
            outputs.append(recorder)
        check_outputs(source, sinks, config, outputs)
        reader = stack.enter_context(
            closing(
                open_reconnecting_source(
                    source,
                    config.source_options(applicable(source)),
                    give_up_seconds=config.reconnect,
                    cancelled=hooks.cancelled,
                )
            )
        )
        if not reader.info.live:
            config.refuse_without(Need.LIVE_INPUT, f"{reader.info.name} is not live, and no frame of it is dropped")
        live = reader.info.live or any(sink.paced for sink in outputs)
        stats = Stats()
        stall_seconds = config.stall_timeout if reader.info.live or hooks.supervised else None
        if stall_seconds is None:
            config.refuse_without(Need.RESTART, f"{reader.info.name} is not live: a frame may take as long as it takes")
        opening = partial(open_fitted_engine, config, reader.info, live=live, stats=stats)
        engine = open_watched(opening, stall_seconds=stall_seconds, cancelled=hooks.cancelled)
        stack.callback(lambda: engine.close())
        open_another = partial(open_live_engine, stats=stats)
        controls = RunControls(config, open_another, recorder) if displays else None
        if controls is not None:
            stack.callback(controls.close)
            engine = controls.wrap(engine, reader.info)
            for display in displays:
                display.take_controls(controls)
        if isinstance(reader, ResizingSource):
            open_for = partial(open_other_engine, config, controls, stats if live else None)
            engine = multi_format = MultiFormatEngine(engine, reader.info, open_for)
            reader.prepare = multi_format.prepare
        plan = Plan(
            source=reader,
            engine=engine,
            sinks=outputs,
            make_encoder=lambda info: Encoder(info, config.encoder_options, live=live),
            max_latency_ns=round(config.max_latency * 1e6),
            seen=hooks.seen,
            stall_seconds=stall_seconds,
        )
        _announce(plan)
        pipeline = Pipeline(plan, stats)
        error: StreamSRError | None = None
        status = _status(plan, config) if hooks.show_status else None
        panel = _Panel(plan, displays, controls) if controls is not None else None

        def tick(stats: Stats) -> None:
            hooks.ticked(stats)
            for shown in (status, panel):
                if shown is not None:
                    shown.show(stats)

        hooks.started(pipeline)
        try:
            pipeline.run(tick=tick)
        except StreamSRError as failure:
            error = failure
            if isinstance(error, PipelineStalled):
                stack.pop_all()  # what a stuck thread holds cannot be closed; the caller ends the process
        finally:
            if status:
                status.close()
        return RunResult(make_report(plan, pipeline.stats, error), error)


class _Panel:
    """Hands the figures of the run to the displays."""

    def __init__(self, plan: Plan, displays: Sequence[Display], controls: RunControls) -> None:
        self._telemetry = Telemetry(plan)
        self._displays, self._controls = displays, controls

    def show(self, stats: Stats) -> None:
        figures = self._telemetry.figures(stats) | {"controls": self._controls.state()}
        figures["engine"]["state"] = self._controls.progress
        for display in self._displays:
            display.show_figures(figures)


def _recorder(config: Config, displays: Sequence[Display], stack: ExitStack) -> RecordSink | None:
    if config.record_dir is None or not displays:
        return None
    recorder = stack.enter_context(closing(RecordSink(config.record_dir, config.encoder_options)))
    recorder.check()
    return recorder


def check_outputs(source: str, sinks: Sequence[str], config: Config, outputs: Sequence[FrameSink | PacketSink]) -> None:
    """Raise ConfigError for encoder options that cannot be, and for options that would do nothing for these outputs.

    ``outputs`` are those of the addresses ``sinks``, opened or not.
    """
    displays = [sink for sink in outputs if isinstance(sink, Display)]
    if config.record_dir is not None and not displays:
        config.refuse_without(Need.DISPLAY, "neither a page nor a window is there to begin a recording")
    if split_sinks(outputs)[1] or (config.record_dir is not None and displays):
        check_options(config.encoder_options)
    else:
        config.refuse_without(Need.ENCODED_OUTPUT, "no output is encoded")
    if not any(map(is_file, sinks)):
        config.refuse_without(Need.FILE_OUTPUT, "no output is a file")
    if not is_live_address(source) and not any(map(is_published, sinks)):
        config.refuse_without(Need.LOSABLE, f"{redact(source)} is no live input that could be lost and come back")
    _refuse_idle_server_options(config, sinks)


def _refuse_idle_server_options(config: Config, sinks: Sequence[str]) -> None:
    if not any(map(is_page, sinks)):
        config.refuse_without(Need.PAGE, "there is no output web:[HOST:]PORT")
        if not any(map(is_served, sinks)):
            config.refuse_without(Need.SERVED_OUTPUT, "no output is served here")


def _refuse_duplicates(sinks: Sequence[str]) -> None:
    """Raise ConfigError if two outputs are the same file, address or standard output."""
    places = [os.path.realpath(sink) if is_file(sink) else sink for sink in sinks if sink != "null:"]
    for place in places:
        if places.count(place) > 1:
            raise ConfigError(f"the output {redact(place)} is given twice; give each output once")


def _refuse_overwriting_input(source: str, sinks: Sequence[str], config: Config) -> None:
    """Raise ConfigError if a part of the input would take the place of all of it."""
    if config.start is None and config.duration is None:
        return
    for sink in sinks:
        if os.path.exists(sink) and os.path.exists(source) and os.path.samefile(sink, source):
            raise ConfigError(f"{sink} is the input, and only a part of it would be written; give another output")


def _announce(plan: Plan) -> None:
    info, output, spec = plan.source.info, plan.output, plan.engine.spec
    fps = f" at {float(info.fps):.4g} fps" if info.fps else ""
    log.info(
        "%s: %dx%d%s -> %dx%d, %s on %s (%s, %s)",
        info.name,
        info.width,
        info.height,
        fps,
        output.width,
        output.height,
        f"{spec.model} x{spec.scale}",
        spec.backend,
        spec.precision,
        spec.device,
    )
    for note in spec.notes:
        log.info("%s", note)


def _status(plan: Plan, config: Config) -> Status:
    info, frames = plan.source.info, expected_frames(plan.source.info, config)
    return open_status(info, plan.output, frames=frames, model=lambda stats: auto_line(plan.engine.spec, stats))
