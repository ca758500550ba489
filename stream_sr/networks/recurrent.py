"""The recurrent network: the plain one, with a memory of the pictures before."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from stream_sr.networks.layers import Anchor, Deconvolution, bound, start_quietly

States = dict[str, Tensor]


class RecurrentSR(nn.Module):
    """`PlainSR` that also sees the last picture, what it computed from it, and its own last features; causal.

    The inputs are those of RRN (Isobe and others, "Revisiting Temporal Modeling for Video Super-resolution", BMVC
    2020), each through a convolution of its own, summed: with empty states (zeros) only the present counts, so it can
    start from a trained `PlainSR`. There is no motion compensation: the 3x3 layers find what moved a few pixels. The
    convolutions that read the states are `Bounded`.

    Called on a sequence ``[N, T, 1, H, W]`` it begins with empty states and gives ``[N, T, 1, sH, sW]``; `step` is one
    picture. ``states`` names them and their channels: ``features`` (of the last layer), ``picture`` (the last input)
    and ``residual`` (the last output without its anchor, folded to input size).
    """

    def __init__(self, *, scale: int, width: int = 16, depth: int = 4) -> None:
        super().__init__()
        self.scale = scale
        self.states: Mapping[str, int] = {"features": width, "picture": 1, "residual": scale * scale}
        self.feature = nn.Conv2d(1, width, 3, padding=1)
        self.memory = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.before = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.recall = nn.Conv2d(scale * scale, width, 3, padding=1, bias=False)
        self.body = nn.Sequential()
        for _ in range(depth):
            self.body.append(nn.ReLU())
            self.body.append(nn.Conv2d(width, width, 3, padding=1))
        self.last = nn.ReLU()
        self.head = Deconvolution(width, 1, 3 * scale, scale)
        self.anchor = Anchor(scale)
        self.fold = nn.PixelUnshuffle(scale)
        start_quietly(self)
        for layer in (self.memory, self.before, self.recall):
            nn.init.zeros_(layer.weight)
        bound(self.memory)
        bound(self.recall)

    def step(self, x: Tensor, features: Tensor, picture: Tensor, residual: Tensor) -> tuple[Tensor, ...]:
        """One picture ``[N, 1, H, W]`` and the states; its enlargement, and the states for the next, in their order."""
        y = self.feature(x) + self.memory(features) + self.before(picture) + self.recall(residual)
        features = self.last(self.body(y))  # [N, width, H, W]
        fine = self.head(features)  # [N, 1, scale*H, scale*W]
        return fine + self.anchor(x), features, x, self.fold(fine)

    def empty(self, x: Tensor) -> States:
        """States of zeros for pictures like ``x`` ``[N, 1, H, W]``."""
        return {name: x.new_zeros(x.shape[0], count, *x.shape[2:]) for name, count in self.states.items()}

    def forward(self, sequence: Tensor) -> Tensor:  # [N, T, 1, H, W]
        states = tuple(self.empty(sequence[:, 0]).values())
        pictures = []
        with parametrize.cached():  # the bound kernels are computed once, not at every step
            for t in range(sequence.shape[1]):
                picture, *states = self.step(sequence[:, t], *states)  # type: ignore[assignment]
                pictures.append(picture)
        return torch.stack(pictures, 1)  # [N, T, 1, scale*H, scale*W]
