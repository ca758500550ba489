"""The ring neither loses, doubles nor reorders what its policy keeps, and every slot comes back."""

import threading
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_sr.pipeline.ring import Overflow, RingBuffer
from stream_sr.pipeline.threads import Worker
from stream_sr.video.frame_pool import POISON, FramePool, Slot

PATIENCE = 30.0  # seconds until a thread that does not end is a failure


def join(*workers: Worker) -> None:
    for worker in workers:
        assert worker.join(PATIENCE), f"'{worker.name}' did not end"
        if worker.error is not None:
            raise worker.error


@given(st.integers(1, 4), st.lists(st.booleans(), max_size=40))
def test_drop_oldest_keeps_the_newest(capacity: int, steps: list[bool]) -> None:
    lost: list[int] = []
    ring: RingBuffer[int] = RingBuffer(capacity, Overflow.DROP_OLDEST, discard=lost.append)
    model: list[int] = []
    for number, is_put in enumerate(steps):
        if is_put:
            assert ring.put(number)
            model.append(number)
            model = model[-capacity:]
        elif model:
            assert ring.get() == model.pop(0)
        assert len(ring) == len(model)
    ring.end()
    assert list(ring) == model
    assert lost == sorted(lost)
    assert ring.dropped == len(lost)


@given(st.integers(1, 4), st.lists(st.sampled_from(["key", "delta", "get"]), max_size=60))
def test_skip_to_key_never_hands_out_a_packet_whose_predecessors_are_missing(capacity: int, steps: list[str]) -> None:
    lost: list[int] = []
    keys: set[int] = {0}
    ring: RingBuffer[int] = RingBuffer(
        capacity, Overflow.SKIP_TO_KEYFRAME, discard=lost.append, is_keyframe=keys.__contains__
    )
    ring.put(0)
    taken: list[int] = []
    number = 0
    for step in steps:
        if step == "get":
            if len(ring):
                taken.append(ring.get() or 0)
            continue
        number += 1
        if step == "key":
            keys.add(number)
        assert ring.put(number)
        assert len(ring) <= capacity
    ring.end()
    taken += list(ring)
    assert all(n in keys or n - 1 in taken for n in taken)
    assert sorted(taken + lost) == list(range(number + 1))
    assert taken == sorted(taken)
    assert ring.dropped == len(lost)


def test_skip_to_key_goes_on_with_the_keyframe_that_found_the_ring_full() -> None:
    lost: list[str] = []
    ring: RingBuffer[str] = RingBuffer(2, Overflow.SKIP_TO_KEYFRAME, discard=lost.append, is_keyframe=str.isupper)
    for packet in ("A", "b", "C", "d"):
        ring.put(packet)
    assert lost == ["A", "b"]
    ring.put("e")
    ring.put("f")
    assert lost == ["A", "b", "C", "d", "e", "f"]
    ring.put("G")
    ring.end()
    assert list(ring) == ["G"]


@pytest.mark.parametrize("full", Overflow)
def test_end_hands_out_what_is_there_and_refuses_more(full: Overflow) -> None:
    lost: list[int] = []
    ring: RingBuffer[int] = RingBuffer(3, full, discard=lost.append)
    ring.put(1)
    ring.put(2)
    ring.end()
    assert not ring.put(3)
    assert lost == [3]
    assert list(ring) == [1, 2]
    assert ring.get() is None
    assert ring.dropped == 0  # only what a full ring lost


@pytest.mark.parametrize("full", Overflow)
def test_abort_gives_everything_back(full: Overflow) -> None:
    lost: list[int] = []
    ring: RingBuffer[int] = RingBuffer(3, full, discard=lost.append)
    ring.put(1)
    ring.put(2)
    ring.abort()
    assert ring.get() is None
    assert not ring.put(3)
    assert lost == [1, 2, 3]


@pytest.mark.parametrize("ending", ["end", "abort"])
def test_a_waiting_consumer_wakes(ending: str) -> None:
    ring: RingBuffer[int] = RingBuffer(1, Overflow.BLOCK)
    got: list[int | None] = []
    consumer = Worker("consumer", lambda: got.append(ring.get()))
    getattr(ring, ending)()
    join(consumer)
    assert got == [None]


@pytest.mark.parametrize("ending", ["end", "abort"])
def test_a_blocked_producer_wakes_and_its_item_is_given_back(ending: str) -> None:
    lost: list[int] = []
    ring: RingBuffer[int] = RingBuffer(1, Overflow.BLOCK, discard=lost.append)
    ring.put(1)
    answers: list[bool] = []
    producer = Worker("producer", lambda: answers.append(ring.put(2)))
    getattr(ring, ending)()
    join(producer)
    assert answers == [False]
    assert sorted(lost) == ([2] if ending == "end" else [1, 2])


