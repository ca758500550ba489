"""The connection of an RTSP client that plays: aiortsp's, with bounded memory and our authentication."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from aiortsp.rtsp.connection import RTSPConnection
from aiortsp.rtsp.errors import RTSPConnectionError
from aiortsp.rtsp.parser import RTSPRequest, RTSPResponse

from stream_sr.rtsp.address import RtspAddress
from stream_sr.rtsp.auth import ClientAuth

MESSAGE_BYTES = 256 << 10  # most that a server may send without completing a message

# aiortsp logs requests with their credentials, and logs as errors what is reported in one line here.
SILENT_LOG = logging.getLogger("stream_sr.aiortsp")
SILENT_LOG.setLevel(logging.CRITICAL + 1)


def _message(start: bytes) -> Any:
    """Return aiortsp's parser for the message with this start. Raises ValueError if no message starts so."""
    if start.startswith(b"RTSP/"[: len(start)]):
        return RTSPResponse()
    if any(start.startswith(method[: len(start)]) for method in (*RTSPRequest.CLIENT_REQUESTS, b"SET_PARAMETER")):
        return RTSPRequest()
    raise ValueError(f"{start!r} begins no RTSP message")


class ClientConnection(RTSPConnection):  # type: ignore[misc]
    """Reads messages and interleaved packets in bounded memory, and calls ``lost`` once when it has ended."""

    def __init__(self, address: RtspAddress, timeout: float) -> None:
        super().__init__(address.host, address.port, logger=SILENT_LOG, timeout=timeout)
        self._auth = _AiortspAuth(ClientAuth(address.user, address.password))
        self.not_rtsp = False
        self.lost: Callable[[], None] = lambda: None
        self.tcp: asyncio.Transport | None = None
        self._closed = asyncio.Event()
        self._rest = b""
        self.channels: dict[int, Callable[[bytes], None]] = {}

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self.tcp = transport

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self.result.done() and not self.result.cancelled():
            self.result.exception()  # seen: asyncio would log it otherwise
        self._closed.set()
        self.lost()

    def data_received(self, data: bytes) -> None:
        """Replaces aiortsp's, which copies all received bytes once per packet, keeps a message without end without
        limit, and prints a traceback for bytes that are not RTSP.
        """
        data = self._rest + data if self._rest else data
        try:
            position = self._take(data)
            self._rest = data[position:]
            if len(self._rest) > MESSAGE_BYTES:
                raise ValueError(f"more than {MESSAGE_BYTES} bytes without a message")
        except Exception as error:  # whatever the parser raises
            self.not_rtsp = True
            self._rest = b""
            if not self.result.done():
                failure = RTSPConnectionError("what came is not RTSP")
                failure.__cause__ = error
                self.result.set_exception(failure)
            if self.tcp is not None:
                self.tcp.abort()

    def _take(self, data: bytes) -> int:
        """Dispatch the complete packets and messages and return how many bytes they took. Raises for invalid bytes."""
        position, end = 0, len(data)
        while position < end:
            if data[position] == 0x24:  # "$": a packet
                stop = position + 4 + int.from_bytes(data[position + 2 : position + 4], "big")
                if position + 4 > end or stop > end:
                    break
                if (receive := self.channels.get(data[position + 1])) is not None:
                    receive(data[position + 4 : stop])
            elif data[position] in b"\r\n":
                stop = position + 1
            else:
                message = _message(data[position : position + 13])
                blank = data.find(b"\r\n\r\n", position)
                if blank < 0:
                    break
                message.feed(data[position : blank + 4])
                stop = blank + 4 + max(0, message.content_length)
                if message.content_length > MESSAGE_BYTES:
                    raise ValueError(f"a message of {message.content_length} bytes")
                if stop > end:
                    break
                if message.content_length > 0:
                    message.feed(data[blank + 4 : stop])
                self._dispatch(message)
            position = stop
        return position

    def _dispatch(self, message: Any) -> None:
        if message.type == "response":
            waiting = self.active_requests.get(message.cseq)
            if waiting is not None and not waiting.done():
                waiting.set_result(message)
        else:
            self.on_request(message)

    async def send_request(self, *args: Any, **options: Any) -> RTSPResponse:
        """Send a request as aiortsp does, but raise RTSPConnectionError on a closed connection instead of waiting."""
        if not self.running:
            raise RTSPConnectionError("connection closed")
        return await super().send_request(*args, **options)

    def on_request(self, request: RTSPRequest) -> None:
        """Refuse a request of the server: this client offers no methods."""
        self.send_response(request, 551, "Option not supported")

    def release(self) -> None:
        """Break the reference cycles, after `abort`, so that memory is freed at once."""
        self.lost = lambda: None
        self.channels.clear()
        self.tcp = None
        self._rest = b""

    async def abort(self) -> None:
        """Close now and wait for the end; unsent data is dropped."""
        if self.tcp is not None:
            self.tcp.abort()
            await self._closed.wait()


class _AiortspAuth:
    """`ClientAuth` behind aiortsp's interface: its own has no qop and no empty password, and prefers Basic."""

    def __init__(self, auth: ClientAuth) -> None:
        self._auth = auth

    def make_auth(self, method: str, url: str, headers: dict[str, str]) -> None:
        if value := self._auth.authorization(method, url):
            headers["Authorization"] = value

    def handle_401(self, headers: dict[str, Any]) -> bool:
        challenges = headers.get("www-authenticate", [])
        return self._auth.take_challenge([challenges] if isinstance(challenges, str) else challenges)

    def handle_ok(self, headers: dict[str, Any]) -> None:
        self._auth.accepted()


def header(answer: RTSPResponse, name: str) -> str:
    """Return a header field, the first if there are several; empty if there is none."""
    value: Any = answer.headers.get(name, "")
    return str(value[0] if isinstance(value, list) else value)
