"""No network: swscale's bicubic through FFmpeg. What a network has to beat, and the honest double in tests.

Keys' cubic with a = -0.5 (Catmull-Rom), exact rounding, chroma sited as in the stream. Scale 1 is a copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from importlib import metadata
from importlib.util import find_spec
from typing import Any

import numpy as np

from stream_sr.backends.output import Availability, InFlight, Output, Result, make_output
from stream_sr.color import Siting
from stream_sr.engine import Engine, EngineOptions, EngineSpec, Pending
from stream_sr.errors import EngineBuildError, EngineRunError, EngineUnavailable
from stream_sr.frame import Frame, Plane, StreamInfo
from stream_sr.ring import Allocate, Slot

PRECISIONS: tuple[str, ...] = ()
INSTALL = "pip install av"
# position of a chroma sample in 1/256 of a luma sample, across and down: FFmpeg's scale filter
CHROMA_POSITION = {Siting.LEFT: (0, 128), Siting.UNKNOWN: (0, 128), Siting.CENTER: (128, 128), Siting.TOPLEFT: (0, 0)}


def availability() -> Availability:
    """Whether PyAV is installed."""
    if find_spec("av") is None:
        return Availability(False, reason="av not installed", mend=INSTALL)
    return Availability(True, metadata.version("av"), "swscale, no network")


def open_scale(scale: int, info: StreamInfo, options: EngineOptions) -> Engine:
    """An engine that enlarges by ``scale``, 1 to 4. Raises EngineUnavailable, EngineBuildError."""
    if not availability().usable:
        raise EngineUnavailable(f"backend bicubic needs PyAV; {INSTALL}")
    spec = EngineSpec(
        backend="bicubic", model="bicubic", scale=scale, width=info.width, height=info.height,
        precision="uint8", device="CPU",
    )  # fmt: skip
    return BicubicEngine(spec, info.color.siting, options.depth)


class BicubicEngine:
    """Computes in `submit`; nothing is left to wait for."""

    allocate: Allocate | None = None

    def __init__(self, spec: EngineSpec, siting: int, depth: int) -> None:
        self.spec, self.depth = spec, depth
        self._in_flight = InFlight(depth)
        # an odd size is made even by repeating its last line: swscale would stretch chroma by another factor than luma
        self._width, self._height = spec.width + spec.width % 2, spec.height + spec.height % 2
        self._scaler: Any = None if spec.scale == 1 else self._make_scaler(siting)

    def _make_scaler(self, siting: int) -> Any:
        import av.filter

        across, down = CHROMA_POSITION.get(Siting(siting), (0, 128))
        positions = ":".join(f"{end}_h_chr_pos={across}:{end}_v_chr_pos={down}" for end in ("in", "out"))
        width, height = self._width * self.spec.scale, self._height * self.spec.scale
        try:
            graph = av.filter.Graph()
            head = graph.add_buffer(
                width=self._width, height=self._height, format=_format("yuv420p"), time_base=Fraction(1)
            )
            scale = graph.add(
                "scale", f"w={width}:h={height}:flags=bicubic+accurate_rnd:param0=0:param1=0.5:{positions}"
            )
            tail = graph.add("buffersink")
            head.link_to(scale)
            scale.link_to(tail)
            graph.configure()
        except av.FFmpegError as error:
            raise EngineBuildError(
                f"swscale refuses {self._width}x{self._height} to {width}x{height}: {error}"
            ) from error
        return graph

    def submit(self, frame: Frame, slot: Slot | None = None) -> Pending:
        output = make_output(frame, self.spec, slot)
        self._in_flight.enter()
        try:
            self._compute(frame, output)
        except Exception as error:
            self._in_flight.leave()
            raise EngineRunError(f"swscale could not enlarge frame {frame.number}: {error}") from error

        def finish() -> Frame:
            self._in_flight.leave()
            return frame.with_planes(output.planes, slot)

        return Result(finish)

    def _compute(self, frame: Frame, output: Output) -> None:
        if self.spec.scale == 1:
            for plane, target in zip(frame.planes, output.planes, strict=True):
                np.copyto(target, plane)
            return
        import av

        picture = av.VideoFrame(self._width, self._height, "yuv420p")
        picture.pts = 0
        for plane, memory in zip(frame.planes, _views(picture.planes), strict=True):
            height, width = plane.shape
            memory[:height, :width] = plane
            memory[height:, :width] = plane[-1:]
            memory[:, width:] = memory[:, width - 1 : width]
        self._scaler.push(picture)
        larger = self._scaler.pull()
        for plane, target in zip(_views(larger.planes), output.planes, strict=True):
            np.copyto(target, plane[: target.shape[0], : target.shape[1]])

    def close(self) -> None:
        self._in_flight.closed = True
        self._scaler = None


def _format(name: str) -> Any:
    import av

    return av.VideoFormat(name)


def _views(planes: Sequence[Any]) -> list[Plane]:
    """The planes of a PyAV picture as arrays on its memory, without the padding of the rows."""
    return [np.frombuffer(p, np.uint8).reshape(-1, p.line_size)[: p.height, : p.width] for p in planes]
