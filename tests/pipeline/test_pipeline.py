"""The threads: ends, failures, stops and aborts, with a switch interval of a microsecond."""

from __future__ import annotations

import threading

import pytest
from doubles import ByteEncoder, CountingSource, DoublingEngine, ListSink, PacketList, picture

from stream_sr.errors import EngineRunError, PipelineStalled, SinkWriteError, SourceLost
from stream_sr.pipeline.packets import Passthrough, Track
from stream_sr.pipeline.pipeline import Pipeline
from stream_sr.pipeline.plan import Plan
from stream_sr.pipeline.sequential import run_sequential
from stream_sr.pipeline.stats import Stats
from stream_sr.video.color import Matrix
from stream_sr.video.frame import Frame
from stream_sr.video.frame_pool import FramePool

pytestmark = pytest.mark.usefixtures("frequent_switches", "no_threads_left")


def assert_adds_up(stats: Stats) -> None:
    """Every captured frame reached the first output or is counted with a reason; the same for each output."""
    summary = stats.summary()
    assert summary["frames_in"] == summary["frames_out"] + sum(summary["dropped"].values()), summary
    for counts in summary["outputs"].values():
        assert summary["frames_in"] == counts["frames"] + counts["dropped"], summary


def expected(count: int) -> list[tuple[int, int]]:
    return [(number, picture(number)) for number in range(count)]


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("count", [0, 1, 2, 300])
def test_every_frame_of_a_file_in_order(count: int, depth: int) -> None:
    engine, sink = DoublingEngine(depth=depth), ListSink()
    stats = Pipeline(Plan(CountingSource(count), engine, [sink], poison=True)).run().summary()
    assert sink.seen == expected(count)
    assert engine.most_flying == min(depth, count)
    assert (stats["frames_in"], stats["frames_out"], stats["dropped"]) == (count, count, {})
    assert sink.opened is not None
    assert (sink.opened.width, sink.opened.height) == (32, 16)
    assert sink.closed


def test_threaded_and_sequential_runs_agree() -> None:
    results = []
    for threaded in (True, False):
        sink, packets = ListSink(), PacketList()
        plan = Plan(CountingSource(100), DoublingEngine(depth=2), [sink, packets], make_encoder=ByteEncoder)
        if threaded:
            Pipeline(plan).run()
        else:
            run_sequential(plan)
        results.append((sink.seen, packets.seen))
    assert results[0] == results[1] == (expected(100), expected(100))


@pytest.mark.parametrize("how", ["end", "stop", "abort", "failure"])
def test_only_a_whole_run_is_complete(how: str) -> None:
    source = CountingSource(30 if how == "end" else None, fail_at=30 if how == "failure" else None)
    packets, sink = PacketList(), ListSink()
    pipeline = Pipeline(Plan(source, DoublingEngine(), [packets, sink], make_encoder=ByteEncoder))
    if how in ("stop", "abort"):
        stop_from_tick(pipeline, sink, how)
    elif how == "failure":
        with pytest.raises(SourceLost):
            pipeline.run()
    else:
        pipeline.run()
    assert packets.completed == (1 if how == "end" else 0)
    assert packets.closed
    assert_adds_up(pipeline.stats)


def test_lanes_go_to_those_who_take_them() -> None:
    track = Track(0, "audio", "aac", None)
    for takers in ([True, False, True], [False, False], []):
        source = CountingSource(5)
        source.passthrough = Passthrough((track,))
        sinks = [PacketList(f"sink {n}") for n in range(len(takers))]
        for sink, takes in zip(sinks, takers, strict=True):
            sink.takes_passthrough = takes
        Pipeline(Plan(source, DoublingEngine(), [*sinks, ListSink()], make_encoder=ByteEncoder)).run()
        source.passthrough.put(0, "packet", 10)
        lanes = [sink.stream.passthrough for sink in sinks if sink.stream is not None]
        assert [passthrough is not None for passthrough in lanes] == takers
        assert [list(passthrough.take()) for passthrough in lanes if passthrough is not None] == [
            [(0, "packet")]
        ] * sum(takers)
        assert source.passthrough.bytes_held == 0


def test_frames_carry_the_colour_guessed_from_the_inputs_size() -> None:
    seen = set()
    plan = Plan(
        CountingSource(3),
        DoublingEngine(),
        [ListSink()],
        seen=lambda before, after: seen.update({before.color, after.color}),
    )
    Pipeline(plan).run()
    assert seen == {plan.output.color}
    assert plan.output.color.matrix == Matrix.SMPTE170M


