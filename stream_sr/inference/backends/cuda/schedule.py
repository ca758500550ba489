"""Overlap the work on a GPU: upload of frame n+1, computation of n and download of n-1 at the same time.

Three streams in order of time, tied by events. What is special to a library stands behind two protocols: `Driver`
(memory, streams, events, copies) and `Program` (the computation). Nothing here imports CUDA.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from stream_sr.errors import EngineRunError, PictureShapeError
from stream_sr.inference.backends.cuda.pinned import Bytes
from stream_sr.inference.frames_in_flight import FramesInFlight, OutputMemory, output_memory
from stream_sr.pipeline.engine import EngineSpec, Pending
from stream_sr.video.frame import Frame
from stream_sr.video.frame_pool import Allocate, Slot
from stream_sr.video.optical_flow import Motion, flow_size, repeat
from stream_sr.video.planes import chroma_shape

THROUGHPUT_DEPTH = 3  # one frame in each stage
BACK_TO_BACK_RUNS = 5  # runs of a stage that are timed together
TIMING_RUNS = 5  # runs with and without a CUDA graph, of which the fastest counts


class Driver(Protocol):
    """What the schedule asks of CUDA. Streams, events and device memory are what the library calls so.

    Every call but ``current`` is made inside ``with driver.current():``, which makes the device's context the calling
    thread's. All raise EngineRunError.
    """

    def current(self) -> AbstractContextManager[object]: ...
    def stream(self) -> Any: ...
    def event(self) -> Any: ...
    def device_memory(self, nbytes: int) -> Any:
        """At least ``nbytes``, aligned to 256 bytes."""
        ...

    def host_memory(self, nbytes: int) -> Bytes:
        """Page-locked; lives as long as a view on it. May be called by any thread, without ``current``."""
        ...

    def is_pinned(self, memory: Bytes) -> bool:
        """Whether this contiguous array lies at the start of memory from `host_memory`."""
        ...

    def copy_in(self, device: Any, host: Bytes, stream: Any) -> None: ...
    def copy_out(self, host: Bytes, device: Any, stream: Any) -> None: ...
    def copy_within(self, target: Any, source: Any, nbytes: int, stream: Any) -> None:
        """The first ``nbytes`` of one piece of device memory to the start of another."""
        ...

    def record(self, event: Any, stream: Any) -> None: ...
    def wait(self, stream: Any, event: Any) -> None:
        """What is put on ``stream`` after this begins when the event, as last recorded, has come."""
        ...

    def synchronize(self, event: Any) -> None:
        """Block this thread until the event, as last recorded, has come."""
        ...

    def drain(self, stream: Any) -> None:
        """Block this thread until all that was put on the stream is done."""
        ...

    def capture(self, work: Callable[[], None], stream: Any) -> Any:
        """The CUDA graph of what ``work`` puts on ``stream``, which is not run. EngineRunError where CUDA refuses."""
        ...

    def replay(self, graph: Any, stream: Any) -> None:
        """Put a captured graph on the stream."""
        ...

    def milliseconds(self, work: Callable[[], None], stream: Any) -> float:
        """Device time between the first and the last of what ``work`` puts on ``stream``; waits for it."""
        ...

    def close(self) -> None:
        """Free all but the host memory that somebody still has. Safe to call twice."""
        ...


class Program(Protocol):
    """The computation of one frame: I420 in one piece of device memory to I420 in another."""

    def launch(self, index: int, stream: Any) -> None:
        """Put the computation from input to output ``index`` of the ring on the stream. ``prepare`` came before."""
        ...

    def prepare(self, ring: Sequence[tuple[Any, Any]], stream: Any) -> None:
        """Bind each (input, output) of the ring, once. What is slow the first time happens here, and is waited for."""
        ...

    def close(self) -> None: ...

    @property
    def previous(self) -> Any:
        """Device memory from which a recurrent network reads its last luma output; None where it reads none.

        One for all of the ring, for they compute one after the other; so is the ``flow``.
        """
        ...

    @property
    def flow(self) -> Any:
        """Device memory of the `optical_flow.Flow` by which it moves that, as `flow_bytes` of float32."""
        ...


@dataclass(slots=True, eq=False)
class FrameBuffers:
    """Device memory, events and staging memory of one frame in flight. There are ``depth``, used in turn: the ring."""

    index: int
    inputs: Any
    outputs: Any
    uploaded: Any
    computed: Any
    downloaded: Any
    staging_in: Bytes | None = None  # for frames that are not in page-locked memory
    staging_out: Bytes | None = None
    flow: Bytes | None = None  # of its frame, on its way
    cuda_graph: Any = None  # of the computation, where that is faster than launches
    keep_alive: Any = None  # what the device reads and writes, should the caller let go of it before


class OverlappedEngine:
    """An `Engine` on a GPU: ``depth`` frames in flight, with a ring of as many `FrameBuffers`.

    A frame that lies in one piece in memory from ``allocate`` goes to the device from there, and a result into a slot
    from there comes straight back; other memory is copied once, by the host. Buffers are used again only when
    their result was waited for, so nothing on the device is overwritten while it is read; and the host's memory is left
    alone until then by the contract of `Engine.submit`.
    """

    def __init__(
        self, spec: EngineSpec, depth: int, driver: Driver, program: Program, *, cuda_graphs: bool | None = None
    ) -> None:
        self.spec, self.depth = spec, depth
        self.compute_ms: dict[str, float] = {}  # device time of "launch" and "graph", as measured when opened
        self._driver, self._program = driver, program
        self.allocate: Allocate | None = driver.host_memory
        self._in_flight = FramesInFlight(depth)
        self._sizes = i420_bytes(spec.width, spec.height), i420_bytes(*spec.output_size)
        self._started = 0
        self._reset = True  # the next frame has no memory of earlier ones
        self._motion: Motion | None = None  # of a recurrent network
        self._repeated: Bytes | None = None  # page-locked, for `_provide_previous_output`
        self._submitted: deque[FrameBuffers] = deque()
        self._ring: list[FrameBuffers] = []
        self._upload: Any = None
        self._compute: Any = None
        self._download: Any = None
        self._closed = False
        self._failure: EngineRunError | None = None  # why what was in flight at the end did not come
        try:
            with driver.current():
                self._upload, self._compute, self._download = (driver.stream() for _ in range(3))
                self._ring = [self._allocate_buffers(index) for index in range(depth)]
                program.prepare([(buffers.inputs, buffers.outputs) for buffers in self._ring], self._compute)
                if program.previous is not None:
                    self._motion = Motion(spec.scale)
                self._choose_cuda_graphs(cuda_graphs)
        except BaseException:
            self.close()
            raise

    def _allocate_buffers(self, index: int) -> FrameBuffers:
        driver = self._driver
        inputs, outputs = (driver.device_memory(size) for size in self._sizes)
        return FrameBuffers(index, inputs, outputs, driver.event(), driver.event(), driver.event())

    def _choose_cuda_graphs(self, wanted: bool | None) -> None:
        driver, program, stream = self._driver, self._program, self._compute
        first = self._ring[0].index
        candidates: dict[str, Callable[[], None]] = {"launch": lambda: program.launch(first, stream)}
        graphs = [] if wanted is False else self._capture(needed=wanted is True)
        if graphs:
            candidates["graph"] = lambda: driver.replay(graphs[first], stream)
        for _ in range(TIMING_RUNS):  # in turn, so that a change of the clock harms both
            for name, work in candidates.items():
                took = driver.milliseconds(work, stream)
                self.compute_ms[name] = min(took, self.compute_ms.get(name, took))
        if graphs and (wanted or self.compute_ms["graph"] < self.compute_ms["launch"]):
            for buffers, graph in zip(self._ring, graphs, strict=True):
                buffers.cuda_graph = graph

    def _capture(self, *, needed: bool) -> list[Any]:
        """Return a CUDA graph for each of the ring; none, with a note, where CUDA refuses and not ``needed``."""
        program, stream = self._program, self._compute
        try:
            return [
                self._driver.capture(lambda index=buffers.index: program.launch(index, stream), stream)  # type: ignore[misc]
                for buffers in self._ring
            ]
        except EngineRunError as error:
            if needed:
                raise
            self.spec = replace(self.spec, notes=(*self.spec.notes, f"no CUDA graph: {error}"))
            return []

    def stage_times(self, repeats: int) -> dict[str, list[float]]:
        """Device milliseconds of ``upload``, ``compute`` and ``download``, each alone, ``repeats`` times.

        Each is the mean of a few in a row, so that the device does not wait for the host in between.
        """
        driver, buffers = self._driver, self._ring[0]
        host = [driver.host_memory(size) for size in self._sizes]
        compute = buffers.cuda_graph

        def calculate() -> None:
            if compute is None:
                self._program.launch(buffers.index, self._compute)
            else:
                driver.replay(compute, self._compute)

        stages: dict[str, tuple[Callable[[], None], Any]] = {
            "upload": (lambda: driver.copy_in(buffers.inputs, host[0], self._upload), self._upload),
            "compute": (calculate, self._compute),
            "download": (lambda: driver.copy_out(host[1], buffers.outputs, self._download), self._download),
        }
        with driver.current():
            return {
                name: [driver.milliseconds(back_to_back(work), stream) / BACK_TO_BACK_RUNS for _ in range(repeats)]
                for name, (work, stream) in stages.items()
            }

    def submit(self, frame: Frame, slot: Slot | None = None) -> Pending:
        """See `engine.Engine`. After a break in the stream and at a scene cut a recurrent network starts again."""
        return self._in_flight.submit(lambda: self._start(frame, slot))

    def _start(self, frame: Frame, slot: Slot | None) -> Callable[[], Frame]:
        output = output_memory(frame, self.spec, slot)
        buffers = self._ring[self._started % len(self._ring)]
        if buffers in self._submitted:
            raise EngineRunError("results were not waited for in the order of submission; wait for the oldest")
        target = self._queue(buffers, frame, output)
        self._started += 1
        self._reset = False
        self._submitted.append(buffers)
        buffers.keep_alive = frame, output, target
        return lambda: self._finish(buffers, frame, output, target, slot)

    def _queue(self, buffers: FrameBuffers, frame: Frame, output: OutputMemory) -> Bytes:
        with self._driver.current():
            try:
                return self._put_on_streams(buffers, frame, output)
            except BaseException:
                self._reset = True
                with contextlib.suppress(EngineRunError):  # what was begun still reads the frame and writes the slot
                    for stream in (self._upload, self._compute, self._download):
                        self._driver.drain(stream)
                raise

    def _put_on_streams(self, buffers: FrameBuffers, frame: Frame, output: OutputMemory) -> Bytes:
        driver = self._driver
        source = self._source(buffers, frame)
        target = output.buffer if driver.is_pinned(output.buffer) else self._staging_out(buffers)
        driver.copy_in(buffers.inputs, source, self._upload)
        driver.record(buffers.uploaded, self._upload)
        driver.wait(self._compute, buffers.uploaded)
        if self._motion is not None:
            self._provide_previous_output(buffers, frame, self._motion)
        if buffers.cuda_graph is None:
            self._program.launch(buffers.index, self._compute)
        else:
            driver.replay(buffers.cuda_graph, self._compute)
        driver.record(buffers.computed, self._compute)
        driver.wait(self._download, buffers.computed)
        driver.copy_out(target, buffers.outputs, self._download)
        driver.record(buffers.downloaded, self._download)
        return target

    def _provide_previous_output(self, buffers: FrameBuffers, frame: Frame, motion: Motion) -> None:
        """Give the network its last output and how to move it, or the frame itself; see `PreviousOutput`."""
        driver, previous, luma = self._driver, self._program.previous, frame.planes[0]
        width, height = self.spec.output_size
        flow = motion.follow(luma, reset=frame.discontinuity or self._reset)
        if buffers.flow is None:
            buffers.flow = driver.host_memory(flow_bytes(luma.shape))
        np.copyto(buffers.flow.view(np.float32).reshape(2, *flow_size(luma.shape)), 0 if flow is None else flow)
        driver.copy_in(self._program.flow, buffers.flow, self._compute)
        if flow is not None:
            last = self._ring[(self._started - 1) % len(self._ring)]
            driver.copy_within(previous, last.outputs, width * height, self._compute)
            return
        if self._repeated is None:
            self._repeated = driver.host_memory(width * height)
        driver.drain(self._compute)  # it may still be on its way for an earlier frame
        repeat(luma, self._repeated.reshape(height, width))
        driver.copy_in(previous, self._repeated, self._compute)

    def _source(self, buffers: FrameBuffers, frame: Frame) -> Bytes:
        """The frame as one page-locked piece: where it lies, or copied."""
        if frame.slot is not None and self._driver.is_pinned(frame.slot.buffer) and _fills(frame, frame.slot):
            return frame.slot.buffer
        if buffers.staging_in is None:
            buffers.staging_in = self._driver.host_memory(self._sizes[0])
        begin = 0
        if sum(plane.size for plane in frame.planes) != self._sizes[0]:
            raise PictureShapeError(f"{frame!r} came to device memory of {self._sizes[0]} bytes")
        for plane in frame.planes:
            np.copyto(buffers.staging_in[begin : begin + plane.size].reshape(plane.shape), plane)
            begin += plane.size
        return buffers.staging_in

    def _staging_out(self, buffers: FrameBuffers) -> Bytes:
        if buffers.staging_out is None:
            buffers.staging_out = self._driver.host_memory(self._sizes[1])
        return buffers.staging_out

    def _finish(
        self, buffers: FrameBuffers, frame: Frame, output: OutputMemory, target: Bytes, slot: Slot | None
    ) -> Frame:
        self._submitted.remove(buffers)
        if not self._closed:
            with self._driver.current():
                self._driver.synchronize(buffers.downloaded)
        elif self._failure is not None:
            raise EngineRunError(f"the frame was lost with its engine: {self._failure}") from self._failure
        buffers.keep_alive = None
        if target is not output.buffer:
            np.copyto(output.buffer, target)
        return frame.with_planes(output.planes, slot)

    def close(self) -> None:
        """See `engine.Engine`. Waits for what is in flight: its results can still be taken."""
        if self._closed:
            return
        self._in_flight.closed = True
        with contextlib.ExitStack() as stack:
            stack.callback(self._driver.close)
            stack.enter_context(self._driver.current())
            stack.callback(self._program.close)
            try:
                for buffers in self._submitted:
                    self._driver.synchronize(buffers.downloaded)
            except EngineRunError as error:  # a lost device: there is nothing left to wait for
                self._failure = error
            self._release()
        self._closed = True

    def _release(self) -> None:
        """Drop streams, events and memory here, where the context is current: elsewhere pycuda cannot free them."""
        self._upload = self._compute = self._download = None
        for buffers in self._ring:
            buffers.inputs = buffers.outputs = buffers.uploaded = buffers.computed = buffers.downloaded = None
            buffers.cuda_graph = buffers.keep_alive = None


def back_to_back(work: Callable[[], object]) -> Callable[[], None]:
    """Return ``work`` repeated so often that its submission is hidden behind its computation."""

    def several() -> None:
        for _ in range(BACK_TO_BACK_RUNS):
            work()

    return several


def i420_bytes(width: int, height: int) -> int:
    """Bytes of a 4:2:0 picture in one piece."""
    rows, columns = chroma_shape(width, height)
    return width * height + 2 * rows * columns


def flow_bytes(size: Sequence[int]) -> int:
    """Bytes of a `optical_flow.Flow` in float32, of a picture of ``size`` (height, width)."""
    height, width = flow_size(size)
    return 4 * 2 * height * width


def _fills(frame: Frame, slot: Slot) -> bool:
    """Whether the frame's planes are the slot's, and not a part of them."""
    return all(
        ours.shape == theirs.shape and ours.ctypes.data == theirs.ctypes.data
        for ours, theirs in zip(frame.planes, slot.planes, strict=True)
    )
