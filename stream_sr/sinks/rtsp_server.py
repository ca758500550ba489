"""Serves the encoded stream over RTSP (RFC 2326) to any number of players, see `rtsp.server`.

Each access unit is packetised once and written to every viewer, inside the RTSP connection (TCP interleaved, without
Nagle's algorithm) or as datagrams. A viewer begins with a keyframe, which is requested when it joins; one that does not
read skips frames up to the next keyframe, and the other viewers lose nothing.
"""

from __future__ import annotations

import logging
import threading
from fractions import Fraction
from urllib.parse import urlsplit

from stream_sr.errors import SinkOpenError, SinkWriteError
from stream_sr.pipeline.interfaces import ORIENTATION_LOST, SinkOptions
from stream_sr.pipeline.packets import EncodedStream, Packet
from stream_sr.rtsp.auth import AccessPolicy
from stream_sr.rtsp.outgoing_audio import OutgoingAudio
from stream_sr.rtsp.server import RtspServer, shared_server
from stream_sr.rtsp.server_stream import ServerStream
from stream_sr.system.printable import redact
from stream_sr.system.sockets import LOOPBACK, bind_refusal
from stream_sr.video.orientation import Orientation

PORT = 8554
PENDING_PACKETS = 120  # handed over by `write`, not yet sent by the loop

log = logging.getLogger("stream_sr")


class RtspServerSink:
    """Serves at ``rtsp://@:PORT/PATH`` (this machine only: bound to 127.0.0.1) or ``rtsp://@HOST:PORT/PATH`` (bound to
    that address; 0.0.0.0 for all). Port 0 takes a free one, see ``port``. See `interfaces.PacketSink` and
    `interfaces.CheckedSink`.

    Streams of one process may share a port, each at its path. Video is H.264, audio is AAC, Opus or G.711 as in the
    source; over TCP and UDP. With a user and password in the options players must authenticate (Digest); without them
    everyone who reaches the port can watch. A viewer that connects between `check` and `open` waits in the
    socket's queue. Sender reports tell the camera's wall clock where it is known.
    """

    paced = True

    def __init__(self, url: str, options: SinkOptions = SinkOptions()) -> None:  # noqa: B008 - it is immutable
        """Raises SinkOpenError for an invalid address; opens nothing."""
        self.host, self.port, self.path = _parse_url(url)
        self.name = f"rtsp://@{_bracketed(self.host)}:{self.port}/{self.path}"
        self.takes_passthrough = options.audio != "none"
        self._audio_mode = options.audio
        self._policy = AccessPolicy(options.max_viewers, options.viewer_user, options.viewer_password)
        self.dropped_packets = 0  # that the loop did not send in time
        self._server: RtspServer | None = None
        self._stream: ServerStream | None = None
        self._audio = OutgoingAudio("", None)
        self._keyframe_requested = threading.Event()
        self._skipping = False
        self._closed = False

    @property
    def url(self) -> str:
        """The address for a player on this machine."""
        host = {"0.0.0.0": LOOPBACK, "::": "::1"}.get(self.host, self.host)
        return f"rtsp://{_bracketed(host)}:{self.port}/{self.path}"

    @property
    def viewers(self) -> int:
        """How many play now."""
        return self._stream.playing if self._stream is not None else 0

    def check(self) -> None:
        """Take the port. Raises SinkOpenError."""
        if self._server is not None:
            return
        try:
            self._server = shared_server(self.host, self.port, self.path)
        except ValueError as error:
            raise SinkOpenError(f"{self.name}: {error}; choose another path") from error
        except OSError as error:
            raise SinkOpenError(bind_refusal(self.name, self.host, self.port, error)) from error
        self.port = self._server.port

    def open(self, stream: EncodedStream) -> None:
        """Start to serve. See `interfaces.PacketSink`."""
        if stream.codec != "h264":
            raise SinkOpenError(f"{self.name} serves H.264, not {stream.codec}; choose --encoder libx264 or h264_nvenc")
        self.check()
        assert self._server is not None
        if stream.info.orientation != Orientation.UPRIGHT:
            log.warning(ORIENTATION_LOST, self.name, "RTSP", stream.info.orientation)
        self._audio = OutgoingAudio(self.name, stream.passthrough, self._audio_mode)
        self._stream = ServerStream(
            stream, self.path, self._keyframe_requested, audio=self._audio.format, policy=self._policy
        )
        self._server.add_stream(self._stream)
        log.info("serving %s%s", self.url, " to who knows the password" if self._policy.user is not None else "")

    def write(self, packet: Packet) -> None:
        """Hand a packet to the loop; never waits. A loop that falls behind loses packets up to the next keyframe."""
        stream = self._stream
        if stream is None or self._closed:
            raise SinkWriteError(f"{self.name} is not open")
        if stream.pending >= PENDING_PACKETS or (self._skipping and not packet.is_keyframe):
            self._skipping = True
            self.dropped_packets += 1
            self._keyframe_requested.set()
            return
        self._skipping = False
        stream.post(packet, self._audio.due((packet.pts + packet.duration) * Fraction(packet.time_base)))

    def wants_keyframe(self) -> bool:
        """See `interfaces.PacketSink`."""
        if self._keyframe_requested.is_set():
            self._keyframe_requested.clear()
            return True
        return False

    def complete(self) -> None:
        """See `interfaces.PacketSink`: `close` ends the stream for the viewers in every case."""

    def counters(self) -> dict[str, int]:
        """``viewers`` now, ``dropped_packets`` that the server's loop did not send in time, and ``lost_datagrams`` that
        the system did not take (of all streams at this port).
        """
        lost = self._server.lost_datagrams if self._server is not None else 0
        return {"viewers": self.viewers, "dropped_packets": self.dropped_packets, "lost_datagrams": lost}

    def close(self) -> None:
        """End the stream for the viewers, send what is unsent (for a second at most), free the port."""
        if self._closed:
            return
        self._closed = True
        server = self._server
        if server is None:
            return
        try:
            if self._stream is not None:
                server.remove_stream(self._stream)
        finally:
            server.release(self.path)


def _parse_url(url: str) -> tuple[str, int, str]:
    """Host, port and path (without slash) of ``rtsp://@[HOST][:PORT]/PATH``."""
    form = "write rtsp://@:PORT/PATH to serve on this machine, rtsp://@0.0.0.0:PORT/PATH to serve the network"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or LOOPBACK, PORT if parts.port is None else parts.port
    except ValueError as error:
        raise SinkOpenError(f"{redact(url)} is no address to serve at: host or port cannot be read; {form}") from error
    path = parts.path.strip("/")
    odd = parts.query or parts.fragment or any(letter <= " " or letter == "\x7f" for letter in url)
    if parts.scheme != "rtsp" or not parts.netloc.startswith("@") or not path or odd:
        raise SinkOpenError(f"{redact(url)!r} is no address to serve at; {form}")
    return host, port, path


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
