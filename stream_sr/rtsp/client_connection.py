"""aiortsp's connection and transport as a camera wants them: what comes is taken in bounded memory, once, as bytes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from aiortsp.rtsp.connection import RTSPConnection
from aiortsp.rtsp.errors import RTSPConnectionError
from aiortsp.rtsp.parser import RTSPRequest, RTSPResponse
from aiortsp.transport.base import RTPTransport
from aiortsp.transport.tcp import TCPTransport

from stream_sr.rtsp.auth import Access, Target
from stream_sr.rtsp.rtp import Reorder
from stream_sr.system.sockets import udp_pair

UDP_BUFFER_BYTES = 4 << 20  # a keyframe comes in one burst
MESSAGE_BYTES = 256 << 10  # most that a server may send without completing a message

# aiortsp logs requests with their credentials, and as errors what we report in one line: it stays silent.
_silent = logging.getLogger("stream_sr.aiortsp")
_silent.setLevel(logging.CRITICAL + 1)


def _message(start: bytes) -> Any:
    """aiortsp's parser for the message that begins so. Raises ValueError for the start of none."""
    if start.startswith(b"RTSP/"[: len(start)]):
        return RTSPResponse()
    if any(start.startswith(method[: len(start)]) for method in (*RTSPRequest.CLIENT_REQUESTS, b"SET_PARAMETER")):
        return RTSPRequest()
    raise ValueError(f"{start!r} begins no RTSP message")


class Connection(RTSPConnection):  # type: ignore[misc]
    """aiortsp's connection, that takes what comes in bounded memory and says once when it is over."""

    def __init__(self, target: Target, timeout: float) -> None:
        super().__init__(target.host, target.port, logger=_silent, timeout=timeout)
        self._auth = _Auth(Access(target.user, target.password))
        self.not_rtsp = False
        self.lost: Callable[[], None] = lambda: None
        self._wire: asyncio.Transport | None = None
        self._shut = asyncio.Event()
        self._rest = b""
        self.channels: dict[int, Callable[[bytes], None]] = {}

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._wire = transport

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self.result.done() and not self.result.cancelled():
            self.result.exception()  # seen: asyncio would log it otherwise
        self._shut.set()
        self.lost()

    def data_received(self, data: bytes) -> None:
        """In place of aiortsp's, which copies all that is there once per packet, keeps without bound what does not
        end, and prints a traceback for what is not RTSP.
        """
        data = self._rest + data if self._rest else data
        try:
            position = self._take(data)
            self._rest = data[position:]
            if len(self._rest) > MESSAGE_BYTES:
                raise ValueError(f"more than {MESSAGE_BYTES} bytes without a message")
        except Exception as error:  # whatever the parser stumbles over
            self.not_rtsp = True
            self._rest = b""
            if not self.result.done():
                failure = RTSPConnectionError("what came is not RTSP")
                failure.__cause__ = error
                self.result.set_exception(failure)
            if self._wire is not None:
                self._wire.abort()

    def _take(self, data: bytes) -> int:
        """Hand on the packets and messages that are complete; how many bytes they were. Raises for what is neither."""
        position, end = 0, len(data)
        while position < end:
            if data[position] == 0x24:  # "$": a packet
                stop = position + 4 + int.from_bytes(data[position + 2 : position + 4], "big")
                if position + 4 > end or stop > end:
                    break
                if (take := self.channels.get(data[position + 1])) is not None:
                    take(data[position + 4 : stop])
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
        """Like aiortsp's, which would wait for an answer on a connection that is gone."""
        if not self.running:
            raise RTSPConnectionError("connection closed")
        return await super().send_request(*args, **options)

    def on_request(self, request: RTSPRequest) -> None:
        """A server asks something of its client: we have nothing to offer."""
        self.send_response(request, 551, "Option not supported")

    def forget(self) -> None:
        """After `shut`: let go of everybody, for none of them is freed while they hold each other."""
        self.lost = lambda: None
        self.channels.clear()
        self._wire = None
        self._rest = b""

    async def shut(self) -> None:
        """Close now, whatever is not sent yet."""
        if self._wire is not None:
            self._wire.abort()
            await self._shut.wait()


class _Auth:
    """`Access` in the form that aiortsp asks for: its own knows no qop, no empty password, and prefers Basic."""

    def __init__(self, access: Access) -> None:
        self._access = access

    def make_auth(self, method: str, url: str, headers: dict[str, str]) -> None:
        if words := self._access.authorization(method, url):
            headers["Authorization"] = words

    def handle_401(self, headers: dict[str, Any]) -> bool:
        said = headers.get("www-authenticate", [])
        return self._access.challenged([said] if isinstance(said, str) else said)

    def handle_ok(self, headers: dict[str, Any]) -> None:
        self._access.accepted()


class _Seen(NamedTuple):
    """What the receiver's statistics want to know of a packet."""

    seq: int
    ts: int


