"""Open an engine that is known to be right: from the cache or built, checked, the faster head, fp16 -> bf16 -> fp32.

An engine that was built without a GPU (`engine build` on another machine, the cache copied) replaces a build.

Every engine is compared with the model's reference after it was built and after it was loaded. If one is refused
by the library, is wrong or too far from the reference, the next precision is the fallback. The reason stays in the
cache, so that it is reported but not tried again until library, driver or model change.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from stream_sr.errors import EngineBuildError
from stream_sr.inference import cache
from stream_sr.inference.backends.cuda.precisions import AUTO_PRECISIONS
from stream_sr.inference.backends.cuda.schedule import THROUGHPUT_DEPTH, OverlappedEngine
from stream_sr.inference.backends.tensorrt.build import Progress, build_engine, engine_key, portable_key, read_onnx
from stream_sr.inference.backends.tensorrt.driver import PycudaDriver, open_device
from stream_sr.inference.backends.tensorrt.frames import FrameLayout
from stream_sr.inference.backends.tensorrt.graph import HEADS, scale_of
from stream_sr.inference.backends.tensorrt.program import TensorRTProgram
from stream_sr.inference.model import BuildKey, ModelSpec
from stream_sr.inference.verify import WrongResult, check
from stream_sr.pipeline.engine import EngineOptions, EngineSpec
from stream_sr.video.color import Siting
from stream_sr.video.frame import StreamInfo

log = logging.getLogger("stream_sr")


class PrecisionRejected(Exception):
    """An engine of this precision cannot be used; the text says why."""


class NoUsableHead(Exception):
    """No form of an engine loads and gives right results; ``reasons`` by head."""

    def __init__(self, reasons: Mapping[str, str]) -> None:
        super().__init__("; ".join(dict.fromkeys(reasons.values())))
        self.reasons = reasons


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """The engine that is to be opened, or built."""

    model: ModelSpec
    layout: FrameLayout
    options: EngineOptions
    progress: Progress = field(default=lambda what, share: None)

    def key(self, precision: str, head: str) -> BuildKey:
        return engine_key(self.model, self.layout, precision, head, self.options.device)

    def portable_key(self, precision: str, head: str) -> BuildKey:
        """Of an engine that was built without a GPU."""
        return portable_key(self.model, self.layout, precision, head)

    @property
    def precisions(self) -> tuple[str, ...]:
        return AUTO_PRECISIONS if self.options.precision == "auto" else (self.options.precision,)


def layout_of(model: ModelSpec, info: StreamInfo) -> FrameLayout:
    """What an engine of this model for this stream is made for. Raises ModelError."""
    data = read_onnx(model)
    siting = info.color.siting if info.color.siting != Siting.UNKNOWN else Siting.LEFT  # which unknown means
    return FrameLayout(info.width, info.height, model.scale or scale_of(data), siting)


def can_open_without_build(request: BuildRequest) -> bool:
    """Whether an engine is in the cache that can be expected to open without a build."""
    for precision in request.precisions:
        kept = [cache.measured(request.key(precision, head)) for head in HEADS]
        if any(one and cache.REFUSED not in one and not _misses_fidelity(request, precision, one) for one in kept):
            return True
        if not any(kept):
            return any(cache.measured(request.portable_key(precision, head)) for head in HEADS)
    return False


def open_checked(request: BuildRequest) -> OverlappedEngine:
    """The engine of the first precision that stands the check. Raises EngineBuildError, EngineRunError, ModelError."""
    notes: list[str] = []
    reasons: list[str] = []
    for precision in request.precisions:
        try:
            engine = _open(request, precision)
        except PrecisionRejected as refusal:
            reasons.append(f"{precision}: {refusal}")
            notes.append(f"TensorRT in {precision} is not used: {refusal}")
            continue
        engine.spec = replace(engine.spec, notes=(*engine.spec.notes, *notes))
        return engine
    raise EngineBuildError(
        f"no TensorRT engine of model '{request.model.name}' can be used: {'; '.join(reasons)}; use another --backend"
    )


def _open(request: BuildRequest, precision: str) -> OverlappedEngine:
    """Raises PrecisionRejected."""
    found = _from_cache(request, precision)
    if found is None:
        with cache.building(request.key(precision, HEADS[0])):
            found = (
                _from_cache(request, precision)
                or _from_portable(request, precision)
                or _build_heads(request, precision)
            )
    return found


def _from_cache(request: BuildRequest, precision: str) -> OverlappedEngine | None:
    """The kept engine, checked; None where one has to be built. Raises PrecisionRejected."""
    refusals = []
    for head in HEADS:
        key = request.key(precision, head)
        kept = cache.measured(key)
        if cache.REFUSED in kept:
            refusals.append(str(kept[cache.REFUSED]))
            continue
        if kept and _misses_fidelity(request, precision, kept):
            raise PrecisionRejected(_describe_fidelity(request, kept["psnr"]))
        blob = cache.load(key)
        if blob is None:
            continue
        try:
            engine = load_engine(request, precision, head, blob)
        except EngineBuildError as error:
            cache.discard(key, str(error))
            continue
        try:
            _check(request, precision, engine)
        except WrongResult as error:
            cache.discard(key, str(error))
            continue
        return engine
    if len(refusals) == len(HEADS):
        raise PrecisionRejected(refusals[0])
    return None


def _from_portable(request: BuildRequest, precision: str) -> OverlappedEngine | None:
    """The faster of the engines that were built without a GPU, checked; None where there is none that can be used.

    They stay in the cache, for other GPUs; what is measured of them here is kept under this GPU's key. Raises
    PrecisionRejected.
    """
    blobs = {}
    for head in HEADS:
        key = request.portable_key(precision, head)
        blob = cache.load(key) if key != request.key(precision, head) else None
        if blob is not None:
            blobs[head] = blob
    try:
        return _open_faster_head(request, precision, blobs) if blobs else None
    except NoUsableHead as error:
        log.warning("engines of %s that were built without a GPU cannot be used here: %s", request.model.name, error)
        return None


def _build_heads(request: BuildRequest, precision: str) -> OverlappedEngine:
    """Build both forms of the head, measure them here, keep the faster. Raises PrecisionRejected."""
    try:
        return _open_faster_head(request, precision)
    except NoUsableHead as error:
        for head, reason in error.reasons.items():
            cache.refuse(request.key(precision, head), reason)
        raise PrecisionRejected(str(error)) from error


def _open_faster_head(
    request: BuildRequest, precision: str, blobs: Mapping[str, bytes] | None = None
) -> OverlappedEngine:
    """Load, check and measure the engines of ``blobs`` (by head; None: those of both heads, built), keep the faster.

    Raises NoUsableHead where none loads and is right, PrecisionRejected where the faster is too far from the reference.
    """
    good: list[tuple[float, OverlappedEngine, bytes, float]] = []
    reasons: dict[str, str] = {}
    record: dict[str, object] = {"head_ms": {}, "build_seconds": {}}
    try:
        for n, head in enumerate(HEADS if blobs is None else blobs):
            began = time.monotonic()
            try:
                blob = (
                    blobs[head]
                    if blobs is not None
                    else build_engine(
                        request.model,
                        request.layout,
                        precision,
                        head,
                        device=request.options.device,
                        progress=lambda what, share, n=n: request.progress(what, (n + share) / len(HEADS)),  # type: ignore[misc]
                    )
                )
                engine = load_engine(request, precision, head, blob)
            except EngineBuildError as error:
                reasons[head] = str(error)
                continue
            try:
                psnr = _check(request, precision, engine)
            except WrongResult as error:
                reasons[head] = str(error)
                continue
            took = min(engine.compute_ms.values())
            good.append((took, engine, blob, psnr))
            record["head_ms"] |= {head: round(took, 4)}  # type: ignore[operator]
            record["build_seconds"] |= {head: round(time.monotonic() - began, 2)}  # type: ignore[operator]
        if not good:
            raise NoUsableHead(reasons)
    except BaseException:
        for _, engine, _, _ in good:
            engine.close()
        raise
    good.sort(key=lambda one: one[0])
    for _, slower, _, _ in good[1:]:
        slower.close()
    _, engine, blob, psnr = good[0]
    record |= {"psnr": round(min(psnr, 999.0), 2), "compute_ms": engine.compute_ms, "not_built": reasons}
    if request.options.keep:
        cache.store(request.key(precision, engine.spec.head), blob, record)
    if _misses_fidelity(request, precision, record):
        engine.close()
        raise PrecisionRejected(_describe_fidelity(request, psnr))
    return engine


def load_engine(
    request: BuildRequest, precision: str, head: str, blob: bytes, *, cuda_graphs: bool | None = None
) -> OverlappedEngine:
    """An engine that runs, unchecked. Raises EngineBuildError where the library refuses it, else EngineRunError."""
    options, layout = request.options, request.layout
    request.progress(f"loading {request.model.name} in {precision} with {head}", 0.0)
    driver = PycudaDriver(options.device)
    spec = EngineSpec(
        backend="tensorrt",
        model=request.model.name,
        scale=layout.scale,
        width=layout.width,
        height=layout.height,
        precision=precision,
        device=f"GPU {options.device}: {open_device(options.device).name}",
        head=head,
        is_deterministic=not request.model.is_stateful,
    )
    try:
        program = TensorRTProgram(driver, blob, layout, cache.companion(request.key(precision, head), ".runtime"))
    except BaseException:
        driver.close()
        raise
    depth = 1 if options.depth == 1 else max(options.depth, THROUGHPUT_DEPTH)
    return OverlappedEngine(spec, depth, driver, program, cuda_graphs=cuda_graphs)


def _check(request: BuildRequest, precision: str, engine: OverlappedEngine) -> float:
    """PSNR against the reference; noted where it was asked for all the same. Raises what `check` does, and closes."""
    request.progress(f"checking {request.model.name} in {precision}", 1.0)
    try:
        psnr = check(engine, request.model, request.layout.siting)
    except BaseException:
        engine.close()
        raise
    if request.options.precision == precision != "fp32" and psnr < request.options.fidelity:
        note = f"{precision} is {_describe_fidelity(request, psnr)}"
        engine.spec = replace(engine.spec, notes=(*engine.spec.notes, note))
    return psnr


def _misses_fidelity(request: BuildRequest, precision: str, record: dict[str, object]) -> bool:
    """Whether ``auto`` should go on to the next precision."""
    asked = request.options.precision == "auto" and precision != "fp32"
    return asked and float(str(record.get("psnr", 0))) < request.options.fidelity


def _describe_fidelity(request: BuildRequest, psnr: float) -> str:
    return (
        f"{psnr:.1f} dB from the reference with this model, under the {request.options.fidelity:g} that auto asks for"
    )