def test_slow_is_not_stuck() -> None:
    """A stop with more work behind it than the patience: it goes on as long as something moves."""

    class Slow(ListSink):
        def write(self, frame: Frame) -> bool:
            threading.Event().wait(0.1)
            return super().write(frame)

    sink = Slow()
    pipeline = Pipeline(Plan(CountingSource(None), DoublingEngine(depth=3), [sink]))
    pipeline.run(tick=lambda stats: pipeline.stop(), tick_seconds=0.01, patience=0.3)
    assert_adds_up(pipeline.stats)
    assert len(sink.seen) >= 4


def test_encoded_once_for_all_packet_sinks() -> None:
    encoders: list[ByteEncoder] = []

    def make(info: object) -> ByteEncoder:
        encoders.append(ByteEncoder(info))  # type: ignore[arg-type]
        return encoders[-1]

    first, second = PacketList("first", keyframe_requests=[3]), PacketList("second", keyframe_requests=[5])
    plan = Plan(CountingSource(20), DoublingEngine(), [first, second], make_encoder=make)
    stats = Pipeline(plan).run().summary()
    assert len(encoders) == 1
    assert first.seen == second.seen == expected(20)
    assert encoders[0].keys == [0, 3, 5, 10]  # a request of either sink makes one keyframe for both
    assert stats["frames_out"] == 20


@pytest.mark.parametrize("at", [0, 1, 50])
def test_a_lost_source_finishes_what_was_captured(at: int) -> None:
    sink, packets = ListSink(), PacketList()
    plan = Plan(CountingSource(None, fail_at=at), DoublingEngine(), [sink, packets], make_encoder=ByteEncoder)
    with pytest.raises(SourceLost) as caught:
        Pipeline(plan).run()
    assert "in: capture" in caught.value.__notes__
    assert sink.seen == packets.seen == expected(at)
    assert sink.closed
    assert packets.closed


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("live", [False, True])
def test_a_failing_engine_stops_the_source(live: bool, depth: int) -> None:
    source, sink = CountingSource(None, live=live), ListSink()
    engine = DoublingEngine(depth=depth)
    engine.submit = _fail_on_call(20, engine.submit)  # type: ignore[method-assign]
    with pytest.raises(EngineRunError) as caught:
        Pipeline(Plan(source, engine, [sink], poison=True)).run()
    assert "in: inference" in caught.value.__notes__
    assert sink.closed
    if not live:
        assert sink.seen == expected(20)[: len(sink.seen)]


def _fail_on_call(number: int, function):  # type: ignore[no-untyped-def]
    calls = iter(range(number + 1))

    def failing(*arguments):  # type: ignore[no-untyped-def]
        if next(calls) == number:
            raise EngineRunError("told to fail")
        return function(*arguments)

    return failing


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("at", [0, 7])
def test_a_failing_sink_ends_the_run_and_the_others_are_finished(at: int, live: bool) -> None:
    good, packets = ListSink("good"), PacketList("packets")
    bad = ListSink("bad", fail_at=at)
    plan = Plan(CountingSource(None, live=live), DoublingEngine(), [good, bad, packets], make_encoder=ByteEncoder)
    pipeline = Pipeline(plan)
    with pytest.raises(SinkWriteError, match="bad") as caught:
        pipeline.run()
    assert_adds_up(pipeline.stats)
    assert packets.completed == 0
    assert "in: bad" in caught.value.__notes__
    assert all(sink.closed for sink in (good, bad, packets))
    if not live:
        assert good.seen == expected(len(good.seen))
        assert packets.seen == expected(len(packets.seen))


def test_a_failing_packet_sink() -> None:
    bad, good = PacketList("bad", fail_at=5), PacketList("good")
    plan = Plan(CountingSource(None), DoublingEngine(), [bad, good], make_encoder=ByteEncoder)
    with pytest.raises(SinkWriteError, match="bad"):
        Pipeline(plan).run()
    assert good.closed
    assert good.seen == expected(len(good.seen))


def test_the_first_failure_wins() -> None:
    class BadClose(ListSink):
        def close(self) -> None:
            super().close()
            raise RuntimeError("second failure")

    sink = BadClose(fail_at=0)
    with pytest.raises(SinkWriteError):
        Pipeline(Plan(CountingSource(None), DoublingEngine(), [sink])).run()


def test_a_sink_closed_by_its_user_is_the_end_and_no_error() -> None:
    sink = ListSink(close_at=5)
    Pipeline(Plan(CountingSource(None), DoublingEngine(), [sink])).run()
    assert sink.seen == expected(5)
    assert sink.closed


