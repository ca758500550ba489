"""An engine whose results are resampled to a size that is no multiple of the input's: ``--size``."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from stream_sr.codec.swscale import Scaler
from stream_sr.pipeline.engine import Engine, Pending
from stream_sr.video.frame import Frame, StreamInfo
from stream_sr.video.frame_pool import Allocate, Slot
from stream_sr.video.planes import empty_planes


def fit_into(info: StreamInfo, box: tuple[int, int]) -> tuple[int, int]:
    """The largest even width and height of the stream's shape inside ``box`` = (width, height), at least 2x2.

    Both count samples: a sample aspect other than 1 is kept, not resolved. A picture that players turn by 90 or 270
    degrees is fitted as it will be seen.
    """
    if info.orientation.swaps_sides:
        box = (box[1], box[0])
    ratio = min(Fraction(box[0], info.width), Fraction(box[1], info.height))
    width, height = (max(2, int(side * ratio) // 2 * 2) for side in (info.width, info.height))
    return width, height


class FitEngine:
    """Another engine, and swscale's bicubic behind it. Closes the other with itself."""

    def __init__(self, engine: Engine, size: tuple[int, int], siting: int) -> None:
        inner = engine.spec.output_size
        self.spec = replace(engine.spec, fit=size)
        self.depth = engine.depth
        self.allocate: Allocate | None = engine.allocate
        self._engine = engine
        self._scaler = Scaler(inner, size, siting)

    def submit(self, frame: Frame, slot: Slot | None = None) -> Pending:
        return _Fitted(self._engine.submit(frame), self._scaler, self.spec.output_size, slot)

    def close(self) -> None:
        self._engine.close()


class _Fitted:
    def __init__(self, pending: Pending, scaler: Scaler, size: tuple[int, int], slot: Slot | None) -> None:
        self._pending, self._scaler, self._size, self._slot = pending, scaler, size, slot

    def wait(self) -> Frame:
        frame = self._pending.wait()
        planes = self._slot.planes if self._slot is not None else empty_planes(*self._size)
        self._scaler(frame.planes, planes)
        return frame.with_planes(planes, self._slot)
