"""An RTSP proxy between a client and a server that loses datagrams, as a bad network does."""

from __future__ import annotations

import random
import re
import selectors
import socket
import threading
from contextlib import suppress

from stream_sr.pipeline.threads import Worker
from stream_sr.system.sockets import udp_pair

HOST = "127.0.0.1"


class LossyProxy:
    """Passes one client's session with a server on, over UDP; of the server's RTP packets ``share`` are lost.

    It rewrites the ports of the Transport headers to its own pair for each track. Losses are random but for their seed,
    and begin after ``spared`` packets, with which a client finds its way in.
    """

    def __init__(self, server_port: int, *, share: float, spared: int = 20, seed: int = 7) -> None:
        self._chance, self._share, self._spared = random.Random(seed), share, spared
        self.passed = self.lost = 0
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self._server_port = server_port
        self._tracks: list[_Track] = []
        self._closing = threading.Event()
        self._selector = selectors.DefaultSelector()
        self._worker = Worker("lossy proxy", self._serve)

    def _serve(self) -> None:
        self._listener.settimeout(0.1)
        while not self._closing.is_set():
            with suppress(TimeoutError):
                client, _ = self._listener.accept()
                with client, socket.create_connection((HOST, self._server_port)) as server:
                    self._pass_on(client, server)

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        self._selector.register(client, selectors.EVENT_READ, lambda: self._ask(client, server))
        self._selector.register(server, selectors.EVENT_READ, lambda: self._answer(server, client))
        alive = True
        while alive and not self._closing.is_set():
            for key, _ in self._selector.select(0.1):
                with suppress(ConnectionError):
                    alive = key.data() is not False and alive
        for key in list(self._selector.get_map().values()):
            self._selector.unregister(key.fileobj)
        for track in self._tracks:
            track.close()
        self._tracks.clear()

    def _ask(self, client: socket.socket, server: socket.socket) -> bool:
        """A request, whole in one piece as clients send it."""
        data = client.recv(65536)
        if (ports := re.search(rb"client_port=(\d+)-(\d+)", data)) is not None:
            track = _Track((int(ports[1]), int(ports[2])))
            self._tracks.append(track)
            for number, end in enumerate(track.ends):
                self._selector.register(end, selectors.EVENT_READ, lambda t=track, n=number: self._datagram(t, n))
            data = data.replace(ports[0], b"client_port=%d-%d" % track.own)
        server.sendall(data)
        return bool(data)

    def _answer(self, server: socket.socket, client: socket.socket) -> bool:
        data = server.recv(65536)
        if (ports := re.search(rb"server_port=(\d+)-(\d+)", data)) is not None:
            track = self._tracks[-1]
            track.server = int(ports[1]), int(ports[2])
            data = data.replace(ports[0], b"server_port=%d-%d" % track.own)
            data = re.sub(rb"client_port=\d+-\d+", b"client_port=%d-%d" % track.client, data)
        client.sendall(data)
        return bool(data)

    def _datagram(self, track: _Track, number: int) -> None:
        """From the server to the client, some of the RTP lost; from the client to the server."""
        data, (_, port) = track.ends[number].recvfrom(65536)
        if port == track.client[number]:
            if track.server is not None:
                track.ends[number].sendto(data, (HOST, track.server[number]))
        elif number == 0 and self.passed >= self._spared and self._chance.random() < self._share:
            self.lost += 1
        else:
            self.passed += number == 0
            track.ends[number].sendto(data, (HOST, track.client[number]))

    def close(self) -> None:
        self._closing.set()
        assert self._worker.join(10)
        self._selector.close()
        self._listener.close()


class _Track:
    """The proxy's pair of ports for one track, and those of both sides."""

    def __init__(self, client: tuple[int, int]) -> None:
        self.ends = udp_pair(HOST)
        for end in self.ends:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.own = self.ends[0].getsockname()[1], self.ends[1].getsockname()[1]
        self.client = client
        self.server: tuple[int, int] | None = None

    def close(self) -> None:
        for end in self.ends:
            end.close()
