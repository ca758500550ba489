"""From a model to an engine that is known to be right: cached or built, checked, the faster head, fp16 -> bf16 -> fp32.

An engine that was built without a GPU (`engine build` elsewhere, the cache copied) is taken instead of a build.

Every engine is compared with the model's reference after it was built and after it was loaded. One that is refused,
gives nonsense or is too far away is given up for the next precision; what was wrong stays in the cache, so that it is
said again and not tried again, until library, driver or model change.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from stream_sr.errors import EngineBuildError
from stream_sr.inference import cache
from stream_sr.inference.backends.cuda.schedule import THROUGHPUT_DEPTH, OverlappedEngine
from stream_sr.inference.backends.tensorrt.build import Progress, build_engine, engine_key, portable_key, read_onnx
from stream_sr.inference.backends.tensorrt.driver import PycudaDriver, open_device
from stream_sr.inference.backends.tensorrt.frames import Picture
from stream_sr.inference.backends.tensorrt.graph import HEADS, scale_of
from stream_sr.inference.backends.tensorrt.program import TensorRTProgram
from stream_sr.inference.model import BuildKey, ModelSpec
from stream_sr.inference.verify import WrongResult, check
from stream_sr.pipeline.engine import EngineOptions, EngineSpec
from stream_sr.video.color import Siting
from stream_sr.video.frame import StreamInfo

LADDER = ("fp16", "bf16", "fp32")
log = logging.getLogger("stream_sr")


class Refused(Exception):
    """An engine of this precision cannot be used; the text says why."""


class Unusable(Exception):
    """No form of an engine loads and gives right results; ``reasons`` by head."""

    def __init__(self, reasons: Mapping[str, str]) -> None:
        super().__init__("; ".join(dict.fromkeys(reasons.values())))
        self.reasons = reasons


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """What is to be opened."""

    model: ModelSpec
    picture: Picture
    options: EngineOptions
    progress: Progress = field(default=lambda what, share: None)

    def key(self, precision: str, head: str) -> BuildKey:
        return engine_key(self.model, self.picture, precision, head, self.options.device)

    def portable_key(self, precision: str, head: str) -> BuildKey:
        """Of an engine that was built without a GPU."""
        return portable_key(self.model, self.picture, precision, head)

    @property
    def precisions(self) -> tuple[str, ...]:
        return LADDER if self.options.precision == "auto" else (self.options.precision,)


def picture_of(model: ModelSpec, info: StreamInfo) -> Picture:
    """What an engine of this model for this stream is made for. Raises ModelError."""
    data = read_onnx(model)
    siting = info.color.siting if info.color.siting != Siting.UNKNOWN else Siting.LEFT  # which unknown means
    return Picture(info.width, info.height, model.scale or scale_of(data), siting)


def is_ready(wish: BuildRequest) -> bool:
    """Whether an engine is in the cache that can be expected to open without a build."""
    for precision in wish.precisions:
        kept = [cache.measured(wish.key(precision, head)) for head in HEADS]
        if any(one and cache.REFUSED not in one and not _too_far(wish, precision, one) for one in kept):
            return True
        if not any(kept):
            return any(cache.measured(wish.portable_key(precision, head)) for head in HEADS)
    return False


def open_checked(wish: BuildRequest) -> OverlappedEngine:
    """The engine of the first precision that stands the check. Raises EngineBuildError, EngineRunError, ModelError."""
    notes: list[str] = []
    reasons: list[str] = []
    for precision in wish.precisions:
        try:
            engine = _open(wish, precision)
        except Refused as refusal:
            reasons.append(f"{precision}: {refusal}")
            notes.append(f"TensorRT in {precision} is not used: {refusal}")
            continue
        engine.spec = replace(engine.spec, notes=(*engine.spec.notes, *notes))
        return engine
    raise EngineBuildError(
        f"no TensorRT engine of model '{wish.model.name}' can be used: {'; '.join(reasons)}; use another --backend"
    )


def _open(wish: BuildRequest, precision: str) -> OverlappedEngine:
    """Raises Refused."""
    found = _from_cache(wish, precision)
    if found is None:
        with cache.building(wish.key(precision, HEADS[0])):
            found = _from_cache(wish, precision) or _from_elsewhere(wish, precision) or _build_best(wish, precision)
    return found


def _from_cache(wish: BuildRequest, precision: str) -> OverlappedEngine | None:
    """The kept engine, checked; None where one has to be built. Raises Refused."""
    refusals = []
    for head in HEADS:
        key = wish.key(precision, head)
        kept = cache.measured(key)
        if cache.REFUSED in kept:
            refusals.append(str(kept[cache.REFUSED]))
            continue
        if kept and _too_far(wish, precision, kept):
            raise Refused(_distance(wish, kept["psnr"]))
        blob = cache.load(key)
        if blob is None:
            continue
        try:
            engine = load_engine(wish, precision, head, blob)
        except EngineBuildError as error:
            cache.discard(key, str(error))
            continue
        try:
            _checked(wish, precision, engine)
        except WrongResult as error:
            cache.discard(key, str(error))
            continue
        return engine
    if len(refusals) == len(HEADS):
        raise Refused(refusals[0])
    return None


def _from_elsewhere(wish: BuildRequest, precision: str) -> OverlappedEngine | None:
    """The faster of the engines that were built without a GPU, checked; None where there is none that can be used.

    They stay in the cache, for other GPUs; what is found of them here is kept under this GPU's key. Raises Refused.
    """
    blobs = {}
    for head in HEADS:
        key = wish.portable_key(precision, head)
        blob = cache.load(key) if key != wish.key(precision, head) else None
        if blob is not None:
            blobs[head] = blob
    try:
        return _take_best(wish, precision, blobs) if blobs else None
    except Unusable as error:
        log.warning("engines of %s that were built without a GPU cannot be used here: %s", wish.model.name, error)
        return None


def _build_best(wish: BuildRequest, precision: str) -> OverlappedEngine:
    """Build both forms of the head, measure them here, keep the faster. Raises Refused."""
    try:
        return _take_best(wish, precision)
    except Unusable as error:
        for head, reason in error.reasons.items():
            cache.refuse(wish.key(precision, head), reason)
        raise Refused(str(error)) from error


def _take_best(wish: BuildRequest, precision: str, blobs: Mapping[str, bytes] | None = None) -> OverlappedEngine:
    """Load, check and measure the engines of ``blobs`` (by head; None: those of both heads, built), keep the faster.

    Raises Unusable where none loads and is right, Refused where the faster is too far from the reference.
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
                        wish.model,
                        wish.picture,
                        precision,
                        head,
                        device=wish.options.device,
                        progress=lambda what, share, n=n: wish.progress(what, (n + share) / len(HEADS)),  # type: ignore[misc]
                    )
                )
                engine = load_engine(wish, precision, head, blob)
            except EngineBuildError as error:
                reasons[head] = str(error)
                continue
            try:
                psnr = _checked(wish, precision, engine)
            except WrongResult as error:
                reasons[head] = str(error)
                continue
            took = min(engine.compute_ms.values())
            good.append((took, engine, blob, psnr))
            record["head_ms"] |= {head: round(took, 4)}  # type: ignore[operator]
            record["build_seconds"] |= {head: round(time.monotonic() - began, 2)}  # type: ignore[operator]
        if not good:
            raise Unusable(reasons)
    except BaseException:
        for _, engine, _, _ in good:
            engine.close()
        raise
    good.sort(key=lambda one: one[0])
    for _, slower, _, _ in good[1:]:
        slower.close()
    _, engine, blob, psnr = good[0]
    record |= {"psnr": round(min(psnr, 999.0), 2), "compute_ms": engine.compute_ms, "not_built": reasons}
    if wish.options.keep:
        cache.store(wish.key(precision, engine.spec.head), blob, record)
    if _too_far(wish, precision, record):
        engine.close()
        raise Refused(_distance(wish, psnr))
    return engine


