"""A live input that comes back: one wrapper around whatever opens it.

While the input is away, a `no signal` picture is handed out at a low, steady rate, so that viewers and recordings go
on; a thread of its own tries to get it back. To the rest of the program it is one stream, in the time base of the
first, whose times grow by the clock on the wall; only the size and colours of its frames may change.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from fractions import Fraction

from stream_sr.errors import DecodeError, SourceError, SourceLost, SourceOpenError, SourceRefused
from stream_sr.pipeline.interfaces import Source
from stream_sr.pipeline.packets import LIVE_PASSTHROUGH_BYTES, Passthrough, Track
from stream_sr.pipeline.stats import Counters
from stream_sr.pipeline.threads import Worker
from stream_sr.sources.no_signal import NoSignalPicture
from stream_sr.sources.timeline import Timeline
from stream_sr.video.frame import Frame, StreamInfo
from stream_sr.video.frame_pool import FramePool, Pools
from stream_sr.video.planes import empty_planes, read_only
from stream_sr.video.timing import NS, Clock, MonotonicClock

PERIOD_SECONDS = 0.2  # between `no signal` pictures: five a second keep every player's buffer alive
GRACE_SECONDS = 0.5  # a shorter gap is only a gap

log = logging.getLogger("stream_sr")

Connect = Callable[[threading.Event], Source]
Opened = tuple[Source, Iterator[Frame]]


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long after the beginning of a try the next one begins: doubling, up to a limit, never alike for two cameras.

    A camera that is back is met by the next try, after ``most_seconds`` at most, or where a try hangs on a host that
    was off, by its next SYN (the system repeats it after 1 and 2 s). So the picture is back within 3 s where the camera
    answers and sends a keyframe within the second that is left.
    """

    first_seconds: float = 0.1
    most_seconds: float = 1.0
    refused_seconds: float = 30.0  # after a wrong password: cameras lock out who asks too often

    def seconds(self, failures: int, error: BaseException, chance: float) -> float:
        """After so many failures in a row, the last being ``error``; ``chance`` is from 0 to 1."""
        most = self.refused_seconds if isinstance(error, SourceRefused) else self.most_seconds
        wait = (
            self.refused_seconds if isinstance(error, SourceRefused) else self.first_seconds * 2.0 ** min(failures, 9)
        )
        return min(most, wait) * (0.5 + chance / 2)


