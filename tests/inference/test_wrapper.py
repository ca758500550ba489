"""What all engines that run on other engines do: count the frames in flight, own engines and close each once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from test_hot_swap import FAILS, REFUSES, Tagged, frame_of, tag_of

from stream_sr.errors import EngineRunError
from stream_sr.inference.wrapper import EngineWrapper
from stream_sr.pipeline.engine import EngineSpec
from stream_sr.video.frame import Frame
from stream_sr.video.frame_pool import Slot


class Plain(EngineWrapper):
    """Runs on the first of its engines."""

    @property
    def spec(self) -> EngineSpec:
        return self.first.spec

    @property
    def first(self) -> Tagged:
        engine = self._owned[0]
        assert isinstance(engine, Tagged)
        return engine

    def _start(self, frame: Frame, slot: Slot | None) -> Callable[[], Frame]:
        return self.first.submit(frame, slot).wait


def test_frames_in_flight_are_counted_up_to_the_smallest_depth() -> None:
    engine = Plain([Tagged(1, depth=3), Tagged(2, depth=2)])
    assert engine.depth == 2
    pending = [engine.submit(frame_of(number)) for number in range(2)]
    with pytest.raises(EngineRunError, match="2 frames are in flight"):
        engine.submit(frame_of(2))
    assert [tag_of(one.wait()) for one in pending] == [1, 1]
    with pytest.raises(EngineRunError, match="waited for twice"):
        pending[0].wait()
    engine.submit(frame_of(2)).wait()
    engine.close()


@pytest.mark.parametrize("kind", [REFUSES, FAILS])
def test_a_frame_that_fails_is_not_in_flight_any_more(kind: str) -> None:
    engine = Plain([Tagged(1, depth=1, kind=kind)])
    for number in range(3):
        with pytest.raises(EngineRunError, match="by the double"):
            engine.submit(frame_of(number)).wait()
    engine.close()


def test_every_engine_is_closed_once() -> None:
    first, dropped, kept, late = (Tagged(number, depth=1) for number in range(4))
    engine = Plain([first])
    assert engine._adopt(dropped)
    assert engine._adopt(kept)
    engine._drop(dropped)
    engine._drop(dropped)
    assert [one.closed for one in (first, dropped, kept)] == [0, 1, 0]
    assert not engine.closed
    engine.close()
    engine.close()
    engine._drop(kept)
    assert engine.closed
    assert not engine._adopt(late)
    assert [one.closed for one in (first, dropped, kept, late)] == [1, 1, 1, 1]
    with pytest.raises(EngineRunError, match="closed engine"):
        engine.submit(frame_of(0))


def test_an_engine_that_cannot_be_closed_does_not_keep_the_others_open() -> None:
    class Broken(Tagged):
        def close(self) -> None:
            super().close()
            raise EngineRunError("the device is gone")

    broken, other = Broken(1, depth=1), Tagged(2, depth=1)
    engine = Plain([broken, other])
    with pytest.raises(EngineRunError, match="the device is gone"):
        engine.close()
    assert (broken.closed, other.closed) == (1, 1)
