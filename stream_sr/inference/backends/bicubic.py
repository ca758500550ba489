"""No network: swscale's bicubic through FFmpeg. What a network has to beat, and the honest double in tests.

Keys' cubic with a = -0.5 (Catmull-Rom), exact rounding, chroma sited as in the stream. Scale 1 is a copy.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from stream_sr.errors import EngineUnavailable
from stream_sr.inference.availability import Availability
from stream_sr.inference.frames_in_flight import FramesInFlight, OutputMemory, output_memory
from stream_sr.pipeline.engine import Engine, EngineOptions, EngineSpec, Pending
from stream_sr.video.frame import Frame, StreamInfo
from stream_sr.video.frame_pool import Allocate, Slot

if TYPE_CHECKING:
    from stream_sr.codec.swscale import Scaler

PRECISIONS: tuple[str, ...] = ()
INSTALL = "pip install av"


def availability() -> Availability:
    """Whether PyAV is installed."""
    if find_spec("av") is None:
        return Availability(False, reason="av not installed", fix=INSTALL)
    return Availability(True, metadata.version("av"), "swscale, no network")


def open_scale(scale: int, info: StreamInfo, options: EngineOptions) -> Engine:
    """An engine that enlarges by ``scale``, 1 to 4. Raises EngineUnavailable, EngineBuildError."""
    if not availability().usable:
        raise EngineUnavailable(f"backend bicubic needs PyAV; {INSTALL}")
    spec = EngineSpec(
        backend="bicubic",
        model="bicubic",
        scale=scale,
        width=info.width,
        height=info.height,
        precision="uint8",
        device="CPU",
        is_deterministic=True,
    )
    return BicubicEngine(spec, info.color.siting, options.depth)


class BicubicEngine:
    """Computes in `submit`; nothing is left to wait for."""

    allocate: Allocate | None = None

    def __init__(self, spec: EngineSpec, siting: int, depth: int) -> None:
        self.spec, self.depth = spec, depth
        self._in_flight = FramesInFlight(depth)
        size = (spec.width, spec.height)
        self._scaler = None if spec.scale == 1 else _scaler(size, spec.output_size, siting)

    def submit(self, frame: Frame, slot: Slot | None = None) -> Pending:
        return self._in_flight.submit(lambda: self._start(frame, slot))

    def _start(self, frame: Frame, slot: Slot | None) -> Callable[[], Frame]:
        output = output_memory(frame, self.spec, slot)
        self._compute(frame, output)
        return lambda: frame.with_planes(output.planes, slot)

    def _compute(self, frame: Frame, output: OutputMemory) -> None:
        if self._scaler is None:
            for plane, target in zip(frame.planes, output.planes, strict=True):
                np.copyto(target, plane)
            return
        self._scaler(frame.planes, output.planes)

    def close(self) -> None:
        self._in_flight.closed = True
        self._scaler = None


def _scaler(old: tuple[int, int], new: tuple[int, int], siting: int) -> Scaler:
    from stream_sr.codec.swscale import Scaler

    return Scaler(old, new, siting)
