"""The audio of an RTSP source: its packets go into the passthrough, with times on the clock of the frames."""

from __future__ import annotations

import threading
from collections import deque
from fractions import Fraction
from typing import Any, NamedTuple

import av

from stream_sr.codec.audio_format import AudioFormat, make_track
from stream_sr.pipeline.packets import Passthrough
from stream_sr.rtsp.rtp import WallClock, parse_rtp
from stream_sr.rtsp.rtp_audio import AudioDepacketiser, Sound

WAITING = 500  # frames of sound without a picture: about 10 s
PASSTHROUGH_BYTES = 4 << 20
DRIFT_SECONDS = Fraction(1, 10)  # sound that the sender's clocks say is further off is put right


class Moment(NamedTuple):
    """One picture on three clocks: ours, the camera's wall clock (if it tells), and our monotonic one."""

    seconds: Fraction  # presentation time
    wall_ns: int | None
    arrived_ns: int


class AudioTrack:
    """`receive` is called by the network's thread, `pass_on` by the one that reads pictures.

    Where the sender reports its wall clock for both, sound and pictures are tied together by that; until then, and
    with senders that never do, by their arrival. Times grow strictly, sound from before the first picture is dropped.
    """

    def __init__(self, form: AudioFormat) -> None:
        self.form = form
        self.wall = WallClock(form.clock)
        self.passthrough = Passthrough((make_track(form),), PASSTHROUGH_BYTES)
        self.dropped = 0
        self._depacketiser = AudioDepacketiser(form)
        self._waiting: deque[tuple[Sound, int]] = deque(maxlen=WAITING)
        self._lock = threading.Lock()
        self._raw: int | None = None
        self._ticks = 0  # unwrapped
        self._shift: Fraction | None = None  # seconds from the sound's own clock to ours
        self._by_wall = False
        self._last_pts = -1

    @property
    def bad_packets(self) -> int:
        return self._depacketiser.bad_packets

    def receive(self, data: bytes, now_ns: int) -> None:
        """Take an RTP packet."""
        try:
            packet = parse_rtp(data)
        except ValueError:
            self._depacketiser.bad_packets += 1
            return
        with self._lock:
            self._waiting.extend((sound, now_ns) for sound in self._depacketiser.push(packet))

    def pass_on(self, picture: Moment) -> None:
        """Put what has come into the passthrough; ``picture`` is the newest one."""
        with self._lock:
            came = list(self._waiting)
            self._waiting.clear()
        for sound, arrived_ns in came:
            ticks = self._unwrap(sound.timestamp)
            seconds = Fraction(ticks, self.form.clock)
            self._tie(seconds, self.wall.at(sound.timestamp), arrived_ns, picture)
            assert self._shift is not None
            pts = round((seconds + self._shift) * self.form.clock)
            if pts < 0 or pts <= self._last_pts:
                self.dropped += pts >= 0
                continue
            self._last_pts = pts
            packet: av.Packet[Any] = av.Packet(sound.data)
            packet.pts = packet.dts = pts
            packet.time_base = Fraction(1, self.form.clock)
            packet.duration = sound.ticks
            packet.is_keyframe = True
            if not self.passthrough.put(0, packet, packet.size):
                self.dropped += 1

    def _tie(self, seconds: Fraction, wall_ns: int | None, arrived_ns: int, picture: Moment) -> None:
        if wall_ns is not None and picture.wall_ns is not None:
            shift = picture.seconds + Fraction(wall_ns - picture.wall_ns, 10**9) - seconds
            if not self._by_wall or abs(shift - (self._shift or 0)) > DRIFT_SECONDS:
                self._shift, self._by_wall = shift, True
        elif self._shift is None:
            self._shift = picture.seconds + Fraction(arrived_ns - picture.arrived_ns, 10**9) - seconds

    def _unwrap(self, raw: int) -> int:
        if self._raw is not None:
            self._ticks += (raw - self._raw + 0x80000000 & 0xFFFFFFFF) - 0x80000000
        self._raw = raw
        return self._ticks
