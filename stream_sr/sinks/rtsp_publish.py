"""Publishes video and audio to an RTSP server (RFC 2326: ANNOUNCE, SETUP, RECORD), which serves them to others.

This is not FFmpeg's client: PyAV holds the interpreter's lock while FFmpeg connects and disconnects, so a slow server
would stop every thread of the program; FFmpeg leaves Nagle's algorithm on; and its `mux` has no timeout.
"""

from __future__ import annotations

import contextlib
import logging
import random
import time
from fractions import Fraction

from stream_sr.codec.h264 import split_annexb
from stream_sr.errors import SinkOpenError, SinkWriteError
from stream_sr.pipeline.interfaces import ORIENTATION_LOST, SinkOptions
from stream_sr.pipeline.packets import EncodedStream, Packet
from stream_sr.rtsp.address import RtspAddress, parse_address
from stream_sr.rtsp.outgoing_audio import AudioFrame, OutgoingAudio
from stream_sr.rtsp.publisher_connection import PublisherConnection
from stream_sr.rtsp.rtcp import bye, sender_report, unix_capture_seconds
from stream_sr.rtsp.rtp import HEADER_BYTES, interleave
from stream_sr.rtsp.rtp_audio import AudioPacketiser
from stream_sr.rtsp.rtp_video import VIDEO_CLOCK, VideoPacketiser
from stream_sr.rtsp.sdp import build_sdp, parse_sdp
from stream_sr.system.printable import redact
from stream_sr.video.orientation import Orientation
from stream_sr.video.timing import rescale

REPORT_SECONDS = 5.0
CLOSE_SECONDS = 2.0
CONNECT_SECONDS = 3.0  # limit of a reconnection attempt
FIRST_WAIT_SECONDS, MAX_WAIT_SECONDS = 0.1, 1.0  # between attempts: doubling up to the maximum

log = logging.getLogger("stream_sr")


