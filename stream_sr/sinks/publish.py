"""Pictures sent to an RTSP server (RFC 2326: ANNOUNCE, SETUP, RECORD), which serves them to others.

Own client, not FFmpeg's: PyAV holds the interpreter's lock while FFmpeg connects and says goodbye, so a slow server
would stop every thread of the program; FFmpeg leaves Nagle's algorithm on; and no timeout frees its `mux`.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from fractions import Fraction

from stream_sr.codec.h264 import split_annexb
from stream_sr.codec.rtp import Packetiser, goodbye, interleave, sender_report
from stream_sr.codec.rtsp import Access, Target, join_control, parse_target
from stream_sr.codec.sdp import build_sdp, parse_sdp
from stream_sr.errors import SinkOpenError, SinkWriteError
from stream_sr.media import EncodedStream, Packet, SinkOptions, redact
from stream_sr.timing import rescale

RTP_TICK = Fraction(1, 90_000)
REPORT_SECONDS = 5.0
GOODBYE_SECONDS = 2.0
LONGEST_ANSWER = 64 << 10

Fields = dict[str, list[str]]  # headers: names in lower case, each with all its values


class PublishSink:
    """Publishes H.264 over one TCP connection, video only; user and password of the URL are used but never printed.

    A server that does not answer, or takes no data, for ``stall_seconds`` is given up. Raises SinkOpenError when it
    refuses or is not there, SinkWriteError when it goes away or stalls.
    """

    paced = True
    takes_lane = False

    def __init__(self, url: str, options: SinkOptions, *, stall_seconds: float = 10.0) -> None:
        self.name = redact(url)
        self._url = url
        self._stall_seconds = stall_seconds
        self._connection: _Connection | None = None
        self._packetiser = Packetiser()
        self._sent_packets = self._sent_bytes = 0
        self._next_report = 0.0

    def check(self) -> None:
        """Refuse an address that names no host. Connecting comes with the first picture."""
        self._target()

    def open(self, stream: EncodedStream) -> None:
        """Connect, announce the stream and begin."""
        target = self._target()
        sets = split_annexb(stream.extradata)
        description = build_sdp(host=target.host, name="stream_sr", sets=sets, fps=stream.info.fps)
        control = parse_sdp(description).media[0].control
        try:
            self._connection = connection = _Connection(target, self._stall_seconds)
            connection.request("ANNOUNCE", body=description)
            transport = {"Transport": "RTP/AVP/TCP;unicast;interleaved=0-1;mode=record"}
            connection.request("SETUP", track=control, headers=transport)
            connection.request("RECORD", headers={"Range": "npt=0.000-"})
        except TimeoutError as error:
            self._drop()
            raise SinkOpenError(
                f"{self.name}: no answer within {self._stall_seconds:g} s; is an RTSP server listening there?"
            ) from error
        except OSError as error:
            self._drop()
            raise SinkOpenError(
                f"{self.name}: the server did not take the stream: {error.strerror or error}; "
                "is an RTSP server listening there that allows publishing?"
            ) from error

    def write(self, packet: Packet) -> None:
        """Send a picture."""
        if self._connection is None:
            raise SinkWriteError(f"{self.name} is not open")
        timestamp = rescale(packet.pts, packet.time_base, RTP_TICK)
        parts = self._packetiser.packetise(packet.data, timestamp)
        data = self._report(timestamp) + b"".join(interleave(0, part) for part in parts)
        self._sent_packets += len(parts)
        self._sent_bytes += sum(len(part) - 12 for part in parts)
        try:
            self._connection.send(data)
        except TimeoutError as error:
            self._drop()
            raise SinkWriteError(
                f"{self.name}: the server is gone: it took no data for {self._stall_seconds:g} s"
            ) from error
        except OSError as error:
            self._drop()
            raise SinkWriteError(f"{self.name}: the server is gone: {error.strerror or error}") from error

    def wants_key(self) -> bool:
        return False

    def complete(self) -> None:
        """See `media.PacketSink`: a server is told of the end by `close`, however it came."""

    def counters(self) -> dict[str, int]:
        """See `media.PacketSink`: how many watch, only the server knows."""
        return {}

    def close(self) -> None:
        """Say goodbye, within two seconds, and disconnect."""
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.timeout(GOODBYE_SECONDS)
                self._connection.send(interleave(1, goodbye(self._packetiser.ssrc)))
                self._connection.request("TEARDOWN")
        self._drop()

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

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _report(self, timestamp: int) -> bytes:
        """Now and then a sender report, which ties the stream's clock to the day's."""
        now = time.monotonic()
        if now < self._next_report:
            return b""
        self._next_report = now + REPORT_SECONDS
        report = sender_report(
            self._packetiser.ssrc, unix_seconds=time.time(), timestamp=timestamp,
            packets=self._sent_packets, octets=self._sent_bytes,
        )  # fmt: skip
        return interleave(1, report)


class _Connection:
    """An RTSP client's connection. Raises OSError, with words for the user, for whatever goes wrong."""

    def __init__(self, target: Target, timeout: float) -> None:
        self._url = target.url
        self._access = Access(target.user, target.password)
        self._sequence = 0
        self._session = ""
        self._socket = socket.create_connection((target.host, target.port), timeout)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = b""

    def timeout(self, seconds: float) -> None:
        self._socket.settimeout(seconds)

    def send(self, data: bytes) -> None:
        """All of it; what the server sent meanwhile (receiver reports) is thrown away. The peer's end is an error."""
        self._socket.sendall(data)
        while select.select([self._socket], [], [], 0)[0]:
            if not self._socket.recv(1 << 16):
                raise ConnectionError("it closed the connection")

    def close(self) -> None:
        self._socket.close()

    def request(self, method: str, *, track: str = "", headers: dict[str, str] | None = None, body: str = "") -> None:
        """Send a request and wait for its answer, once more with the password when that is asked for."""
        status, fields = self._exchange(method, track, headers or {}, body)
        if status.startswith("401") and self._access.challenged(fields.get("www-authenticate", [])):
            status, fields = self._exchange(method, track, headers or {}, body)
        if not status.startswith("200"):
            hint = " (the password is wrong or missing)" if status.startswith("401") else ""
            raise ConnectionError(f"{method} was answered with {status!r}{hint}")
        self._access.accepted()
        self._session = fields.get("session", [self._session])[0].partition(";")[0].strip()

    def _exchange(
        self, method: str, track: str, headers: dict[str, str], body: str
    ) -> tuple[str, dict[str, list[str]]]:
        url = join_control(self._url, track)
        self._sequence += 1
        lines = [f"{method} {url} RTSP/1.0", f"CSeq: {self._sequence}", "User-Agent: stream_sr"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if self._session:
            lines.append(f"Session: {self._session}")
        if words := self._access.authorization(method, url):
            lines.append(f"Authorization: {words}")
        if body:
            lines += ["Content-Type: application/sdp", f"Content-Length: {len(body.encode())}"]
        self._socket.sendall("\r\n".join([*lines, "", body]).encode())
        while True:
            status, fields = self._answer()
            if fields.get("cseq") == [str(self._sequence)]:
                return status, fields

    def _answer(self) -> tuple[str, Fields]:
        """The next answer: status and headers. Interleaved data before it is thrown away."""
        while self._take(1) == b"$":
            self._take(4 + int.from_bytes(self._take(4)[2:], "big"), drop=True)
        while b"\r\n\r\n" not in self._received:
            self._more()
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        first, *rest = head.decode("utf-8", "replace").split("\r\n")
        if not first.startswith("RTSP/1."):
            raise ConnectionError("it does not speak RTSP")
        fields: Fields = {}
        for line in rest:
            name, _, value = line.partition(":")
            fields.setdefault(name.strip().lower(), []).append(value.strip())
        length = fields.get("content-length", ["0"])[0]
        self._take(int(length) if length.isdecimal() and int(length) < LONGEST_ANSWER else 0, drop=True)
        return first.partition(" ")[2], fields

    def _take(self, size: int, *, drop: bool = False) -> bytes:
        while len(self._received) < size:
            self._more()
        data = self._received[:size]
        if drop:
            self._received = self._received[size:]
        return data

    def _more(self) -> None:
        data = self._socket.recv(1 << 16)
        if not data:
            raise ConnectionError("it closed the connection")
        self._received += data
        if len(self._received) > 4 * LONGEST_ANSWER:
            raise ConnectionError("it does not speak RTSP")
