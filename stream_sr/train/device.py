"""Training examples gathered on the device: all pictures lie there as uint8, and only places travel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from stream_sr.train.clips import ClipPatches
from stream_sr.train.data import Patches


class DevicePatches:
    """The same examples as ``patches`` would cut, bit for bit, as tensors on ``device``."""

    def __init__(self, patches: Patches | ClipPatches, device: torch.device) -> None:
        self.patches, self.device = patches, device
        self.random = patches.random
        self.scale, self.patch = patches.scale, patches.patch
        low, truth = zip(*(patches.planes(n) for n in range(len(patches.pairs))), strict=True)
        self.low, self.low_at = _flat(low, device)
        self.truth, self.truth_at = _flat(truth, device)
        self.shapes = [one.shape for one in low]

    def batch(self, count: int) -> tuple[Tensor, Tensor]:
        """As `Patches.batch` and `ClipPatches.batch`."""
        places = [self.patches.place() for _ in range(count)]
        low = self._gather(self.low, self.low_at, places, 1)
        truth = self._gather(self.truth, self.truth_at, places, self.scale)
        return low, truth

    def _gather(self, flat: Tensor, starts: list[int], places: Sequence[tuple[int, ...]], s: int) -> Tensor:
        p, frames = self.patch * s, getattr(self.patches, "frames", 1)
        ramp = np.arange(p)
        index = np.empty((len(places), frames, p, p), np.int64)
        for n, (which, begin, y, x, turns, flip) in enumerate(places):
            _, height, width = self.shapes[which]
            rows = (s * y + ramp)[:, None] * (s * width)
            square = np.rot90(rows + s * x + ramp, turns)
            square = square[:, ::-1] if flip else square
            times = (begin + np.arange(frames)) * (s * s * height * width)
            index[n] = starts[which] + times[:, None, None] + square
        taken = flat[torch.from_numpy(index).to(self.device)]
        return taken if frames == 1 else taken[:, :, None]


def _flat(planes: tuple[np.ndarray, ...], device: torch.device) -> tuple[Tensor, list[int]]:
    """All planes in one tensor, and where each begins."""
    starts = np.cumsum([0, *(one.size for one in planes)]).tolist()
    return torch.from_numpy(np.concatenate([one.reshape(-1) for one in planes])).to(device), starts
