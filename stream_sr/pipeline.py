"""The threads between a source and its sinks: who hands what to whom, and how it ends.

    source -> [capture thread] -> ring A -> [inference thread: drop_late, upscale] -> ring B of every branch
    branch: a frame sink, or the encoder with a packet ring and a thread for each packet sink

Every worker, however it ends, ends the ring behind it and aborts the ring before it; so an end of stream drains
forwards, a failure stops what feeds it, and the other outputs are still finished. The first failure wins.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TypeGuard

from stream_sr.color import guess_unknown
from stream_sr.engine import Engine
from stream_sr.errors import PipelineStalled
from stream_sr.frame import Frame, StreamInfo
from stream_sr.media import FrameSink, Packet, PacketSink, PictureEncoder, Source
from stream_sr.ring import FramePool, Full, RingBuffer
from stream_sr.stages import drop_late, measure, pace, upscale
from stream_sr.stats import Stats
from stream_sr.threads import Worker
from stream_sr.timing import Clock, MonotonicClock, Pacer

log = logging.getLogger("stream_sr")

Queued = tuple[Frame, int]  # a frame and when it was queued
LIVE_FRAMES = 2  # capacity of a live ring: one more would only add age
FILE_FRAMES = 3
LIVE_PACKETS = 60  # two seconds of slack for an output before it skips to the next key picture
FILE_PACKETS = 16
ABORT_SECONDS = 2.0


@dataclass(frozen=True)
class Plan:
    """Everything that a run consists of, opened but for the sinks."""

    source: Source
    engine: Engine
    sinks: Sequence[FrameSink | PacketSink]
    make_encoder: Callable[[StreamInfo], PictureEncoder] | None = None  # needed by packet sinks
    max_latency_ns: int | None = None  # live frames older than this are dropped before inference
    read_barcodes: bool = False
    seen: Callable[[Frame, Frame], None] = lambda before, after: None  # shown each pair, both borrowed
    clock: Clock = field(default_factory=MonotonicClock)
    poison: bool = False  # overwrite returned frame memory, for tests

    @property
    def output(self) -> StreamInfo:
        """Size and colour of what the sinks get. What the source leaves unsaid is guessed from *its* size."""
        info, (width, height) = self.source.info, self.engine.spec.output_size
        color = guess_unknown(info.color, width=info.width, height=info.height)
        return replace(info, width=width, height=height, color=color)


class Pipeline:
    """One run of a plan. `run` blocks in the calling thread, which only watches."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.stats = Stats()
        self.failure: BaseException | None = None
        self._lock = threading.Lock()
        self._wake = threading.Event()  # a worker has ended
        self._stopping = threading.Event()
        self._stop_wanted = self._abort_wanted = False
        self._rings: list[RingBuffer[Queued] | RingBuffer[Packet]] = []
        self._workers: list[Worker] = []
        self._cleanup: list[Callable[[], None]] = []

    # -- from any thread, also from a signal handler -------------------------------------------------------------

    def stop(self) -> None:
        """Pretend that the stream ended: what was captured is still processed and written. Returns at once.

        Only a flag is set (a signal handler must take no lock); `run` looks at it 20 times a second.
        """
        self._stop_wanted = True

    def abort(self) -> None:
        """Drop everything and end. Returns at once."""
        self._abort_wanted = True
        self._stop_wanted = True

    # -- the run -------------------------------------------------------------------------------------------------

    def run(
        self, *, tick: Callable[[Stats], None] = lambda _: None, tick_seconds: float = 0.25, patience: float = 30.0
    ) -> Stats:
        """Process the source to its end and return what was counted.

        ``tick`` is called in this thread every ``tick_seconds``. Raises the first failure after all threads have ended;
        PipelineStalled if one does not end within ``patience`` seconds after it should (2 after an abort).
        """
        try:
            self._start()
            self._attend(tick, tick_seconds, patience)
        except BaseException as error:
            self._fail("main", error)
            self.abort()
        finally:
            self._finish(patience)
        if self.failure is not None:
            raise self.failure
        return self.stats

    def _start(self) -> None:
        plan, live = self.plan, self.plan.source.info.live
        full, frames = (Full.DROP_OLDEST, LIVE_FRAMES) if live else (Full.BLOCK, FILE_FRAMES)
        frame_sinks, packet_sinks = split_sinks(plan.sinks)
        output = plan.output

        def frame_ring() -> RingBuffer[Queued]:
            ring = RingBuffer[Queued](frames, full, discard=lambda queued: queued[0].release())
            self._rings.append(ring)
            return ring

        ring_a = frame_ring()
        branches: list[RingBuffer[Queued]] = []
        consumers: list[tuple[str, Callable[[], None]]] = []
        for sink in frame_sinks:
            ring = frame_ring()
            branches.append(ring)
            sink.open(output)
            self._cleanup.append(sink.close)
            primary = sink is plan.sinks[0]
            consumers.append((sink.name, lambda s=sink, r=ring, p=primary: self._show(s, r, p)))  # type: ignore[misc]
        if packet_sinks:
            ring = frame_ring()
            branches.append(ring)
            consumers += self._encoding(packet_sinks, ring, output, live)
        elif plan.source.lane is not None:
            plan.source.lane.shut()

        depth = plan.engine.depth
        pools = (
            FramePool(
                plan.source.info.width, plan.source.info.height, frames + depth + 3,
                allocate=plan.engine.allocate, poison=plan.poison,
            ),
            FramePool(
                output.width, output.height, len(branches) * (frames + 2) + depth + 2,
                allocate=plan.engine.allocate, poison=plan.poison,
            ),
        )  # fmt: skip
        for name, work in reversed(consumers):
            self._spawn(name, work)
        self._spawn("inference", lambda: self._infer(ring_a, branches, pools[1]))
        self._spawn("capture", lambda: self._capture(ring_a, pools[0]))

    def _spawn(self, name: str, work: Callable[[], None]) -> None:
        def guarded() -> None:
            try:
                work()
            except BaseException as error:
                self._fail(name, error)
                self.stop()
            finally:
                self._wake.set()

        self._workers.append(Worker(name, guarded))

    def _fail(self, name: str, error: BaseException) -> None:
        with self._lock:
            if self.failure is None:
                self.failure = error
                error.add_note(f"in: {name}")
            elif self.failure is not error:
                log.debug("after the first failure, %s failed too: %r", name, error)

    # -- workers -------------------------------------------------------------------------------------------------

    def _capture(self, ring: RingBuffer[Queued], pool: FramePool) -> None:
        clock, stats, live = self.plan.clock, self.stats, self.plan.source.info.live
        try:
            began = clock.now_ns()
            for frame in self.plan.source.frames(pool):
                now = clock.now_ns()
                stats.count("frames_in")
                stats.stage("decode", now - (frame.captured_ns if live else began))
                lost = ring.dropped
                if not ring.put((frame, now)):
                    break
                if ring.dropped > lost:
                    stats.drop("overload", ring.dropped - lost)
                began = clock.now_ns()
        finally:
            ring.end()
            for name, value in self.plan.source.counters().items():
                if value:
                    stats.count(name, value)

    def _queued(self, ring: RingBuffer[Queued], stage: str) -> Iterator[Frame]:
        for frame, since in ring:
            self.stats.stage(stage, self.plan.clock.now_ns() - since)
            yield frame

    def _infer(self, ring: RingBuffer[Queued], branches: Sequence[RingBuffer[Queued]], pool: FramePool) -> None:
        plan, clock = self.plan, self.plan.clock
        frames = self._queued(ring, "wait")
        if plan.max_latency_ns is not None and plan.source.info.live:
            frames = drop_late(frames, limit_ns=plan.max_latency_ns, clock=clock, stats=self.stats)
        if plan.read_barcodes:
            frames = measure(frames, clock=clock, stats=self.stats)
        results = upscale(frames, plan.engine, clock=clock, stats=self.stats, lease=pool.lease, seen=plan.seen)
        try:
            for result in results:
                now = clock.now_ns()
                for branch in branches:
                    lost = branch.dropped
                    branch.put((result.retain(), now))
                    if branch.dropped > lost:
                        self.stats.drop("slow output", branch.dropped - lost)
                result.release()
        finally:
            ring.abort()
            results.close()  # type: ignore[attr-defined]
            for branch in branches:
                branch.end()

    def _paced(self, frames: Iterator[Frame], sinks: Sequence[FrameSink | PacketSink]) -> Iterator[Frame]:
        if self.plan.source.info.live or not any(sink.paced for sink in sinks):
            return frames
        return pace(frames, Pacer(), clock=self.plan.clock, stop=self._stopping)

    def _show(self, sink: FrameSink, ring: RingBuffer[Queued], primary: bool) -> None:
        with self._finishing(sink, ring):
            for frame in self._paced(self._queued(ring, "wait output"), [sink]):
                if not self._write(sink, frame, primary):
                    self.stop()
                    break

    @contextmanager
    def _finishing(self, sink: FrameSink | PacketSink, ring: RingBuffer[Queued] | RingBuffer[Packet]) -> Iterator[None]:
        """However the block ends, the ring before the sink is aborted and the sink closed; its failure counts first."""
        try:
            yield
        except BaseException as error:
            self._fail(sink.name, error)
            raise
        finally:
            ring.abort()
            sink.close()

    def _write(self, sink: FrameSink, frame: Frame, primary: bool) -> bool:
        began = self.plan.clock.now_ns()
        try:
            open_still = sink.write(frame)
        finally:
            frame.release()
        now = self.plan.clock.now_ns()
        if primary:
            self.stats.stage("write", now - began)
            self.stats.output(frame.captured_ns, now)
        return open_still

    def _encoding(
        self, sinks: Sequence[PacketSink], ring: RingBuffer[Queued], output: StreamInfo, live: bool
    ) -> list[tuple[str, Callable[[], None]]]:
        """Open encoder and packet sinks; the work of the encode thread and of each sink's thread."""
        if self.plan.make_encoder is None:
            raise ValueError("packet sinks need make_encoder")
        encoder = self.plan.make_encoder(output)
        self._cleanup.append(encoder.close)
        outlets: list[RingBuffer[Packet]] = []
        work: list[tuple[str, Callable[[], None]]] = []
        lane = self.plan.source.lane
        for sink in sinks:
            packets = RingBuffer[Packet](
                LIVE_PACKETS if live else FILE_PACKETS,
                Full.SKIP_TO_KEY if live else Full.BLOCK,
                is_key=lambda packet: packet.key,
            )
            self._rings.append(packets)
            outlets.append(packets)
            takes = lane is not None and sink.takes_lane
            sink.open(encoder.stream.with_lane(lane if takes else None))
            lane = None if takes else lane
            self._cleanup.append(sink.close)
            primary = sink is self.plan.sinks[0]
            work.append((sink.name, lambda s=sink, r=packets, p=primary: self._send(s, r, p)))  # type: ignore[misc]
        if lane is not None:
            lane.shut()
        work.append(("encode", lambda: self._encode(encoder, sinks, ring, outlets)))
        return work

    def _encode(
        self,
        encoder: PictureEncoder,
        sinks: Sequence[PacketSink],
        ring: RingBuffer[Queued],
        outlets: Sequence[RingBuffer[Packet]],
    ) -> None:
        clock = self.plan.clock

        def hand_out(packets: Sequence[Packet]) -> bool:
            taken = True
            for packet in packets:
                for outlet in outlets:
                    lost = outlet.dropped
                    taken &= outlet.put(packet)
                    if outlet.dropped > lost:
                        self.stats.drop("slow output", outlet.dropped - lost)
            return taken

        try:
            for frame in self._paced(self._queued(ring, "wait output"), sinks):
                began = clock.now_ns()
                try:
                    wishes = [sink.wants_key() for sink in sinks]  # each is asked: asking clears the wish
                    packets = encoder.encode(frame, key=any(wishes))
                finally:
                    frame.release()
                self.stats.stage("encode", clock.now_ns() - began)
                hand_out(packets)
                if self._abort_wanted:
                    return
            hand_out(encoder.flush())
        finally:
            ring.abort()
            for outlet in outlets:
                outlet.end()
            encoder.close()

    def _send(self, sink: PacketSink, ring: RingBuffer[Packet], primary: bool) -> None:
        with self._finishing(sink, ring):
            for packet in ring:
                began = self.plan.clock.now_ns()
                sink.write(packet)
                if primary:
                    now = self.plan.clock.now_ns()
                    self.stats.stage("write", now - began)
                    self.stats.output(packet.captured_ns, now)

    # -- the calling thread --------------------------------------------------------------------------------------

    def _attend(self, tick: Callable[[Stats], None], tick_seconds: float, patience: float) -> None:
        """Hand out ticks, and see that everything ends once it should."""
        clock, period = self.plan.clock, round(tick_seconds * 1e9)
        due, deadline = clock.now_ns() + period, None
        while any(not worker.join(0) for worker in self._workers):
            self._wake.wait(min(tick_seconds, 0.05))
            self._wake.clear()
            now = clock.now_ns()
            if now >= due:
                tick(self.stats)
                due = now + period
            if self._abort_wanted:
                return
            if self._stop_wanted and deadline is None:
                self._stopping.set()
                self.plan.source.stop()
                deadline = now + round(patience * 1e9)
            if deadline is not None and now > deadline:
                names = ", ".join(worker.name for worker in self._workers if not worker.join(0))
                raise PipelineStalled(f"still running {patience:g} s after the stop: {names}")
        tick(self.stats)

    def _finish(self, patience: float) -> None:
        """End every thread and close everything that this run opened."""
        self.plan.source.stop()
        self._stopping.set()
        if self._abort_wanted:
            for ring in self._rings:
                ring.abort()
        limit = ABORT_SECONDS if self._abort_wanted else patience
        deadline = self.plan.clock.now_ns() + round(limit * 1e9)
        stuck = []
        for worker in self._workers:
            if not worker.join(max(0.0, (deadline - self.plan.clock.now_ns()) / 1e9)):
                stuck.append(worker.name)
        for close in self._cleanup if not stuck else ():  # a stuck thread may hold what would be closed
            try:
                close()
            except Exception as error:
                self._fail("close", error)
        if stuck:
            stalled = PipelineStalled(f"did not end within {limit:g} s: {', '.join(stuck)}")
            if self.failure is not None:
                stalled.__cause__ = self.failure
            self.failure = stalled


