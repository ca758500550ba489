"""Whole I420 frames through a network in torch, in place: from one byte tensor into another, chroma beside the luma."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType, MethodType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stream_sr.networks.deconvolution import lower_deconvolution
from stream_sr.networks.layers import Deconvolution
from stream_sr.networks.recurrent import RecurrentSR, move
from stream_sr.video.color import chroma_kernel
from stream_sr.video.frame import StreamInfo
from stream_sr.video.optical_flow import flow_size
from stream_sr.video.planes import chroma_shape

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
COMPILE_MODE = "default"  # seconds; "max-autotune-no-cudagraphs" searches for minutes (the schedule captures the graph)


@dataclass(frozen=True, slots=True)
class NetworkVariant:
    """One of the ways to compute the same network: the head lowered or not, compiled or not."""

    lowered: bool
    compiled: bool = False
    mode: str = COMPILE_MODE

    def __str__(self) -> str:
        head = "convolution + depth-to-space" if self.lowered else "deconvolution"
        return head + (", torch.compile" if self.compiled else "")


VARIANTS = (NetworkVariant(lowered=True), NetworkVariant(lowered=False), NetworkVariant(lowered=True, compiled=True))


class FrameNetwork(nn.Module):
    """``network`` (luma in [0, 1]) on frames of ``info``'s size; layers in ``precision``, the rest in fp32.

    Called with (frame, result, previous, flow): byte tensors in I420, and for a recurrent network its last luma output
    and the `optical_flow.Flow` by which it is moved, in bytes of float32.
    """

    def __init__(
        self, network: nn.Module, info: StreamInfo, scale: int, precision: str, variant: NetworkVariant
    ) -> None:
        super().__init__()
        self.variant, self.scale = variant, scale
        self.dtype = DTYPES[precision]
        network = copy.deepcopy(network).eval().requires_grad_(False)
        if variant.lowered:
            lower(network)
        self.network = network.to(self.dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.recurrent = isinstance(network, RecurrentSR)
        self.size = (info.height, info.width)
        self.chroma = chroma_shape(info.width, info.height)
        self.flow_size = flow_size(self.size)
        self.large = (info.height * scale, info.width * scale)
        self.large_chroma = chroma_shape(info.width * scale, info.height * scale)
        kernel = torch.from_numpy(chroma_kernel(scale, info.color.siting))
        self.register_buffer("kernel", kernel, persistent=False)

    def ready(self) -> Callable[..., None]:
        """What is called for each frame: itself, or compiled."""
        if not self.variant.compiled:
            return self
        # torch counts recompilations by the code object, eight at most: each network has one of its own
        own = FunctionType(FrameNetwork.forward.__code__.replace(), globals(), "forward")
        forward = MethodType(own, self)
        compiled: Callable[..., None] = torch.compile(forward, fullgraph=True, dynamic=False, mode=self.variant.mode)
        return compiled

    def forward(self, frame: Tensor, result: Tensor, previous: Tensor | None, flow: Tensor | None) -> None:
        luma = self.size[0] * self.size[1]
        large = self.large[0] * self.large[1]
        x = self._share(frame[:luma].view(1, 1, *self.size))
        if previous is None or flow is None:
            y = self.network(x)
        else:
            moved = move(previous.view(1, 1, *self.large), flow.view(torch.float32).view(1, 2, *self.flow_size))
            y = self.network.step(x, self._share(_levels(moved)))
        result[:large].view(1, 1, *self.large).copy_(_levels(y.to(torch.float32) * 255))
        self._enlarge(frame[luma:].view(2, 1, *self.chroma), result[large:].view(2, 1, *self.large_chroma))

    def _share(self, plane: Tensor) -> Tensor:
        """Levels to [0, 1], as the layers take them."""
        x = plane.to(torch.float32) * (1 / 255)
        return x.to(self.dtype).contiguous(memory_format=torch.channels_last)

    def _enlarge(self, chroma: Tensor, result: Tensor) -> None:
        padded = F.pad(chroma.to(torch.float32), (2, 2, 2, 2), mode="replicate")
        kernel: Tensor = self.kernel  # type: ignore[assignment]
        larger = F.pixel_shuffle(F.conv2d(padded, kernel), self.scale)
        rows, columns = self.large_chroma
        result.copy_(_levels(larger[:, :, :rows, :columns]))


def _levels(x: Tensor) -> Tensor:
    """Whole numbers from 0 to 255; the copy into the result makes bytes of them."""
    return x.clamp(0, 255).round()


@torch.no_grad()
def lower(network: nn.Module) -> None:
    """Replace every deconvolution by the equal convolution and pixel shuffle, exactly; see deconvolution."""
    for parent in list(network.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, Deconvolution):
                setattr(parent, name, _dense(layer))


def _dense(layer: Deconvolution) -> nn.Sequential:
    s, padding = layer.stride[0], int(layer.padding[0])
    weight = torch.from_numpy(lower_deconvolution(layer.weight.detach().numpy(), s, padding))
    reach = weight.shape[-1] // 2
    convolution = nn.Conv2d(
        weight.shape[1], weight.shape[0], weight.shape[-1], padding=reach, bias=layer.bias is not None
    )
    convolution.weight.copy_(weight)
    if layer.bias is not None and convolution.bias is not None:
        convolution.bias.copy_(layer.bias.repeat_interleave(s * s))
    return nn.Sequential(convolution, nn.PixelShuffle(s)).requires_grad_(False)
