"""An input that is lost and comes back, through a double whose connections are scripted."""

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from typing import Any

import av
import pytest

from stream_sr.errors import ConfigError, DecodeError, SourceLost, SourceOpenError, SourceRefused
from stream_sr.pipeline.packets import Passthrough, Track
from stream_sr.sources import reconnect
from stream_sr.sources.reconnect import Backoff, ReconnectingSource
from stream_sr.sources.timeline import Timeline
from stream_sr.video.frame import Frame, StreamInfo
from stream_sr.video.frame_pool import FramePool
from stream_sr.video.planes import empty_planes, read_only
from stream_sr.video.timing import NS, ManualClock, MonotonicClock

AUDIO = Track(0, "audio", "aac", None, 48000, 2, b"\x11\x90")
QUICK = Backoff(first_seconds=0.001, most_seconds=0.002, refused_seconds=0.002)


pytestmark = pytest.mark.usefixtures("no_threads_left")


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconnect, "GRACE_SECONDS", 0.01)
    monkeypatch.setattr(reconnect, "PERIOD_SECONDS", 0.01)


class Connection:
    """A live source of ``count`` frames that then fails with ``error`` (None: goes on until it is stopped)."""

    def __init__(
        self,
        count: int,
        error: Exception | None = None,
        *,
        size: tuple[int, int] = (64, 48),
        base: Fraction = Fraction(1, 90000),
        first: int = 0,
        track: Track | None = None,
    ) -> None:
        self.info = StreamInfo(*size, base, Fraction(30), live=True, name="double")
        self.passthrough = Passthrough((track,)) if track is not None else None
        self._count, self._error, self._first = count, error, first
        self.stopped = threading.Event()
        self.closed = 0

    def frames(self, pool: FramePool | None = None) -> Iterator[Frame]:
        for number in range(self._count):
            slot = pool.lease() if pool is not None else None
            planes = slot.planes if slot is not None else empty_planes(self.info.width, self.info.height)
            for plane in planes:
                plane.fill(50 + number)
            step = round(Fraction(1, 30) / self.info.time_base)
            if self.passthrough is not None:
                packet: Any = av.Packet(b"sound")
                packet.pts, packet.dts = self._first + number * step, self._first + number * step
                packet.time_base = self.info.time_base
                self.passthrough.put(0, packet, 5)
            yield Frame(
                read_only(planes),
                self._first + number * step,
                self.info.time_base,
                number=number,
                captured_ns=MonotonicClock().now_ns(),
                color=self.info.color,
                slot=slot,
            )
        if self._error is not None:
            raise self._error
        self.stopped.wait()

    def stop(self) -> None:
        self.stopped.set()

    def counters(self) -> dict[str, int]:
        return {"lost_packets": 1}

    def close(self) -> None:
        self.closed += 1


def scripted(*steps: Connection | Exception) -> Callable[[threading.Event], Connection]:
    """Each call takes the next step; the last connection goes on for ever."""
    left = list(steps)

    def connect(cancelled: threading.Event) -> Connection:
        step = left.pop(0)
        if isinstance(step, Exception):
            raise step
        return step

    return connect


def read(source: ReconnectingSource, wanted: int, pool: FramePool | None = None) -> list[Frame]:
    """Frames until ``wanted`` with a signal were seen; pixels are not kept."""
    kept, seen = [], 0
    for frame in source.frames(pool):
        seen += bool(frame.captured_ns and frame.planes[0].max() < 200)  # before its memory is used again
        kept.append(replace(frame, slot=None))
        frame.release()
        if seen >= wanted:
            source.stop()
            break
    return kept


LOST = SourceLost("gone")


