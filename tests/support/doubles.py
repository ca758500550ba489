"""Small honest doubles of source, engine, sinks and encoder for the tests of the flow: real planes, real holds."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np

from stream_sr.errors import EngineRunError, SinkWriteError, SourceLost
from stream_sr.pipeline.engine import EngineSpec
from stream_sr.pipeline.packets import EncodedStream, Packet, Passthrough
from stream_sr.video.frame import Frame, StreamInfo
from stream_sr.video.frame_pool import Allocate, FramePool, Slot
from stream_sr.video.planes import empty_planes, read_only
from stream_sr.video.timing import MonotonicClock

WIDTH, HEIGHT = 16, 8
BASE = Fraction(1, 1000)


def picture(number: int) -> int:
    """The luma value that frame ``number`` is filled with."""
    return number * 7 % 251


class CountingSource:
    """``count`` frames (None: until stopped); fails after ``fail_at``; live ones wait for nobody."""

    def __init__(self, count: int | None, *, live: bool = False, fail_at: int | None = None) -> None:
        self.info = StreamInfo(WIDTH, HEIGHT, BASE, Fraction(25), live=live, name="counting")
        self.passthrough: Passthrough | None = None
        self.made = 0
        self.closed = 0
        self._count, self._fail_at = count, fail_at
        self._stop = threading.Event()

    def frames(self, pool: FramePool | None = None) -> Iterator[Frame]:
        clock = MonotonicClock()
        while (self._count is None or self.made < self._count) and not self._stop.is_set():
            if self.made == self._fail_at:
                raise SourceLost("the double was told to fail")
            slot = pool.lease() if pool else None
            planes = slot.planes if slot else empty_planes(WIDTH, HEIGHT)
            for plane in planes:
                plane.fill(picture(self.made))
            number, self.made = self.made, self.made + 1
            yield Frame(
                planes=read_only(planes),
                pts=40 * number,
                time_base=BASE,
                number=number,
                captured_ns=clock.now_ns(),
                slot=slot,
            )

    def stop(self) -> None:
        self._stop.set()

    def counters(self) -> dict[str, int]:
        return {}

    def close(self) -> None:
        self.closed += 1


class DoublingEngine:
    """Repeats each sample in both directions; computes at `wait`, from the input as it is then."""

    allocate: Allocate | None = None

    def __init__(self, *, depth: int = 1, fail_at: int | None = None, is_deterministic: bool = False) -> None:
        self.spec = EngineSpec("double", "double", 2, WIDTH, HEIGHT, "uint8", "none", is_deterministic=is_deterministic)
        self.computed: list[int] = []  # numbers of the frames
        self.depth = depth
        self.most_flying = self._flying = 0
        self._fail_at = fail_at

    def submit(self, frame: Frame, slot: Slot | None = None) -> _Doubling:
        if frame.width != WIDTH:
            raise EngineRunError("wrong size")
        if frame.number == self._fail_at:
            raise EngineRunError("the double was told to fail")
        self.computed.append(frame.number)
        self._flying += 1
        self.most_flying = max(self.most_flying, self._flying)
        return _Doubling(self, frame, slot)

    def landed(self) -> None:
        self._flying -= 1

    def close(self) -> None:
        pass


class _Doubling:
    def __init__(self, engine: DoublingEngine, frame: Frame, slot: Slot | None) -> None:
        self._engine, self._frame, self._slot = engine, frame, slot

    def wait(self) -> Frame:
        self._engine.landed()
        planes = self._slot.planes if self._slot else empty_planes(2 * WIDTH, 2 * HEIGHT)
        for target, source in zip(planes, self._frame.planes, strict=True):
            np.copyto(target, source.repeat(2, axis=0).repeat(2, axis=1))
        return self._frame.with_planes(planes, self._slot)


class ListSink:
    """Keeps number and first sample of each frame; ``gate`` holds every write until it is set."""

    paced = False

    def __init__(
        self,
        name: str = "list",
        *,
        fail_at: int | None = None,
        close_at: int | None = None,
        gate: threading.Event | None = None,
        with_source: bool = False,
    ) -> None:
        self.name, self.with_source = name, with_source
        self.seen: list[tuple[int, int]] = []
        self.opened: StreamInfo | None = None
        self.closed = 0
        self.wrote = threading.Event()
        self._fail_at, self._close_at, self._gate = fail_at, close_at, gate

    def open(self, info: StreamInfo) -> None:
        self.opened = info

    def write(self, frame: Frame) -> bool:
        if self._gate is not None:
            assert self._gate.wait(20)
        if len(self.seen) == self._fail_at:
            raise SinkWriteError(f"the double {self.name} was told to fail")
        assert (frame.source is not None) or not self.with_source
        pictures = [frame.planes, frame.source.planes] if frame.source is not None else [frame.planes]
        values = {int(plane[y, x]) for planes in pictures for plane in planes for y in (0, -1) for x in (0, -1)}
        assert len(values) == 1, "the frame's memory was overwritten while it was held"
        self.seen.append((frame.number, values.pop()))
        self.wrote.set()
        return len(self.seen) != self._close_at

    def close(self) -> None:
        self.closed += 1


class ByteEncoder:
    """One packet a frame: number and sample as text; a keyframe every tenth frame or when asked."""

    def __init__(self, info: StreamInfo) -> None:
        self.stream = EncodedStream("h264", b"", info)
        self.keys: list[int] = []
        self._held: list[Packet] = []

    def encode(self, frame: Frame, *, keyframe: bool = False) -> list[Packet]:
        keyframe = keyframe or frame.number % 10 == 0
        if keyframe:
            self.keys.append(frame.number)
        data = f"{frame.number} {int(frame.planes[0][0, 0])}".encode()
        self._held.append(
            Packet(data, frame.pts, frame.pts, 40, frame.time_base, keyframe, frame.captured_ns, frame.number)
        )
        ready, self._held = self._held[:-1], self._held[-1:]  # like an encoder with one frame of look-ahead
        return ready

    def flush(self) -> list[Packet]:
        ready, self._held = self._held, []
        return ready

    def close(self) -> None:
        pass


class PacketList:
    """A packet sink that keeps what it is given."""

    paced = False
    takes_passthrough = False

    def __init__(
        self, name: str = "packets", *, fail_at: int | None = None, keyframe_requests: Sequence[int] = ()
    ) -> None:
        self.name = name
        self.seen: list[tuple[int, int]] = []
        self.stream: EncodedStream | None = None
        self.closed = self.completed = 0
        self._fail_at, self._asked, self._keyframe_requests = fail_at, 0, set(keyframe_requests)

    def open(self, stream: EncodedStream) -> None:
        self.stream = stream

    def write(self, packet: Packet) -> None:
        if len(self.seen) == self._fail_at:
            raise SinkWriteError(f"the double {self.name} was told to fail")
        number, value = map(int, packet.data.split())
        self.seen.append((number, value))

    def wants_keyframe(self) -> bool:
        self._asked += 1
        return self._asked - 1 in self._keyframe_requests

    def complete(self) -> None:
        assert not self.closed
        self.completed += 1

    def counters(self) -> dict[str, int]:
        return {}

    def close(self) -> None:
        self.closed += 1
