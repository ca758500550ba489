"""One stream of our RTSP server: packetised once, handed to every viewer that plays it. Lives on the server's loop."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import Sequence
from fractions import Fraction
from typing import Protocol

from stream_sr.codec import h264
from stream_sr.codec.audio_format import AudioFormat
from stream_sr.pipeline.packets import EncodedStream, Packet
from stream_sr.rtsp.auth import AccessPolicy
from stream_sr.rtsp.outgoing_audio import AudioFrame
from stream_sr.rtsp.rtcp import unix_capture_seconds
from stream_sr.rtsp.rtp import HEADER_BYTES
from stream_sr.rtsp.rtp_audio import AudioPacketiser
from stream_sr.rtsp.rtp_video import VIDEO_CLOCK, VideoPacketiser
from stream_sr.rtsp.sdp import build_sdp
from stream_sr.video.timing import rescale

VIDEO, AUDIO = "track1", "track2"
REPORT_SECONDS = 3.0
CLOSE_SECONDS = 1.0  # for sending what is still unsent when the stream ends


class StreamViewer(Protocol):
    """What a stream needs of the session of a viewer, see `server_session.ServerSession`."""

    playing: bool
    closed: asyncio.Future[None]

    def accepts(self, *, keyframe: bool) -> bool:
        """Whether the next access unit is to be sent."""
        ...

    def send(self, track: str, packets: Sequence[bytes], octets: int, interleaved: dict[int, bytes]) -> None:
        """Send RTP packets of a track; ``octets`` of them are payload."""
        ...

    def send_report(self, track: str, ssrc: int, unix_seconds: float, timestamp: int) -> None:
        """Send an RTCP sender report of a track."""
        ...

    def close_if_stalled(self) -> None:
        """Disconnect a viewer that does not respond any longer."""
        ...

    def end_stream(self) -> None:
        """Send BYE and close the connection after what was written before."""
        ...

    def abort(self) -> None:
        """Close the connection now."""
        ...


class ServerTrack:
    """The video or the audio of a stream: its packetiser and its RTP clock, which begins anywhere."""

    def __init__(self, clock: int, packetiser: VideoPacketiser | AudioPacketiser) -> None:
        self.clock = clock
        self.packetiser = packetiser
        self.timestamp: int | None = None  # of the last frame
        self._offset = secrets.randbits(32)

    def rtp_timestamp(self, seconds: Fraction) -> int:
        """Return the RTP timestamp of a presentation time, 32 bits."""
        return (round(seconds * self.clock) + self._offset) & 0xFFFFFFFF


class ServerStream:
    """A stream at a path of our server. It sets ``keyframe_requested`` when a viewer needs one.

    `post`, ``pending`` and ``playing`` may be used from any thread, everything else on the loop.
    """

    def __init__(
        self,
        encoded: EncodedStream,
        path: str,
        keyframe_requested: threading.Event,
        *,
        audio: AudioFormat | None,
        policy: AccessPolicy,
    ) -> None:
        self.path, self.keyframe_requested, self.policy = path, keyframe_requested, policy
        self.fps = encoded.info.fps
        self.audio = audio
        self.playing = 0  # viewers that play now; written on the loop
        self.viewers: set[StreamViewer] = set()
        self.tracks = {VIDEO: ServerTrack(VIDEO_CLOCK, VideoPacketiser())}
        if audio is not None:
            self.tracks[AUDIO] = ServerTrack(audio.clock, AudioPacketiser(audio))
        self.ready = asyncio.Event()  # set when the parameter sets are known
        self.parameter_sets: list[bytes] = []
        self.ended = False
        self._last_capture: tuple[float, Fraction] | None = None  # seconds since 1970, at this presentation time
        self._pending = 0
        self._pending_lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._learn_parameter_sets(encoded.extradata)

    @property
    def pending(self) -> int:
        """Packets that `post` was given and the loop has not sent yet."""
        with self._pending_lock:
            return self._pending

    def post(self, packet: Packet, audio: Sequence[AudioFrame]) -> None:
        """Send a video frame, and the audio that is due with it, from any thread. Never waits; after `start`."""
        assert self._loop is not None
        with self._pending_lock:
            self._pending += 1
        self._loop.call_soon_threadsafe(self._send, packet, audio)

    def describe(self, host: str) -> str:
        """Return the session description."""
        audio_lines = self.audio.lines(AUDIO) if self.audio is not None else []
        return build_sdp(
            host=host, name="stream_sr", parameter_sets=self.parameter_sets, fps=self.fps, extra_lines=audio_lines
        )

    async def start(self) -> None:
        """Begin to send, on the loop that runs this."""
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(REPORT_SECONDS, self._report)

    async def stop(self) -> None:
        """Say goodbye to all viewers; those that do not take it in time are disconnected."""
        await asyncio.sleep(0)  # packets that were handed over before are sent first
        self.ended = True
        if self._timer is not None:
            self._timer.cancel()
        closed = [viewer.closed for viewer in self.viewers]
        for viewer in tuple(self.viewers):
            viewer.end_stream()
        if closed:
            await asyncio.wait(closed, timeout=CLOSE_SECONDS)
            for viewer in tuple(self.viewers):
                viewer.abort()
            await asyncio.wait(closed)

    def _send(self, packet: Packet, audio: Sequence[AudioFrame]) -> None:
        with self._pending_lock:
            self._pending -= 1
        if self.ended:
            return
        if packet.is_keyframe:
            self._learn_parameter_sets(packet.data)
        video = self.tracks[VIDEO]
        ticks = rescale(packet.pts, packet.time_base, Fraction(1, VIDEO_CLOCK))
        video.timestamp = video.rtp_timestamp(Fraction(ticks, VIDEO_CLOCK))
        self._last_capture = (unix_capture_seconds(packet), packet.pts * packet.time_base)
        packets = video.packetiser.packetise(packet.data, video.timestamp)
        receivers = [viewer for viewer in self.viewers if viewer.accepts(keyframe=packet.is_keyframe)]
        self._distribute(VIDEO, packets, receivers)
        for frame in audio:
            track = self.tracks[AUDIO]
            track.timestamp = track.rtp_timestamp(frame.seconds)
            self._distribute(AUDIO, track.packetiser.packetise(frame.data, track.timestamp), receivers)

    def _distribute(self, track: str, packets: Sequence[bytes], receivers: Sequence[StreamViewer]) -> None:
        octets = sum(map(len, packets)) - HEADER_BYTES * len(packets)
        interleaved: dict[int, bytes] = {}  # by channel: nearly all viewers use the same
        for viewer in receivers:
            viewer.send(track, packets, octets, interleaved)

    def _learn_parameter_sets(self, data: bytes) -> None:
        sps, pps = h264.parameter_sets(h264.split_annexb(data))
        if sps and pps:
            self.parameter_sets = sps + pps
            self.ready.set()

    def _report(self) -> None:
        """Send sender reports, and disconnect viewers that take nothing."""
        self._timer = asyncio.get_running_loop().call_later(REPORT_SECONDS, self._report)
        for viewer in tuple(self.viewers):
            viewer.close_if_stalled()
            if viewer.playing and self._last_capture is not None:
                for name, track in self.tracks.items():
                    unix_seconds, seconds = self._last_capture
                    viewer.send_report(name, track.packetiser.ssrc, unix_seconds, track.rtp_timestamp(seconds))
