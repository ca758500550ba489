"""Layers of our own: the deconvolution, the anchor, convolutions trained as a sum of branches, and a bounded one."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from stream_sr.networks.deconvolution import lowering_index

DOUBLINGS = 8  # of the exponent in `operator_norm`
TINY = 1e-30


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


class Anchor(Deconvolution):
    """Each pixel repeated ``scale`` by ``scale`` times, as a deconvolution of ones, which every backend fuses.

    In training the pixels are copied: under autocast a convolution would round them to bfloat16, by half a level.
    """

    def __init__(self, scale: int) -> None:
        super().__init__(1, 1, scale, scale, bias=False)
        nn.init.ones_(self.weight)
        self.requires_grad_(False)

    def forward(self, x: Tensor, output_size: Any = None) -> Tensor:  # [N, 1, H, W] -> [N, 1, sH, sW]
        if not self.training:
            return super().forward(x, output_size)
        s = self.stride[0]
        return x.repeat_interleave(s, 2).repeat_interleave(s, 3)


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
    """Bring the trained convolutions of ``network`` into the form for training, with the same output.

    Those that are bound stay as they are: branches would lift the kernel over its bound.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1) and not parametrize.is_parametrized(layer):
            parametrize.register_parametrization(layer, "weight", Collapsible(layer.weight))


def collapse(network: nn.Module) -> None:
    """Undo `expand`: merge every layer's branches into the one kernel that is shipped."""
    for layer in network.modules():
        if parametrize.is_parametrized(layer):
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)


class Bounded(nn.Module):
    """Keeps a convolution from making anything larger: its kernel over its norm, where that is above 1.

    The norm is that of the operator, the largest singular value over the frequencies of a 16 by 16 grid (Sedghi,
    Gupta and Long, "The Singular Values of Convolutional Layers", ICLR 2019; 4 % low at worst for a 3x3 kernel). A
    recurrent network whose state cannot grow does not diverge on a still scene (Chiche and others, "Stable Long-Term
    Recurrent Video Super-Resolution", CVPR 2022).
    """

    GRID = 16

    def forward(self, weight: Tensor) -> Tensor:
        with torch.no_grad():
            norm = operator_norm(weight, self.GRID)
        return weight / norm.clamp(min=1.0)

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight


def operator_norm(weight: Tensor, grid: int) -> Tensor:
    """Largest singular value of a convolution ``[C_out, C_in, k, k]`` on a torus of ``grid`` by ``grid`` pixels.

    At most 0.5 % too large, never too small. Products only: a decomposition waits for the device, so a CUDA graph
    cannot hold one.
    """
    taps = torch.arange(weight.shape[-1], device=weight.device)
    angles = torch.outer(torch.arange(grid, device=weight.device), taps) * (2 * math.pi / grid)  # [grid, k]
    phase = (angles[:, None, :, None] + angles[None, : grid // 2 + 1, None, :]).flatten(2)  # the rest is conjugate
    kernel = (weight if weight.shape[0] >= weight.shape[1] else weight.transpose(0, 1)).float().flatten(2)
    with torch.autocast(weight.device.type, enabled=False):
        real, imaginary = (
            torch.einsum("fgk,oik->fgoi", wave, kernel).flatten(0, 1) for wave in (phase.cos(), phase.sin())
        )
        matrix = torch.cat([torch.cat([real, -imaginary], 2), torch.cat([imaginary, real], 2)], 1)  # a complex one's
        power = matrix.mT @ matrix  # its eigenvalues are the squares of the singular values
        exponent = torch.zeros(len(power), device=weight.device)  # of the largest
        for n in range(DOUBLINGS + 1):  # squared again and again, of the norm only the largest is left
            size = torch.linalg.vector_norm(power, dim=(1, 2)).clamp(min=TINY)
            exponent = exponent + size.log() / 2**n
            if n < DOUBLINGS:
                power = power / size[:, None, None]
                power = power @ power
    return (exponent / 2).exp().max()


def bound(layer: nn.Conv2d) -> nn.Conv2d:
    """``layer`` with a `Bounded` kernel, until `collapse` makes it plain."""
    parametrize.register_parametrization(layer, "weight", Bounded())
    return layer
