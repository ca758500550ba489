"""Audio received by RTSP: its packets go into the passthrough, with times on the clock of the video frames."""

from __future__ import annotations

import threading
from collections import deque
from fractions import Fraction
from typing import Any, NamedTuple

import av

from stream_sr.codec.audio_format import AudioFormat, make_track
from stream_sr.pipeline.packets import LIVE_PASSTHROUGH_BYTES, Passthrough
from stream_sr.rtsp.rtcp import WallClock
from stream_sr.rtsp.rtp import parse_rtp
from stream_sr.rtsp.rtp_audio import AudioDepacketiser, RtpAudioFrame

MAX_WAITING = 500  # audio frames without a video frame: about 10 s
DRIFT_SECONDS = Fraction(1, 10)  # audio that is further off, by the sender's clocks, is corrected


class FrameInstant(NamedTuple):
    """The times of one video frame: in the stream, on the camera's wall clock if known, and on arrival."""

    seconds: Fraction  # presentation time
    wall_ns: int | None  # since 1970
    arrived_ns: int  # monotonic


class IncomingAudio:
    """Synchronises the audio track of an RTSP source with its video. The network thread calls `receive`, the thread
    that reads frames calls `pass_on`.

    Where the sender reports its wall clock for both tracks, that clock ties them together; until then, and with senders
    that never report it, the arrival times do. Times grow strictly; audio from before the first frame is dropped.
    """

    def __init__(self, audio_format: AudioFormat) -> None:
        self.format = audio_format
        self.wall = WallClock(audio_format.clock)
        self.passthrough = Passthrough((make_track(audio_format),), LIVE_PASSTHROUGH_BYTES)
        self.dropped = 0
        self._depacketiser = AudioDepacketiser(audio_format)
        self._waiting: deque[tuple[RtpAudioFrame, int]] = deque(maxlen=MAX_WAITING)
        self._lock = threading.Lock()
        self._last_timestamp: int | None = None
        self._ticks = 0  # unwrapped
        self._shift: Fraction | None = None  # seconds from the audio clock to presentation time
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
            self._waiting.extend((frame, now_ns) for frame in self._depacketiser.push(packet))

    def pass_on(self, video: FrameInstant) -> None:
        """Put what has come into the passthrough; ``video`` is the newest frame."""
        with self._lock:
            received = list(self._waiting)
            self._waiting.clear()
        for frame, arrived_ns in received:
            ticks = self._unwrap(frame.timestamp)
            seconds = Fraction(ticks, self.format.clock)
            self._synchronise(seconds, self.wall.at(frame.timestamp), arrived_ns, video)
            assert self._shift is not None
            pts = round((seconds + self._shift) * self.format.clock)
            if pts < 0 or pts <= self._last_pts:
                self.dropped += pts >= 0
                continue
            self._last_pts = pts
            packet: av.Packet[Any] = av.Packet(frame.data)
            packet.pts = packet.dts = pts
            packet.time_base = Fraction(1, self.format.clock)
            packet.duration = frame.ticks
            packet.is_keyframe = True
            if not self.passthrough.put(0, packet, packet.size):
                self.dropped += 1

    def _synchronise(self, seconds: Fraction, wall_ns: int | None, arrived_ns: int, video: FrameInstant) -> None:
        if wall_ns is not None and video.wall_ns is not None:
            shift = video.seconds + Fraction(wall_ns - video.wall_ns, 10**9) - seconds
            if not self._by_wall or abs(shift - (self._shift or 0)) > DRIFT_SECONDS:
                self._shift, self._by_wall = shift, True
        elif self._shift is None:
            self._shift = video.seconds + Fraction(arrived_ns - video.arrived_ns, 10**9) - seconds

    def _unwrap(self, raw: int) -> int:
        if self._last_timestamp is not None:
            self._ticks += (raw - self._last_timestamp + 0x80000000 & 0xFFFFFFFF) - 0x80000000
        self._last_timestamp = raw
        return self._ticks
