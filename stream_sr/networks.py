"""Every network of the project, in torch, each with its paper.

All take and give luma, float32 in [0, 1], ``[N, 1, H, W] -> [N, 1, sH, sW]``, any size from 1x1. The exported graph
wraps them in uint8 (`LumaGraph`). Parameter names here are the initialiser names in the ONNX file, so a network is
rebuilt from its ONNX without another weight format.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from stream_sr.deconvolution import lowering_index

__all__ = [
    "FSRCNN",
    "NETWORKS",
    "Collapsible",
    "Deconvolution",
    "LumaGraph",
    "PlainSR",
    "build_network",
    "collapse",
    "expand",
    "transfer",
]


class Deconvolution(nn.ConvTranspose2d):
    """ConvTranspose2d whose output is exactly ``stride`` times its input.

    In training it runs as the equal dense convolution and pixel shuffle (4 times faster on a CPU); in eval mode as
    ConvTranspose2d, which is what the ONNX export records.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int, *, bias: bool = True) -> None:
        padding = (kernel - stride + 1) // 2
        output_padding = stride + 2 * padding - kernel
        super().__init__(
            in_channels, out_channels, kernel, stride=stride, padding=padding, output_padding=output_padding, bias=bias
        )
        index = torch.from_numpy(lowering_index(kernel, stride, padding))
        self.register_buffer("lowering", index, persistent=False)

    def forward(self, x: Tensor, output_size: Any = None) -> Tensor:
        if not self.training:
            return super().forward(x, output_size)
        s = self.stride[0]
        lowering: Tensor = self.lowering  # type: ignore[assignment]
        flat = F.pad(self.weight.flatten(2), (0, 1))  # [C_in, C_out, k*k + 1]
        dense = flat[:, :, lowering].permute(1, 2, 0, 3, 4)  # [C_out, s*s, C_in, w, w]
        dense = dense.reshape(-1, self.in_channels, *lowering.shape[1:])
        bias = None if self.bias is None else self.bias.repeat_interleave(s * s)
        return F.pixel_shuffle(F.conv2d(x, dense, bias, padding=lowering.shape[-1] // 2), s)

    @torch.no_grad()
    def sample_kernel(self, u: Tensor) -> Tensor:
        """The kernel at offsets ``u`` (input pixels, along both axes), linearly interpolated: [C_in, C_out, n, n]."""
        s, p, k = self.stride[0], int(self.padding[0]), self.kernel_size[0]
        position = (u + 0.5) * s - 0.5 + p  # kernel index, fractional
        low = position.floor().long()
        part = (position - low).to(self.weight.dtype)
        taps = torch.zeros(len(u), k, dtype=self.weight.dtype)
        for n in range(len(u)):
            for index, share in ((int(low[n]), 1 - part[n]), (int(low[n]) + 1, part[n])):
                if 0 <= index < k:
                    taps[n, index] += share
        return torch.einsum("na,ioab,mb->ionm", taps, self.weight, taps)

    def offsets(self) -> Tensor:
        """Distance of each kernel tap's output sample from the input sample, in input pixels, ``[k]``."""
        s, p, k = self.stride[0], int(self.padding[0]), self.kernel_size[0]
        return (torch.arange(k) - p + 0.5) / s - 0.5


class FSRCNN(nn.Module):
    """Dong, Loy and Tang, "Accelerating the Super-Resolution Convolutional Neural Network", ECCV 2016.

    5x5 feature extraction (d channels), 1x1 shrinking (s), m 3x3 mapping layers, 1x1 expanding (d), 9x9
    deconvolution; PReLU after each but the last. (56, 12, 4) is the paper's FSRCNN, (32, 5, 1) its FSRCNN-s.
    Started as bilinear interpolation: channel 0 hands the luma through, which saves the first epochs.
    """

    def __init__(self, *, scale: int, d: int = 56, s: int = 12, m: int = 4, kernel: int = 9) -> None:
        super().__init__()
        self.scale = scale
        self.feature = nn.Sequential(nn.Conv2d(1, d, 5, padding=2), nn.PReLU(d))
        self.shrink = nn.Sequential(nn.Conv2d(d, s, 1), nn.PReLU(s))
        self.mapping = nn.Sequential()
        for _ in range(m):
            self.mapping.append(nn.Conv2d(s, s, 3, padding=1))
            self.mapping.append(nn.PReLU(s))
        self.expand = nn.Sequential(nn.Conv2d(s, d, 1), nn.PReLU(d))
        self.head = Deconvolution(d, 1, kernel, scale)
        self._start_as_interpolation()

    @torch.no_grad()
    def _start_as_interpolation(self) -> None:
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, a=0.25)
                if layer.bias is not None:
                    layer.bias.zero_()
                layer.weight[0] = 0
                middle = layer.kernel_size[0] // 2
                layer.weight[0, 0, middle, middle] = 1
        nn.init.normal_(self.head.weight, std=0.001)
        hat = (1 - self.head.offsets().abs()).clamp(min=0)
        self.head.weight[0, 0] = torch.outer(hat, hat)
        if self.head.bias is not None:
            self.head.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:  # [N, 1, H, W]
        x = self.feature(x)  # [N, d, H, W]
        x = self.shrink(x)  # [N, s, H, W]
        x = self.mapping(x)  # [N, s, H, W]
        x = self.expand(x)  # [N, d, H, W]
        return self.head(x)  # [N, 1, scale*H, scale*W]


class PlainSR(nn.Module):
    """Plain 3x3 convolutions with ReLU and a deconvolution head (k = 3s, p = s), plus the anchor: the input, repeated.

    The shape of ECBSR (Zhang, Zeng and Zhang, ACM MM 2021), SESR (Bhardwaj and others, MLSys 2022) and ABPN (Du and
    others, CVPRW 2021): ``depth`` middle layers of ``width`` channels. The network computes only what the repeated
    pixel lacks, so a low precision costs little. It is trained in the form that `expand` gives it.
    """

    def __init__(self, *, scale: int, width: int = 16, depth: int = 4) -> None:
        super().__init__()
        self.scale = scale
        self.feature = nn.Conv2d(1, width, 3, padding=1)
        self.body = nn.Sequential()
        for _ in range(depth):
            self.body.append(nn.ReLU())
            self.body.append(nn.Conv2d(width, width, 3, padding=1))
        self.last = nn.ReLU()
        self.head = Deconvolution(width, 1, 3 * scale, scale)
        self.anchor = make_anchor(scale)
        start_quietly(self)

    def forward(self, x: Tensor) -> Tensor:  # [N, 1, H, W]
        features = self.last(self.body(self.feature(x)))  # [N, width, H, W]
        return self.head(features) + self.anchor(x)  # [N, 1, scale*H, scale*W]


def make_anchor(scale: int) -> Deconvolution:
    """Each pixel repeated ``scale`` by ``scale`` times, as a deconvolution of ones, which every backend fuses."""
    anchor = Deconvolution(1, 1, scale, scale, bias=False).requires_grad_(False)
    nn.init.ones_(anchor.weight)
    return anchor


@torch.no_grad()
def start_quietly(network: nn.Module) -> None:
    """Convolutions start as He and others have it, the head near nothing: the first output is the anchor alone."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                layer.bias.zero_()
    head = network.get_submodule("head")
    nn.init.normal_(head.weight, std=0.001)  # type: ignore[arg-type]
    nn.init.zeros_(head.bias)  # type: ignore[arg-type]


class Collapsible(nn.Module):
    """A kernel as the sum of branches that are linear together, merged before the forward pass: training costs no more.

    3x3 + 1x1 + (1x1 after a 3x3 of ``wide`` times the channels) + identity where the channels agree. ECBSR's and
    SESR's blocks, collapsed as Bhardwaj and others, "Collapsible Linear Blocks" (MLSys 2022), do.
    """

    def __init__(self, weight: Tensor, wide: int = 4) -> None:
        super().__init__()
        c_out, c_in, kernel, _ = weight.shape
        between = wide * max(c_in, c_out)
        self.point = nn.Parameter(torch.zeros(c_out, c_in))
        self.wide = nn.Parameter(torch.empty(between, c_in, kernel, kernel))
        self.project = nn.Parameter(torch.empty(c_out, between))
        self.identity = nn.Parameter(torch.zeros(c_out)) if c_out == c_in else None
        nn.init.kaiming_normal_(self.wide)
        nn.init.normal_(self.project, std=0.1 * between**-0.5)

    def branches(self) -> Tensor:
        """What is added to the plain 3x3 kernel, ``[C_out, C_in, k, k]``."""
        kernel = torch.einsum("om,mikl->oikl", self.project, self.wide)
        middle = self.wide.shape[-1] // 2
        point = self.point if self.identity is None else self.point + torch.diag(self.identity)
        reach = [middle, self.wide.shape[-1] - 1 - middle] * 2
        return kernel + F.pad(point[:, :, None, None], reach)

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.branches()

    def right_inverse(self, kernel: Tensor) -> Tensor:
        """The plain kernel with which the branches give ``kernel``: a trained network goes on where it was."""
        return kernel - self.branches().detach()


def expand(network: nn.Module) -> None:
    """Bring the trained convolutions of ``network`` into the form for training, with the same output."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1):
            parametrize.register_parametrization(layer, "weight", Collapsible(layer.weight))


def collapse(network: nn.Module) -> None:
    """Undo `expand`: merge every layer's branches into the one kernel that is shipped."""
    for layer in network.modules():
        if parametrize.is_parametrized(layer):
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)


