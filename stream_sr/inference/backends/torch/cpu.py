"""The reference: the network in torch, fp32, on the CPU, rebuilt from ``model.toml`` and the ONNX initialisers.

Clear and slow; the other backends are measured against it. torch and onnx come with ``pip install stream-sr[torch]``.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from stream_sr.errors import EngineRunError, EngineUnavailable, ModelError
from stream_sr.inference.availability import Availability, cpu_threads
from stream_sr.inference.frames_in_flight import FramesInFlight, OutputMemory, output_memory
from stream_sr.inference.model import ModelSpec
from stream_sr.pipeline.engine import Engine, EngineOptions, EngineSpec, Pending
from stream_sr.system.machine import pip_install
from stream_sr.video.color import chroma_kernel
from stream_sr.video.frame import Frame, StreamInfo
from stream_sr.video.frame_pool import Allocate, Slot
from stream_sr.video.optical_flow import PreviousOutput

if TYPE_CHECKING:
    from torch import Tensor, nn

PRECISIONS = ("fp32",)
INSTALL = "stream-sr[torch]"


def availability() -> Availability:
    """Whether torch and onnx are installed; does not import them."""
    missing = [name for name in ("torch", "onnx") if find_spec(name) is None]
    if missing:
        return Availability(False, reason=f"{' and '.join(missing)} not installed", fix=pip_install(INSTALL))
    return Availability(True, metadata.version("torch"), "fp32 reference on the CPU")


def open_model(model: ModelSpec, info: StreamInfo, options: EngineOptions) -> Engine:
    """Raises EngineUnavailable without torch, ModelError for a bare ONNX file or weights that do not fit."""
    found = availability()
    if not found.usable:
        raise EngineUnavailable(f"backend torch: {found.reason}; {found.fix}")
    import torch

    threads = cpu_threads(options)
    torch.set_num_threads(threads)  # torch has one number for the whole process
    spec = EngineSpec(
        backend="torch",
        model=model.name,
        scale=model.scale,
        width=info.width,
        height=info.height,
        precision="fp32",
        device=f"CPU, {threads} threads",
        head="deconvolution",
        is_deterministic=not model.is_stateful,
    )
    return TorchEngine(spec, load_network(model), chroma_kernel(model.scale, info.color.siting), options.depth)


def load_network(model: ModelSpec) -> nn.Module:
    """The network of a model with its weights, in eval mode. Raises ModelError."""
    import onnx
    import torch
    from onnx import numpy_helper

    from stream_sr.networks.layers import collapse
    from stream_sr.networks.registry import NETWORKS, build_network

    if not model.network:
        raise ModelError(f"backend torch needs a model.toml beside {model.onnx}; backend openvino runs a bare file")
    arguments = dict(model.network)
    kind = arguments.pop("kind", None)
    if kind not in NETWORKS:
        raise ModelError(f"model '{model.name}' is of kind '{kind}'; known are {', '.join(NETWORKS)}")
    try:
        network = build_network(kind, scale=model.scale, **arguments)
        collapse(network)
        graph = onnx.load(str(model.onnx)).graph
        stored = {one.name: torch.from_numpy(numpy_helper.to_array(one).copy()) for one in graph.initializer}
        wanted = network.state_dict()
        network.load_state_dict({name: stored[name].reshape(value.shape) for name, value in wanted.items()})
    except Exception as error:  # protobuf, a missing name, another shape, arguments that are none
        raise ModelError(f"{model.onnx} does not hold the {kind} of its model.toml: {error!r}; export again") from error
    return network.eval()


class TorchEngine:
    """Computes in `submit`; nothing is left to wait for."""

    allocate: Allocate | None = None

    def __init__(self, spec: EngineSpec, network: nn.Module, kernel: Any, depth: int) -> None:
        import torch

        from stream_sr.networks.recurrent import RecurrentSR
        from stream_sr.networks.registry import LumaGraph, RecurrentLumaGraph

        self.spec, self.depth = spec, depth
        self._graph: nn.Module | None = LumaGraph(network).eval()
        self._last: PreviousOutput | None = None
        if isinstance(network, RecurrentSR):
            self._graph, self._last = RecurrentLumaGraph(network).eval(), PreviousOutput(spec.scale)
        self._kernel = torch.from_numpy(kernel)
        self._in_flight = FramesInFlight(depth)

    def submit(self, frame: Frame, slot: Slot | None = None) -> Pending:
        return self._in_flight.submit(lambda: self._start(frame, slot))

    def _start(self, frame: Frame, slot: Slot | None) -> Callable[[], Frame]:
        output = output_memory(frame, self.spec, slot)
        try:
            self._compute(frame, output)
        except Exception as error:
            raise EngineRunError(f"torch could not compute frame {frame.number}: {error}") from error
        return lambda: frame.with_planes(output.planes, slot)

    def _compute(self, frame: Frame, output: OutputMemory) -> None:
        import torch

        assert self._graph is not None
        with torch.inference_mode():
            luma = torch.from_numpy(frame.planes[0].copy())[None, None]  # the copy: a read-only plane warns
            output.planes[0][:] = self._enlarge_luma(luma, frame)[0, 0].numpy()
            for plane, target in zip(frame.planes[1:], output.planes[1:], strict=True):
                larger = self._enlarge(torch.from_numpy(plane.copy())[None, None])
                target[:] = larger[0, 0, : target.shape[0], : target.shape[1]].numpy()

    def _enlarge_luma(self, luma: Tensor, frame: Frame) -> Tensor:
        import torch

        assert self._graph is not None
        result: Tensor
        if self._last is None:
            result = self._graph(luma)
            return result
        previous = torch.empty((1, 1, *(self.spec.scale * side for side in luma.shape[2:])), dtype=torch.uint8)
        self._last.write(frame.planes[0], previous[0, 0].numpy(), reset=frame.discontinuity)
        result = self._graph(luma, previous)
        self._last.keep(result[0, 0].numpy())
        return result

    def _enlarge(self, plane: Tensor) -> Tensor:  # uint8 [1, 1, h, w] -> uint8 [1, 1, s*h, s*w]
        import torch
        from torch.nn import functional as F

        padded = F.pad(plane.to(torch.float32), (2, 2, 2, 2), mode="replicate")
        larger = F.pixel_shuffle(F.conv2d(padded, self._kernel), self.spec.scale)
        return larger.clamp(0, 255).round().to(torch.uint8)

    def close(self) -> None:
        self._in_flight.closed = True
        self._graph = None
