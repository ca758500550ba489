"""Optical flow: where what is seen at each pixel was in the picture before, and the last output moved along with it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from stream_sr.errors import EngineUnavailable
from stream_sr.video.opencv import load_opencv
from stream_sr.video.planes import Plane
from stream_sr.video.scene_cut import CUT, SceneCut, change, grid

Flow = npt.NDArray[np.int16]
"""``[2, h, w]``: how far what is seen there has moved right, and down, since the picture before.

In `PARTS` of a pixel of the enlarged picture; `flow_size` says on which grid.
"""

PARTS = 4  # of a pixel, to which motion is told; finer ones would be noise
NO_REFERENCE = -(1 << 15)  # in place of every motion, where the picture before says nothing
MOST = 320 * 180  # samples: of a larger picture the motion is measured on its half, its quarter and so on
LEAST = 12  # samples, the shorter side: a smaller picture stands still
STRIDE = 4  # samples from one patch of 8x8 to the next
STEPS = 8  # of gradient descent, at each level
REFINEMENTS = 0  # of all vectors at once, at each level: five take 1.7 times as long as the rest, and the gain is nil


class Motion:
    """Follows a stream of luma planes of one size; one thread. Raises EngineUnavailable where OpenCV is missing."""

    def __init__(self, scale: int) -> None:
        cv2 = _opencv()
        self.scale = scale
        self._scene = SceneCut()
        self._before: Plane | None = None
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        self._flow.setFinestScale(0)
        self._flow.setPatchStride(STRIDE)
        self._flow.setGradientDescentIterations(STEPS)
        self._flow.setVariationalRefinementIterations(REFINEMENTS)

    def follow(self, luma: Plane, *, reset: bool = False) -> Flow | None:
        """The motion since the plane before ``luma`` ``[H, W]``, by dense inverse search.

        Kroeger and others, "Fast Optical Flow using Dense Inverse Search", ECCV 2016, as OpenCV has it. None where what
        came before says nothing: the first picture, a scene cut, and where ``reset`` says so.
        """
        cut = self._scene.is_cut(luma)
        now = _smaller(luma)
        before, self._before = self._before, now
        if before is None or reset:
            return None
        if min(now.shape) < LEAST:
            return None if cut else np.zeros((2, *now.shape), np.int16)
        back = self._flow.calc(now, before, None)  # [h, w, 2], samples right and down to where it was
        if cut and change(grid(_sampled(before, back)), grid(now)) > CUT:  # a fast pan looks like one
            return None
        pixels = self.scale * np.array(luma.shape[::-1]) / now.shape[::-1]  # of the enlarged picture, to a sample
        parts = np.rint(back * (-PARTS * pixels).astype(np.float32)).clip(NO_REFERENCE + 1, -NO_REFERENCE - 1)
        return np.ascontiguousarray(parts.transpose(2, 0, 1), np.int16)


def flows(planes: Sequence[Plane], scale: int) -> Flow:
    """The motion (`Motion`) of consecutive planes ``[H, W]``, ``[T, 2, h, w]``; `NO_REFERENCE` where there is none."""
    motion = Motion(scale)
    found = np.full((len(planes), 2, *flow_size(planes[0].shape)), NO_REFERENCE, np.int16)
    for n, plane in enumerate(planes):
        if (flow := motion.follow(plane)) is not None:
            found[n] = flow
    return found


def flow_size(size: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of the `Flow` of a picture of so many: the same, or halved until there are `MOST` at most."""
    height, width = size
    while height * width > MOST:
        height, width = (height + 1) // 2, (width + 1) // 2
    return height, width


def _opencv() -> Any:
    return load_opencv("a recurrent network", EngineUnavailable)


def _smaller(luma: Plane) -> Plane:
    """A copy of a picture ``[H, W]``, of the size on which its motion is measured."""
    cv2 = _opencv()
    height, width = flow_size(luma.shape)
    if (height, width) == luma.shape:
        return luma.copy()
    return np.asarray(cv2.resize(luma, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def register(before: Plane, flow: Flow, out: Plane) -> None:
    """Write ``before`` ``[H, W]``, moved by ``flow``, into ``out``: bilinear, beyond the border what lies on it.

    The flow between its samples is bilinear too.
    """
    cv2 = _opencv()
    back = cv2.merge([plane.astype(np.float32) for plane in flow])
    back *= np.float32(-1 / PARTS)
    if back.shape[:2] != before.shape:
        back = cv2.resize(back, before.shape[::-1], interpolation=cv2.INTER_LINEAR)
    np.copyto(out, _sampled(before, back))


def _sampled(plane: Plane, back: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The plane ``[H, W]`` at each pixel's place and ``back`` ``[H, W, 2]`` from there, bilinear."""
    cv2 = _opencv()
    places = cv2.add(back, _places(plane.shape))
    return cv2.remap(plane, places, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


@lru_cache(maxsize=4)
def _places(size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Column and row of each pixel, ``[H, W, 2]``."""
    rows, columns = np.indices(size, np.float32)
    return np.dstack([columns, rows])


def repeat(luma: Plane, out: Plane) -> None:
    """Write each pixel of ``luma`` ``[H, W]`` as often as it takes to fill ``out`` ``[sH, sW]``."""
    height, width = luma.shape
    cells = out.reshape(height, out.shape[0] // height, width, out.shape[1] // width)
    cells[:] = luma[:, None, :, None]


class PreviousOutput:
    """What a recurrent network is given beside each picture: its last output, moved to where the picture is now.

    Each pixel of the picture repeated where nothing came before. One thread.
    """

    def __init__(self, scale: int) -> None:
        self._motion = Motion(scale)
        self._last: Plane | None = None
        self._kept = False  # of the picture before

    def write(self, luma: Plane, out: Plane, *, reset: bool = False) -> None:
        """Fill ``out`` ``[sH, sW]`` for the picture ``luma`` ``[H, W]``; ``reset`` as in `Motion.follow`."""
        flow = self._motion.follow(luma, reset=reset or not self._kept)
        self._kept = False
        if flow is None or self._last is None:
            repeat(luma, out)
        else:
            register(self._last, flow, out)

    def keep(self, output: Plane) -> None:
        """Remember the output ``[sH, sW]`` of the picture that was written last; it is copied.

        Where that did not come, for it failed, the next picture starts without one.
        """
        self._kept = True
        if self._last is None:
            self._last = output.copy()
        else:
            np.copyto(self._last, output)
