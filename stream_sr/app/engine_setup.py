"""Which model and engine a run takes, and how they are opened without making the run wait."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from functools import partial

from stream_sr.app.controls import RunControls
from stream_sr.config import Config
from stream_sr.errors import EngineError, FrameStalled, PipelineStalled
from stream_sr.inference.auto_model import open_auto_model
from stream_sr.inference.background_build import needs_build, open_with_background_build
from stream_sr.inference.engines import GPU_BACKENDS, open_engine
from stream_sr.inference.model import AUTO, ModelSpec, default_model, find_model, list_models, model_ladder
from stream_sr.inference.resize import ResizeEngine, fit_into
from stream_sr.pipeline.engine import Engine, EngineOptions
from stream_sr.pipeline.pipeline import ABORT_SECONDS
from stream_sr.pipeline.stall import StallWatch, working
from stream_sr.pipeline.stats import Stats
from stream_sr.pipeline.threads import Abandonable
from stream_sr.video.frame import Frame, StreamInfo
from stream_sr.video.planes import empty_planes, read_only

log = logging.getLogger("stream_sr")

CHECK_SECONDS = 20.0  # that one inference of a model that is only tried may take
LONG_FRAMES = 1000  # of a file: its engine is tuned before it begins
LOOK_SECONDS = 0.05  # between looks at an engine that is being opened
USUAL_FPS = 30.0  # of a stream that does not say


def choose_model(config: Config, info: StreamInfo | None = None) -> tuple[ModelSpec | None, int]:
    """The model and scale that the options ask for; no model for the bicubic backend, the largest for ``auto``.

    A live stream takes the camera weights, if there are any, unless ``--weights`` says otherwise. With ``--size`` the
    smallest scale that reaches it (by ``info``; without it any), else the largest there is; scale 1 only where its
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
            and (model.weights == config.weights if config.weights else model.scale > 1 or model.weights == prefer)
        }
    )
    scale = _reaching(scales, config, info) if config.size and scales else config.scale
    if name == AUTO:
        model = model_ladder(2 if scale is None else scale, config.weights, prefer=prefer)[-1]
        return model, model.scale
    model = find_model(name, scale, config.weights, prefer=prefer)
    return model, model.scale


def models_of_run(config: Config, info: StreamInfo) -> list[ModelSpec]:
    """All models that a run of this stream may compute with: several for ``auto`` and a live input, none for bicubic.

    Raises ModelError.
    """
    model, scale = choose_model(config, info)
    if config.model == AUTO and info.live:
        return model_ladder(scale, config.weights, prefer=_preferred(info))
    return [] if model is None else [model]


def _preferred(info: StreamInfo | None) -> str:
    """The weights that are taken where ``--weights`` is not given and the model has both."""
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
        return open_live_engine(config, info, size, stats or Stats(), at_once=True)
    model, scale = choose_model(config, info)
    options = replace(config.engine_options(depth=2), tune=_is_long(config, info))
    return _fit(open_engine(model, info, options, scale=scale), info, size)


def open_live_engine(
    config: Config, info: StreamInfo, size: tuple[int, int] | None, stats: Stats, *, at_once: bool = False
) -> Engine:
    """A warm engine as the options ask for, its results of ``size`` where that is given.

    With ``--model auto`` and a live input one that chooses among several. ``at_once``: see
    `open_with_background_build`; it is also what is tuned.
    """

    def finish(engine: Engine) -> Engine:
        engine = _fit(engine, info, size)
        warm_up(engine, info)
        return engine

    options = replace(config.engine_options(depth=1, live=True), tune=at_once)
    model, scale = choose_model(config, info)
    if config.model == AUTO and info.live:
        models = model_ladder(scale, config.weights, prefer=_preferred(info))
        if not all(needs_build(model, info, options) for model in models):
            deadline = min(1 / float(info.fps or USUAL_FPS), config.max_latency / 1e3)
            return open_auto_model(models, info, options, deadline_ns=deadline * 1e9, stats=stats, finish=finish)
        log.info("model auto: none of its TensorRT engines is built, the largest is all that is taken")
    starting = open_with_background_build(model, info, options, finish=finish) if at_once else None
    return starting or finish(open_engine(model, info, options, scale=scale))


def _fit(engine: Engine, info: StreamInfo, size: tuple[int, int] | None) -> Engine:
    return engine if size in (None, engine.spec.output_size) else ResizeEngine(engine, size, info)


def _is_long(config: Config, info: StreamInfo) -> bool:
    """Whether a file is worth a measurement of a second before it begins."""
    fps = float(info.fps or USUAL_FPS)
    lengths = [info.frame_count, None if info.duration_seconds is None else info.duration_seconds * fps]
    lengths.append(None if config.duration is None else config.duration * fps)
    return min((length for length in lengths if length is not None), default=LONG_FRAMES) >= LONG_FRAMES


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


def open_other_engine(config: Config, controls: RunControls | None, stats: Stats | None, info: StreamInfo) -> Engine:
    """An engine for frames of another size; the caller fits what it makes. ``stats`` where the run is live."""
    config = config if controls is None else controls.config
    if stats is None:
        model, scale = choose_model(config, info)
        engine = open_engine(model, info, config.engine_options(depth=2), scale=scale)
    else:
        engine = open_live_engine(config, info, None, stats)
    return engine if controls is None else controls.wrap(engine, info)


def warm_up(engine: Engine, info: StreamInfo) -> None:
    """One black frame through the engine: a first inference takes several times as long, and live frames would wait."""
    planes = empty_planes(info.width, info.height)
    for plane, value in zip(planes, (16, 128, 128), strict=True):
        plane.fill(value)
    with working("engine"):
        engine.submit(Frame(read_only(planes), pts=0, time_base=info.time_base, color=info.color)).wait()