def test_it_comes_back_in_one_growing_line_of_times() -> None:
    connections = Connection(3, LOST, first=900), Connection(3, base=Fraction(1, 1000), first=77)
    pool = FramePool(64, 48, 6, poison=True)
    with closing(
        ReconnectingSource(scripted(connections[0], LOST, SourceOpenError("no"), connections[1]), backoff=QUICK)
    ) as source:
        frames = read(source, 6, pool)
        counters = source.counters()
    assert [frame.pts for frame in frames[:3]] == [900, 3900, 6900]
    assert all(a.pts < b.pts and a.number < b.number for a, b in pairwise(frames))
    assert {frame.time_base for frame in frames} == {Fraction(1, 90000)}
    assert frames[-1].pts - frames[-2].pts == pytest.approx(3000, abs=90)  # milliseconds there
    breaks = [index for index, frame in enumerate(frames) if frame.discontinuity]
    assert breaks[0] == 3
    assert breaks[-1] == len(frames) - 3
    assert counters["reconnects"] == 1
    assert counters["lost_packets"] == 2
    assert [one.closed for one in connections] == [1, 1]
    assert pool.held == 0


def test_a_picture_that_came_before_the_last_no_signal_is_told_apart_from_it_in_every_container() -> None:
    """It waited while one more `no signal` was drawn: less than a millisecond later Matroska shows both at once."""
    timeline = Timeline(Fraction(1, 90000))
    picture = Frame(read_only(empty_planes(2, 2)), pts=900, time_base=Fraction(1, 90000), captured_ns=500)
    before = timeline.stamp(picture)
    timeline.cut()
    after = timeline.stamp(replace(picture, pts=7, captured_ns=400))
    assert (after.pts - before.pts) * after.time_base == Fraction(1, 1000)
    sound = av.Packet(b"sound")
    sound.pts, sound.time_base = 7, picture.time_base
    timeline.shift(sound)
    assert sound.pts == after.pts  # what came with it stays beside it


def test_while_it_is_away_there_is_a_picture() -> None:
    allowed = threading.Event()
    again = Connection(2, size=(32, 24))
    first = Connection(2, LOST)
    calls = iter([first, again])

    def connect(cancelled: threading.Event) -> Connection:
        one = next(calls)
        if one is again:
            assert allowed.wait(10)
        return one

    prepared: list[tuple[int, int]] = []
    with closing(ReconnectingSource(connect, backoff=QUICK)) as source:
        source.prepare = lambda info: prepared.append((info.width, info.height))
        seen = []
        for frame in source.frames(FramePool(64, 48, 6, poison=True)):
            seen.append((frame.width, int(frame.planes[0].max())))
            if len(seen) == 5:
                assert not source.signal
                allowed.set()
            frame.release()
            if frame.width == 32:
                source.stop()
    assert seen[:2] == [(64, 50), (64, 51)]
    assert all(brightest > 200 for _, brightest in seen[2:5])
    assert seen[-1] == (32, 51)
    assert prepared == [(32, 24)]


def test_a_picture_that_cannot_be_decoded_and_a_plain_end_are_losses_too() -> None:
    ended = Connection(1)
    ended.stopped.set()
    with closing(
        ReconnectingSource(scripted(Connection(1, DecodeError("bits")), ended, Connection(1)), backoff=QUICK)
    ) as source:
        read(source, 3)
        assert source.counters()["reconnects"] == 2


def test_a_camera_without_a_first_picture_is_tried_again() -> None:
    with closing(
        ReconnectingSource(scripted(Connection(1, LOST), Connection(0, LOST), Connection(1)), backoff=QUICK)
    ) as source:
        read(source, 2)
        assert source.counters()["reconnects"] == 1


def test_the_first_failure_to_open_is_the_callers() -> None:
    with pytest.raises(SourceOpenError, match="no such"):
        ReconnectingSource(scripted(SourceOpenError("no such")))


def test_another_error_ends_the_run() -> None:
    with (
        closing(ReconnectingSource(scripted(Connection(1, LOST), ConfigError("no engine")), backoff=QUICK)) as source,
        pytest.raises(ConfigError, match="no engine"),
    ):
        list(source.frames())


def test_giving_up_raises_the_loss() -> None:
    steps: list[Connection | Exception] = [Connection(1, LOST), *[SourceOpenError("no")] * 2000]
    with (
        closing(ReconnectingSource(scripted(*steps), backoff=QUICK, give_up_seconds=0.05)) as source,
        pytest.raises(SourceLost, match="gone"),
    ):
        list(source.frames())


