"""Composes one run from addresses and options: opens source, engine and sinks, runs the pipeline, makes the report."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import Any

from stream_sr.app.controls import RunControls
from stream_sr.app.status import Status, open_status
from stream_sr.app.telemetry import Telemetry, auto_figures, auto_line
from stream_sr.codec.encoder import Encoder, check_options
from stream_sr.config import Config
from stream_sr.errors import ConfigError, EngineError, FrameStalled, PipelineStalled, StreamSRError
from stream_sr.inference.auto_model import open_governed
from stream_sr.inference.background_build import needs_build, open_at_once
from stream_sr.inference.engines import GPU_BACKENDS, open_engine
from stream_sr.inference.fit import FitEngine, fit_into
from stream_sr.inference.model import AUTO, ModelSpec, default_model, find_model, list_models, model_ladder
from stream_sr.inference.refit import RefitEngine
from stream_sr.pipeline.engine import Engine, EngineOptions, EngineSpec
from stream_sr.pipeline.interfaces import Display, FrameSink, PacketSink, Resizing, SinkOptions
from stream_sr.pipeline.pipeline import ABORT_SECONDS, Pipeline
from stream_sr.pipeline.plan import Plan, counters_of, split_sinks
from stream_sr.pipeline.stall import StallWatch, working
from stream_sr.pipeline.stats import Stats
from stream_sr.pipeline.threads import Abandonable
from stream_sr.sinks import is_file, is_page, is_published, is_served, open_sink
from stream_sr.sinks.record import RecordSink
from stream_sr.sources import applicable, is_live_address, open_reconnecting_source
from stream_sr.system import machine
from stream_sr.system.printable import redact
from stream_sr.video.frame import Frame, StreamInfo
from stream_sr.video.planes import empty_planes, read_only

log = logging.getLogger("stream_sr")

CHECK_SECONDS = 20.0  # that one inference of a model that is only tried may take
LONG_FRAMES = 1000  # of a file: its engine is tuned before it begins
LOOK_SECONDS = 0.05  # between looks at an engine that is being opened
USUAL_FPS = 30.0  # of a stream that does not say
ENCODER_OPTIONS = {"encoder", "crf", "bitrate", "encoder_preset", "gop", "audio"}


@dataclass(frozen=True)
class Hooks:
    """What the caller of a run wants to know while it goes."""

    started: Callable[[Pipeline], None] = lambda _: None  # just before the first frame; keep it to stop the run
    ticked: Callable[[Stats], None] = lambda _: None  # four times a second, in the thread of the run
    show_status: bool = True
    seen: Callable[[Frame, Frame], None] = lambda before, after: None  # shown each input and result, both borrowed
    open_sink: Callable[[str, SinkOptions], FrameSink | PacketSink] = open_sink
    cancelled: threading.Event | None = None  # set it to give up opening source and engine
    supervised: bool = False  # somebody starts it again: a stall ends it even where the input is not live


def choose_model(config: Config, info: StreamInfo | None = None) -> tuple[ModelSpec | None, int]:
    """The model and scale that the options ask for; no model for the bicubic backend, the largest for ``auto``.

    A live stream takes weights tuned for cameras, if there are any, unless ``--tune`` says otherwise. With ``--size``
    the smallest scale that reaches it (by ``info``; without it any), else the largest there is; scale 1 only where its
    weights are those that would be taken, for it restores what a clean picture has not lost. Raises ModelError.
    """
    if config.backend == "bicubic":
        return None, config.scale or (_reaching((1, 2, 3, 4), config, info) if config.size else 2)
    name = config.model or default_model().name
    prefer = _preferred(info)
    models = list_models()
    measured = {(model.name, model.scale) for model in models if model.psnr_y}
    scales = sorted(
        {
            model.scale
            for model in models
            if (model.name == name or (name == AUTO and (model.name, model.scale) in measured))
            and (model.tune == config.tune if config.tune else model.scale > 1 or model.tune == prefer)
        }
    )
    scale = _reaching(scales, config, info) if config.size and scales else config.scale
    if name == AUTO:
        model = model_ladder(2 if scale is None else scale, config.tune, prefer=prefer)[-1]
        return model, model.scale
    model = find_model(name, scale, config.tune, prefer=prefer)
    return model, model.scale


def models_of_run(config: Config, info: StreamInfo) -> list[ModelSpec]:
    """All models that a run of this stream may compute with: several for ``auto`` and a live input, none for bicubic.

    Raises ModelError.
    """
    model, scale = choose_model(config, info)
    if config.model == AUTO and info.live:
        return model_ladder(scale, config.tune, prefer=_preferred(info))
    return [] if model is None else [model]


def _preferred(info: StreamInfo | None) -> str:
    """The tune that is taken where there is one and none is asked for."""
    return "camera" if info is not None and info.live else "clean"


def _reaching(scales: Sequence[int], config: Config, info: StreamInfo | None) -> int:
    if config.size is None or info is None:
        return scales[0]
    width, height = fit_into(info, config.size)
    return next((s for s in scales if s * info.width >= width and s * info.height >= height), scales[-1])


def open_fitted_engine(config: Config, info: StreamInfo, *, live: bool, stats: Stats | None = None) -> Engine:
    """The engine that the options ask for, for this stream; with ``--size`` its results are resampled to fit.

    ``live``: warm, one frame in flight, for the latency; otherwise two, or what was measured, for the throughput. And
    a live picture begins at once: where TensorRT's engine has to be built first, another computes meanwhile.
    """
    size = fit_into(info, config.size) if config.size is not None else None
    if live:
        return _open_live_engine(config, info, size, stats or Stats(), at_once=True)
    model, scale = choose_model(config, info)
    options = replace(config.engine_options(depth=2), tune=_is_long(config, info))
    return _fit(open_engine(model, info, options, scale=scale), info, size)


def _open_live_engine(
    config: Config, info: StreamInfo, size: tuple[int, int] | None, stats: Stats, *, at_once: bool = False
) -> Engine:
    """A warm engine as the options ask for, its results of ``size`` where that is given.

    With ``--model auto`` and a live input one that chooses among several. ``at_once``: see `open_at_once`; it is
    also what is tuned.
    """

    def finish(engine: Engine) -> Engine:
        engine = _fit(engine, info, size)
        warm_up(engine, info)
        return engine

    options = replace(config.engine_options(depth=1, live=True), tune=at_once)
    model, scale = choose_model(config, info)
    if config.model == AUTO and info.live:
        models = model_ladder(scale, config.tune, prefer=_preferred(info))
        if not all(needs_build(model, info, options) for model in models):
            deadline = min(1 / float(info.fps or USUAL_FPS), config.max_latency / 1e3)
            return open_governed(models, info, options, deadline_ns=deadline * 1e9, stats=stats, finish=finish)
        log.info("model auto: none of its TensorRT engines is built, the largest is all that is taken")
    starting = open_at_once(model, info, options, finish=finish) if at_once else None
    return starting or finish(open_engine(model, info, options, scale=scale))


def _fit(engine: Engine, info: StreamInfo, size: tuple[int, int] | None) -> Engine:
    return engine if size in (None, engine.spec.output_size) else FitEngine(engine, size, info.color.siting)


def _is_long(config: Config, info: StreamInfo) -> bool:
    """Whether a file is worth a measurement of a second before it begins."""
    fps = float(info.fps or USUAL_FPS)
    lengths = [info.frame_count, None if info.duration_seconds is None else info.duration_seconds * fps]
    lengths.append(None if config.duration is None else config.duration * fps)
    return min((length for length in lengths if length is not None), default=LONG_FRAMES) >= LONG_FRAMES


@dataclass(frozen=True)
class Outcome:
    """How a run ended. The report of a failed run is worth having, so the error stands beside it."""

    report: dict[str, Any]
    error: StreamSRError | None


def run(source: str, sinks: Sequence[str], config: Config, hooks: Hooks | None = None) -> Outcome:
    """Run the filter to its end. Raises only what happens before the first frame; later errors are in the outcome."""
    hooks = hooks or Hooks()
    _refuse_twice(sinks)
    _refuse_losing_the_input(source, sinks, config)
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
            config.refuse({"max_latency"}, f"{reader.info.name} is not live, and no frame of it is dropped")
        live = reader.info.live or any(sink.paced for sink in outputs)
        stats = Stats()
        stall_seconds = config.stall_timeout if reader.info.live or hooks.supervised else None
        if stall_seconds is None:
            config.refuse({"stall_timeout"}, f"{reader.info.name} is not live: a frame may take as long as it takes")
        opening = partial(open_fitted_engine, config, reader.info, live=live, stats=stats)
        engine = open_watched(opening, stall_seconds=stall_seconds, cancelled=hooks.cancelled)
        stack.callback(lambda: engine.close())
        open_another = partial(_open_live_engine, stats=stats)
        controls = RunControls(config, open_another, recorder) if displays else None
        if controls is not None:
            stack.callback(controls.close)
            engine = controls.wrap(engine, reader.info)
            for display in displays:
                display.take_controls(controls)
        if isinstance(reader, Resizing):
            make = partial(_open_other_engine, config, controls, stats if live else None)
            engine = refit = RefitEngine(engine, reader.info, make)
            reader.prepare = refit.prepare
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
        return Outcome(make_report(plan, pipeline.stats, error), error)


def open_watched(
    opening: Callable[[], Engine], *, stall_seconds: float | None, cancelled: threading.Event | None = None
) -> Engine:
    """What ``opening`` returns or raises. It runs in a thread of its own, so that this one hears Ctrl-C.

    Compiling may take minutes and has no limit; an inference on the way (a warm-up, a trial) may take
    ``stall_seconds``. Raises FrameStalled, PipelineStalled if the thread is stuck, EngineError once ``cancelled`` is
    set. A thread that does not end soon is abandoned, and its engine closed when it comes.
    """
    engines, done, given_up = list[Engine](), threading.Event(), threading.Event()

    def work() -> None:
        try:
            engines.append(opening())
        finally:
            done.set()
            if given_up.is_set():
                _close_all(engines)

    worker, watch = Abandonable("engine", work), StallWatch(stall_seconds)
    try:
        while not done.wait(LOOK_SECONDS):
            watch.look([worker.ident], time.monotonic_ns())
            if cancelled is not None and cancelled.is_set():
                raise EngineError("the engine was given up while it was opened")
    except BaseException as error:
        given_up.set()
        try:
            ended = worker.join(ABORT_SECONDS)
        finally:
            if not worker.join(0):
                worker.abandon()
        if ended:
            _close_all(engines)
        elif isinstance(error, FrameStalled):
            raise PipelineStalled(str(error)) from error
        raise
    worker.join()
    if worker.error is not None:
        raise worker.error
    return engines[0]


def check_computes(model: ModelSpec | None, options: EngineOptions, *, scale: int) -> None:
    """Raise StreamSRError for a model that cannot be compiled on this machine: of a user's file nothing is known yet.

    It is compiled for a small frame on the CPU, whatever the backend.
    """
    if options.backend in GPU_BACKENDS or options.backend == "auto":
        options = replace(options, backend="openvino", precision="auto", device=0)
    info = StreamInfo(64, 48, Fraction(1, 25))
    opening = partial(open_engine, model, info, replace(options, tune=False), scale=scale)
    open_watched(opening, stall_seconds=CHECK_SECONDS).close()


def _close_all(engines: list[Engine]) -> None:
    while engines:
        with suppress(IndexError, EngineError):
            engines.pop().close()


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
        config.refuse({"record_dir"}, "neither a page nor a window is there to begin a recording")
    if split_sinks(outputs)[1] or (config.record_dir is not None and displays):
        check_options(config.encoder_options)
    else:
        config.refuse(ENCODER_OPTIONS, "no output is encoded")
    if not any(map(is_file, sinks)):
        config.refuse({"overwrite"}, "no output is a file")
    if not is_live_address(source) and not any(map(is_published, sinks)):
        config.refuse({"reconnect"}, f"{redact(source)} is no live input that could be lost and come back")
    _refuse_idle_server_options(config, sinks)


def _refuse_idle_server_options(config: Config, sinks: Sequence[str]) -> None:
    if not any(map(is_page, sinks)):
        config.refuse({"web_read_only", "web_name"}, "there is no output web:[HOST:]PORT")
        if not any(map(is_served, sinks)):
            config.refuse({"viewer_user", "viewer_password", "max_viewers"}, "no output is served here")


def _open_other_engine(config: Config, controls: RunControls | None, stats: Stats | None, info: StreamInfo) -> Engine:
    """An engine for frames of another size; the caller fits what it makes. ``stats`` where the run is live."""
    config = config if controls is None else controls.config
    if stats is None:
        model, scale = choose_model(config, info)
        engine = open_engine(model, info, config.engine_options(depth=2), scale=scale)
    else:
        engine = _open_live_engine(config, info, None, stats)
    return engine if controls is None else controls.wrap(engine, info)


def warm_up(engine: Engine, info: StreamInfo) -> None:
    """One black frame through the engine: a first inference takes several times as long, and live frames would wait."""
    planes = empty_planes(info.width, info.height)
    for plane, value in zip(planes, (16, 128, 128), strict=True):
        plane.fill(value)
    with working("engine"):
        engine.submit(Frame(read_only(planes), pts=0, time_base=info.time_base, color=info.color)).wait()


def _refuse_twice(sinks: Sequence[str]) -> None:
    """Raise ConfigError if two outputs are the same file, address or standard output."""
    places = [os.path.realpath(sink) if is_file(sink) else sink for sink in sinks if sink != "null:"]
    for place in places:
        if places.count(place) > 1:
            raise ConfigError(f"the output {redact(place)} is given twice; give each output once")


def _refuse_losing_the_input(source: str, sinks: Sequence[str], config: Config) -> None:
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


def expected_frames(info: StreamInfo, config: Config) -> int | None:
    """About how many frames will come, None where nobody knows; not every container counts its own."""
    if info.frame_count is not None and config.duration is None:
        return info.frame_count
    seconds = [one for one in (info.duration_seconds, config.duration) if one is not None]
    return round(min(seconds) * info.fps) if info.fps and seconds else None


def _status(plan: Plan, config: Config) -> Status:
    info, frames = plan.source.info, expected_frames(plan.source.info, config)
    return open_status(info, plan.output, frames=frames, model=lambda stats: auto_line(plan.engine.spec, stats))


def make_report(plan: Plan, stats: Stats, error: BaseException | None) -> dict[str, Any]:
    """The figures of a run: counts, drops by reason, fps, latency and stage percentiles in ms, what computed where."""
    info, output, spec = plan.source.info, plan.output, plan.engine.spec
    report = stats.summary() | {
        "source": {"name": info.name, "live": info.live} | _size(info),
        "output": _size(output),
    }
    for sink, counts in zip(plan.sinks, report["outputs"].values(), strict=False):
        counts.update(counters_of(sink))
    report |= engine_block(spec) | auto_figures(spec, stats)
    report["machine"] = machine.describe()
    if error is not None:
        report["error"] = {"kind": type(error).__name__, "message": str(error)}
        report["exit_code"] = getattr(error, "exit_code", 1)
    return report


def engine_block(spec: EngineSpec) -> dict[str, Any]:
    """What a report says of an engine."""
    return {
        "model": spec.model,
        "scale": spec.scale,
        "backend": spec.backend,
        "precision": spec.precision,
        "device": spec.device,
        "head": spec.head,
        "notes": list(spec.notes),
    }


def _size(info: StreamInfo) -> dict[str, Any]:
    return {"width": info.width, "height": info.height, "fps": float(info.fps) if info.fps else None}