def stop_from_tick(pipeline: Pipeline, sink: ListSink, how: str) -> None:
    def tick(stats: Stats) -> None:
        if sink.wrote.is_set():
            getattr(pipeline, how)()

    pipeline.run(tick=tick, tick_seconds=0.01)


@pytest.mark.parametrize("live", [False, True])
def test_stop_processes_what_was_captured(live: bool) -> None:
    source, sink = CountingSource(None, live=live), ListSink()
    pipeline = Pipeline(Plan(source, DoublingEngine(depth=2), [sink]))
    stop_from_tick(pipeline, sink, "stop")
    assert_adds_up(pipeline.stats)
    assert pipeline.stats.summary()["frames_in"] == source.made
    assert sink.seen[-1] == (source.made - 1, picture(source.made - 1))
    if not live:
        assert sink.seen == expected(source.made)


def test_abort_drops_and_ends() -> None:
    gate = threading.Event()
    slow, quick = ListSink("slow", gate=gate), ListSink("quick")
    pipeline = Pipeline(Plan(CountingSource(None), DoublingEngine(), [quick, slow]))

    def tick(stats: Stats) -> None:
        if quick.wrote.is_set():
            pipeline.abort()
            gate.set()

    pipeline.run(tick=tick, tick_seconds=0.01)
    assert_adds_up(pipeline.stats)
    assert slow.closed
    assert quick.closed
    assert len(slow.seen) <= 6  # what the ring and the sink's hands held while the gate was opened


def test_a_live_source_loses_the_oldest_and_every_loss_is_counted() -> None:
    gate = threading.Event()
    source, sink = CountingSource(500, live=True), ListSink(gate=gate)
    pipeline = Pipeline(Plan(source, DoublingEngine(), [sink], poison=True))

    def tick(stats: Stats) -> None:
        if source.made == 500:
            gate.set()

    stats = pipeline.run(tick=tick, tick_seconds=0.01).summary()
    assert stats["frames_in"] == 500
    assert len(sink.seen) + sum(stats["dropped"].values()) == 500
    assert sink.seen[-1] == (499, picture(499))
    numbers = [number for number, _ in sink.seen]
    assert numbers == sorted(numbers)
    assert set(stats["dropped"]) <= {"overload", "slow output"}


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("live", [False, True])
def test_a_sink_gets_each_result_with_its_source_and_all_memory_comes_back(live: bool, depth: int) -> None:
    """Poisoned memory that is leased again in the same run would show as another value in one of the two pictures."""
    asking, other = ListSink("asking", with_source=True), ListSink("other")
    source = CountingSource(300, live=live)
    pipeline = Pipeline(Plan(source, DoublingEngine(depth=depth), [asking, other], poison=True))
    pools: list[FramePool] = []
    make = pipeline._pools

    def keep(branches: int) -> tuple[FramePool, FramePool]:
        pools.extend(make(branches))
        return pools[0], pools[1]

    pipeline._pools = keep  # type: ignore[method-assign]
    pipeline.run()
    assert asking.seen
    assert [pool.held for pool in pools] == [0, 0]
    if not live:
        assert asking.seen == other.seen == expected(300)


def test_a_slow_sink_harms_only_itself() -> None:
    gate = threading.Event()
    source = CountingSource(None, live=True)
    quick, slow = ListSink("quick"), ListSink("slow", gate=gate)
    pipeline = Pipeline(Plan(source, DoublingEngine(), [quick, slow]))

    def tick(stats: Stats) -> None:
        if len(quick.seen) > 100:
            gate.set()
            pipeline.stop()

    pipeline.run(tick=tick, tick_seconds=0.01)
    assert_adds_up(pipeline.stats)
    assert pipeline.stats.summary()["frames_out"] == len(quick.seen)  # the first output alone counts, and its drops
    assert len(quick.seen) > 100
    assert len(slow.seen) <= 6


def test_a_thread_that_does_not_end_is_reported() -> None:
    gate = threading.Event()
    sink = ListSink("stuck", gate=gate)
    pipeline = Pipeline(Plan(CountingSource(None, live=True), DoublingEngine(), [sink]))

    def tick(stats: Stats) -> None:
        pipeline.stop()

    try:
        with pytest.raises(PipelineStalled, match="stuck"):
            pipeline.run(tick=tick, tick_seconds=0.01, patience=0.2)
    finally:
        gate.set()
        for worker in pipeline._workers:
            assert worker.join(10)


def test_many_short_runs() -> None:
    for count in range(60):
        sink = ListSink()
        Pipeline(Plan(CountingSource(count % 5), DoublingEngine(depth=1 + count % 3), [sink], poison=True)).run()
        assert sink.seen == expected(count % 5)
