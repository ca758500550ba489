"""The threads between a source and its sinks: who hands what to whom, and how it ends.

    source -> [capture thread] -> ring A -> [inference thread: drop_late, upscale] -> ring B of every branch
    branch: a frame sink, or the encoder with a packet ring and a thread for each packet sink

Every worker, however it ends, ends the ring behind it and aborts the ring before it; so an end of stream drains
forwards, a failure stops what feeds it, and the other outputs are still finished. The first failure wins.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from stream_sr.errors import FrameStalled, PipelineStalled
from stream_sr.pipeline.interfaces import FrameEncoder, FrameSink, PacketSink
from stream_sr.pipeline.packets import Packet
from stream_sr.pipeline.plan import Plan, branch_passthrough, is_packet_sink, split_sinks
from stream_sr.pipeline.ring import Overflow, RingBuffer
from stream_sr.pipeline.stages import drop_late, pace, upscale
from stream_sr.pipeline.stall import StallWatch, working
from stream_sr.pipeline.stats import Stats
from stream_sr.pipeline.threads import Worker
from stream_sr.video.color import guess_unknown
from stream_sr.video.frame import Frame, StreamInfo
from stream_sr.video.frame_pool import FramePool
from stream_sr.video.timing import Pacer

log = logging.getLogger("stream_sr")

Queued = tuple[Frame, int]  # a frame and when it was queued
LIVE_FRAMES = 2  # capacity of a live ring: one more would only add age
FILE_FRAMES = 3
LIVE_PACKETS = 60  # two seconds of slack for an output before it skips to the next keyframe
FILE_PACKETS = 16
ABORT_SECONDS = 2.0


class Pipeline:
    """One run of a plan. `run` blocks in the calling thread, which only watches."""

    def __init__(self, plan: Plan, stats: Stats | None = None) -> None:
        """``stats``: where the run is counted, for an engine that looks at it; none are shared between runs."""
        self.plan = plan
        self.stats = stats or Stats()
        self.failure: BaseException | None = None
        self._lock = threading.Lock()
        self._wake = threading.Event()  # a worker has ended
        self._stopping = threading.Event()
        self._stop_wanted = self._abort_wanted = False
        self._source_ended = False  # by itself, with everything delivered
        self._rings: list[RingBuffer[Queued] | RingBuffer[Packet]] = []
        self._queues: dict[str, RingBuffer[Queued] | RingBuffer[Packet]] = {}
        self._workers: list[Worker] = []
        self._cleanup: list[Callable[[], None]] = []
        self._stall = StallWatch(plan.stall_seconds)

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

    def queues(self) -> dict[str, int]:
        """How many wait in each queue now, by what it leads to. From any thread."""
        return {name: len(ring) for name, ring in dict(self._queues).items()}

    @property
    def busy_seconds(self) -> float:
        """How long engine or encoder have been working on one frame now. From any thread."""
        return self._stall.busy_seconds

    @property
    def stopping(self) -> bool:
        """Whether somebody asked for the end before the source came to it."""
        return self._stop_wanted

    # -- the run -------------------------------------------------------------------------------------------------

    def run(
        self, *, tick: Callable[[Stats], None] = lambda _: None, tick_seconds: float = 0.25, patience: float = 30.0
    ) -> Stats:
        """Process the source to its end and return what was counted.

        ``tick`` is called in this thread every ``tick_seconds``. Raises the first failure after all threads have ended,
        FrameStalled if engine or encoder work on one frame for longer than the plan allows; PipelineStalled if a thread
        does not end, or if after a stop nothing moves for ``patience`` seconds (2 after an abort).
        """
        try:
            self._start()
            self._watch(tick, tick_seconds, patience)
        except BaseException as error:
            self._fail("main", error)
            self.abort()
        finally:
            self._finish(patience)
        if self.failure is not None:
            raise self.failure
        return self.stats

    def _start(self) -> None:
        plan = self.plan
        frame_sinks, packet_sinks = split_sinks(plan.sinks)
        names = {id(sink): self.stats.add_output(sink.name) for sink in plan.sinks}
        output = plan.output
        self._queues["inference"] = ring_a = self._frame_ring("overload", None)
        branches: list[RingBuffer[Queued]] = []
        consumers: list[tuple[str, Callable[[], None]]] = []
        for sink in frame_sinks:
            name = names[id(sink)]
            self._queues[name] = ring = self._frame_ring("slow output", [name])
            branches.append(ring)
            self._cleanup.append(sink.close)
            sink.open(output)
            consumers.append((name, partial(self._show, name, sink, ring)))
        if packet_sinks:
            group = {names[id(sink)]: sink for sink in packet_sinks}
            self._queues["encode"] = ring = self._frame_ring("slow encoder", list(group))
            branches.append(ring)
            consumers += self._encoding(group, ring, output)
        else:
            branch_passthrough(plan.source.passthrough, [])
        pools = self._pools(len(branches))
        for name, work in reversed(consumers):
            self._spawn(name, work)
        self._spawn("inference", lambda: self._infer(ring_a, branches, pools[1]))
        self._spawn("capture", lambda: self._capture(ring_a, pools[0]))

    def _frame_ring(self, reason: str, outputs: list[str] | None) -> RingBuffer[Queued]:
        live = self.plan.source.info.live
        ring = RingBuffer[Queued](
            LIVE_FRAMES if live else FILE_FRAMES,
            Overflow.DROP_OLDEST if live else Overflow.BLOCK,
            discard=lambda queued: queued[0].release(),
            lost=lambda amount: self.stats.drop(reason, amount, outputs=outputs),
        )
        self._rings.append(ring)
        return ring

    def _pools(self, branches: int) -> tuple[FramePool, FramePool]:
        """Memory for captured frames and for results: what rings, engine, producer and consumers can hold at most."""
        plan, depth = self.plan, self.plan.engine.depth
        frames = LIVE_FRAMES if plan.source.info.live else FILE_FRAMES
        results = branches * (frames + 2) + depth + 3  # + 1: the last, which a repeated picture shows again
        # + 6: what the producer writes, the consumer reads, a source that reconnects keeps (the last and the first),
        # and the last that was computed, to compare with
        counts = (frames + depth + 6 + (results if plan.with_source else 0), results)
        sizes = ((plan.source.info.width, plan.source.info.height), plan.engine.spec.output_size)
        before, after = (
            FramePool(width, height, count, allocate=plan.engine.allocate, poison=plan.poison)
            for (width, height), count in zip(sizes, counts, strict=True)
        )
        return before, after

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
        color = self.plan.output.color  # every frame says its colours from here on, guessed or told
        try:
            began = clock.now_ns()
            for frame in self.plan.source.frames(pool):
                now = clock.now_ns()
                stats.count("frames_in")
                if frame.discontinuity:  # it may be another stream, with other colours
                    color = guess_unknown(frame.color, width=frame.width, height=frame.height)
                stats.stage("decode", now - (frame.captured_ns if live else began))
                known = frame if frame.color == color else replace(frame, color=color)
                if not ring.put((known, now)):
                    break
                began = clock.now_ns()
            else:
                self._source_ended = not self._stop_wanted
        finally:
            ring.end()

    def _queued(self, ring: RingBuffer[Queued], stage: str) -> Iterator[Frame]:
        for frame, since in ring:
            self.stats.stage(stage, self.plan.clock.now_ns() - since)
            yield frame

    def _infer(self, ring: RingBuffer[Queued], branches: Sequence[RingBuffer[Queued]], pool: FramePool) -> None:
        plan, clock = self.plan, self.plan.clock
        frames = self._queued(ring, "wait")
        if plan.max_latency_ns is not None and plan.source.info.live:
            frames = drop_late(frames, limit_ns=plan.max_latency_ns, clock=clock, stats=self.stats)
        results = upscale(
            frames,
            plan.engine,
            clock=clock,
            stats=self.stats,
            lease=pool.lease,
            seen=plan.seen,
            with_source=plan.with_source,
        )
        try:
            for result in results:
                now = clock.now_ns()
                for branch in branches:
                    branch.put((result.retain(), now))
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

    def _show(self, name: str, sink: FrameSink, ring: RingBuffer[Queued]) -> None:
        clock = self.plan.clock
        with self._finishing(name, sink, ring):
            for frame in self._paced(self._queued(ring, "wait output"), [sink]):
                began = clock.now_ns()
                try:
                    still_open = sink.write(frame)
                finally:
                    frame.release()
                self.stats.output(name, frame.captured_ns, began, clock.now_ns())
                if not still_open:
                    self.stop()
                    break

    @contextmanager
    def _finishing(
        self, name: str, sink: FrameSink | PacketSink, ring: RingBuffer[Queued] | RingBuffer[Packet]
    ) -> Iterator[None]:
        """However the block ends, the ring before the sink is aborted and the sink closed; its failure counts first."""
        try:
            yield
            if is_packet_sink(sink) and self._source_ended and self.failure is None and not self._abort_wanted:
                sink.complete()
        except BaseException as error:
            self._fail(name, error)
            raise
        finally:
            ring.abort()
            sink.close()

    def _encoding(
        self, sinks: Mapping[str, PacketSink], ring: RingBuffer[Queued], output: StreamInfo
    ) -> list[tuple[str, Callable[[], None]]]:
        """Open encoder and packet sinks; the work of the encode thread and of each sink's thread."""
        if self.plan.make_encoder is None:
            raise ValueError("packet sinks need make_encoder")
        live = self.plan.source.info.live
        encoder = self.plan.make_encoder(output)
        self._cleanup.append(encoder.close)
        outlets: list[RingBuffer[Packet]] = []
        work: list[tuple[str, Callable[[], None]]] = []
        passthroughs = branch_passthrough(self.plan.source.passthrough, list(sinks.values()))
        for (name, sink), passthrough in zip(sinks.items(), passthroughs, strict=True):
            packets = RingBuffer[Packet](
                LIVE_PACKETS if live else FILE_PACKETS,
                Overflow.SKIP_TO_KEYFRAME if live else Overflow.BLOCK,
                lost=partial(self._lost_packets, name),
                is_keyframe=lambda packet: packet.is_keyframe,
            )
            self._rings.append(packets)
            self._queues[name] = packets
            outlets.append(packets)
            self._cleanup.append(sink.close)
            sink.open(encoder.stream.with_passthrough(passthrough))
            work.append((name, partial(self._send, name, sink, packets)))
        work.append(("encode", lambda: self._encode(encoder, list(sinks.values()), ring, outlets)))
        return work

    def _lost_packets(self, name: str, amount: int) -> None:
        self.stats.drop("slow output", amount, outputs=[name])

    def _encode(
        self,
        encoder: FrameEncoder,
        sinks: Sequence[PacketSink],
        ring: RingBuffer[Queued],
        outlets: Sequence[RingBuffer[Packet]],
    ) -> None:
        clock = self.plan.clock

        def distribute(packets: Sequence[Packet]) -> None:
            for packet in packets:
                for outlet in outlets:
                    outlet.put(packet)

        try:
            for frame in self._paced(self._queued(ring, "wait output"), sinks):
                began = clock.now_ns()
                try:
                    requested = [sink.wants_keyframe() for sink in sinks]  # each is asked: asking clears the request
                    with working("encoder"):
                        packets = encoder.encode(frame, keyframe=any(requested))
                finally:
                    frame.release()
                self.stats.stage("encode", clock.now_ns() - began)
                distribute(packets)
                if self._abort_wanted:
                    return
            distribute(encoder.flush())
        finally:
            ring.abort()
            for outlet in outlets:
                outlet.end()
            encoder.close()

    def _send(self, name: str, sink: PacketSink, ring: RingBuffer[Packet]) -> None:
        clock = self.plan.clock
        with self._finishing(name, sink, ring):
            for packet in ring:
                began = clock.now_ns()
                sink.write(packet)
                self.stats.output(name, packet.captured_ns, began, clock.now_ns())

    # -- the calling thread --------------------------------------------------------------------------------------

    def _watch(self, tick: Callable[[Stats], None], tick_seconds: float, patience: float) -> None:
        """Hand out ticks, and see that everything ends once it should."""
        clock, period, source = self.plan.clock, round(tick_seconds * 1e9), self.plan.source
        due, progress, moved_ns = clock.now_ns() + period, -1, 0
        while any(not worker.join(0) for worker in self._workers):
            self._wake.wait(min(tick_seconds, 0.05))
            self._wake.clear()
            now = clock.now_ns()
            if now >= due:
                self.stats.source(source.counters())
                tick(self.stats)
                due = now + period
            if self._abort_wanted:
                return
            self._stall.look((worker.ident for worker in self._workers), now)
            if self._stop_wanted:
                if not self._stopping.is_set():
                    self._stopping.set()
                    source.stop()
                if progress != self.stats.progress:  # slow is not stuck
                    progress, moved_ns = self.stats.progress, now
                if now - moved_ns > patience * 1e9:
                    names = ", ".join(worker.name for worker in self._workers if not worker.join(0))
                    raise PipelineStalled(f"no progress for {patience:g} s after the stop in: {names}")
        self.stats.source(source.counters())
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
        self.stats.finish()
        if stuck and not isinstance(self.failure, PipelineStalled):
            reason = f"{self.failure}; it" if isinstance(self.failure, FrameStalled) else "a thread"
            stalled = PipelineStalled(f"{reason} did not end within {limit:g} s: {', '.join(stuck)}")
            stalled.__cause__ = self.failure
            self.failure = stalled
