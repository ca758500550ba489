"""Choose the precision of a model on this CPU: int8, bf16 or fp32, by what the CPU has and how close it is to fp32.

Nothing is assumed: int8 and bf16 are compared with fp32 on a generated frame, on this machine, when a model is first
loaded. This is the only place where int8 is chosen; `quantized_graph` only reads such a model.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from stream_sr.errors import EngineBuildError, EngineUnavailable, ModelError
from stream_sr.inference import measurements
from stream_sr.inference.backends.openvino.graph import (
    OpenVINOGraph,
    cache_version,
    compile_graph,
    core,
    read_graph,
    rewrite,
)
from stream_sr.inference.model import LUMA, MAX_INT8_LOSS, PREVIOUS, UPSCALED, ModelSpec
from stream_sr.pipeline.engine import MIN_FIDELITY
from stream_sr.pipeline.stall import working
from stream_sr.system import machine
from stream_sr.video.optical_flow import PreviousOutput
from stream_sr.video.quality import FIDELITY_SIZE, psnr, texture

KIND = "fidelity"  # of `measurements`
SLACK = 1.0  # dB that int8 may be further from fp32 here than where it was quantised
CHECK_FRAMES = 8  # of a recurrent network


@dataclass(frozen=True, slots=True)
class Cpu:
    """The processor as OpenVINO sees it."""

    name: str
    bf16: bool  # avx512_bf16 or amx
    int8: bool  # at the speed that makes it worth it: VNNI

    def __str__(self) -> str:
        has = [name for name, there in (("bf16", self.bf16), ("int8 (VNNI)", self.int8)) if there]
        return f"{self.name}, {'with ' + ' and '.join(has) if has else 'without bf16 and VNNI'}"


@dataclass(frozen=True, slots=True)
class PrecisionChoice:
    """A model's graph in the precision that it is computed in."""

    graph: OpenVINOGraph
    head: str
    precision: str
    onnx_sha256: str
    notes: tuple[str, ...] = ()  # what the user has to know


@lru_cache(maxsize=1)
def cpu() -> Cpu:
    name = " ".join(str(core().get_property("CPU", "FULL_DEVICE_NAME")).split())
    has = core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return Cpu(name, "BF16" in has, "INT8" in has and machine.has_vnni())


def check_supported(precision: str) -> None:
    """Raise EngineUnavailable where this CPU cannot compute in ``precision``, or gains nothing from it."""
    if precision == "bf16" and not cpu().bf16:
        raise EngineUnavailable(f"{cpu().name} has no bf16 (avx512_bf16 or amx); use --precision fp32 or auto")
    if precision == "int8" and not cpu().int8:
        raise EngineUnavailable(f"{cpu().name} has no VNNI, without which int8 gains nothing; use --precision auto")


def choose_precision(model: ModelSpec, asked: str, fidelity: float) -> PrecisionChoice:
    """Return the model's graph in the precision ``asked`` for.

    ``auto`` takes int8 where the CPU has VNNI, the model has an int8 file, its recorded loss is under `MAX_INT8_LOSS`
    and it comes as close to fp32 here as where it was quantised; else bf16 where the CPU has it and it comes within
    ``fidelity`` dB; else fp32. Raises EngineUnavailable where the CPU cannot, ModelError where the model has not what
    was asked for, EngineBuildError where its result is wrong.
    """
    check_supported(asked)
    full, head = rewrite(read_graph(model))
    notes: tuple[str, ...] = ()
    digest = model.sha256()
    if asked == "int8" or (asked == "auto" and cpu().int8 and _may_use_int8(model)):
        try:
            small = model.as_int8()
            graph, small_head = rewrite(read_graph(small))
            notes, taken = _accept_int8(model, known_fidelity(full, digest, graph, small.sha256(), "int8"), asked)
            if taken:
                return PrecisionChoice(graph, small_head, "int8", small.sha256(), notes)
        except ModelError as error:
            if asked == "int8":
                raise
            notes = (f"int8 is not used: {error}",)
    if asked == "fp32" or (asked == "auto" and not cpu().bf16):
        return PrecisionChoice(full, head, "fp32", digest, notes)
    precision, more = _accept_bf16(full, known_fidelity(full, digest, full, digest, "bf16"), asked, fidelity)
    return PrecisionChoice(full, head, precision, digest, (*notes, *more))


def _may_use_int8(model: ModelSpec) -> bool:
    return model.int8 is not None and model.int8.onnx.is_file() and model.int8.loss < MAX_INT8_LOSS


def _accept_int8(model: ModelSpec, found: float, asked: str) -> tuple[tuple[str, ...], bool]:
    """Return notes, and whether int8 is taken that comes within ``found`` dB of fp32 here."""
    assert model.int8 is not None
    promised = model.int8.fidelity
    if found >= promised - SLACK:
        return (), True
    what = f"int8 is {found:.1f} dB from fp32 with this model here, {promised:.1f} where it was made"
    if asked == "auto":
        return (f"{what}: not taken",), False
    if found < MIN_FIDELITY:
        raise EngineBuildError(f"{what}; use --precision auto")
    return (what,), True


def _accept_bf16(graph: OpenVINOGraph, quality: float, asked: str, fidelity: float) -> tuple[str, tuple[str, ...]]:
    """bf16 or fp32, and what the user has to know, where bf16 comes within ``quality`` dB of fp32 here."""
    if asked == "auto":
        if quality >= fidelity:
            return "bf16", ()
        return "fp32", (f"bf16 is {quality:.1f} dB from fp32 with this model, under {fidelity:g}: computing in fp32",)
    if quality < MIN_FIDELITY:
        raise EngineBuildError(f"bf16 is only {quality:.1f} dB from fp32 with {graph.name}; use --precision fp32")
    note = f"bf16 is {quality:.1f} dB from fp32 with this model, under the {fidelity:g} that auto asks for"
    return "bf16", (note,) if quality < fidelity else ()


def known_fidelity(
    full: OpenVINOGraph, full_digest: str, other: OpenVINOGraph, other_digest: str, precision: str
) -> float:
    """What `measure_fidelity` finds, remembered: the same files, library and processor give the same."""
    key = " ".join((full_digest, other_digest, precision, cpu().name, cache_version()))
    known = measurements.load(KIND).get(key)
    if isinstance(known, float):
        return known
    found = measure_fidelity(full, other, precision)
    measurements.try_store(KIND, key, found)
    return found


def measure_fidelity(full: OpenVINOGraph, other: OpenVINOGraph, precision: str) -> float:
    """PSNR in dB of ``other`` in ``precision`` against ``full`` in fp32 on `texture`; inf when equal.

    Raises ModelError where the two are of different scales.
    """
    if full.scale != other.scale:
        raise ModelError(f"{other.name} enlarges by {other.scale}, {full.name} by {full.scale}; quantise it again")
    return psnr(_trial(full, "fp32"), _trial(other, precision))


def _trial(graph: OpenVINOGraph, precision: str) -> Any:
    request = compile_graph(
        graph.sized(*FIDELITY_SIZE), precision=precision, threads=1, streams=1
    ).create_infer_request()
    picture = texture(*FIDELITY_SIZE)
    request.get_tensor(LUMA).data[0, 0] = picture
    last = PreviousOutput(graph.scale) if graph.recurrent else None
    for _ in range(CHECK_FRAMES if last else 1):
        if last:
            last.write(picture, request.get_tensor(PREVIOUS).data[0, 0])
        with working("engine"):
            request.infer()
        if last:
            last.keep(request.get_tensor(UPSCALED).data[0, 0])
    return request.get_tensor(UPSCALED).data[0, 0].copy()