@pytest.mark.usefixtures("frequent_switches")
@pytest.mark.parametrize("capacity", [1, 2])
def test_a_blocking_ring_loses_nothing_between_threads(capacity: int) -> None:
    ring: RingBuffer[int] = RingBuffer(capacity, Overflow.BLOCK)
    got: list[int] = []

    def produce() -> None:
        for number in range(2000):
            assert ring.put(number)
        ring.end()

    join(Worker("producer", produce), Worker("consumer", lambda: got.extend(ring)))
    assert got == list(range(2000))
    assert ring.dropped == 0


def send(pool: FramePool, ring: RingBuffer[Slot], count: int) -> None:
    """Lease ``count`` slots, one after the other, and write the frame's number into each byte."""
    for number in range(count):
        slot = pool.lease()
        slot.buffer.fill(number % POISON)  # never the poison
        if not ring.put(slot):
            return
    ring.end()


@pytest.mark.usefixtures("frequent_switches")
@pytest.mark.parametrize("full", [Overflow.BLOCK, Overflow.DROP_OLDEST])
def test_a_held_slot_is_never_overwritten_and_each_comes_back(full: Overflow) -> None:
    pool = FramePool(16, 8, 2 + 1 + 1, poison=True)  # ring, producer, consumer
    ring: RingBuffer[Slot] = RingBuffer(2, full, discard=Slot.release)
    seen: Counter[str] = Counter()

    def receive() -> None:
        for slot in ring:
            first = slot.buffer.copy()
            seen["whole"] += bool((first == first[0]).all() and first[0] != POISON)
            seen["unchanged"] += bool((slot.buffer == first).all())
            seen["all"] += 1
            slot.release()

    join(Worker("producer", lambda: send(pool, ring, 1500)), Worker("consumer", receive))
    assert seen["whole"] == seen["unchanged"] == seen["all"]
    assert seen["all"] + ring.dropped == 1500
    assert pool.held == 0


def test_reading_a_slot_after_its_release_shows_the_poison() -> None:
    pool = FramePool(16, 8, 1, poison=True)
    slot = pool.lease()
    slot.buffer.fill(7)
    luma = slot.planes[0]
    slot.release()
    assert (luma == POISON).all()


@pytest.mark.usefixtures("frequent_switches")
def test_abort_in_the_middle_gives_every_slot_back() -> None:
    for _ in range(30):
        pool = FramePool(8, 8, 4, poison=True)
        ring: RingBuffer[Slot] = RingBuffer(2, Overflow.BLOCK, discard=Slot.release)
        some = threading.Event()

        def receive(ring: RingBuffer[Slot] = ring, some: threading.Event = some) -> None:
            for slot in ring:
                slot.release()
                some.set()

        def produce(pool: FramePool = pool, ring: RingBuffer[Slot] = ring) -> None:
            send(pool, ring, 10**9)

        workers = Worker("producer", produce), Worker("consumer", receive)
        assert some.wait(PATIENCE)
        ring.abort()
        join(*workers)
        assert pool.held == 0


@given(st.integers(1, 33), st.integers(1, 33))
def test_planes_of_a_slot_fill_its_buffer_without_overlap(width: int, height: int) -> None:
    slot = FramePool(width, height, 1).lease()
    for number, plane in enumerate(slot.planes):
        plane.fill(number + 1)
    luma, u, v = slot.planes
    assert luma.shape == (height, width)
    assert u.shape == v.shape == (-(-height // 2), -(-width // 2))
    assert np.bincount(slot.buffer, minlength=4)[1:].tolist() == [luma.size, u.size, v.size]
    assert slot.buffer.size == luma.size + u.size + v.size


def test_misuse_of_a_slot_is_refused() -> None:
    pool = FramePool(4, 4, 1)
    slot = pool.lease()
    with pytest.raises(RuntimeError, match="all 1 frame slots are held"):
        pool.lease()
    slot.retain()
    slot.release()
    assert pool.held == 1
    slot.release()
    with pytest.raises(RuntimeError, match="released more often"):
        slot.release()
    with pytest.raises(RuntimeError, match="after its memory was given back"):
        slot.retain()
    assert pool.lease() is slot


def test_a_pool_takes_memory_where_it_is_told() -> None:
    sizes: list[int] = []

    def allocate(nbytes: int) -> np.ndarray:
        sizes.append(nbytes)
        return np.zeros(nbytes, np.uint8)

    pool = FramePool(5, 3, 2, allocate=allocate)
    pool.lease()
    assert sizes == [5 * 3 + 2 * 3 * 2]  # made when first needed


def test_a_ring_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        RingBuffer(0, Overflow.BLOCK)
