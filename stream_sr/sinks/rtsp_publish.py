"""Pictures and sound sent to an RTSP server (RFC 2326: ANNOUNCE, SETUP, RECORD), which serves them to others.

Own client, not FFmpeg's: PyAV holds the interpreter's lock while FFmpeg connects and says goodbye, so a slow server
would stop every thread of the program; FFmpeg leaves Nagle's algorithm on; and no timeout frees its `mux`.
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
from stream_sr.rtsp.audio_encoder import PassthroughAudio, Sound
from stream_sr.rtsp.auth import Target, parse_target
from stream_sr.rtsp.mount import wall_seconds
from stream_sr.rtsp.publish_connection import Connection
from stream_sr.rtsp.rtp import CLOCK, Packetiser, goodbye, interleave, sender_report
from stream_sr.rtsp.rtp_audio import payloads_of
from stream_sr.rtsp.sdp import build_sdp, parse_sdp
from stream_sr.system.printable import redact
from stream_sr.video.orientation import Orientation
from stream_sr.video.timing import rescale

REPORT_SECONDS = 5.0
GOODBYE_SECONDS = 2.0
CONNECT_SECONDS = 3.0  # that a further try may take
FIRST_WAIT_SECONDS, MOST_WAIT_SECONDS = 0.1, 1.0  # between tries: doubling, up to a limit

log = logging.getLogger("stream_sr")


class PublishSink:
    """Publishes H.264, and sound that RTP carries, over one TCP connection; user and password of the URL are used but
    never printed.

    A server that does not answer, or takes no data, for ``stall_seconds`` is given up. When it refuses or is not there
    at first, `open` raises SinkOpenError. One that is lost later is tried again for ``options.reconnect`` seconds
    (None: for ever): what is written meanwhile is dropped and counted, and it goes on with a keyframe. Then, or at
    once with 0, SinkWriteError is raised. `write` may take as long as a try does.
    """

    paced = True

    def __init__(self, url: str, options: SinkOptions, *, stall_seconds: float = 5.0) -> None:
        self.name = redact(url)
        self.takes_passthrough = options.audio != "none"
        self._audio_mode = options.audio
        self._url, self._patience = url, options.reconnect
        self._stall_seconds = stall_seconds
        self._stream: EncodedStream | None = None
        self._connection: Connection | None = None
        self._video, self._audio = Packetiser(), Packetiser(payload_type=97)
        self._sound = PassthroughAudio(self.name, None)
        self._sent = [[0, 0], [0, 0]]  # packets and octets of each track
        self._next_report = 0.0
        self._lost_at: float | None = None
        self._next_try, self._failures = 0.0, 0
        self._needs_key = self._wish = False
        self._dropped = self._reconnects = 0

    def check(self) -> None:
        """Refuse an address that names no host. Connecting comes with the first picture."""
        self._target()

    def open(self, stream: EncodedStream) -> None:
        """Connect, announce the stream and begin."""
        if stream.codec != "h264":
            raise SinkOpenError(
                f"{self.name} is sent H.264, not {stream.codec}; choose --encoder libx264 or h264_nvenc"
            )
        if stream.info.orientation != Orientation.UPRIGHT:
            log.warning(ORIENTATION_LOST, self.name, "RTSP", stream.info.orientation)
        self._stream = stream
        self._sound = PassthroughAudio(self.name, stream.passthrough, self._audio_mode)
        if self._sound.form is not None:
            self._audio.payload_type = self._sound.form.payload_type
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
        """Send a picture, and the sound up to its end."""
        if self._stream is None:
            raise SinkWriteError(f"{self.name} is not open")
        sounds = self._sound.due((packet.pts + packet.duration) * packet.time_base)
        if self._connection is None and not self._try_again():
            self._dropped += 1
            return
        if self._needs_key and not packet.is_keyframe:
            self._wish = True
            self._dropped += 1
            return
        self._needs_key = False
        assert self._connection is not None
        data = self._report(packet) + self._packets(packet) + b"".join(map(self._sound_packets, sounds))
        try:
            self._connection.send(data)
        except TimeoutError as error:
            self._lose(f"the server is gone: it took no data for {self._stall_seconds:g} s", error)
        except OSError as error:
            self._lose(f"the server is gone: {error.strerror or error}", error)

    def wants_keyframe(self) -> bool:
        """A server that was found again needs one to go on."""
        wish, self._wish = self._wish, False
        return wish

    def complete(self) -> None:
        """See `interfaces.PacketSink`: a server is told of the end by `close`, however it came."""

    def counters(self) -> dict[str, int]:
        """``reconnects``, and ``dropped_packets`` while the server was away. How many watch, only the server knows."""
        return {"reconnects": self._reconnects, "dropped_packets": self._dropped}

    def close(self) -> None:
        """Say goodbye, within two seconds, and disconnect."""
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.timeout(GOODBYE_SECONDS)
                self._connection.send(interleave(1, goodbye(self._video.ssrc)))
                self._connection.request("TEARDOWN")
        self._drop()
        self._stream = None

    def _target(self) -> Target:
        try:
            target = parse_target(self._url)
        except ValueError as error:
            raise SinkOpenError(
                f"{self.name} is no address to publish to: {error}; it is rtsp://host[:port]/path"
            ) from error
        if target.scheme != "rtsp":
            raise SinkOpenError(f"{self.name}: publishing over TLS (rtsps) is not supported; use rtsp://")
        return target

    def _connect(self, timeout: float) -> None:
        """Raises OSError, with words for the user."""
        assert self._stream is not None
        target, form = self._target(), self._sound.form
        sets = split_annexb(self._stream.extradata)
        more = form.lines("track2") if form is not None else []
        text = build_sdp(host=target.host, name="stream_sr", sets=sets, fps=self._stream.info.fps, more=more)
        try:
            self._connection = connection = Connection(target, timeout)
            connection.request("ANNOUNCE", body=text)
            for number, media in enumerate(parse_sdp(text).media):
                channels = f"{2 * number}-{2 * number + 1}"
                transport = {"Transport": f"RTP/AVP/TCP;unicast;interleaved={channels};mode=record"}
                connection.request("SETUP", track=media.control, headers=transport)
            connection.request("RECORD", headers={"Range": "npt=0.000-"})
            connection.timeout(self._stall_seconds)
        except OSError:
            self._drop()
            raise

    def _try_again(self) -> bool:
        """Connect if it is time to; whether the server is there."""
        now = time.monotonic()
        if now < self._next_try:
            return False
        try:
            self._connect(min(CONNECT_SECONDS, self._stall_seconds))
        except OSError as error:
            log.debug("%s: still away: %s", self.name, error.strerror or error)
            self._failures += 1
            wait = min(MOST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2.0 ** min(self._failures, 9))
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
        self._needs_key = self._wish = True
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

    def _packets(self, packet: Packet) -> bytes:
        timestamp = rescale(packet.pts, packet.time_base, Fraction(1, CLOCK))
        return self._framed(0, self._video.packetise(packet.data, timestamp))

    def _sound_packets(self, sound: Sound) -> bytes:
        form = self._sound.form
        assert form is not None
        parts = payloads_of(form, sound.data, self._audio.mtu - 12)
        timestamp, last = round(sound.seconds * form.clock), len(parts) - 1
        return self._framed(
            1,
            [
                self._audio.packet(part, timestamp + later, marker=index == last)
                for index, (part, later) in enumerate(parts)
            ],
        )

    def _framed(self, track: int, packets: list[bytes]) -> bytes:
        self._sent[track][0] += len(packets)
        self._sent[track][1] += sum(len(packet) - 12 for packet in packets)
        return b"".join([interleave(2 * track, packet) for packet in packets])

    def _report(self, packet: Packet) -> bytes:
        """Now and then sender reports, which tie the stream's clocks to the camera's, or to ours."""
        now = time.monotonic()
        if now < self._next_report:
            return b""
        self._next_report = now + REPORT_SECONDS
        wall, seconds = wall_seconds(packet), packet.pts * packet.time_base
        clocks = [(self._video, CLOCK)]
        if self._sound.form is not None:
            clocks.append((self._audio, self._sound.form.clock))
        return b"".join(
            interleave(
                2 * track + 1,
                sender_report(
                    packetiser.ssrc,
                    unix_seconds=wall,
                    timestamp=round(seconds * clock),
                    packets=self._sent[track][0],
                    octets=self._sent[track][1],
                ),
            )
            for track, (packetiser, clock) in enumerate(clocks)
        )