def is_packet_sink(sink: FrameSink | PacketSink) -> TypeGuard[PacketSink]:
    """Whether a sink takes encoded packets."""
    return hasattr(sink, "wants_key")


def split_sinks(sinks: Sequence[FrameSink | PacketSink]) -> tuple[list[FrameSink], list[PacketSink]]:
    """Those that take frames and those that take packets."""
    packets = [sink for sink in sinks if is_packet_sink(sink)]
    return [sink for sink in sinks if sink not in packets], packets  # type: ignore[misc]


def run_sequential(plan: Plan) -> Stats:
    """The same run in one thread, frame by frame, with the same result bit for bit. Not for live sources.

    Raises the first failure, after the sinks were closed.
    """
    stats, clock, output = Stats(), plan.clock, plan.output
    frame_sinks, packet_sinks = split_sinks(plan.sinks)
    encoder = plan.make_encoder(output) if packet_sinks and plan.make_encoder else None
    try:
        lane = plan.source.lane
        for sink in frame_sinks:
            sink.open(output)
        for packet_sink in packet_sinks:
            if encoder is not None:
                takes = lane is not None and packet_sink.takes_lane
                packet_sink.open(encoder.stream.with_lane(lane if takes else None))
                lane = None if takes else lane
        if lane is not None:
            lane.shut()
        for frame in upscale(plan.source.frames(), plan.engine, clock=clock, stats=stats):
            for sink in frame_sinks:
                sink.write(frame)
            for packet in encoder.encode(frame) if encoder else ():
                for packet_sink in packet_sinks:
                    packet_sink.write(packet)
            stats.output(frame.captured_ns, clock.now_ns())
            frame.release()
        for packet in encoder.flush() if encoder else ():
            for packet_sink in packet_sinks:
                packet_sink.write(packet)
    finally:
        for closing in plan.sinks:
            closing.close()
        if encoder is not None:
            encoder.close()
    return stats
