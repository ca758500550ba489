"""One stream of our RTSP server: cut into RTP packets once, handed to everybody who plays it. Lives on the loop."""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from stream_sr.codec import h264
from stream_sr.codec.audio_format import AudioFormat
from stream_sr.pipeline.packets import EncodedStream, Packet
from stream_sr.rtsp.audio_encoder import Sound
from stream_sr.rtsp.rtp import CLOCK, Packetiser
from stream_sr.rtsp.rtp_audio import payloads_of
from stream_sr.rtsp.sdp import build_sdp
from stream_sr.video.timing import rescale

if TYPE_CHECKING:
    from stream_sr.rtsp.session import Viewer

VIDEO, AUDIO = "track1", "track2"
REPORT_SECONDS = 3.0
FAREWELL_SECONDS = 1.0  # to send what is in the air when the stream ends


@dataclass(frozen=True, slots=True)
class AccessPolicy:
    """Who may watch."""

    viewers: int = 64  # at once
    user: str | None = None
    password: str | None = None


class Outlet:
    """One track: its packets, and where its RTP clock stands."""

    def __init__(self, clock: int, payload_type: int) -> None:
        self.clock = clock
        self.packetiser = Packetiser(payload_type=payload_type)
        self.timestamp: int | None = None  # of the last frame
        self._offset = secrets.randbits(32)

    def stamp(self, seconds: Fraction) -> int:
        """The RTP timestamp of a presentation time, 32 bits."""
        return (round(seconds * self.clock) + self._offset) & 0xFFFFFFFF


class Mount:
    """A stream at a path. ``wish`` is set when a keyframe is wanted; ``playing`` may be read by any thread."""

    def __init__(
        self, stream: EncodedStream, path: str, wish: threading.Event, *, sound: AudioFormat | None, door: AccessPolicy
    ) -> None:
        self.path, self.wish, self.door = path, wish, door
        self.fps = stream.info.fps
        self.sound = sound
        self.playing = 0  # written on the loop, read anywhere
        self.viewers: set[Viewer] = set()
        self.outlets = {VIDEO: Outlet(CLOCK, 96)}
        if sound is not None:
            self.outlets[AUDIO] = Outlet(sound.clock, sound.payload_type)
        self.ready = asyncio.Event()  # set with the parameter sets
        self.sets: list[bytes] = []
        self.ended = False
        self._wall: tuple[float, Fraction] | None = None  # seconds since 1970, at this presentation time
        self._pending = 0
        self._pending_lock = threading.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._learn(stream.extradata)

    @property
    def pending(self) -> int:
        """Packets on their way from the sink to the loop."""
        with self._pending_lock:
            return self._pending

    def pend(self, change: int) -> None:
        with self._pending_lock:
            self._pending += change

    def describe(self, host: str) -> str:
        """The session description."""
        more = self.sound.lines(AUDIO) if self.sound is not None else []
        return build_sdp(host=host, name="stream_sr", sets=self.sets, fps=self.fps, more=more)

    async def start(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(REPORT_SECONDS, self._report)

    def send(self, packet: Packet, sounds: Sequence[Sound]) -> None:
        """Cut a picture, and the sound that is due with it, into packets and hand them to every viewer."""
        self.pend(-1)
        if self.ended:
            return
        if packet.is_keyframe:
            self._learn(packet.data)
        video = self.outlets[VIDEO]
        ticks = rescale(packet.pts, packet.time_base, Fraction(1, CLOCK))
        video.timestamp = timestamp = video.stamp(Fraction(ticks, CLOCK))
        self._wall = (wall_seconds(packet), packet.pts * packet.time_base)
        packets = video.packetiser.packetise(packet.data, timestamp)
        takers = [viewer for viewer in self.viewers if viewer.takes(packet.is_keyframe)]
        self._hand_out(VIDEO, packets, takers)
        for sound in sounds:
            self._send_sound(sound, takers)

    def _send_sound(self, sound: Sound, takers: Sequence[Viewer]) -> None:
        outlet = self.outlets[AUDIO]
        assert self.sound is not None
        outlet.timestamp = outlet.stamp(sound.seconds)
        parts = payloads_of(self.sound, sound.data, outlet.packetiser.mtu - 12)
        last = len(parts) - 1
        self._hand_out(
            AUDIO,
            [
                outlet.packetiser.packet(part, outlet.timestamp + later, marker=index == last)
                for index, (part, later) in enumerate(parts)
            ],
            takers,
        )

    def _hand_out(self, track: str, packets: Sequence[bytes], takers: Sequence[Viewer]) -> None:
        octets = sum(map(len, packets)) - 12 * len(packets)
        framed: dict[int, bytes] = {}  # by channel: nearly all viewers take the same
        for viewer in takers:
            viewer.send(track, packets, octets, framed)

    def _learn(self, data: bytes) -> None:
        sps, pps = h264.parameter_sets(h264.split_annexb(data))
        if sps and pps:
            self.sets = sps + pps
            self.ready.set()

    def _report(self) -> None:
        """Sender reports, and an end to viewers that take nothing."""
        self._timer = asyncio.get_running_loop().call_later(REPORT_SECONDS, self._report)
        for viewer in tuple(self.viewers):
            viewer.end_if_stalled()
            if viewer.playing and self._wall is not None:
                for track, outlet in self.outlets.items():
                    wall, seconds = self._wall
                    viewer.report(track, outlet.packetiser.ssrc, wall, outlet.stamp(seconds))

    async def stop(self) -> None:
        """Goodbye to all; who does not read it is cut off."""
        await asyncio.sleep(0)  # packets that were handed over before are sent first
        self.ended = True
        if self._timer is not None:
            self._timer.cancel()
        gone = [viewer.gone for viewer in self.viewers]
        for viewer in tuple(self.viewers):
            viewer.say_goodbye()
        if gone:
            await asyncio.wait(gone, timeout=FAREWELL_SECONDS)
            for viewer in tuple(self.viewers):
                viewer.abort()
            await asyncio.wait(gone)


def wall_seconds(packet: Packet) -> float:
    """When the picture was taken: by the camera's own clock, or by ours when it had come."""
    if packet.wall_ns is not None:
        return packet.wall_ns / 1e9
    return time.time() - (time.monotonic_ns() - packet.captured_ns) / 1e9
