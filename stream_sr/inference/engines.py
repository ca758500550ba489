"""Open an engine: `open_engine`. `choose_backend` says what backend ``auto`` means on this machine.

Each adapter is a module of `backends` with ``PRECISIONS``, ``availability()`` and ``open_model(...)``, imported only
when it is asked for, so that a missing library harms nobody else.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from stream_sr.errors import ConfigError, EngineError, EngineUnavailable, ModelError
from stream_sr.inference.availability import Availability
from stream_sr.inference.backends import load_adapter
from stream_sr.inference.model import SCALES, ModelSpec
from stream_sr.pipeline.engine import Engine, EngineOptions
from stream_sr.system import machine
from stream_sr.video.frame import StreamInfo

__all__ = ["BACKENDS", "Availability", "Choice", "backends", "choose_backend", "open_engine"]

BACKENDS = ("openvino", "tensorrt", "torch-cuda", "torch", "bicubic")
GPU_BACKENDS = ("tensorrt", "torch-cuda")


@dataclass(frozen=True, slots=True)
class Choice:
    """The backend that ``auto`` means here, and why."""

    name: str
    reason: str


def backends() -> dict[str, Availability]:
    """Every backend and whether it can run here."""
    return {name: load_adapter(name).availability() for name in BACKENDS}


def choose_backend(device: int = 0) -> Choice:
    """TensorRT where a GPU can run it, else torch on the GPU, else OpenVINO, else torch. Raises EngineUnavailable.

    Bicubic is no network: it is used when it is asked for, never instead of one.
    """
    if not machine.cuda().devices:  # asked first: TensorRT's library alone takes 100 MB
        return choose_cpu_backend()
    tensorrt = load_adapter("tensorrt").availability(device)
    if tensorrt.usable:
        return Choice("tensorrt", f"there is a GPU: {tensorrt.reason}")
    cuda = load_adapter("torch-cuda").availability(device)
    if cuda.usable:
        return Choice("torch-cuda", f"there is a GPU ({cuda.reason}), but TensorRT cannot be used: {tensorrt.reason}")
    return choose_cpu_backend()


def choose_cpu_backend() -> Choice:
    """OpenVINO where it is installed, else torch. Raises EngineUnavailable when neither is."""
    openvino = load_adapter("openvino").availability()
    if openvino.usable:
        return Choice("openvino", f"the fastest that runs here: {openvino.reason}")
    torch = load_adapter("torch").availability()
    if torch.usable:
        return Choice("torch", f"OpenVINO cannot be used ({openvino.reason}; {openvino.fix}); torch is slower")
    raise EngineUnavailable(f"no backend runs networks here: {openvino.reason}; {openvino.fix}")


def open_engine(
    model: ModelSpec | None, info: StreamInfo, options: EngineOptions, *, scale: int | None = None
) -> Engine:
    """Compile ``model`` for frames of ``info``'s size and chroma siting.

    ``model`` may be None for the backend ``bicubic`` only, which then needs ``scale`` (1 to 4); for a network a scale
    is checked against the model's. Raises ConfigError for an unknown backend or precision or a combination that cannot
    be, ModelError, EngineUnavailable, EngineBuildError.
    """
    check_engine_options(model, options, scale=scale)
    if options.backend == "auto":
        return _open_auto(model, info, options, scale)
    adapter = load_adapter(options.backend)
    if info.width < 1 or info.height < 1:
        raise ConfigError(f"an engine cannot be made for frames of {info.width}x{info.height}")
    if options.backend == "bicubic":
        return adapter.open_scale(_bicubic_scale(model, scale), info, options)
    assert model is not None
    if scale is not None and model.scale == 0:
        model = replace(model, scale=scale)
    return adapter.open_model(model, info, options)


def check_available(options: EngineOptions) -> None:
    """Raise EngineUnavailable where this machine lacks the backend that is named, or the precision."""
    name = choose_backend(options.device).name if options.backend == "auto" else options.backend
    found = load_adapter(name).availability(*([options.device] if name in GPU_BACKENDS else []))
    if not found.usable:
        raise EngineUnavailable(f"backend {name} cannot be used here: {found.reason}; {found.fix}")
    if name == "openvino":
        load_adapter(name).check_supported(options.precision)


def check_engine_options(model: ModelSpec | None, options: EngineOptions, *, scale: int | None = None) -> None:
    """Raise ConfigError or ModelError for a combination that no machine can run; compiles nothing.

    Of a backend that is named the library is loaded; of ``auto`` only its choice, when it opens, can be judged.
    """
    if options.backend not in ("auto", *BACKENDS):
        raise ConfigError(f"no backend '{options.backend}'; there are auto, {', '.join(BACKENDS)}")
    if options.backend == "auto":
        return
    if options.device != 0 and options.backend not in GPU_BACKENDS:
        raise ConfigError(f"device {options.device} is the number of a GPU; backend {options.backend} uses none")
    adapter = load_adapter(options.backend)
    if options.precision not in ("auto", *adapter.PRECISIONS):
        known = ", ".join(("auto", *adapter.PRECISIONS))
        hint = "; int8 is for openvino" if options.precision == "int8" else ""
        raise ConfigError(f"backend {options.backend} has no precision '{options.precision}'; it has {known}{hint}")
    if options.backend == "bicubic":
        if options.threads is not None:
            raise ConfigError("bicubic computes in one thread; leave out --threads")
        _bicubic_scale(model, scale)
        return
    if model is None:
        raise ConfigError(f"backend {options.backend} needs a model; without one only --backend bicubic works")
    if scale is not None and model.scale not in (0, scale):
        raise ModelError(f"model '{model.name}' is trained for x{model.scale}, x{scale} was asked for")


def _open_auto(model: ModelSpec | None, info: StreamInfo, options: EngineOptions, scale: int | None) -> Engine:
    """The chosen backend; where the GPU's fails at this model, the processor's, with a note."""
    choice = choose_backend(options.device)
    reason = choice.reason if choice.name != BACKENDS[0] else ""
    engine: Any  # of an adapter, whose spec may be added to
    try:
        engine = open_engine(model, info, replace(options, backend=choice.name), scale=scale)
    except EngineError as error:
        if choice.name not in GPU_BACKENDS:
            raise
        choice = choose_cpu_backend()
        reason = f"the GPU is not used: {error}"
        engine = open_engine(model, info, replace(options, backend=choice.name, device=0), scale=scale)
    if reason:
        engine.spec = replace(engine.spec, notes=(*engine.spec.notes, reason))
    return engine


def _bicubic_scale(model: ModelSpec | None, scale: int | None) -> int:
    chosen = scale if scale is not None else (model.scale if model is not None else None)
    if chosen not in SCALES:
        raise ConfigError(f"scale {chosen} is not possible with bicubic; it is {', '.join(map(str, SCALES))}")
    return chosen
