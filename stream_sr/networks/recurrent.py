"""The recurrent network: the plain one, that also sees its own last output."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from stream_sr.networks.layers import Anchor, Deconvolution, bound, start_quietly
from stream_sr.video.optical_flow import NO_REFERENCE, PARTS


class RecurrentSR(nn.Module):
    """`PlainSR` that also sees its last output, moved to where the picture is now; causal.

    The last output, moved by the optical flow, is what recurrent networks since FRVSR (Sajjadi, Vemulapalli and Brown,
    CVPR 2018) hand on. It is moved before it comes here (`PreviousOutput`): so the layers need not find the motion,
    which a narrow network cannot, and only have to tell where it fits. What it adds to the repeated pixels, folded to
    input size (``known``), enters the first layer through a convolution that is `Bounded`, and comes out again through
    a gate of one channel between 0 and 1, which three layers of ``GATE`` channels open and close. So the state cannot
    grow by itself; and as it fades with every picture, to ``FADE``, small errors do not add up on a scene that stands
    still. While it is trained it fades less: what is hardly steady then is steady after.

    Where the last output says no more than the input (each pixel repeated, which is how a stream begins), ``known`` is
    zero, and the result is that of the `PlainSR` with the same weights.

    Called on a sequence ``[N, T, 1, H, W]`` and its motion ``[N, T, 2, H, W]`` (`Flow`; `NO_REFERENCE` where the
    picture before says nothing) it gives ``[N, T, 1, sH, sW]``; `step` is one picture. ``still`` are pictures of the
    same scene, without motion, ``[N', K, 1, H, W]``, that came before every other sequence and which no gradient
    passes: a network that was never shown what it makes of a still scene in the long run makes it worse from picture to
    picture.
    """

    GATE = 8
    FADE, FADE_IN_TRAINING = 0.85, 0.9

    def __init__(self, *, scale: int, width: int = 16, depth: int = 4, skip: bool = False) -> None:
        super().__init__()
        self.scale, self.skip = scale, skip
        self.feature = nn.Conv2d(1, width, 3, padding=1)
        self.recall = nn.Conv2d(scale * scale, width, 3, padding=1, bias=False)
        self.body = nn.Sequential()
        for _ in range(depth):
            self.body.append(nn.ReLU())
            self.body.append(nn.Conv2d(width, width, 3, padding=1))
        self.last = nn.ReLU()
        self.head = Deconvolution(width, 1, 3 * scale, scale)
        channels = (scale * scale, self.GATE, self.GATE, 1)
        self.gate = nn.Sequential()
        for count, more in pairwise(channels):
            self.gate.extend([nn.ReLU()] if len(self.gate) else [])
            self.gate.append(nn.Conv2d(count, more, 3, padding=1))
        self.anchor = Anchor(scale)
        self.fold = nn.PixelUnshuffle(scale)
        self.unfold = nn.PixelShuffle(scale)
        start_quietly(self)
        nn.init.normal_(self.recall.weight, std=0.02)
        nn.init.zeros_(self.gate[-1].weight)  # type: ignore[arg-type]
        nn.init.constant_(self.gate[-1].bias, 0.1)  # type: ignore[arg-type]
        bound(self.recall)

    def step(self, x: Tensor, previous: Tensor) -> Tensor:
        """One picture ``[N, 1, H, W]`` and the last output, moved, ``[N, 1, sH, sW]``; its enlargement."""
        fade = self.FADE_IN_TRAINING if self.training else self.FADE
        known = (self.fold(previous) - x) * fade  # [N, s*s, H, W]
        first = self.feature(x) + self.recall(known)  # [N, width, H, W]
        body = self.body(first)
        features = self.last(body + first if self.skip else body)
        kept = self.unfold(known * self.gate(known).clamp(0, 1))  # [N, 1, sH, sW]
        return self.head(features) + kept + self.anchor(x)

    def forward(self, sequence: Tensor, flow: Tensor, still: Tensor | None = None) -> Tensor:
        before = repeated(sequence[:, 0], self.scale)
        if still is not None:
            before[::2] = self._settle(still)
        pictures: list[Tensor] = []
        with parametrize.cached():  # the bound kernel is computed once, not at every step
            for t in range(sequence.shape[1]):
                previous = before
                if pictures:
                    no_reference = flow[:, t, :1, :1, :1] == NO_REFERENCE
                    moved = move(levels(pictures[-1]), flow[:, t])
                    previous = torch.where(no_reference, repeated(sequence[:, t], self.scale), moved)
                pictures.append(self.step(sequence[:, t], previous))
        return torch.stack(pictures, 1)

    @torch.no_grad()
    def _settle(self, pictures: Tensor) -> Tensor:
        """The last output after ``pictures`` ``[N, K, 1, H, W]`` of a scene that stands still."""
        last = repeated(pictures[:, 0], self.scale)
        with parametrize.cached():
            for t in range(pictures.shape[1]):
                last = levels(self.step(pictures[:, t], last))
        return last


def repeated(x: Tensor, scale: int) -> Tensor:
    """Each pixel ``scale`` by ``scale`` times: the last output where there is none."""
    return x.repeat_interleave(scale, 2).repeat_interleave(scale, 3)


def levels(x: Tensor) -> Tensor:
    """Rounded to the levels in which a picture is handed on; the gradient passes as if it were not."""
    return x + (((x * 255).clamp(0, 255).round() * (1 / 255)) - x).detach()


def move(pictures: Tensor, flow: Tensor) -> Tensor:
    """``pictures`` ``[N, 1, sH, sW]``, each moved by its `optical_flow.Flow` ``[N, 2, h, w]``.

    As `optical_flow.register`, without the rounding.
    """
    height, width = pictures.shape[2:]
    far = F.interpolate(flow.float() / PARTS, (height, width), mode="bilinear", align_corners=False)
    rows = torch.arange(height, device=flow.device)[:, None] - far[:, 1]
    columns = torch.arange(width, device=flow.device) - far[:, 0]
    last = max(width - 1, 1), max(height - 1, 1)
    places = torch.stack([columns * (2 / last[0]) - 1, rows * (2 / last[1]) - 1], -1)  # -1 to 1
    return F.grid_sample(pictures.float(), places, padding_mode="border", align_corners=True)
