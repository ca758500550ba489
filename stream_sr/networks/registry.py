"""Every network of the project, in torch, each with its paper.

All take and give luma, float32 in [0, 1], ``[N, 1, H, W] -> [N, 1, sH, sW]``, any size from 1x1. The exported graph
wraps them in uint8 (`LumaGraph`). Parameter names here are the initialiser names in the ONNX file, so a network is
rebuilt from its ONNX without another weight format.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from stream_sr.networks.baselines import Autoencoder, BareDeconvolution
from stream_sr.networks.fsrcnn import FSRCNN
from stream_sr.networks.layers import Deconvolution, collapse
from stream_sr.networks.plain import PlainSR
from stream_sr.networks.recurrent import RecurrentSR


class LumaGraph(nn.Module):
    """What is shipped: uint8 luma in and out, with scaling to [0, 1], clamping and rounding inside."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, luma: Tensor) -> Tensor:  # uint8 [1, 1, H, W] -> uint8 [1, 1, sH, sW]
        return to_levels(self.network(from_levels(luma)))


class RecurrentLumaGraph(nn.Module):
    """`LumaGraph` for one step of a recurrent network: its last output, moved, comes in beside the picture."""

    def __init__(self, network: RecurrentSR) -> None:
        super().__init__()
        self.network = network

    def forward(self, luma: Tensor, previous: Tensor) -> Tensor:  # uint8 [1, 1, H, W] and [1, 1, sH, sW]
        return to_levels(self.network.step(from_levels(luma), from_levels(previous)))


def from_levels(luma: Tensor) -> Tensor:
    """uint8 to [0, 1]."""
    return luma.to(torch.float32) * (1 / 255)


def to_levels(x: Tensor) -> Tensor:
    """[0, 1] to uint8, clamped and rounded."""
    return (x * 255).clamp(0, 255).round().to(torch.uint8)


NETWORKS: Mapping[str, Callable[..., nn.Module]] = {
    "FSRCNN": FSRCNN,
    "PlainSR": PlainSR,
    "RecurrentSR": RecurrentSR,
    "BareDeconvolution": BareDeconvolution,
    "Autoencoder": Autoencoder,
}


def build_network(kind: str, *, scale: int, **arguments: Any) -> nn.Module:
    """Build a network by its class name. Raises KeyError for a name that is not in `NETWORKS`."""
    return NETWORKS[kind](scale=scale, **arguments)


def restore_network(shape: Mapping[str, Any], *, scale: int, weights: Mapping[str, Tensor]) -> nn.Module:
    """The network of a recipe's or model's ``[network]``, as it is shipped: plain kernels, ``weights`` in them.

    Raises what `build_network` and `torch.nn.Module.load_state_dict` raise.
    """
    arguments = {key: value for key, value in shape.items() if key != "kind"}
    network = build_network(shape["kind"], scale=scale, **arguments)
    collapse(network)
    network.load_state_dict(dict(weights))
    return network


@torch.no_grad()
def transfer(source: nn.Module, target: nn.Module) -> None:
    """Start ``target`` from a trained ``source`` of another scale: the body is copied, the deconvolution resampled.

    A ``source`` with more layers gives the first of them; what depends on the scale otherwise starts anew.

    The source's kernel is read as a function of the distance in input pixels and sampled at the target's taps, so the
    first output is already a sensible picture (the paper's own transfer re-trains the deconvolution from noise).
    """
    shapes = {name: value.shape for name, value in target.state_dict().items()}
    body = {
        name: value
        for name, value in source.state_dict().items()
        if not name.startswith(("head.", "anchor.")) and shapes.get(name) == value.shape
    }
    target.load_state_dict(body, strict=False)
    old, new = source.get_submodule("head"), target.get_submodule("head")
    if not (isinstance(old, Deconvolution) and isinstance(new, Deconvolution)):
        raise TypeError("only networks whose head is a Deconvolution can hand their body on")
    new.weight.copy_(old.sample_kernel(new.offsets()))
    if new.bias is not None and old.bias is not None:
        new.bias.copy_(old.bias)
