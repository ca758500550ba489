"""Resample what an engine makes: `ResizeEngine` for ``--size``, `MultiFormatEngine` for an input that changes.

A camera that reconnects with another frame size gets an engine for that size. Its results are resampled into the output
that viewers and files of this run were promised: the aspect ratio is kept, with black borders.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction

from stream_sr.codec.swscale import Scaler, fit_area
from stream_sr.errors import EngineRunError
from stream_sr.inference.wrapper import EngineWrapper
from stream_sr.pipeline.engine import Engine, EngineSpec
from stream_sr.video.color import ColorInfo, guess_unknown
from stream_sr.video.frame import Frame, StreamInfo
from stream_sr.video.frame_pool import Slot
from stream_sr.video.planes import Planes, empty_planes

log = logging.getLogger("stream_sr")

MAX_OTHER_ENGINES = 2  # besides the first: a camera may alternate between formats


def fit_into(info: StreamInfo, box: tuple[int, int]) -> tuple[int, int]:
    """Return the largest even width and height of the stream's shape inside ``box`` = (width, height), at least 2x2.

    Both count samples: a sample aspect other than 1 is kept, not resolved. A video that players turn by 90 or 270
    degrees is fitted as it will be seen.
    """
    if info.orientation.swaps_sides:
        box = (box[1], box[0])
    ratio = min(Fraction(box[0], info.width), Fraction(box[1], info.height))
    width, height = (max(2, int(side * ratio) // 2 * 2) for side in (info.width, info.height))
    return width, height


@dataclass(frozen=True, slots=True)
class InputFormat:
    """What an engine is opened for. No colour is unknown."""

    width: int
    height: int
    sample_aspect: Fraction
    color: ColorInfo

    @classmethod
    def of_stream(cls, info: StreamInfo) -> InputFormat:
        color = guess_unknown(info.color, width=info.width, height=info.height)
        return cls(info.width, info.height, info.sample_aspect, color)


class ResizeEngine(EngineWrapper):
    """Another engine, and swscale's bicubic behind it, which makes results of ``size`` (width, height).

    ``source`` is the input of ``engine``. With ``target``, another input, results have its colours and sample aspect,
    and the frame is fitted into ``size`` with black borders; without, it fills ``size`` and keeps both.
    """

    def __init__(
        self, engine: Engine, size: tuple[int, int], source: StreamInfo, *, target: StreamInfo | None = None
    ) -> None:
        super().__init__([engine])
        self._engine, self._size = engine, size
        self._target = InputFormat.of_stream(target) if target is not None else None
        self.area = (0, 0, *size)  # left, top, width and height of the frame within the result
        color, colors = InputFormat.of_stream(source).color, None
        if self._target is not None:
            shape = (source.width, source.height)
            self.area = fit_area(shape, source.sample_aspect, size, self._target.sample_aspect)
            colors = color, self._target.color
        self._scaler = Scaler(engine.spec.output_size, self.area[2:], color.siting, colors=colors)

    @property
    def spec(self) -> EngineSpec:
        """See `engine.Engine`."""
        return replace(self._engine.spec, fit=self._size)

    def _start(self, frame: Frame, slot: Slot | None) -> Callable[[], Frame]:
        pending = self._engine.submit(frame)
        return lambda: self._resize(pending.wait(), slot)

    def _resize(self, frame: Frame, slot: Slot | None) -> Frame:
        planes = slot.planes if slot is not None else empty_planes(*self._size)
        self._scaler(frame.planes, self._inside(planes))
        resized = frame.with_planes(planes, slot)
        if self._target is None:
            return resized
        return replace(resized, color=self._target.color, sample_aspect=self._target.sample_aspect)

    def _inside(self, planes: Planes) -> Planes:
        """The part of the result that the frame takes; the rest becomes black."""
        left, top, width, height = self.area
        if self._target is None or (width, height) == self._size:
            return planes
        for plane, black in zip(planes, (0 if self._target.color.full_range else 16, 128, 128), strict=True):
            plane.fill(black)
        rows, columns = slice(top // 2, (top + height) // 2), slice(left // 2, (left + width) // 2)
        luma, u, v = planes
        return luma[top : top + height, left : left + width], u[rows, columns], v[rows, columns]


class MultiFormatEngine(EngineWrapper):
    """An engine for each format of the input; all results have the size and colours of the first.

    ``spec`` is that of the first engine, for the format of ``info``, but for what computes now: model, backend,
    precision, and whether it is deterministic.

    `prepare` opens an engine for another format with ``open_for``, in the calling thread: from any thread, beside
    `submit`. It may take long, the stream goes on meanwhile. Frames of a size that was not prepared are refused.
    Closes every engine that it was given or has opened.
    """

    def __init__(self, engine: Engine, info: StreamInfo, open_for: Callable[[StreamInfo], Engine]) -> None:
        super().__init__([engine])
        self._first, self._first_info, self._open_for = engine, info, open_for
        self._first_format = InputFormat.of_stream(info)
        self._others: dict[InputFormat, ResizeEngine] = {}
        self._current: InputFormat | None = None

    @property
    def spec(self) -> EngineSpec:
        """May be read by any thread."""
        first = self._first.spec
        with self._lock:
            other = self._others.get(self._current) if self._current is not None else None
        if other is None:
            return first
        now = other.spec
        return replace(
            first, model=now.model, backend=now.backend, precision=now.precision, is_deterministic=now.is_deterministic
        )

    def prepare(self, info: StreamInfo) -> None:
        """Be ready for frames as ``info`` says. Raises what ``open_for`` raises."""
        wanted = InputFormat.of_stream(info)
        with self._lock:
            if wanted == self._first_format or wanted in self._others:
                return
        size = self.spec.output_size
        engine = ResizeEngine(self._open_for(info), size, info, target=self._first_info)
        _log_change(wanted, engine.spec.scale, engine.area[2:], size)
        if not self._adopt(engine):
            return
        with self._lock:
            idle = [one for one in self._others if one != self._current]
            old = idle[: max(0, len(self._others) - MAX_OTHER_ENGINES + 1)]
            dropped = [self._others.pop(one) for one in old]
            self._others[wanted] = engine
        for one in dropped:
            self._drop(one)

    def _start(self, frame: Frame, slot: Slot | None) -> Callable[[], Frame]:
        found = InputFormat(frame.width, frame.height, frame.sample_aspect, frame.color)
        with self._lock:
            engine: Engine | None = self._others.get(found)
            self._current = found
        first = self._first_format
        if engine is None and (found.width, found.height) != (first.width, first.height):
            raise EngineRunError(
                f"{frame!r} came, for which no engine was prepared; the first was {(first.width, first.height)}"
            )
        return (engine or self._first).submit(frame, slot).wait


def _log_change(found: InputFormat, scale: int, inner: tuple[int, int], size: tuple[int, int]) -> None:
    log.info(
        "the input is %dx%d now: enlarged by %d and fitted to %dx%d%s",
        found.width,
        found.height,
        scale,
        *inner,
        f" within {size[0]}x{size[1]}" if inner != size else "",
    )