class ReconnectingSource:
    """A live source that outlives the loss of its input. See `interfaces.Source`.

    ``connect`` opens the input, now and after every loss; it may be called from another thread, one call at a time,
    and gives up soon once the event that it is given is set. It raises SourceError where the input is not there; any
    other error ends the run. What `connect` raises the first time is the caller's.

    ``prepare`` is called, in another thread and before the first frame, with the description of an input that came
    back; until it returns the picture stays `no signal`. ``duration`` is in seconds of presentation time over all;
    after ``give_up_seconds`` without a signal the loss is raised (None: never).

    Frames count on, their pts grow strictly in ``info.time_base``: the time away is the time on the clock. The first
    frame after a loss, `no signal` or not, says ``discontinuity``. Passthrough packets move along; a track
    that comes back with another codec is left out.
    """

    def __init__(
        self,
        connect: Connect,
        *,
        duration: float | None = None,
        give_up_seconds: float | None = None,
        backoff: Backoff = Backoff(),
        clock: Clock | None = None,
        cancelled: threading.Event | None = None,
    ) -> None:
        """``cancelled``: given to ``connect`` the first time, when nobody can call `stop` yet."""
        self._connect, self._duration, self._give_up = connect, duration, give_up_seconds
        self._backoff, self._clock = backoff, clock or MonotonicClock()
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._source: Source | None = connect(self._stopping if cancelled is None else cancelled)
        self._search: _ReconnectAttempt | None = None
        self.info: StreamInfo = self._source.info
        inner = self._source.passthrough
        self.passthrough: Passthrough | None = (
            Passthrough(inner.tracks, LIVE_PASSTHROUGH_BYTES) if inner is not None else None
        )
        self.prepare: Callable[[StreamInfo], None] | None = None
        self.signal = True  # whether there are pictures now; read anywhere
        self._counts = Counters()
        self._before = Counters()  # what earlier connections counted
        self._timeline = Timeline(self.info.time_base)
        self._last: Frame | None = None  # held, for the picture of `no signal`
        self._pools = Pools(None)

    # -- frames ------------------------------------------------------------------------------------------------------

    def frames(self, pool: FramePool | None = None) -> Iterator[Frame]:
        """See `interfaces.Source`. Slots of another size than ``pool``'s are of a pool of our own, as large as that."""
        try:
            source = self._source
            assert source is not None
            self._pools = Pools(pool)
            pictures = source.frames(self._pool_of(*_size(source.info)))
            while True:
                failure = yield from self._play(source, pictures)
                if failure is None:
                    return
                found = yield from self._while_disconnected(source, failure)
                if found is None:
                    return
                source, pictures = found
        finally:
            self._forget()

    def _play(self, source: Source, pictures: Iterator[Frame]) -> Generator[Frame, None, SourceError | None]:
        """Hand frames on until the input is lost (returns why) or the run is over (returns None)."""
        try:
            for frame in pictures:
                stamped = self._timeline.stamp(frame)
                self._pass_on(source)
                if self._is_over(stamped.pts):
                    frame.release()
                    return None
                self._forget()
                self._last = stamped.retain()
                yield stamped
        except (SourceLost, DecodeError) as error:
            return error
        if self._stopping.is_set():
            return None
        return SourceLost(f"{self.info.name} ended")

    def _is_over(self, pts: int) -> bool:
        if self._duration is None:
            return False
        first = self._timeline.first_pts or 0
        return float((pts - first) * self.info.time_base) >= self._duration

    def _while_disconnected(self, source: Source, failure: SourceError) -> Generator[Frame, None, Opened | None]:
        """`no signal` until the input is back (returns it and its frames) or the run is over (returns None)."""
        lost_ns = self._clock.now_ns()
        self.signal = False
        self._add_counters(source)
        log.warning("%s; trying to get it back", failure)
        picture = self._no_signal_picture()
        self._timeline.cut()
        with self._lock:
            if self._stopping.is_set():
                return None
            self._source, self._search = None, _ReconnectAttempt(self, source)
            search = self._search
        wait = GRACE_SECONDS
        while not search.done.wait(wait):
            wait = PERIOD_SECONDS
            if self._stopping.is_set():
                return None
            seconds = (self._clock.now_ns() - lost_ns) / NS
            if self._give_up is not None and seconds > self._give_up:
                raise failure
            frame = self._timeline.stamp(self._no_signal(picture, seconds))
            if self._is_over(frame.pts):
                frame.release()
                return None
            self._counts.add("no_signal_frames")
            yield frame
        search.join()
        if self._stopping.is_set():
            return None
        found = search.result()
        with self._lock:
            self._source, self._search = found[0], None
        self._timeline.cut()
        self._counts.add("reconnects")
        self.signal = True
        info = found[0].info
        log.info("%s is back after %.1f s (%dx%d)", info.name, (self._clock.now_ns() - lost_ns) / NS, *_size(info))
        return found

    def _no_signal_picture(self) -> NoSignalPicture:
        if self._last is not None:
            return NoSignalPicture(self._last.planes)
        planes = empty_planes(self.info.width, self.info.height)
        for plane, value in zip(planes, (16, 128, 128), strict=True):
            plane.fill(value)
        return NoSignalPicture(planes)

    def _no_signal(self, picture: NoSignalPicture, seconds: float) -> Frame:
        last = self._last
        info = self.info
        width, height = (last.width, last.height) if last is not None else _size(info)
        pool = self._pool_of(width, height)
        slot = pool.lease() if pool is not None else None
        planes = slot.planes if slot is not None else empty_planes(width, height)
        picture.draw(planes, seconds)
        now = self._clock.now_ns()
        return Frame(
            planes=read_only(planes),
            pts=now,
            time_base=Fraction(1, NS),
            captured_ns=now,
            color=last.color if last is not None else info.color,
            sample_aspect=last.sample_aspect if last is not None else info.sample_aspect,
            slot=slot,
        )

    def _pool_of(self, width: int, height: int) -> FramePool | None:
        """The pool of this size, as large as the one we were given. Called by several threads."""
        with self._lock:
            return self._pools.of(width, height)

    def _forget(self) -> None:
        last, self._last = self._last, None
        if last is not None:
            last.release()

    def _pass_on(self, source: Source) -> None:
        """Move what came beside the pictures into our passthrough, with our times."""
        if source.passthrough is None:
            return
        for number, packet in source.passthrough.take():
            ours = self._track_like(source.passthrough.tracks[number], number)
            if self.passthrough is None or ours is None:
                continue
            self._timeline.shift(packet)
            if not self.passthrough.put(ours, packet, packet.size):
                self._counts.add("dropped_audio")

    def _track_like(self, track: Track, number: int) -> int | None:
        tracks = self.passthrough.tracks if self.passthrough is not None else ()
        same_tracks = [index for index, one in enumerate(tracks) if one.signature == track.signature]
        return None if not same_tracks else number if number in same_tracks else same_tracks[0]

    # -- from other threads ------------------------------------------------------------------------------------------

    def reconnect(self, search: _ReconnectAttempt) -> Opened:
        """One try, in the search's thread: the input opened, prepared for and showing its first picture."""
        source = self._connect(self._stopping)
        search.source = source
        try:
            if self._stopping.is_set():
                raise SourceLost(f"{self.info.name} was stopped")
            if self.prepare is not None:
                self.prepare(source.info)
            pictures = source.frames(self._pool_of(*_size(source.info)))
            first = next(pictures, None)
            if first is None:
                raise SourceLost(f"{source.info.name} ended without a picture")
            return source, _with_first(first, pictures)
        except BaseException:
            search.source = None
            source.close()
            raise

    def stop(self) -> None:
        """See `interfaces.Source`."""
        self._stopping.set()
        with self._lock:
            source, search = self._source, self._search
        if source is not None:
            source.stop()
        if search is not None:
            search.stop()

    def counters(self) -> dict[str, int]:
        """What the inputs counted, together, and ``reconnects``, ``no_signal_frames``, ``dropped_audio``."""
        with self._lock:
            search = self._search
            source = self._source or (search.source if search is not None else None)
            total = Counters()
            for counted in (self._before.read(), source.counters() if source is not None else {}, self._counts.read()):
                total.add_all(counted)
            return total.read()

    def _add_counters(self, source: Source) -> None:
        with self._lock:
            self._before.add_all(source.counters())
            self._source = None

    def close(self) -> None:
        """See `interfaces.Source`. Does not wait for the network: ``connect`` gives up once `stop` was called."""
        self.stop()
        with self._lock:
            source, search = self._source, self._search
        if search is not None:
            search.close()
        if source is not None:
            source.close()


