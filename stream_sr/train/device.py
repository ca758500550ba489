"""Training examples gathered on the device: all pictures lie there as uint8, and only places travel to it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from stream_sr.train.clips import ClipPatches
from stream_sr.train.data import Patches, still


class DevicePatches:
    """The same examples as ``patches`` would cut, bit for bit, as tensors on ``device``."""

    def __init__(self, patches: Patches | ClipPatches, device: torch.device) -> None:
        self.patches, self.device = patches, device
        self.scale, self.patch = patches.scale, patches.patch
        low, truth = zip(*(patches.planes(n) for n in range(len(patches.pairs))), strict=True)
        self.low, self.low_at = _flat(low, device)
        self.truth, self.truth_at = _flat(truth, device)
        self.shapes = [one.shape for one in low]

    def batch(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """As `Patches.batch` and `ClipPatches.batch`."""
        places = [self.patches.place() for _ in range(count)]
        low = self._gather(self.low, self.low_at, places, 1)
        truth = self._gather(self.truth, self.truth_at, places, self.scale)
        moves = still(count)
        if isinstance(self.patches, ClipPatches) and self.patches.frames > 1:
            parts = ((which, begin, turns, flip) for which, begin, _, _, turns, flip in places)
            moves = np.stack([self.patches.moves(*part) for part in parts])
        return low, truth, torch.from_numpy(moves).to(self.device)

    def _gather(self, flat: Tensor, starts: list[int], places: Sequence[tuple[int, ...]], s: int) -> Tensor:
        p, frames = self.patch * s, getattr(self.patches, "frames", 1)
        walks = torch.tensor([_walk(place, self.shapes[place[0]], s, p) for place in places]).to(self.device)
        first, picture, down, across = (walks[:, n, None, None, None] for n in range(4))
        first = first + torch.tensor([starts[place[0]] for place in places]).to(self.device)[:, None, None, None]
        ramp = torch.arange(p, device=self.device)
        times = torch.arange(frames, device=self.device)[:, None, None]
        taken = flat[first + picture * times + down * ramp[:, None] + across * ramp]  # [N, T, p, p]
        return taken if frames == 1 else taken[:, :, None]


def _walk(place: tuple[int, ...], shape: tuple[int, ...], s: int, p: int) -> tuple[int, int, int, int]:
    """How a patch lies in its flattened clip: first pixel, and the steps to the next picture, downwards and across."""
    _, begin, y, x, turns, flip = place
    _, height, width = (s * side for side in shape)
    first, down, across = begin * height * width + s * y * width + s * x, width, 1
    for _ in range(turns):  # counter-clockwise: the last column becomes the first row
        first, down, across = first + (p - 1) * across, -across, down
    if flip:
        first, across = first + (p - 1) * across, -across
    return first, height * width, down, across


def _flat(planes: tuple[np.ndarray, ...], device: torch.device) -> tuple[Tensor, list[int]]:
    """All planes in one tensor, and where each begins."""
    starts = np.cumsum([0, *(one.size for one in planes)]).tolist()
    return torch.from_numpy(np.concatenate([one.reshape(-1) for one in planes])).to(device), starts