def test_the_duration_counts_over_all_connections() -> None:
    endless = [Connection(3, LOST) for _ in range(1000)]
    with closing(ReconnectingSource(scripted(*endless), backoff=QUICK, duration=0.5)) as source:
        times = [frame.seconds for frame in source.frames()]
    assert times[-1] < 0.5  # of one connection they are 0, 33 and 67 ms: none of them alone lasts so long
    assert times == sorted(times)
    assert endless[1].closed > 0  # and it went on to the second


def test_stopping_while_it_is_away() -> None:
    hanging = threading.Event()
    calls = iter([Connection(1, LOST)])

    def connect(cancelled: threading.Event) -> Connection:
        if (one := next(calls, None)) is not None:
            return one
        hanging.set()
        assert cancelled.wait(10)
        raise SourceOpenError("cancelled")

    with closing(ReconnectingSource(connect, backoff=QUICK)) as source:
        for frame in source.frames():
            frame.release()
            if hanging.is_set():
                source.stop()


def test_sound_moves_along_with_the_pictures() -> None:
    first, again = Connection(2, LOST, track=AUDIO), Connection(2, first=10**6, track=AUDIO)
    with closing(ReconnectingSource(scripted(first, again), backoff=QUICK)) as source:
        assert source.passthrough is not None
        frames = [frame for frame in read(source, 4) if frame.planes[0].max() < 200]
        times = [packet.pts for _, packet in source.passthrough.take()]
    assert times == pytest.approx([frame.pts for frame in frames], abs=1)


def test_sound_of_another_form_is_left_out() -> None:
    other = replace(AUDIO, codec="opus")
    with closing(
        ReconnectingSource(scripted(Connection(2, LOST, track=AUDIO), Connection(2, track=other)), backoff=QUICK)
    ) as source:
        assert source.passthrough is not None
        read(source, 4)
        assert len(list(source.passthrough.take())) == 2


def test_waits_grow_up_to_a_limit_and_are_never_the_same() -> None:
    backoff = Backoff()
    waits = [backoff.seconds(failures, LOST, 1.0) for failures in range(40)]
    assert waits == sorted(waits)
    assert waits[0] == 0.1
    assert waits[-1] == 1.0
    assert backoff.seconds(9, LOST, 0.0) == 0.5
    assert backoff.seconds(0, SourceRefused("password"), 1.0) == 30.0


def refused(began_ns: int, back_ns: int) -> tuple[bool, int]:
    """A try at a machine that runs without its camera: whether it succeeds, and when it ends."""
    return began_ns >= back_ns, began_ns + NS // 1000


def switched_off(began_ns: int, back_ns: int) -> tuple[bool, int]:
    """A try at a machine that is off: SYNs after 0, 1 and 3 s meet nobody (RFC 6298), it is given up after 5 s."""
    syns = [began_ns + seconds * NS for seconds in (0, 1, 3)]
    met = next((syn for syn in syns if syn >= back_ns), None)
    return met is not None, met if met is not None else began_ns + 5 * NS


@pytest.mark.parametrize("fault", [refused, switched_off])
def test_by_design_the_picture_is_back_within_three_seconds(
    monkeypatch: pytest.MonkeyPatch, fault: Callable[[int, int], tuple[bool, int]]
) -> None:
    """Whenever the camera comes back, with the longest waits, on a clock that only tries and waits move."""
    conversation, first_key = NS // 20, NS * 9 // 10  # DESCRIBE to PLAY, then a keyframe within 0.9 s
    monkeypatch.setattr("random.random", lambda: 1.0)
    worst = 0
    for back_ns in range(NS // 20, 16 * NS, NS * 7 // 20):
        clock = ManualClock()
        lost, again = Connection(1, LOST), Connection(2)
        steps = iter([lost])

        def connect(cancelled: threading.Event) -> Connection:
            if (first := next(steps, None)) is not None:  # noqa: B023 - called within this turn
                return first
            there, clock.ns = fault(clock.ns, back_ns)  # noqa: B023
            if not there:
                raise SourceOpenError("away")
            clock.ns += conversation + first_key  # noqa: B023
            return again  # noqa: B023

        with closing(ReconnectingSource(connect, clock=clock)) as source:
            pictures = source.frames()
            while not (again.closed or source.counters().get("reconnects")):
                next(pictures)
            worst = max(worst, clock.ns - back_ns)
    assert NS < worst < 3 * NS
