"""A CUDA that records: streams run by themselves, in random order within what the events allow, and watch the memory.

What is put on a stream waits there until the double lets it begin, takes a while, and takes effect when it ends. While
it runs, nobody else may write what it reads or touch what it writes, on the device or on the host.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from random import Random

import numpy as np
import numpy.typing as npt

from stream_sr.errors import EngineRunError
from stream_sr.inference.backends.cuda.schedule import flow_bytes

Bytes = npt.NDArray[np.uint8]


@dataclass(eq=False)
class Work:
    """Something that runs on a stream: what it reads and writes, and what it does."""

    name: str
    reads: Sequence[Bytes]
    writes: Sequence[Bytes]
    effect: Callable[[], None]
    seen: list[Bytes] = field(default_factory=list)  # what it read when it began


@dataclass(eq=False)
class Event:
    """As pycuda's, it can be freed only where the context is current; elsewhere it counts as leaked."""

    driver: RecordingDriver
    recorded: int = 0
    come: int = 0

    def __del__(self) -> None:
        self.driver.leaked += not self.driver.entered


@dataclass(eq=False)
class Mark:
    """A record of an event, or a wait for it, in a stream."""

    event: Event
    version: int
    waits: bool


class Stream:
    def __init__(self) -> None:
        self.queue: deque[Work | Mark] = deque()
        self.running: Work | None = None


class RecordingDriver:
    """The driver's calls. ``forget`` names calls that are left out, to show that the double sees it."""

    def __init__(self, seed: int = 0, *, forget: frozenset[str] = frozenset(), graphs: bool = True) -> None:
        self.random = Random(seed)
        self.forget, self.graphs = forget, graphs
        self.calls: Counter[str] = Counter()
        self.streams: list[Stream] = []
        self.pinned: set[int] = set()
        self.most_at_once = 0
        self.closed = self.leaked = 0
        self.fail_at: str | None = None
        self._capturing: list[Work] | None = None
        self._entered = threading.local()

    @property
    def entered(self) -> bool:
        """Whether the context is this thread's."""
        return getattr(self._entered, "depth", 0) > 0

    def _call(self, name: str) -> bool:
        assert self.entered, f"{name} without the context"
        assert not self.closed
        self.calls[name] += 1
        if name == self.fail_at:
            raise EngineRunError(f"the double was told to fail at {name}")
        return name not in self.forget

    @contextlib.contextmanager
    def _current(self):  # type: ignore[no-untyped-def]
        self._entered.depth = getattr(self._entered, "depth", 0) + 1
        try:
            yield self
        finally:
            self._entered.depth -= 1

    def current(self) -> AbstractContextManager[object]:
        return self._current()

    def stream(self) -> Stream:
        self._call("stream")
        self.streams.append(Stream())
        return self.streams[-1]

    def event(self) -> Event:
        self._call("event")
        return Event(self)

    def device_memory(self, nbytes: int) -> Bytes:
        self._call("device_memory")
        return np.full(nbytes, 0xEE, np.uint8)

    def host_memory(self, nbytes: int) -> Bytes:
        memory = np.empty(nbytes, np.uint8)
        self.pinned.add(memory.ctypes.data)
        return memory

    def is_pinned(self, memory: Bytes) -> bool:
        return memory.ctypes.data in self.pinned

    def copy_in(self, device: Bytes, host: Bytes, stream: Stream) -> None:
        self._call("copy_in")
        assert self.is_pinned(host), "an upload from pageable memory is not asynchronous"
        self.put(stream, Work("copy_in", [host], [device], lambda: np.copyto(device, host)))

    def copy_out(self, host: Bytes, device: Bytes, stream: Stream) -> None:
        self._call("copy_out")
        assert self.is_pinned(host), "a download to pageable memory is not asynchronous"
        self.put(stream, Work("copy_out", [device], [host], lambda: np.copyto(host, device)))

    def copy_within(self, target: Bytes, source: Bytes, nbytes: int, stream: Stream) -> None:
        self._call("copy_within")
        old, new = source[:nbytes], target[:nbytes]
        self.put(stream, Work("copy_within", [old], [new], lambda: np.copyto(new, old)))

    def record(self, event: Event, stream: Stream) -> None:
        if self._call("record"):
            event.recorded += 1
            stream.queue.append(Mark(event, event.recorded, waits=False))

    def wait(self, stream: Stream, event: Event) -> None:
        if self._call("wait"):
            stream.queue.append(Mark(event, event.recorded, waits=True))

    def synchronize(self, event: Event) -> None:
        if self._call("synchronize"):
            while event.come < event.recorded:
                self._step()

    def drain(self, stream: Stream) -> None:
        self._call("drain")
        while stream.queue or stream.running:
            self._step()

    def drain_all(self) -> None:
        """The device does all that it was given."""
        while any(stream.queue or stream.running for stream in self.streams):
            self._step()

    def capture(self, work: Callable[[], None], stream: Stream) -> list[Work]:
        self._call("capture")
        if not self.graphs:
            raise EngineRunError("the double was told to refuse graphs")
        self._capturing = []
        try:
            work()
            return self._capturing
        finally:
            self._capturing = None

    def replay(self, graph: list[Work], stream: Stream) -> None:
        self._call("replay")
        for work in graph:
            self.put(stream, Work(work.name, work.reads, work.writes, work.effect))

    def milliseconds(self, work: Callable[[], None], stream: Stream) -> float:
        before = self.calls["replay"]
        work()
        self.drain(stream)
        return 1.0 if self.calls["replay"] > before else 2.0

    def close(self) -> None:
        assert all(not stream.queue and stream.running is None for stream in self.streams), "closed with work pending"
        self.closed += 1

    def put(self, stream: Stream, work: Work) -> None:
        """Put something on a stream, or into the graph that is being captured."""
        if self._capturing is not None:
            self._capturing.append(work)
        else:
            stream.queue.append(work)
            for _ in range(self.random.randrange(3)):  # the device does not wait to be asked
                self._step(idle=True)

    def _step(self, *, idle: bool = False) -> None:
        """One thing happens: something ends, begins, or a mark is passed."""
        able = [one for one in self.streams if one.running or (one.queue and self._free(one.queue[0]))]
        if not able:
            assert idle, "nothing can happen any more: the streams wait for each other"
            return
        stream = self.random.choice(able)
        if stream.running is not None:
            self._end(stream)
            return
        head = stream.queue.popleft()
        if isinstance(head, Work):
            self._begin(stream, head)
        elif not head.waits:
            head.event.come = max(head.event.come, head.version)

    @staticmethod
    def _free(head: Work | Mark) -> bool:
        return isinstance(head, Work) or not head.waits or head.event.come >= head.version

    def _begin(self, stream: Stream, work: Work) -> None:
        others = [one.running for one in self.streams if one.running is not None]
        for other in others:
            for ours, theirs in ((work.writes, (*other.reads, *other.writes)), (work.reads, other.writes)):
                clash = any(a is b or np.shares_memory(a, b) for a in ours for b in theirs)
                assert not clash, f"{work.name} touches what {other.name} is working on"
        work.seen = [read.copy() for read in work.reads]
        stream.running = work
        self.most_at_once = max(self.most_at_once, len(others) + 1)

    def _end(self, stream: Stream) -> None:
        work, stream.running = stream.running, None
        assert work is not None
        for read, seen in zip(work.reads, work.seen, strict=True):
            assert np.array_equal(read, seen), f"what {work.name} reads was changed under it"
        work.effect()


