"""Contract of an inference engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from stream_sr.video.frame import Frame
from stream_sr.video.frame_pool import Allocate, Slot

QUALITY_FIDELITY = 57.0  # dB to fp32: costs 0.02 dB against the truth at most, at 40 dB
LIVE_FIDELITY = 50.0  # dB to fp32: half a level, nothing that an eye sees
MIN_FIDELITY = 30.0  # dB to fp32, anywhere in the picture; below it the engine is broken and is not used


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """How an engine is opened."""

    backend: str = "auto"  # auto, bicubic, openvino, torch, tensorrt
    precision: str = "auto"  # auto, fp32, fp16, bf16, int8
    device: int = 0  # GPU number
    threads: int | None = None  # CPU threads; None: all cores
    cameras: int = 1  # streams of this process that compute at the same time: on the CPU they share those threads
    depth: int = 1  # frames in flight: 1 for the lowest latency, 2 for throughput
    fidelity: float = QUALITY_FIDELITY  # how near to fp32 a faster precision must stay for ``auto`` to take it, dB
    keep: bool = True  # whether the compiled engine goes into the cache
    tune: bool = False  # on the CPU: threads, streams and depth by measuring, about a second, once on a machine


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """What an engine is, as reported to the user."""

    backend: str  # bicubic, openvino, torch, tensorrt
    model: str  # name of the model; "bicubic" where there is none
    scale: int
    width: int  # of the input
    height: int
    precision: str  # fp32, fp16, bf16, int8; uint8 for swscale
    device: str  # "CPU: AMD EPYC", "GPU 0: NVIDIA L4"
    head: str = ""  # "deconvolution" or "convolution + depth-to-space"
    notes: tuple[str, ...] = field(default_factory=tuple)  # fallbacks taken, each with its reason
    fit: tuple[int, int] | None = None  # output resampled to this width and height
    is_deterministic: bool = (
        False  # the same picture gives the same result: no states, and no other engine about to take over
    )
    ladder: tuple[str, ...] = ()  # with --model auto the models it chooses from, the quickest first

    @property
    def output_size(self) -> tuple[int, int]:
        """Width and height of the results."""
        return self.fit or (self.width * self.scale, self.height * self.scale)


class Pending(Protocol):
    """A frame that is being computed."""

    def wait(self) -> Frame:
        """The result, once; raises EngineRunError. The input frame may be released afterwards."""
        ...


class Engine(Protocol):
    """A model compiled for one input size, ready to run. Used by one thread at a time."""

    depth: int  # most submissions in flight; `submit` beyond it raises EngineRunError
    allocate: Allocate | None  # memory that suits the engine's transfers (pinned); None: any

    @property
    def spec(self) -> EngineSpec:
        """What computes now; may be read by any thread."""
        ...

    def submit(self, frame: Frame, slot: Slot | None = None) -> Pending:
        """Start one frame. The result lies in ``slot`` (held by the caller, of the output's size) or in fresh memory.

        Results come in the order of submission. The result has the frame's pts, number, colour and so on, planes of
        scale times its size (chroma: scale times, cut to ``ceil(scale*W/2)``), the chroma siting kept.
        Raises EngineRunError for another size than ``spec`` says.
        """
        ...

    def close(self) -> None:
        """Free device and library objects. Safe to call twice."""
        ...
