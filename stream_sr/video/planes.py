"""Planes of a picture: 8-bit 4:2:0, luma and two chroma planes of half its size, rounded up."""

import numpy as np
import numpy.typing as npt

Plane = npt.NDArray[np.uint8]


Planes = tuple[Plane, Plane, Plane]


def chroma_shape(width: int, height: int) -> tuple[int, int]:
    """(height, width) of a 4:2:0 chroma plane; odd luma sizes round up."""
    return (height + 1) // 2, (width + 1) // 2


def read_only(planes: Planes) -> Planes:
    """Views on the planes that cannot be written through."""
    views = tuple(plane.view() for plane in planes)
    for view in views:
        view.flags.writeable = False
    return views[0], views[1], views[2]


def empty_planes(width: int, height: int) -> Planes:
    """Fresh, uninitialised, writable planes of a frame."""
    chroma = chroma_shape(width, height)
    return np.empty((height, width), np.uint8), np.empty(chroma, np.uint8), np.empty(chroma, np.uint8)
