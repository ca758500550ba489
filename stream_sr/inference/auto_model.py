"""``--model auto``: several engines are ready, and the largest that keeps up computes (`governor`)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace

from stream_sr.errors import EngineError, EngineRunError
from stream_sr.inference import governor
from stream_sr.inference.background_build import needs_build, seconds_a_frame
from stream_sr.inference.engines import open_engine
from stream_sr.inference.model import ModelSpec
from stream_sr.inference.results import InFlight
from stream_sr.pipeline.engine import Engine, EngineOptions, EngineSpec, Pending
from stream_sr.pipeline.stats import ModelStep, Stats
from stream_sr.video.frame import Frame, StreamInfo
from stream_sr.video.frame_pool import Allocate, Slot

HOPELESS = 3.0  # times the deadline: what takes longer when it is opened is not kept
ROUNDS = 8
FAILED_NS = 1 << 62  # what a trial took that gave no result: longer than any deadline
log = logging.getLogger("stream_sr")


class GovernedEngine:
    """See `engine.Engine`. Runs each frame on one of ``engines``, which take ``costs_ns`` for a frame, rising.

    The measure is the time from `submit` to the result, against ``deadline_ns``, and the frames that ``stats`` counts
    as lost for want of time; the steps are told to it. All engines are ready, so a step costs nothing: the next frame
    goes to another. An engine that takes over is told of a discontinuity, as it has not seen what came before.
    ``spec`` is that of the engine that computes now; ``depth`` is the least of all. Closes every engine.
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
        self._engines, self._stats, self._now_ns = engines, stats, now_ns
        self._names = tuple(engine.spec.model for engine in engines)
        self.depth = min(engine.depth for engine in engines)
        self.allocate: Allocate | None = engines[-1].allocate
        self._ladder = governor.Ladder(tuple(costs_ns), deadline_ns)
        self._state = governor.begin(self._ladder)
        self._notes = tuple(notes)
        self._lost = stats.overload
        self._trial_ns: int | None = None  # of the last frame
        self._fresh = False  # whether the engine that computes has not seen the frame before
        self._in_flight = InFlight(self.depth)

    @property
    def spec(self) -> EngineSpec:
        """May be read by any thread."""
        rung = self._state.rung
        spec = self._engines[rung].spec
        # below the top a picture that stands still is computed again and again, lest it stays as it is
        is_deterministic = spec.is_deterministic and rung == len(self._engines) - 1 and not self._fresh
        return replace(spec, ladder=self._names, notes=(*spec.notes, *self._notes), is_deterministic=is_deterministic)

    def submit(self, frame: Frame, slot: Slot | None = None) -> Pending:
        """See `engine.Engine`."""
        self._in_flight.enter()
        began = self._now_ns()
        try:
            told = replace(frame, discontinuity=True) if self._fresh else frame
            pending = self._engines[self._state.rung].submit(told, slot)
        except BaseException:
            self._in_flight.leave()
            raise
        self._fresh = False
        return _Governed(self, pending, frame, began)

    def close(self) -> None:
        """Close all engines. Safe to call twice."""
        self._in_flight.closed = True
        for engine in self._engines:
            engine.close()

    def _complete(self, pending: Pending, frame: Frame, began_ns: int) -> Frame:
        try:
            result = pending.wait()
        finally:
            self._in_flight.leave()
        now, lost = self._now_ns(), self._stats.overload
        sample = governor.Sample(now, now - began_ns, lost - self._lost, self._trial_ns)
        self._lost = lost
        self._state, step = governor.decide(self._ladder, self._state, sample)
        if step is not None:
            self._fresh = True
            self._tell(step)
        self._trial_ns = self._try(frame) if self._state.trying else None
        return result

    def _try(self, frame: Frame) -> int:
        """What the next rung takes for ``frame``; its result is thrown away. A failure is no reason to end a run."""
        rung = self._state.rung
        began = self._now_ns()
        try:
            self._engines[rung + 1].submit(frame).wait()
        except EngineError as error:
            log.warning("model auto: %s failed aside (%s); %s stays", self._names[rung + 1], error, self._names[rung])
            return FAILED_NS
        return self._now_ns() - began

    def _tell(self, step: governor.Step) -> None:
        before, after = self._names[step.before], self._names[step.after]
        log.info("model auto: %s after %s: %s", after, before, step.why)
        self._stats.step(ModelStep(step.at_ns, before, after, step.after > step.before, step.why))


class _Governed:
    """A frame in flight."""

    def __init__(self, owner: GovernedEngine, pending: Pending, frame: Frame, began_ns: int) -> None:
        self._owner: GovernedEngine | None = owner
        self._pending, self._frame, self._began_ns = pending, frame, began_ns

    def wait(self) -> Frame:
        owner, self._owner = self._owner, None
        if owner is None:
            raise EngineRunError("a result was waited for twice; it is handed out once")
        result = owner._complete(self._pending, self._frame, self._began_ns)
        return replace(result, discontinuity=self._frame.discontinuity)


def open_governed(
    models: Sequence[ModelSpec],
    info: StreamInfo,
    options: EngineOptions,
    *,
    deadline_ns: float,
    stats: Stats,
    finish: Callable[[Engine], Engine],
) -> Engine:
    """Open ``models``, the smallest first, all of one scale, with bicubic interpolation below them for the worst.

    ``finish`` makes of an engine what is to run (fitted, warm). Each is timed here, on this machine. What would be
    hopeless is not kept, nor is a preset whose TensorRT engine has still to be built; both are noted. Raises what
    `open_engine` raises.
    """
    bicubic = replace(options, backend="bicubic", precision="auto", threads=None, device=0)
    with ExitStack() as stack:
        engines = [stack.enter_context(closing(finish(open_engine(None, info, bicubic, scale=models[0].scale))))]
        notes = []
        for model in models:
            if needs_build(model, info, options):
                notes.append(
                    f"{model.name} is left out: its TensorRT engine is not built; `stream-sr engine build --model "
                    f"{model.name} --scale {model.scale} --tune {model.tune} --input-size {info.width}x{info.height}`"
                )
                continue
            engine = stack.enter_context(closing(finish(open_engine(model, info, options))))
            engines.append(engine)
            seconds = seconds_a_frame(engine, info, trials=1)
            if seconds * 1e9 > HOPELESS * deadline_ns and len(engines) > 2:
                notes.append(f"{model.name} and larger are left out: a frame takes {seconds * 1e3:.0f} ms here")
                engines.pop()
                engine.close()
                break
        engines, costs = _of_use(engines, _time_turns(engines, info))
        times = ", ".join(f"{engine.spec.model} {cost / 1e6:.1f}" for engine, cost in zip(engines, costs, strict=True))
        notes.insert(0, f"model auto: {times} ms for a frame here, {deadline_ns / 1e6:.1f} ms from frame to frame")
        governed = GovernedEngine(engines, costs, deadline_ns=deadline_ns, stats=stats, notes=notes)
        stack.pop_all()
    return governed


def _time_turns(engines: Sequence[Engine], info: StreamInfo) -> list[float]:
    """Nanoseconds of a frame through each, the least of some rounds in which they take turns."""
    rounds = [[seconds_a_frame(engine, info, trials=1) * 1e9 for engine in engines] for _ in range(ROUNDS)]
    return [min(times) for times in zip(*rounds, strict=True)]


def _of_use(engines: Sequence[Engine], costs: Sequence[float]) -> tuple[list[Engine], list[float]]:
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
