"""Results of another size: ``--size``, and an input that changes while its results keep their size and colours."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from doubles import DoublingEngine

from stream_sr.codec.swscale import fit_area
from stream_sr.errors import EngineRunError
from stream_sr.inference.engines import open_engine
from stream_sr.inference.resize import MultiFormatEngine, ResizeEngine, fit_into
from stream_sr.pipeline.engine import Engine, EngineOptions
from stream_sr.pipeline.stages import upscale
from stream_sr.pipeline.stats import Stats
from stream_sr.video.color import ColorInfo, Matrix, Range, guess_unknown
from stream_sr.video.frame import Frame, StreamInfo
from stream_sr.video.frame_pool import FramePool
from stream_sr.video.orientation import Orientation
from stream_sr.video.planes import empty_planes, read_only
from stream_sr.video.timing import ManualClock

BASE = Fraction(1, 30)
FIRST = StreamInfo(64, 48, BASE, live=True)
FILE = StreamInfo(640, 360, Fraction(1, 25))


@pytest.mark.parametrize("box", [(853, 479), (1279, 719), (1280, 720), (200, 2000), (2000, 200), (1, 1), (3840, 2160)])
@pytest.mark.parametrize("size", [(640, 360), (1920, 1080), (853, 479), (64, 480)])
def test_the_largest_even_size_inside_the_box(size: tuple[int, int], box: tuple[int, int]) -> None:
    width, height = fit_into(StreamInfo(*size, Fraction(1, 25)), box)
    assert width % 2 == height % 2 == 0
    assert (width <= box[0] and height <= box[1]) or 2 in (width, height)
    if min(width, height) > 2:
        assert width + 2 > box[0] or height + 2 > box[1], "it could be larger"
        assert abs(width / height - size[0] / size[1]) < 3 * size[0] / size[1] / min(width, height)


def test_a_turned_video_is_fitted_as_it_is_seen() -> None:
    assert fit_into(replace(FILE, orientation=Orientation.TURNED_90), (720, 1280)) == (1280, 720)


def test_a_flat_picture_stays_flat_and_in_its_slot() -> None:
    planes = empty_planes(16, 8)
    for plane, value in zip(planes, (70, 90, 200), strict=True):
        plane.fill(value)
    frame = Frame(read_only(planes), 3, Fraction(1, 25), number=5)
    engine = ResizeEngine(DoublingEngine(), (24, 12), FILE)
    assert engine.spec.output_size == (24, 12)
    pool = FramePool(24, 12, 1, poison=True)
    result = engine.submit(frame, pool.lease()).wait()
    assert (result.width, result.height, result.pts, result.number) == (24, 12, 3, 5)
    assert [set(np.unique(plane).tolist()) for plane in result.planes] == [{70}, {90}, {200}]
    result.release()
    assert pool.held == 0
    engine.close()


def bicubic(info: StreamInfo) -> Engine:
    return open_engine(None, info, EngineOptions(backend="bicubic"), scale=2)


def frame_of(info: StreamInfo, values: tuple[int, int, int]) -> Frame:
    planes = empty_planes(info.width, info.height)
    for plane, value in zip(planes, values, strict=True):
        plane.fill(value)
    color = guess_unknown(info.color, width=info.width, height=info.height)
    return Frame(read_only(planes), 0, BASE, color=color, sample_aspect=info.sample_aspect)


@pytest.mark.parametrize(
    ("size", "aspect", "area"),
    [
        ((64, 48), 1, (0, 0, 128, 96)),
        ((32, 24), 1, (0, 0, 128, 96)),
        ((64, 64), 1, (16, 0, 96, 96)),
        ((128, 48), 1, (0, 24, 128, 48)),
        ((48, 48), Fraction(4, 3), (0, 0, 128, 96)),
        ((1, 1000), 1, (62, 0, 2, 96)),
    ],
)
def test_the_shape_is_kept(size: tuple[int, int], aspect: Fraction, area: tuple[int, int, int, int]) -> None:
    assert fit_area(size, Fraction(aspect), (128, 96), Fraction(1)) == area


def test_another_size_comes_with_black_beside_it() -> None:
    engine = MultiFormatEngine(bicubic(FIRST), FIRST, bicubic)
    other = replace(FIRST, width=48, height=48)
    pool = FramePool(128, 96, 2, poison=True)
    with pytest.raises(EngineRunError, match="no engine was prepared"):
        engine.submit(frame_of(other, (90, 100, 150)))
    engine.prepare(other)
    for info, inside in ((other, slice(16, 112)), (FIRST, slice(0, 128)), (other, slice(16, 112))):
        result = engine.submit(frame_of(info, (90, 100, 150)), pool.lease()).wait()
        luma, u, _ = result.planes
        assert luma.shape == (96, 128)
        assert (luma[:, inside] == 90).all()
        outside = np.ones(128, bool)
        outside[inside] = False
        assert (luma[:, outside] == 16).all()
        assert (u[:, inside.start // 2 : inside.stop // 2] == 100).all()
        result.release()
    engine.close()
    assert pool.held == 0


def test_other_colours_are_converted() -> None:
    """Full-range BT.709 grey and red into the limited BT.601 of the run."""
    engine = MultiFormatEngine(bicubic(FIRST), FIRST, bicubic)
    other = replace(FIRST, color=ColorInfo(Matrix.BT709, Range.FULL, 1, 1))
    engine.prepare(other)
    result = engine.submit(frame_of(other, (255, 128, 128))).wait()
    assert result.color == guess_unknown(FIRST.color, width=64, height=48)
    assert abs(int(result.planes[0][10, 10]) - 235) <= 1
    red = engine.submit(frame_of(other, (54, 99, 255))).wait()  # BT.709, full
    found = [int(plane[10, 10]) for plane in red.planes]
    assert found == pytest.approx([81, 90, 240], abs=3)  # BT.601, limited
    engine.close()


def test_engines_that_are_not_needed_any_more_are_closed() -> None:
    closed: list[int] = []

    class Watched:
        def __init__(self, info: StreamInfo) -> None:
            self._engine = bicubic(info)
            self.spec, self.depth, self.allocate = self._engine.spec, 1, self._engine.allocate
            self.submit = self._engine.submit
            self._width = info.width

        def close(self) -> None:
            closed.append(self._width)

    engine = MultiFormatEngine(bicubic(FIRST), FIRST, Watched)
    for width in (32, 40, 48, 56):
        engine.prepare(replace(FIRST, width=width))
        engine.prepare(replace(FIRST, width=width))
    assert closed == [32, 40]
    engine.close()
    assert closed == [32, 40, 48, 56]


def test_a_repeated_picture_says_the_colours_and_shape_of_the_run() -> None:
    """As the result that it repeats, not as its own input; and another shape makes another picture."""
    engine = MultiFormatEngine(bicubic(FIRST), FIRST, bicubic)
    other = replace(FIRST, color=ColorInfo(Matrix.BT709, Range.FULL, 1, 1), sample_aspect=Fraction(4, 3))
    engine.prepare(other)
    stats = Stats()
    pictures = [frame_of(info, (90, 100, 150)) for info in (other, other, replace(other, sample_aspect=Fraction(1)))]
    engine.prepare(replace(other, sample_aspect=Fraction(1)))
    results = list(upscale(pictures, engine, clock=ManualClock(), stats=stats))
    assert stats.summary()["repeated"] == 1
    color = guess_unknown(FIRST.color, width=64, height=48)
    assert [(one.color, one.sample_aspect) for one in results] == [(color, Fraction(1))] * 3
    black = [int(one.planes[0][0, 64]) for one in results]
    assert black[:2] == [16, 16]
    assert black[2] != 16
    engine.close()


def test_the_engine_that_computes_says_whether_it_is_deterministic() -> None:
    def make(info: StreamInfo) -> Engine:
        engine = bicubic(info)
        engine.spec = replace(engine.spec, is_deterministic=False, model="other")  # type: ignore[misc]
        return engine

    engine = MultiFormatEngine(bicubic(FIRST), FIRST, make)
    other = replace(FIRST, width=48)
    engine.prepare(other)
    for info, is_deterministic, model in ((FIRST, True, "bicubic"), (other, False, "other"), (FIRST, True, "bicubic")):
        engine.submit(frame_of(info, (90, 100, 150))).wait()
        assert (engine.spec.is_deterministic, engine.spec.model, engine.spec.output_size) == (
            is_deterministic,
            model,
            (128, 96),
        )
    engine.close()


def test_an_engine_that_was_opened_after_the_end_is_closed_at_once() -> None:
    """The source prepares in its own thread, which may be late."""
    opened: list[DoublingEngine] = []
    closed: list[DoublingEngine] = []

    class Watched(DoublingEngine):
        def close(self) -> None:
            closed.append(self)

    def open_for(info: StreamInfo) -> Engine:
        opened.append(Watched())
        return opened[-1]

    engine = MultiFormatEngine(bicubic(FIRST), FIRST, open_for)
    engine.close()
    engine.prepare(replace(FIRST, width=32))
    assert len(opened) == 1
    assert closed == opened
