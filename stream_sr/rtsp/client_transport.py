"""How an RTSP client receives one track: inside the connection (`TcpTransport`) or as datagrams (`UdpTransport`).

Both are aiortsp's transports with its receiver reports. They hand packets on as bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from aiortsp.transport.base import RTPTransport
from aiortsp.transport.tcp import TCPTransport

from stream_sr.rtsp.client_connection import SILENT_LOG, ClientConnection
from stream_sr.rtsp.rtp import ReorderBuffer
from stream_sr.system.sockets import UDP_BUFFER_BYTES, udp_pair


class _PacketNumbers(NamedTuple):
    """The fields of a packet that aiortsp's receiver statistics read."""

    seq: int
    ts: int


class TcpTransport(TCPTransport):  # type: ignore[misc]
    """Receives a track in two channels of the connection (interleaved)."""

    def __init__(
        self,
        connection: ClientConnection,
        channels: tuple[int, int],
        rtp: Callable[[bytes], None],
        rtcp: Callable[[bytes], None],
    ) -> None:
        super().__init__(connection, logger=SILENT_LOG, timeout=0)
        self.rtp_idx, self.rtcp_idx = channels
        self.on_rtp, self.on_rtcp = rtp, rtcp
        connection.channels |= {self.rtcp_idx: self.rtcp, self.rtp_idx: self.rtp}

    def release(self) -> None:
        """Break the reference cycles, after `close`."""
        self.on_rtp = self.on_rtcp = _discard

    def rtp(self, data: bytes) -> None:
        """Take an RTP packet."""
        _count(self, data)
        self.on_rtp(data)

    def rtcp(self, data: bytes) -> None:
        """Take an RTCP packet."""
        with contextlib.suppress(Exception):  # packet types that aiortsp does not know
            self.handle_rtcp_data(data)
        self.on_rtcp(data)


class UdpTransport(RTPTransport):  # type: ignore[misc]
    """Receives a track as datagrams at a pair of ports of our own.

    `prepare` binds the ports, `connect` sets the server's ports. Datagrams from other addresses are ignored.
    """

    def __init__(
        self, connection: ClientConnection, rtp: Callable[[bytes], None], rtcp: Callable[[bytes], None]
    ) -> None:
        super().__init__(connection, logger=SILENT_LOG, timeout=0)
        self.on_rtp, self.on_rtcp = rtp, rtcp
        self.reorder_buffer = ReorderBuffer()
        self._sockets: list[asyncio.DatagramTransport] = []
        self._server: tuple[str, int] | None = None  # address and RTCP port
        self._timer: asyncio.TimerHandle | None = None

    async def prepare(self) -> tuple[int, int]:
        """Bind at the address of the connection and return the two ports, the even one first. Raises OSError."""
        assert self.connection.tcp is not None
        host = self.connection.tcp.get_extra_info("sockname")[0]
        loop = asyncio.get_running_loop()
        for number, bound in enumerate(udp_pair(host)):
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, UDP_BUFFER_BYTES)
            receive = self._rtp if number == 0 else self._rtcp
            one, _ = await loop.create_datagram_endpoint(lambda receive=receive: _Receiver(receive), sock=bound)  # type: ignore[misc]
            self._sockets.append(one)
        rtp, rtcp = (one.get_extra_info("sockname")[1] for one in self._sockets)
        return rtp, rtcp

    def connect(self, ports: tuple[int, int] | None) -> None:
        """Set the server's ports, if known; an empty packet to each opens the way back through a firewall."""
        assert self.connection.tcp is not None
        host = self.connection.tcp.get_extra_info("peername")[0]
        self._server = (host, ports[1] if ports is not None else 0)
        for one, port in zip(self._sockets, ports or (), strict=False):
            one.sendto(b"", (host, port))

    @property
    def running(self) -> bool:
        return bool(self._sockets) and not self._sockets[0].is_closing()

    async def send_rtcp_report(self, rtcp: Any) -> None:
        if self._server is not None and self._server[1] and self.running:
            self._sockets[1].sendto(bytes(rtcp), self._server)

    def close(self, error: Exception | None = None) -> None:
        super().close(error)
        if self._timer is not None:
            self._timer.cancel()
        for one in self._sockets:
            one.close()

    def release(self) -> None:
        """Break the reference cycles, after `close`."""
        self.on_rtp = self.on_rtcp = _discard
        self._sockets.clear()

    def _rtp(self, data: bytes, host: str) -> None:
        if self._server is not None and host != self._server[0]:
            return
        _count(self, data)
        for packet in self.reorder_buffer.push(data, time.monotonic_ns()):
            self.on_rtp(packet)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self.reorder_buffer.max_wait_ns / 1e9, self._expire)

    def _expire(self) -> None:
        """Pass on the packets that waited long enough behind a gap."""
        self._timer = None
        for packet in self.reorder_buffer.expire(time.monotonic_ns()):
            self.on_rtp(packet)

    def _rtcp(self, data: bytes, host: str) -> None:
        if self._server is not None and host != self._server[0]:
            return
        with contextlib.suppress(Exception):
            self.handle_rtcp_data(data)
        self.on_rtcp(data)


class _Receiver(asyncio.DatagramProtocol):
    """Hands datagrams on, with the address they came from."""

    def __init__(self, receive: Callable[[bytes, str], None]) -> None:
        self._receive = receive

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        self._receive(data, addr[0])


def _discard(data: bytes) -> None:
    """Takes the packets of a stream that was closed."""


def _count(transport: Any, data: bytes) -> None:
    """Count a packet in the receiver statistics."""
    if len(data) >= 12:
        transport.stats.update(_PacketNumbers(int.from_bytes(data[2:4], "big"), int.from_bytes(data[4:8], "big")))