def load_engine(
    wish: BuildRequest, precision: str, head: str, blob: bytes, *, graphs: bool | None = None
) -> OverlappedEngine:
    """An engine that runs, unchecked. Raises EngineBuildError where the library refuses it, else EngineRunError."""
    options, picture = wish.options, wish.picture
    wish.progress(f"loading {wish.model.name} in {precision} with {head}", 0.0)
    driver = PycudaDriver(options.device)
    spec = EngineSpec(
        backend="tensorrt",
        model=wish.model.name,
        scale=picture.scale,
        width=picture.width,
        height=picture.height,
        precision=precision,
        device=f"GPU {options.device}: {open_device(options.device).name}",
        head=head,
        is_deterministic=not wish.model.is_stateful,
    )
    try:
        program = TensorRTProgram(driver, blob, picture, cache.companion(wish.key(precision, head), ".runtime"))
    except BaseException:
        driver.close()
        raise
    depth = 1 if options.depth == 1 else max(options.depth, THROUGHPUT_DEPTH)
    return OverlappedEngine(spec, depth, driver, program, graphs=graphs)


def _checked(wish: BuildRequest, precision: str, engine: OverlappedEngine) -> float:
    """PSNR against the reference; noted where it was asked for all the same. Raises what `check` does, and closes."""
    wish.progress(f"checking {wish.model.name} in {precision}", 1.0)
    try:
        psnr = check(engine, wish.model, wish.picture.siting)
    except BaseException:
        engine.close()
        raise
    if wish.options.precision == precision != "fp32" and psnr < wish.options.fidelity:
        note = f"{precision} is {_distance(wish, psnr)}"
        engine.spec = replace(engine.spec, notes=(*engine.spec.notes, note))
    return psnr


def _too_far(wish: BuildRequest, precision: str, record: dict[str, object]) -> bool:
    """Whether ``auto`` should go on to the next precision."""
    asked = wish.options.precision == "auto" and precision != "fp32"
    return asked and float(str(record.get("psnr", 0))) < wish.options.fidelity


def _distance(wish: BuildRequest, psnr: float) -> str:
    return f"{psnr:.1f} dB from the reference with this model, under the {wish.options.fidelity:g} that auto asks for"
