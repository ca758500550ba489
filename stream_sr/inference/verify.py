"""Whether an engine computes what the model says: its results for a known picture against ONNX's reference.

The picture is the reference's tile, repeated over the whole frame, so that every part of the result is compared.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from stream_sr.errors import EngineRunError
from stream_sr.inference import reference
from stream_sr.inference.model import ModelSpec
from stream_sr.inference.reference import TILE, Plane
from stream_sr.pipeline.engine import MIN_FIDELITY, Engine
from stream_sr.video.color import ColorInfo, chroma_kernel
from stream_sr.video.frame import Frame
from stream_sr.video.planes import chroma_shape, read_only

CHROMA_SIDE = 40  # samples of the chroma planes' first corner that are compared


class WrongResult(EngineRunError):
    """The engine runs, and computes something else than the model says."""


def check(engine: Engine, model: ModelSpec, siting: int) -> float:
    """PSNR in dB of the engine's luma against the reference. The engine must have nothing in flight.

    Raises WrongResult where the result is broken: a part of the picture far from the reference (black, NaN as zero,
    shifted, of another frame), or chroma more than a level from its definition. Raises ModelError, EngineUnavailable
    where there is no reference and none can be computed.
    """
    spec = engine.spec
    whole = spec.height >= TILE[0] and spec.width >= TILE[1]
    wanted = reference.load(model).results if whole else _small(model, spec.height, spec.width)
    errors, worst = [], math.inf
    for number, picture in enumerate(reference.pictures(len(wanted))):
        frame = _frame(picture, spec.width, spec.height, number, siting)
        result = engine.submit(frame).wait()
        parts = _parts(result.planes[0], wanted[number], spec.scale) if whole else [(result.planes[0], wanted[number])]
        for got, right in parts:
            error = (got.astype(np.float32) - right) ** 2
            errors.append(error.ravel())
            worst = min(worst, _decibel(float(error.mean())))
        _check_chroma(frame, result, spec.scale, siting)
    if worst < MIN_FIDELITY:
        raise WrongResult(f"the result is wrong: {worst:.1f} dB from the reference in the worst part of the picture")
    return _decibel(float(np.concatenate(errors).mean()))


def _small(model: ModelSpec, height: int, width: int) -> npt.NDArray[np.uint8]:
    """Results for a frame smaller than the tile, computed."""
    planes = [np.ascontiguousarray(picture[:height, :width]) for picture in _repeated(height, width)]
    return np.stack(reference.evaluate(model, planes))


def _repeated(height: int, width: int) -> list[Plane]:
    return [_tiled(picture, height, width) for picture in reference.pictures(2)]


def _tiled(picture: Plane, height: int, width: int) -> Plane:
    across, down = -(-width // picture.shape[1]), -(-height // picture.shape[0])
    return np.ascontiguousarray(np.tile(picture, (down, across))[:height, :width])


def _frame(picture: Plane, width: int, height: int, number: int, siting: int) -> Frame:
    rows, columns = chroma_shape(width, height)
    luma = _tiled(picture, height, width)
    u, v = _tiled(picture[::-1], rows, columns), _tiled(picture[:, ::-1], rows, columns)
    return Frame(
        read_only((luma, u, v)),
        pts=number,
        time_base=Fraction(1),
        number=number,
        color=ColorInfo(siting=siting),
        discontinuity=number == 0,
    )


def _parts(got: Plane, right: Plane, scale: int) -> list[tuple[Plane, Plane]]:
    """Pairs to compare: the frame's first corner, and within every whole tile what its neighbours do not reach."""
    height, width = (side * scale for side in TILE)
    margin = height - right.shape[0]
    parts = [(got[: right.shape[0], : right.shape[1]], right)]
    inner = right[margin:, margin:]
    for y in range(0, got.shape[0] - height + 1, height):
        for x in range(0, got.shape[1] - width + 1, width):
            part = got[y + margin : y + right.shape[0], x + margin : x + right.shape[1]]
            if part.size:
                parts.append((part, inner))
    return parts


def _check_chroma(frame: Frame, result: Frame, scale: int, siting: int) -> None:
    for name, plane, larger in zip("UV", frame.planes[1:], result.planes[1:], strict=True):
        corner = plane[:CHROMA_SIDE, :CHROMA_SIDE]
        right = enlarge_chroma(corner, scale, siting)
        cut = [side * scale if side < CHROMA_SIDE else (side - 2) * scale for side in corner.shape]
        right = right[: cut[0], : cut[1]]
        got = larger[: right.shape[0], : right.shape[1]]
        off = np.abs(got.astype(np.int16) - right[: got.shape[0], : got.shape[1]]).max()
        if off > 1:
            raise WrongResult(f"chroma plane {name} is wrong: {off} levels from its definition")


def enlarge_chroma(plane: Plane, scale: int, siting: int) -> Plane:
    """A chroma plane enlarged as `color.chroma_kernel` defines it, in plain numpy."""
    kernel = chroma_kernel(scale, siting)
    height, width = plane.shape
    padded = np.pad(plane.astype(np.float32), 2, mode="edge")
    result = np.empty((height * scale, width * scale), np.float32)
    for phase in range(scale * scale):
        taps = kernel[phase, 0]
        total = sum(taps[y, x] * padded[y : y + height, x : x + width] for y in range(5) for x in range(5))
        result[phase // scale :: scale, phase % scale :: scale] = total
    return np.clip(result, 0, 255).round().astype(np.uint8)


def _decibel(mean_square: float) -> float:
    return math.inf if mean_square == 0 else 10 * math.log10(255**2 / mean_square)
