"""The connection of a client that publishes: requests and their answers, and data between them, blocking."""

from __future__ import annotations

import select
import socket

from stream_sr.rtsp.auth import Access, Target, join_control

LONGEST_ANSWER = 64 << 10

Fields = dict[str, list[str]]  # headers: names in lower case, each with all its values


class Connection:
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