class LumaGraph(nn.Module):
    """What is shipped: uint8 luma in and out, with scaling to [0, 1], clamping and rounding inside."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, luma: Tensor) -> Tensor:  # uint8 [1, 1, H, W] -> uint8 [1, 1, sH, sW]
        x = luma.to(torch.float32) * (1 / 255)
        x = self.network(x) * 255
        return x.clamp(0, 255).round().to(torch.uint8)


NETWORKS: Mapping[str, Callable[..., nn.Module]] = {"FSRCNN": FSRCNN, "PlainSR": PlainSR}


def build_network(kind: str, *, scale: int, **arguments: Any) -> nn.Module:
    """Build a network by its class name. Raises KeyError for a name that is not in `NETWORKS`."""
    return NETWORKS[kind](scale=scale, **arguments)


@torch.no_grad()
def transfer(source: nn.Module, target: nn.Module) -> None:
    """Start ``target`` from a trained ``source`` of another scale: the body is copied, the deconvolution resampled.

    The source's kernel is read as a function of the distance in input pixels and sampled at the target's taps, so the
    first output is already a sensible picture (the paper's own transfer re-trains the deconvolution from noise).
    """
    body = {name: value for name, value in source.state_dict().items() if not name.startswith(("head.", "anchor."))}
    target.load_state_dict(body, strict=False)
    old, new = source.get_submodule("head"), target.get_submodule("head")
    if not (isinstance(old, Deconvolution) and isinstance(new, Deconvolution)):
        raise TypeError("only networks whose head is a Deconvolution can hand their body on")
    new.weight.copy_(old.sample_kernel(new.offsets()))
    if new.bias is not None and old.bias is not None:
        new.bias.copy_(old.bias)
