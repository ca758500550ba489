"""``--model auto``: several engines are ready, and the largest that keeps up computes (`governor`)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace

from stream_sr.errors import EngineError
from stream_sr.inference import governor
from stream_sr.inference.background_build import needs_build, seconds_per_frame
from stream_sr.inference.engines import open_engine
from stream_sr.inference.model import ModelSpec
from stream_sr.inference.wrapper import EngineWrapper
from stream_sr.pipeline.engine import Engine, EngineOptions, EngineSpec, Pending
from stream_sr.pipeline.stats import ModelStep, Stats
from stream_sr.video.frame import Frame, StreamInfo
from stream_sr.video.frame_pool import Slot

MAX_DEADLINES = 3.0  # a model that takes longer when it is opened is not kept
BENCHMARK_ROUNDS = 8
FAILED_NS = 1 << 62  # the time of a trial that gave no result: longer than any deadline
log = logging.getLogger("stream_sr")


class AutoModelEngine(EngineWrapper):
    """See `engine.Engine`. Runs each frame on one of ``engines``, which take ``costs_ns`` for a frame, rising.

    The measure is the time from `submit` to the result, against ``deadline_ns``, and the frames that ``stats`` counts
    as lost for want of time; the steps are reported to it. All engines are ready, so a step costs nothing: the next
    frame goes to another. An engine that takes over is given a discontinuity, as it has not seen the frames before.
    ``spec`` is that of the engine that computes now. Closes every engine.
    """

    def __init__(
        self,
        engines: Sequence[Engine],
        costs_ns: Sequence[float],
        *,
        deadline_ns: float,
        stats: Stats,
        notes: Sequence[str] = (),
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        super().__init__(engines, allocate=engines[-1].allocate)
        self._engines, self._stats, self._now_ns = engines, stats, now_ns
        self._names = tuple(engine.spec.model for engine in engines)
        self._ladder = governor.Ladder(tuple(costs_ns), deadline_ns)
        self._state = governor.initial_state(self._ladder)
        self._notes = tuple(notes)
        self._lost = stats.overload
        self._trial_ns: int | None = None  # of the last frame
        self._has_switched = False  # the engine that computes has not seen the frame before

    @property
    def spec(self) -> EngineSpec:
        """May be read by any thread."""
        rung = self._state.rung
        spec = self._engines[rung].spec
        # below the top every duplicate frame is computed again, or a static video would stay on this rung for ever
        is_top = rung == len(self._engines) - 1
        is_deterministic = spec.is_deterministic and is_top and not self._has_switched
        return replace(spec, ladder=self._names, notes=(*spec.notes, *self._notes), is_deterministic=is_deterministic)

    def _start(self, frame: Frame, slot: Slot | None) -> Callable[[], Frame]:
        began = self._now_ns()
        submitted = replace(frame, discontinuity=True) if self._has_switched else frame
        pending = self._engines[self._state.rung].submit(submitted, slot)
        self._has_switched = False
        return lambda: self._complete(pending, frame, began)

    def _complete(self, pending: Pending, frame: Frame, began_ns: int) -> Frame:
        result = pending.wait()
        now, lost = self._now_ns(), self._stats.overload
        sample = governor.FrameSample(now, now - began_ns, lost - self._lost, self._trial_ns)
        self._lost = lost
        self._state, step = governor.decide(self._ladder, self._state, sample)
        if step is not None:
            self._has_switched = True
            self._report(step)
        self._trial_ns = self._time_trial(frame) if self._state.trying else None
        return replace(result, discontinuity=frame.discontinuity)

    def _time_trial(self, frame: Frame) -> int:
        """Return what the next rung takes for ``frame``, in nanoseconds; its result is discarded, a failure logged."""
        rung = self._state.rung
        began = self._now_ns()
        try:
            self._engines[rung + 1].submit(frame).wait()
        except EngineError as error:
            log.warning("model auto: %s failed aside (%s); %s stays", self._names[rung + 1], error, self._names[rung])
            return FAILED_NS
        return self._now_ns() - began

    def _report(self, step: governor.LadderStep) -> None:
        before, after = self._names[step.before], self._names[step.after]
        log.info("model auto: %s after %s: %s", after, before, step.why)
        self._stats.step(ModelStep(step.at_ns, before, after, step.after > step.before, step.why))


def open_auto_model(
    models: Sequence[ModelSpec],
    info: StreamInfo,
    options: EngineOptions,
    *,
    deadline_ns: float,
    stats: Stats,
    finish: Callable[[Engine], Engine],
) -> Engine:
    """Open ``models``, the smallest first, all of one scale, with bicubic interpolation below them for the worst.

    ``finish`` makes of an engine what is to run (resized, warm). Each is timed here, on this machine. A model that is
    far too slow is not kept, nor is one whose TensorRT engine has still to be built; both are noted. Raises what
    `open_engine` raises.
    """
    bicubic = replace(options, backend="bicubic", precision="auto", threads=None, device=0)
    with ExitStack() as stack:
        engines = [stack.enter_context(closing(finish(open_engine(None, info, bicubic, scale=models[0].scale))))]
        notes = []
        for model in models:
            if needs_build(model, info, options):
                notes.append(
                    f"{model.name} is left out: its TensorRT engine is not built; `stream-sr engine build "
                    f"--model {model.name} --scale {model.scale} --weights {model.weights} "
                    f"--input-size {info.width}x{info.height}`"
                )
                continue
            engine = stack.enter_context(closing(finish(open_engine(model, info, options))))
            engines.append(engine)
            seconds = seconds_per_frame(engine, info, trials=1)
            if seconds * 1e9 > MAX_DEADLINES * deadline_ns and len(engines) > 2:
                notes.append(f"{model.name} and larger are left out: a frame takes {seconds * 1e3:.0f} ms here")
                engines.pop()
                engine.close()
                break
        engines, costs = _without_slower_small(engines, _benchmark(engines, info))
        times = ", ".join(f"{engine.spec.model} {cost / 1e6:.1f}" for engine, cost in zip(engines, costs, strict=True))
        notes.insert(0, f"model auto: {times} ms for a frame here, {deadline_ns / 1e6:.1f} ms from frame to frame")
        engine = AutoModelEngine(engines, costs, deadline_ns=deadline_ns, stats=stats, notes=notes)
        stack.pop_all()
    return engine


def _benchmark(engines: Sequence[Engine], info: StreamInfo) -> list[float]:
    """Return the nanoseconds of a frame through each: the least of some rounds in which they take turns."""
    rounds = [[seconds_per_frame(engine, info, trials=1) * 1e9 for engine in engines] for _ in range(BENCHMARK_ROUNDS)]
    return [min(times) for times in zip(*rounds, strict=True)]


def _without_slower_small(engines: Sequence[Engine], costs: Sequence[float]) -> tuple[list[Engine], list[float]]:
    """Without those that take as long as a larger one here, or longer."""
    kept: list[tuple[Engine, float]] = []
    for engine, cost in reversed(list(zip(engines, costs, strict=True))):
        if not kept or cost < kept[-1][1]:
            kept.append((engine, cost))
        else:
            larger = kept[-1][0].spec.model
            log.info("model auto: %s is left out: it is no faster here than %s", engine.spec.model, larger)
            engine.close()
    return [engine for engine, _ in kept[::-1]], [cost for _, cost in kept[::-1]]
