"""The connection of an RTSP client that publishes: blocking requests with their answers, and data between them."""

from __future__ import annotations

import select
import socket

from stream_sr.rtsp.address import RtspAddress, control_url
from stream_sr.rtsp.auth import ClientAuth

MAX_ANSWER_BYTES = 64 << 10

Fields = dict[str, list[str]]  # headers: names in lower case, each with all its values


class PublisherConnection:
    """Connects on construction. All methods raise OSError with a message for the user."""

    def __init__(self, address: RtspAddress, timeout: float) -> None:
        self._url = address.url
        self._auth = ClientAuth(address.user, address.password)
        self._sequence = 0
        self._session = ""
        self._socket = socket.create_connection((address.host, address.port), timeout)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = b""

    def set_timeout(self, seconds: float) -> None:
        """Set how long a single send or receive may take."""
        self._socket.settimeout(seconds)

    def send(self, data: bytes) -> None:
        """Send all of it. What the server sent meanwhile (receiver reports) is discarded; its closing is an error."""
        self._socket.sendall(data)
        while select.select([self._socket], [], [], 0)[0]:
            if not self._socket.recv(1 << 16):
                raise ConnectionError("it closed the connection")

    def close(self) -> None:
        self._socket.close()

    def request(self, method: str, *, track: str = "", headers: dict[str, str] | None = None, body: str = "") -> None:
        """Send a request and wait for the answer 200; after a challenge send it again with the password."""
        status, fields = self._exchange(method, track, headers or {}, body)
        if status.startswith("401") and self._auth.take_challenge(fields.get("www-authenticate", [])):
            status, fields = self._exchange(method, track, headers or {}, body)
        if not status.startswith("200"):
            hint = " (the password is wrong or missing)" if status.startswith("401") else ""
            raise ConnectionError(f"{method} was answered with {status!r}{hint}")
        self._auth.accepted()
        self._session = fields.get("session", [self._session])[0].partition(";")[0].strip()

    def _exchange(
        self, method: str, track: str, headers: dict[str, str], body: str
    ) -> tuple[str, dict[str, list[str]]]:
        url = control_url(self._url, track)
        self._sequence += 1
        lines = [f"{method} {url} RTSP/1.0", f"CSeq: {self._sequence}", "User-Agent: stream_sr"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if self._session:
            lines.append(f"Session: {self._session}")
        if authorization := self._auth.authorization(method, url):
            lines.append(f"Authorization: {authorization}")
        if body:
            lines += ["Content-Type: application/sdp", f"Content-Length: {len(body.encode())}"]
        self._socket.sendall("\r\n".join([*lines, "", body]).encode())
        while True:
            status, fields = self._answer()
            if fields.get("cseq") == [str(self._sequence)]:
                return status, fields

    def _answer(self) -> tuple[str, Fields]:
        """Read the next answer and return its status and headers. Interleaved data before it is discarded."""
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
        self._take(int(length) if length.isdecimal() and int(length) < MAX_ANSWER_BYTES else 0, drop=True)
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
        if len(self._received) > 4 * MAX_ANSWER_BYTES:
            raise ConnectionError("it does not speak RTSP")
