"""What a page or a window may change while the filter runs: the engine, between two frames, and a recording."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

from stream_sr.config import Config
from stream_sr.errors import ConfigError, StreamSRError
from stream_sr.inference.background_build import BackgroundBuildEngine
from stream_sr.inference.engines import backends
from stream_sr.inference.hot_swap import SwapEngine
from stream_sr.inference.model import AUTO, PRESETS, SCALES, WEIGHTS, ModelSpec, list_models
from stream_sr.pipeline.engine import Engine, EngineSpec
from stream_sr.pipeline.threads import Worker
from stream_sr.video.frame import StreamInfo

log = logging.getLogger("stream_sr")

ON_OFF = ("on", "off")


class Recording(Protocol):
    """A recording that is begun and ended while the filter runs."""

    def switch(self, on: bool) -> None: ...

    def state(self) -> dict[str, Any]: ...


OpenEngine = Callable[[Config, StreamInfo, tuple[int, int]], Engine]  # options, input, size of the output; warmed up


class RunControls:
    """See `interfaces.Controls`. The engine's ``model``, ``scale``, ``weights`` and ``backend``; ``record``, ``on`` or
    ``off``.

    A change is checked at once; the engine for it is opened on a thread of its own (the newest request wins) and takes
    over with the next frame once it is ready. An engine that cannot be opened leaves the running one alone, and the
    message says why. The output keeps its size: at another scale the result is fitted into it, so that no recording
    and no viewer beside is disturbed. Of a live input the model may be ``auto`` (see `governor`), until one is named.
    """

    def __init__(self, config: Config, open_engine: OpenEngine, recording: Recording | None = None) -> None:
        self.config = self._last_working = config  # as requested, and as it last worked
        self._open, self._recording = open_engine, recording
        self._engines: list[tuple[SwapEngine, StreamInfo]] = []
        self._models = list_models()
        self._backends = [name for name, found in backends().items() if found.usable]
        self._changed = threading.Condition()
        self._requested: Config | None = None
        self._message = ""
        self._closed = False
        self._worker: Worker | None = None

    def wrap(self, engine: Engine, info: StreamInfo) -> SwapEngine:
        """The engine for input of ``info``, in a form that can be exchanged."""
        swap = engine if isinstance(engine, SwapEngine) else SwapEngine(engine)
        with self._changed:
            first, *others = [*self._engines, (swap, info)]
            self._engines = [first, *(one for one in others if not one[0].closed)]
        return swap

    @property
    def progress(self) -> str:
        """What is being built for the run, and what computes meanwhile; empty when nothing is."""
        with self._changed:
            engine = self._engines[0][0]
        doing = engine.progress if isinstance(engine, BackgroundBuildEngine) else ""
        return f"{doing}; {engine.spec.model} on {engine.spec.backend} meanwhile" if doing else ""

    def change(self, name: str, value: str) -> None:
        """See `interfaces.Controls`."""
        if name == "record":
            if self._recording is None:
                raise ConfigError("nothing can be recorded: start the program with --record-dir DIR")
            if value not in ON_OFF:
                raise ConfigError(f"record is {' or '.join(ON_OFF)}, not '{value}'")
            self._recording.switch(value == "on")
            return
        with self._changed:
            if self._closed:
                return
            requested = self._changed_config(name, value)
            self._requested = self.config = requested
            if self._worker is None:
                self._worker = Worker("controls", self._work)
            self._changed.notify_all()

    def state(self) -> dict[str, Any]:
        """What can be changed, to what, and what it is: ``choices``, ``recording`` and ``message``."""
        with self._changed:
            spec = self._engines[0][0].spec
            choices = {
                name: {"value": value, "values": values, "keys": [one for one in values if one not in ("", AUTO)]}
                for name, (value, values) in self._choices(spec).items()
            }
            recording = self._recording.state() if self._recording is not None else None
            return {"choices": choices, "recording": recording, "message": self._message}

    def close(self) -> None:
        """End the thread; an engine that it is opening is waited for."""
        with self._changed:
            self._closed, worker = True, self._worker
            self._changed.notify_all()
        if worker is not None:
            worker.join()

    def _choices(self, spec: EngineSpec) -> dict[str, tuple[str, list[str]]]:
        models, networks = self._models, spec.backend != "bicubic"
        names = sorted({model.name for model in models}, key=_order)
        if spec.ladder:  # it may be at bicubic for the moment
            spec, networks = replace(spec, model=spec.ladder[-1]), True
        elif spec.model not in names and networks:
            names.append(spec.model)  # a FILE.onnx
        if not networks:
            scales = list(SCALES)
        else:
            scales = sorted({model.scale for model in models if model.name == spec.model}) or [spec.scale]
        if self.config.size is not None:
            scales = [spec.scale]
        auto = [AUTO] if self._engines[0][1].live else []
        found = {
            "model": (AUTO if spec.ladder else spec.model, [*names, *auto]),
            "scale": (str(spec.scale), [str(scale) for scale in scales]),
            "backend": (spec.backend, self._backends),
        }
        if not networks:
            found["model"] = ("", ["", *names, *auto])
        else:
            found["weights"] = self._weights([model for model in models if (model.name, model.scale) == _key(spec)])
        return found

    def _weights(self, models: Sequence[ModelSpec]) -> tuple[str, list[str]]:
        """The weights in use, as `engine_setup.choose_model` chooses them, and those that there are."""
        available = [weights for weights in WEIGHTS if any(model.weights == weights for model in models)]
        preferred = "camera" if self._engines[0][1].live else "clean"
        now = next((one for one in (self.config.weights, preferred, *available) if one in available), None)
        return now or "", available

    def _changed_config(self, name: str, value: str) -> Config:
        """The options with one of them changed. Raises ConfigError."""
        spec = self._engines[0][0].spec
        choices = self._choices(spec)
        if name not in choices:
            raise ConfigError(f"there is no control '{name}'; there are {', '.join([*choices, 'record'])}")
        values = choices[name][1]
        if value not in values or not value:
            raise ConfigError(f"{name} is one of {', '.join(filter(None, values))}, not '{value}'")
        now = self.config
        if name == "scale":
            return replace(now, scale=int(value), size=None)
        if name == "backend":
            return replace(now, backend=value, precision="auto", model=None if value == "bicubic" else now.model)
        if name == "weights":
            return replace(now, weights=value)
        return replace(now, model=value, weights=None, backend="auto" if now.backend == "bicubic" else now.backend)

    def _work(self) -> None:
        while True:
            with self._changed:
                while self._requested is None and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return
                requested, self._requested = self._requested, None
                engines = [one for one in self._engines if not one[0].closed]
                self._message = "preparing the engine"
            assert requested is not None
            message = ""
            try:
                for swap, info in engines:
                    self._offer(swap, self._open(requested, info, swap.spec.output_size))
            except StreamSRError as error:
                message = str(error)
                log.warning("the change was not made: %s", message)
            with self._changed:
                self._message = message
                if not message:
                    self._last_working = requested
                elif self._requested is None:
                    self.config = self._last_working

    @staticmethod
    def _offer(swap: SwapEngine, engine: Engine) -> None:
        try:
            swap.offer(engine)
        except StreamSRError:
            engine.close()
            raise


def _order(name: str) -> tuple[int, str]:
    """Presets first, from the quickest to the best."""
    return (PRESETS.index(name) if name in PRESETS else len(PRESETS)), name


def _key(spec: EngineSpec) -> tuple[str, int]:
    return spec.model, spec.scale
