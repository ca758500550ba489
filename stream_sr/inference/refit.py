"""An engine for a stream whose pictures may change their size and colours: the results never do.

A camera that comes back with another picture gets an engine of its own size; what that makes is resampled into the
output that the viewers and files of this run were promised, its shape kept, with black beside it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

from stream_sr.codec.swscale import Scaler, fit_area
from stream_sr.errors import EngineRunError
from stream_sr.pipeline.engine import Engine, EngineSpec, Pending
from stream_sr.video.color import ColorInfo, guess_unknown
from stream_sr.video.frame import Frame, StreamInfo
from stream_sr.video.frame_pool import Allocate, Slot
from stream_sr.video.planes import empty_planes, read_only

log = logging.getLogger("stream_sr")

Form = tuple[int, int, Fraction, ColorInfo]  # width, height, sample aspect and colours (none unknown) of an input
KEPT = 2  # engines besides the first: a camera may go back and forth


class RefitEngine:
    """See `engine.Engine`. ``spec`` is that of the first engine, for the form of ``info``, but for what computes now:
    model, backend, precision, and whether it is steady.

    `prepare` opens an engine for another form, with ``make``, in the calling thread: from any thread, beside `submit`.
    It may take long, the stream goes on meanwhile. Frames of a form that was not prepared are refused.
    Closes every engine that it was given or has made.
    """

    def __init__(self, engine: Engine, info: StreamInfo, make: Callable[[StreamInfo], Engine]) -> None:
        self.depth = engine.depth
        self.allocate: Allocate | None = engine.allocate
        self._first, self._make = engine, make
        self._info = info
        self._color = _color(info)
        self._lock = threading.Lock()
        self._others: dict[Form, _Refitted] = {}
        self._form = _form(info)
        self._current: Form | None = None

    @property
    def spec(self) -> EngineSpec:
        """May be read by any thread."""
        first = self._first.spec
        with self._lock:
            other = self._others.get(self._current) if self._current is not None else None
        if other is None:
            return first
        now = other.engine.spec
        return replace(
            first, model=now.model, backend=now.backend, precision=now.precision, is_deterministic=now.is_deterministic
        )

    def prepare(self, info: StreamInfo) -> None:
        """Be ready for frames as ``info`` says. Raises what ``make`` raises."""
        form = _form(info)
        with self._lock:
            if form == self._form or form in self._others:
                return
        engine = self._make(info)
        width, height = self.spec.output_size
        refitted = _Refitted(engine, form, (width, height), self._info.sample_aspect, self._color)
        inner_width, inner_height = refitted.area[2:]
        beside = f" within {width}x{height}" if (inner_width, inner_height) != (width, height) else ""
        log.info(
            "the picture is %dx%d now: enlarged by %d and fitted to %dx%d%s",
            info.width,
            info.height,
            engine.spec.scale,
            inner_width,
            inner_height,
            beside,
        )
        with self._lock:
            old = [one for one in self._others if one != self._current][: max(0, len(self._others) - KEPT + 1)]
            dropped = [self._others.pop(one) for one in old]
            self._others[form] = refitted
        for one in dropped:
            one.engine.close()

    def submit(self, frame: Frame, slot: Slot | None = None) -> Pending:
        """See `engine.Engine`."""
        form = (frame.width, frame.height, frame.sample_aspect, frame.color)
        same_size = form[:2] == self._form[:2]
        with self._lock:
            other = self._others.get(form)
            self._current = form
        if other is not None:
            return other.submit(frame, slot)
        if not same_size:
            raise EngineRunError(f"{frame!r} came, for which no engine was prepared; the first was {self._form[:2]}")
        return self._first.submit(frame, slot)

    def close(self) -> None:
        """See `engine.Engine`."""
        with self._lock:
            others, self._others = list(self._others.values()), {}
        for one in others:
            one.engine.close()
        self._first.close()


class _Refitted:
    """An engine for one other form, and the way from its results to the output."""

    def __init__(self, engine: Engine, form: Form, output: tuple[int, int], aspect: Fraction, color: ColorInfo) -> None:
        self.engine, self._output, self._aspect, self._color = engine, output, aspect, color
        self.area = fit_area((form[0], form[1]), form[2], output, aspect)
        self._scaler = Scaler(engine.spec.output_size, self.area[2:], form[3].siting, colors=(form[3], color))

    def submit(self, frame: Frame, slot: Slot | None) -> Pending:
        return _Pending(self, self.engine.submit(frame), slot)

    def finish(self, frame: Frame, slot: Slot | None) -> Frame:
        planes = slot.planes if slot is not None else empty_planes(*self._output)
        left, top, width, height = self.area
        for plane, black in zip(planes, (0 if self._color.full_range else 16, 128, 128), strict=True):
            plane.fill(black)
        inside = (
            planes[0][top : top + height, left : left + width],
            *(plane[top // 2 : (top + height) // 2, left // 2 : (left + width) // 2] for plane in planes[1:]),
        )
        self._scaler(frame.planes, (inside[0], inside[1], inside[2]))
        return replace(frame, planes=read_only(planes), slot=slot, color=self._color, sample_aspect=self._aspect)


class _Pending:
    def __init__(self, refitted: _Refitted, pending: Pending, slot: Slot | None) -> None:
        self._refitted, self._pending, self._slot = refitted, pending, slot

    def wait(self) -> Frame:
        return self._refitted.finish(self._pending.wait(), self._slot)


def _form(info: StreamInfo) -> Form:
    return info.width, info.height, info.sample_aspect, _color(info)


def _color(info: StreamInfo) -> ColorInfo:
    return guess_unknown(info.color, width=info.width, height=info.height)
