"""Training examples gathered on the device: all pictures lie there as uint8, and only places travel to it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from stream_sr.training.clips import ClipPatches
from stream_sr.training.data import Patches, still, turn_flow

UNIT = np.array([[1, 0], [0, 1]], np.int16)[:, :, None, None]  # a motion right, and one down


class DevicePatches:
    """The same examples as ``patches`` would cut, bit for bit, as tensors on ``device``."""

    def __init__(self, patches: Patches | ClipPatches, device: torch.device) -> None:
        self.patches, self.device = patches, device
        self.scale, self.patch = patches.scale, patches.patch
        low, truth = zip(*(patches.planes(n) for n in range(len(patches.pairs))), strict=True)
        self.low, self.low_at = _flat(low, device)
        self.truth, self.truth_at = _flat(truth, device)
        self.shapes = [one.shape for one in low]
        self.flow: list[Tensor] = []  # right, down
        if isinstance(patches, ClipPatches) and patches.frames > 1:
            self.flow = [_flat(tuple(clip.flow[:, n] for clip in patches.pairs), device)[0] for n in (0, 1)]

    def batch(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """As `Patches.batch` and `ClipPatches.batch`."""
        places = [self.patches.place() for _ in range(count)]
        low = self._gather(self.low, self.low_at, places, 1)
        truth = self._gather(self.truth, self.truth_at, places, self.scale)
        flow = torch.from_numpy(still(count)).to(self.device)
        if self.flow:
            right, down = (self._gather(one, self.low_at, places, 1) for one in self.flow)
            turned = np.stack([turn_flow(UNIT, turns, flip) for *_, turns, flip in places])
            parts = torch.from_numpy(turned[..., 0]).to(self.device)[:, :, :, None, None, None]  # [N, 2, 2, 1, 1, 1]
            flow = torch.cat([right * parts[:, 0, n] + down * parts[:, 1, n] for n in (0, 1)], 2)
        return low, truth, flow

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
