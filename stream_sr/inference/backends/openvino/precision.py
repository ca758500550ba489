"""Which precision a model is computed in on this CPU: what it has, and how near to fp32 that comes.

Nothing is assumed: bf16 and eight bits are compared with fp32 on a generated picture, here, when a model is first
loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from stream_sr.errors import EngineBuildError, EngineUnavailable, ModelError
from stream_sr.inference import measured
from stream_sr.inference.backends.openvino.graph import Graph, cache_version, compile_graph, core, read_graph, rewrite
from stream_sr.inference.model import LOSS_LIMIT, LUMA, PREVIOUS, UPSCALED, ModelSpec
from stream_sr.pipeline.stall import working
from stream_sr.system import machine
from stream_sr.video.optical_flow import PreviousOutput
from stream_sr.video.quality import FIDELITY_SIZE, psnr, texture

KIND = "fidelity"  # of what is remembered
BROKEN = 30.0  # dB, below which nobody gets it
SLACK = 1.0  # dB that eight bits may be further from fp32 here than where they were made
CHECK_FRAMES = 8  # of a recurrent network


@dataclass(frozen=True, slots=True)
class Cpu:
    """The processor as OpenVINO sees it."""

    name: str
    bf16: bool  # avx512_bf16 or amx
    int8: bool  # eight bits at the speed that makes them worth it: VNNI

    def __str__(self) -> str:
        has = [name for name, there in (("bf16", self.bf16), ("int8 (VNNI)", self.int8)) if there]
        return f"{self.name}, {'with ' + ' and '.join(has) if has else 'without bf16 and VNNI'}"


@dataclass(frozen=True, slots=True)
class Chosen:
    """A model in the form and precision that it is computed in."""

    graph: Graph
    head: str
    precision: str
    onnx_sha256: str
    notes: tuple[str, ...] = ()  # what the user has to know


@lru_cache(maxsize=1)
def cpu() -> Cpu:
    name = " ".join(str(core().get_property("CPU", "FULL_DEVICE_NAME")).split())
    has = core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return Cpu(name, "BF16" in has, "INT8" in has and machine.has_vnni())


def choose(model: ModelSpec, asked: str, fidelity: float) -> Chosen:
    """The model's graph in the precision ``asked`` for.

    ``auto`` takes eight bits where the CPU has VNNI, the model has them, its recorded loss is under `LOSS_LIMIT` and
    they come as near to fp32 here as where they were made; else bf16 where the CPU has it and it comes within
    ``fidelity`` dB; else fp32. Raises EngineUnavailable where the CPU cannot, ModelError where the model has not what
    was asked for, EngineBuildError where that gives nonsense.
    """
    if asked == "bf16" and not cpu().bf16:
        raise EngineUnavailable(f"{cpu().name} has no bf16 (avx512_bf16 or amx); use --precision fp32 or auto")
    if asked == "int8" and not cpu().int8:
        raise EngineUnavailable(f"{cpu().name} has no VNNI, without which int8 gains nothing; use --precision auto")
    full, head = rewrite(read_graph(model))
    notes: tuple[str, ...] = ()
    digest = model.sha256()
    if asked == "int8" or (asked == "auto" and cpu().int8 and _worth_it(model)):
        try:
            small = model.as_int8()
            graph, small_head = rewrite(read_graph(small))
            notes, taken = _judge_int8(model, found_here(full, digest, graph, small.sha256(), "int8"), asked)
            if taken:
                return Chosen(graph, small_head, "int8", small.sha256(), notes)
        except ModelError as error:
            if asked == "int8":
                raise
            notes = (f"int8 is not used: {error}",)
    if asked == "fp32" or (asked == "auto" and not cpu().bf16):
        return Chosen(full, head, "fp32", digest, notes)
    precision, more = _judge_bf16(full, found_here(full, digest, full, digest, "bf16"), asked, fidelity)
    return Chosen(full, head, precision, digest, (*notes, *more))


def _worth_it(model: ModelSpec) -> bool:
    return model.int8 is not None and model.int8.onnx.is_file() and model.int8.loss < LOSS_LIMIT


def _judge_int8(model: ModelSpec, found: float, asked: str) -> tuple[tuple[str, ...], bool]:
    """Notes, and whether eight bits are taken that come within ``found`` dB of fp32 here."""
    assert model.int8 is not None
    promised = model.int8.fidelity
    if found >= promised - SLACK:
        return (), True
    what = f"int8 is {found:.1f} dB from fp32 with this model here, {promised:.1f} where it was made"
    if asked == "auto":
        return (f"{what}: not taken",), False
    if found < BROKEN:
        raise EngineBuildError(f"{what}; use --precision auto")
    return (what,), True


def _judge_bf16(graph: Graph, quality: float, asked: str, fidelity: float) -> tuple[str, tuple[str, ...]]:
    """bf16 or fp32, and what the user has to know, where bf16 comes within ``quality`` dB of fp32 here."""
    if asked == "auto":
        if quality >= fidelity:
            return "bf16", ()
        return "fp32", (f"bf16 is {quality:.1f} dB from fp32 with this model, under {fidelity:g}: computing in fp32",)
    if quality < BROKEN:
        raise EngineBuildError(f"bf16 is only {quality:.1f} dB from fp32 with {graph.name}; use --precision fp32")
    note = f"bf16 is {quality:.1f} dB from fp32 with this model, under the {fidelity:g} that auto asks for"
    return "bf16", (note,) if quality < fidelity else ()


def found_here(full: Graph, full_digest: str, other: Graph, other_digest: str, precision: str) -> float:
    """What `compare` finds, remembered: the same files, library and processor give the same."""
    key = " ".join((full_digest, other_digest, precision, cpu().name, cache_version()))
    known = measured.recall(KIND).get(key)
    if isinstance(known, float):
        return known
    found = compare(full, other, precision)
    measured.remember_if_possible(KIND, key, found)
    return found


def compare(full: Graph, other: Graph, precision: str) -> float:
    """PSNR in dB of ``other`` in ``precision`` against ``full`` in fp32 on `texture`; inf when equal.

    Raises ModelError where the two are of different scales.
    """
    if full.scale != other.scale:
        raise ModelError(f"{other.name} enlarges by {other.scale}, {full.name} by {full.scale}; quantise it again")
    return psnr(_trial(full, "fp32"), _trial(other, precision))


def _trial(graph: Graph, precision: str) -> Any:
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
