"""TensorRT on an NVIDIA GPU, with pycuda: frames overlap (`schedule`), engines are checked (`checked_engine`).

With TensorRT-RTX building needs no GPU: what `engine build` compiles without one is portable, and opened by
`checked_engine` where there is one. The classic TensorRT builds on the GPU that is to run the engine, and refuses
elsewhere.
"""

from __future__ import annotations

from stream_sr.errors import ConfigError, EngineUnavailable
from stream_sr.inference import cache
from stream_sr.inference.availability import Availability
from stream_sr.inference.backends.cuda.precisions import AUTO_PRECISIONS, PRECISIONS
from stream_sr.inference.backends.tensorrt import library
from stream_sr.inference.backends.tensorrt.build import Progress, build_engine, portable_key
from stream_sr.inference.backends.tensorrt.checked_engine import (
    BuildRequest,
    can_open_without_build,
    layout_of,
    open_checked,
)
from stream_sr.inference.backends.tensorrt.graph import HEADS, REWRITE
from stream_sr.inference.model import BuildKey, ModelSpec
from stream_sr.pipeline.engine import Engine, EngineOptions
from stream_sr.system import machine
from stream_sr.video.frame import StreamInfo
from stream_sr.video.frame_pool import Allocate

__all__ = ["PRECISIONS", "allocator", "availability", "build", "cache_version", "is_ready", "open_model"]


def no_progress(what: str, share: float) -> None:
    """Report no progress."""


def availability(device: int = 0) -> Availability:
    """Whether engines run here, and precisely why not; the reason says whether they can at least be built."""
    found = library.can_run(device)
    if found.usable and (unlisted := library.is_listed(device)):
        return Availability(False, found.version, unlisted, "try it with --backend tensorrt")
    return found


def open_model(
    model: ModelSpec, info: StreamInfo, options: EngineOptions, *, progress: Progress = no_progress
) -> Engine:
    """An engine that was checked against the model's reference: from the cache, or built now, which may take minutes.

    Raises EngineUnavailable, ModelError, EngineBuildError, EngineRunError.
    """
    found = library.can_run(options.device)
    if not found.usable:
        raise EngineUnavailable(f"backend tensorrt cannot run: {found.reason}; {found.fix}")
    return open_checked(BuildRequest(model, layout_of(model, info), options, progress))


def is_ready(model: ModelSpec, info: StreamInfo, options: EngineOptions) -> bool:
    """Whether `open_model` can be expected to open without a build. Raises ModelError."""
    return can_open_without_build(BuildRequest(model, layout_of(model, info), options))


def allocator(device: int) -> Allocate:
    """Page-locked memory for frames on their way to and from this GPU. Raises EngineUnavailable."""
    from stream_sr.inference.backends.tensorrt.driver import open_device

    return open_device(device).pinned.take


def build(
    model: ModelSpec,
    info: StreamInfo,
    options: EngineOptions,
    *,
    rebuild: bool = False,
    progress: Progress = no_progress,
) -> list[BuildKey]:
    """Build engines for a stream's size, unless they are in the cache, and keep them: those that `open_model` takes.

    Without a GPU nothing can be measured or checked: then both forms of the head are kept, of the precision that was
    asked for or fp16, under keys that name no device (`portable_key`). Raises what `open_model` raises, and
    EngineUnavailable for the classic TensorRT without a GPU.
    """
    found = library.can_build()
    if not found.usable:
        raise EngineUnavailable(f"TensorRT engines cannot be built: {found.reason}; {found.fix}")
    if options.precision not in ("auto", *PRECISIONS):
        raise ConfigError(f"TensorRT engines have no precision '{options.precision}'; it is {', '.join(PRECISIONS)}")
    if not machine.cuda().devices and not library.is_rtx():
        raise EngineUnavailable(
            f"{library.library_name()} builds engines on the GPU that is to run them, and here is none "
            f"({machine.cuda().problem}); run `engine build` on that machine, or install stream-sr[tensorrt-rtx] on "
            "both, whose engines can be built anywhere"
        )
    request = BuildRequest(model, layout_of(model, info), options, progress)
    if rebuild:
        for precision in request.precisions:
            for head in HEADS:
                for key in (request.key(precision, head), request.portable_key(precision, head)):
                    cache.entry_path(key).unlink(missing_ok=True)
    if machine.cuda().devices:
        engine = open_model(model, info, options, progress=progress)
        engine.close()
        return [request.key(engine.spec.precision, engine.spec.head)]
    return _build_without_gpu(request)


def _build_without_gpu(request: BuildRequest) -> list[BuildKey]:
    precision = AUTO_PRECISIONS[0] if request.options.precision == "auto" else request.options.precision
    keys = []
    for head in HEADS:
        if precision == "bf16" and head == "deconvolution" and library.is_rtx():
            continue  # TensorRT-RTX 1.7 has no deconvolution in bf16
        key = portable_key(request.model, request.layout, precision, head)
        with cache.building(key):
            if cache.load(key) is None:
                blob = build_engine(request.model, request.layout, precision, head, progress=request.progress)
                cache.store(key, blob, {"measured": "not on this machine: it has no GPU"})
        keys.append(key)
    return keys


def cache_version() -> str:
    """The library and its version, as in a `BuildKey`; empty where there is none."""
    return library.cache_version(REWRITE)
