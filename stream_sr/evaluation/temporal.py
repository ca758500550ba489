"""How steady a video is: tOF, warping error and flicker. Needs OpenCV for the optical flow; no window is opened."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from stream_sr.video.planes import Plane

Flow = npt.NDArray[np.float32]
FARNEBACK = (0.5, 3, 15, 3, 5, 1.2, 0)  # pyramid scale, levels, window, iterations, neighbourhood, sigma, flags
SAME = 1.0  # pixels: forward and backward flow must agree so well where a pixel counts


def flow(before: Plane, after: Plane) -> Flow:
    """Optical flow ``[H, W, 2]``, x and y in pixels: ``before`` at p is ``after`` at p + flow (Farneback, 2003)."""
    import cv2

    start = np.zeros((*before.shape, 2), np.float32)
    return np.asarray(cv2.calcOpticalFlowFarneback(before, after, start, *FARNEBACK), np.float32)


def tof(output: Sequence[Plane], truth: Sequence[Plane]) -> float:
    """Mean length in pixels of the difference between the flows of truth and output (Chu and others, TOG 2020, tOF).

    Over all pairs of consecutive planes ``[H, W]``; 0 is best. Needs two planes at least.
    """
    lengths = [
        np.hypot(*np.moveaxis(flow(truth[n - 1], truth[n]) - flow(output[n - 1], output[n]), 2, 0)).mean()
        for n in range(1, len(truth))
    ]
    return float(np.mean(lengths))


def warping_error(output: Sequence[Plane], truth: Sequence[Plane]) -> float:
    """Root mean square, in levels, of each output against the one before it moved along the truth's flow.

    Pixels whose forward and backward flow disagree (covered, uncovered) do not count (Lai and others, ECCV 2018). The
    truth's own error is not 0: compare. Needs two planes at least.
    """
    import cv2

    errors = []
    height, width = truth[0].shape
    grid = np.dstack(np.meshgrid(np.arange(width), np.arange(height))).astype(np.float32)
    for n in range(1, len(truth)):
        back, forth = flow(truth[n], truth[n - 1]), flow(truth[n - 1], truth[n])
        at = grid + back
        returned = cv2.remap(forth, at, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        same = np.hypot(*np.moveaxis(back + returned, 2, 0)) < SAME
        moved = cv2.remap(output[n - 1], at, None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        difference = output[n].astype(np.float32) - moved
        if same.any():
            errors.append(float((difference[same] ** 2).mean()))
    return float(np.sqrt(np.mean(errors))) if errors else 0.0


def flicker(output: Sequence[Plane]) -> float:
    """Standard deviation over time, in levels, mean over the pixels, of a scene that stands still."""
    return float(np.stack(output).astype(np.float32).std(0).mean())


def gradient_energy(plane: Plane) -> float:
    """Mean squared difference of neighbours, in levels squared: what blurring lowers."""
    x = plane.astype(np.float32)
    return float((np.diff(x, axis=0) ** 2).mean() + (np.diff(x, axis=1) ** 2).mean())