class RtspPublishSink:
    """Publishes H.264, and audio that RTP carries, over one TCP connection. User and password of the URL are used but
    never printed.

    A server that does not answer, or takes no data, for ``stall_seconds`` counts as lost. If it refuses the stream or
    cannot be reached, `open` raises SinkOpenError. If it is lost later, `write` reconnects for ``options.reconnect``
    seconds (None: without limit): packets are dropped and counted meanwhile, and the stream continues with a keyframe.
    After that time, or at once with 0, SinkWriteError is raised. `write` may take as long as an attempt does.
    """

    paced = True

    def __init__(self, url: str, options: SinkOptions, *, stall_seconds: float = 5.0) -> None:
        self.name = redact(url)
        self.takes_passthrough = options.audio != "none"
        self._audio_mode = options.audio
        self._url, self._patience = url, options.reconnect
        self._stall_seconds = stall_seconds
        self._stream: EncodedStream | None = None
        self._connection: PublisherConnection | None = None
        self._video = VideoPacketiser()
        self._audio = OutgoingAudio(self.name, None)
        self._audio_packetiser: AudioPacketiser | None = None
        self._sent = [[0, 0], [0, 0]]  # packets and octets of each track
        self._next_report = 0.0
        self._lost_at: float | None = None
        self._next_try, self._failures = 0.0, 0
        self._needs_keyframe = self._keyframe_requested = False
        self._dropped = self._reconnects = 0

    def check(self) -> None:
        """Raise SinkOpenError for an invalid address. `open` connects."""
        self._address()

    def open(self, stream: EncodedStream) -> None:
        """Connect, announce the stream and begin."""
        if stream.codec != "h264":
            raise SinkOpenError(
                f"{self.name} is sent H.264, not {stream.codec}; choose --encoder libx264 or h264_nvenc"
            )
        if stream.info.orientation != Orientation.UPRIGHT:
            log.warning(ORIENTATION_LOST, self.name, "RTSP", stream.info.orientation)
        self._stream = stream
        self._audio = OutgoingAudio(self.name, stream.passthrough, self._audio_mode)
        if self._audio.format is not None:
            self._audio_packetiser = AudioPacketiser(self._audio.format)
        try:
            self._connect(self._stall_seconds)
        except TimeoutError as error:
            raise SinkOpenError(
                f"{self.name}: no answer within {self._stall_seconds:g} s; is an RTSP server listening there?"
            ) from error
        except OSError as error:
            raise SinkOpenError(
                f"{self.name}: the server did not take the stream: {error.strerror or error}; "
                "is an RTSP server listening there that allows publishing?"
            ) from error

    def write(self, packet: Packet) -> None:
        """Send a video frame, and the audio up to its end."""
        if self._stream is None:
            raise SinkWriteError(f"{self.name} is not open")
        audio = self._audio.due((packet.pts + packet.duration) * packet.time_base)
        if self._connection is None and not self._reconnect():
            self._dropped += 1
            return
        if self._needs_keyframe and not packet.is_keyframe:
            self._keyframe_requested = True
            self._dropped += 1
            return
        self._needs_keyframe = False
        assert self._connection is not None
        data = self._report(packet) + self._video_packets(packet) + b"".join(map(self._audio_packets, audio))
        try:
            self._connection.send(data)
        except TimeoutError as error:
            self._lose(f"the server is gone: it took no data for {self._stall_seconds:g} s", error)
        except OSError as error:
            self._lose(f"the server is gone: {error.strerror or error}", error)

    def wants_keyframe(self) -> bool:
        """Whether a keyframe is needed to continue after a reconnection."""
        requested, self._keyframe_requested = self._keyframe_requested, False
        return requested

    def complete(self) -> None:
        """See `interfaces.PacketSink`: `close` ends the session in every case."""

    def counters(self) -> dict[str, int]:
        """``reconnects``, and ``dropped_packets`` while the server was lost. Only the server knows the viewers."""
        return {"reconnects": self._reconnects, "dropped_packets": self._dropped}

    def close(self) -> None:
        """End the session, within two seconds, and disconnect."""
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.set_timeout(CLOSE_SECONDS)
                self._connection.send(interleave(1, bye(self._video.ssrc)))
                self._connection.request("TEARDOWN")
        self._drop()
        self._stream = None

    def _address(self) -> RtspAddress:
        try:
            address = parse_address(self._url)
        except ValueError as error:
            raise SinkOpenError(
                f"{self.name} is no address to publish to: {error}; it is rtsp://host[:port]/path"
            ) from error
        if address.scheme != "rtsp":
            raise SinkOpenError(f"{self.name}: publishing over TLS (rtsps) is not supported; use rtsp://")
        return address

    def _connect(self, timeout: float) -> None:
        """Connect and begin to record. Raises OSError with a message for the user."""
        assert self._stream is not None
        address, audio_format = self._address(), self._audio.format
        text = build_sdp(
            host=address.host,
            name="stream_sr",
            parameter_sets=split_annexb(self._stream.extradata),
            fps=self._stream.info.fps,
            extra_lines=audio_format.lines("track2") if audio_format is not None else [],
        )
        try:
            self._connection = connection = PublisherConnection(address, timeout)
            connection.request("ANNOUNCE", body=text)
            for number, media in enumerate(parse_sdp(text).media):
                channels = f"{2 * number}-{2 * number + 1}"
                transport = {"Transport": f"RTP/AVP/TCP;unicast;interleaved={channels};mode=record"}
                connection.request("SETUP", track=media.control, headers=transport)
            connection.request("RECORD", headers={"Range": "npt=0.000-"})
            connection.set_timeout(self._stall_seconds)
        except OSError:
            self._drop()
            raise

    def _reconnect(self) -> bool:
        """Try to connect if it is time to. Returns whether it succeeded; raises SinkWriteError after the limit."""
        now = time.monotonic()
        if now < self._next_try:
            return False
        try:
            self._connect(min(CONNECT_SECONDS, self._stall_seconds))
        except OSError as error:
            log.debug("%s: still away: %s", self.name, error.strerror or error)
            self._failures += 1
            wait = min(MAX_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2.0 ** min(self._failures, 9))
            self._next_try = time.monotonic() + wait * random.uniform(0.5, 1)
            since = now - (self._lost_at if self._lost_at is not None else now)
            if self._patience is not None and since > self._patience:
                raise SinkWriteError(
                    f"{self.name}: the server did not come back within {self._patience:g} s"
                ) from error
            return False
        away = time.monotonic() - (self._lost_at if self._lost_at is not None else now)
        log.info("%s is back after %.1f s", self.name, away)
        self._reconnects += 1
        self._failures, self._lost_at = 0, None
        self._needs_keyframe = self._keyframe_requested = True
        return True

    def _lose(self, why: str, error: OSError) -> None:
        self._drop()
        self._dropped += 1
        if self._patience == 0:
            self._stream = None
            raise SinkWriteError(f"{self.name}: {why}") from error
        log.warning("%s: %s; trying to get it back", self.name, why)
        self._lost_at = time.monotonic()
        self._next_try, self._failures = self._lost_at + FIRST_WAIT_SECONDS, 0

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _video_packets(self, packet: Packet) -> bytes:
        timestamp = rescale(packet.pts, packet.time_base, Fraction(1, VIDEO_CLOCK))
        return self._interleaved(0, self._video.packetise(packet.data, timestamp))

    def _audio_packets(self, frame: AudioFrame) -> bytes:
        assert self._audio_packetiser is not None
        timestamp = round(frame.seconds * self._audio_packetiser.format.clock)
        return self._interleaved(1, self._audio_packetiser.packetise(frame.data, timestamp))

    def _interleaved(self, track: int, packets: list[bytes]) -> bytes:
        self._sent[track][0] += len(packets)
        self._sent[track][1] += sum(len(packet) - HEADER_BYTES for packet in packets)
        return b"".join([interleave(2 * track, packet) for packet in packets])

    def _report(self, packet: Packet) -> bytes:
        """Return sender reports if they are due: they relate the RTP clocks to the camera's wall clock, or to ours."""
        now = time.monotonic()
        if now < self._next_report:
            return b""
        self._next_report = now + REPORT_SECONDS
        unix_seconds, seconds = unix_capture_seconds(packet), packet.pts * packet.time_base
        clocks = [(self._video.ssrc, VIDEO_CLOCK)]
        if self._audio_packetiser is not None:
            clocks.append((self._audio_packetiser.ssrc, self._audio_packetiser.format.clock))
        return b"".join(
            interleave(
                2 * track + 1,
                sender_report(
                    ssrc,
                    unix_seconds=unix_seconds,
                    timestamp=round(seconds * clock),
                    packets=self._sent[track][0],
                    octets=self._sent[track][1],
                ),
            )
            for track, (ssrc, clock) in enumerate(clocks)
        )