class AddingProgram:
    """Repeats each luma sample in both directions and chroma too; a recurrent one adds 1 to the last output's first.

    The motion that it was given for each picture is in ``moved``.
    """

    def __init__(self, driver: RecordingDriver, width: int, height: int, *, recurrent: bool = False) -> None:
        self.driver, self.width, self.height = driver, width, height
        self.recurrent = recurrent
        self.previous: Bytes | None = None
        self.flow: Bytes | None = None
        self.moved: list[np.ndarray] = []
        self.ring: Sequence[tuple[Bytes, Bytes]] = ()
        self.closed = 0

    def prepare(self, ring: Sequence[tuple[Bytes, Bytes]], stream: Stream) -> None:
        self.ring = ring
        if self.recurrent:
            self.previous = self.driver.device_memory(4 * self.width * self.height)
            self.flow = self.driver.device_memory(flow_bytes((self.height, self.width)))

    def launch(self, index: int, stream: Stream) -> None:
        source, target = self.ring[index]
        previous, flow = self.previous, self.flow

        def compute() -> None:
            target[:] = enlarge(source, self.width, self.height)
            if previous is not None:
                assert flow is not None
                target[0] = (int(previous[0]) + 1) % 256
                self.moved.append(flow.view(np.float32).reshape(2, self.height, self.width).copy())

        reads = [source] if previous is None or flow is None else [source, previous, flow]
        self.driver.put(stream, Work("compute", reads, [target], compute))

    def close(self) -> None:
        self.closed += 1


def enlarge(source: Bytes, width: int, height: int) -> Bytes:
    """An I420 picture of even size, each sample repeated in both directions."""
    planes, begin = [], 0
    for rows, columns in ((height, width), (height // 2, width // 2), (height // 2, width // 2)):
        plane = source[begin : begin + rows * columns].reshape(rows, columns)
        planes.append(plane.repeat(2, axis=0).repeat(2, axis=1).ravel())
        begin += rows * columns
    return np.concatenate(planes)