class _ReconnectAttempt:
    """The thread that closes what was lost and tries to open it again. ``done`` is set when it ends."""

    def __init__(self, owner: ReconnectingSource, lost: Source) -> None:
        self.done = threading.Event()
        self.source: Source | None = None  # open now, or being opened
        self._owner, self._lost = owner, lost
        self._found: Opened | None = None
        self._worker = Worker("reconnect", self._run)

    def _run(self) -> None:
        owner, failures, clock = self._owner, 0, self._owner._clock
        try:
            self._lost.close()
            while not owner._stopping.is_set():
                began = clock.now_ns()
                try:
                    self._found = owner.reconnect(self)
                    return
                except (SourceOpenError, SourceLost, DecodeError) as error:
                    log.debug("still away: %s", error)
                    wait = owner._backoff.seconds(failures, error, random.random())
                failures += 1
                clock.wait(max(0.0, wait - (clock.now_ns() - began) / NS), owner._stopping)
        finally:
            self.done.set()

    def join(self) -> None:
        self._worker.join()

    def result(self) -> Opened:
        """What was found. Raises what ended the search otherwise."""
        if self._worker.error is not None:
            raise self._worker.error
        assert self._found is not None
        return self._found

    def stop(self) -> None:
        if (source := self.source) is not None:
            source.stop()

    def close(self) -> None:
        self._worker.join()
        if (source := self.source) is not None:
            source.close()


def _with_first(first: Frame, rest: Iterator[Frame]) -> Iterator[Frame]:
    yield first
    yield from rest


def _size(info: StreamInfo) -> tuple[int, int]:
    return info.width, info.height