class Transport(TCPTransport):  # type: ignore[misc]
    """aiortsp's transport with its receiver reports, that hands the packets on as bytes."""

    def __init__(
        self,
        connection: Connection,
        channels: tuple[int, int],
        rtp: Callable[[bytes], None],
        rtcp: Callable[[bytes], None],
    ) -> None:
        super().__init__(connection, logger=_silent, timeout=0)
        self.rtp_idx, self.rtcp_idx = channels
        self.take_rtp, self.take_rtcp = rtp, rtcp
        connection.channels |= {self.rtcp_idx: self.rtcp, self.rtp_idx: self.rtp}

    def forget(self) -> None:
        """After `close`: as `Connection.forget`."""
        self.take_rtp = self.take_rtcp = _nobody

    def rtp(self, data: bytes) -> None:
        """A packet came."""
        _count(self, data)
        self.take_rtp(data)

    def rtcp(self, data: bytes) -> None:
        """A report came."""
        with contextlib.suppress(Exception):  # packet types that aiortsp does not know
            self.handle_rtcp_data(data)
        self.take_rtcp(data)


class Datagrams(RTPTransport):  # type: ignore[misc]
    """RTP over UDP on a pair of ports of our own, with aiortsp's receiver reports.

    Only what comes from the server's address is taken. `prepare` binds, `aim` says where the server sends from.
    """

    def __init__(self, connection: Connection, rtp: Callable[[bytes], None], rtcp: Callable[[bytes], None]) -> None:
        super().__init__(connection, logger=_silent, timeout=0)
        self.take_rtp, self.take_rtcp = rtp, rtcp
        self.order = Reorder()
        self._ends: list[asyncio.DatagramTransport] = []
        self._server: tuple[str, int] | None = None  # address and RTCP port
        self._timer: asyncio.TimerHandle | None = None

    async def prepare(self) -> tuple[int, int]:
        """Bind, at the address that the connection has; the two ports, the even one first. Raises OSError."""
        assert self.connection._wire is not None
        host = self.connection._wire.get_extra_info("sockname")[0]
        loop = asyncio.get_running_loop()
        for number, bound in enumerate(udp_pair(host)):
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, UDP_BUFFER_BYTES)
            take = self._rtp if number == 0 else self._rtcp
            end, _ = await loop.create_datagram_endpoint(lambda take=take: _Receiver(take), sock=bound)  # type: ignore[misc]
            self._ends.append(end)
        rtp, rtcp = (end.get_extra_info("sockname")[1] for end in self._ends)
        return rtp, rtcp

    def aim(self, ports: tuple[int, int] | None) -> None:
        """Know the server's ports; an empty packet to each opens the way back through a firewall."""
        assert self.connection._wire is not None
        host = self.connection._wire.get_extra_info("peername")[0]
        self._server = (host, ports[1] if ports is not None else 0)
        for end, port in zip(self._ends, ports or (), strict=False):
            end.sendto(b"", (host, port))

    @property
    def running(self) -> bool:
        return bool(self._ends) and not self._ends[0].is_closing()

    async def send_rtcp_report(self, rtcp: Any) -> None:
        if self._server is not None and self._server[1] and self.running:
            self._ends[1].sendto(bytes(rtcp), self._server)

    def close(self, error: Exception | None = None) -> None:
        super().close(error)
        if self._timer is not None:
            self._timer.cancel()
        for end in self._ends:
            end.close()

    def forget(self) -> None:
        """After `close`: as `Connection.forget`."""
        self.take_rtp = self.take_rtcp = _nobody
        self._ends.clear()

    def _rtp(self, data: bytes, host: str) -> None:
        if self._server is not None and host != self._server[0]:
            return
        _count(self, data)
        for packet in self.order.push(data, time.monotonic_ns()):
            self.take_rtp(packet)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self.order.patience_ns / 1e9, self._expire)

    def _expire(self) -> None:
        """What waits behind a gap does not wait for the next packet."""
        self._timer = None
        for packet in self.order.expire(time.monotonic_ns()):
            self.take_rtp(packet)

    def _rtcp(self, data: bytes, host: str) -> None:
        if self._server is not None and host != self._server[0]:
            return
        with contextlib.suppress(Exception):
            self.handle_rtcp_data(data)
        self.take_rtcp(data)


class _Receiver(asyncio.DatagramProtocol):
    """Hands datagrams on, with the address they came from."""

    def __init__(self, take: Callable[[bytes, str], None]) -> None:
        self._take = take

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        self._take(data, addr[0])


def _nobody(data: bytes) -> None:
    """Takes the packets of a stream that was closed."""


def _count(transport: Any, data: bytes) -> None:
    """For the receiver's statistics."""
    if len(data) >= 12:
        transport.stats.update(_Seen(int.from_bytes(data[2:4], "big"), int.from_bytes(data[4:8], "big")))


def header(answer: RTSPResponse, name: str) -> str:
    """A header field, the first where it came more than once; empty where it did not."""
    value: Any = answer.headers.get(name, "")
    return str(value[0] if isinstance(value, list) else value)
