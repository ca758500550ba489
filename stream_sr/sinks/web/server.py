"""The web server behind `web`: one page, ``/stats`` as JSON, and a WebSocket for every viewer. No file is readable."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import http
import json
import logging
import re
import socket
import threading
import time
from collections.abc import Mapping
from importlib import resources
from typing import Any

from websockets.asyncio.server import Server as Listening
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from stream_sr.errors import ConfigError
from stream_sr.pipeline.interfaces import Controls
from stream_sr.sinks.web.access import Gate, Refusal
from stream_sr.sinks.web.viewer import LONGEST_MESSAGE, Viewer

HANDSHAKE_SECONDS = 5.0
ALIVE_SECONDS = 20.0  # between pings, and to answer one
CLOSE_SECONDS = 1.0  # for the goodbye of one who does not listen
SEND_BUFFER_BYTES = 256 << 10  # the system's, for each viewer: what lies there is late and cannot be taken back
LEAST_KEY_SECONDS = 0.5  # between keyframes that viewers ask for by joining
GOING_AWAY = 1001
QUIET = logging.getLogger("stream_sr.web")  # the library's own words about every connection
QUIET.setLevel(logging.CRITICAL)


class Server:
    """What lives on the loop. `wants_video`, `wants_jpeg` and `take_wish` may be called from any thread."""

    def __init__(self, gate: Gate, controls: Controls | None, most_viewers: int) -> None:
        self.gate, self.controls, self.most_viewers = gate, controls, most_viewers
        self.page, self.policy = load_page()
        self.viewers: set[Viewer] = set()
        self.wants_video = self.wants_jpeg = 0  # viewers of each kind
        self.joined = self.dropped = 0
        self._figures: Mapping[str, Any] = {}
        self._stream: dict[str, Any] | None = None
        self._init = b""
        self._wish = threading.Event()
        self._wished_at = -LEAST_KEY_SECONDS
        self._listening: Listening | None = None

    async def start(self, listener: socket.socket) -> None:
        self._listening = await serve(
            self._attend, sock=listener, process_request=self._answer, compression=None, logger=QUIET,
            open_timeout=HANDSHAKE_SECONDS, ping_interval=ALIVE_SECONDS, ping_timeout=ALIVE_SECONDS,
            close_timeout=CLOSE_SECONDS,
            max_size=LONGEST_MESSAGE, max_queue=4, write_limit=64 << 10, server_header=None,
        )  # fmt: skip

    async def stop(self) -> None:
        """Goodbye to all."""
        if self._listening is not None:
            self._listening.close(close_connections=False)
            if self.viewers:
                await asyncio.wait(
                    [asyncio.ensure_future(viewer.farewell(GOING_AWAY, "the program ends")) for viewer in self.viewers],
                    timeout=CLOSE_SECONDS,
                )
            self._listening.close()

    # -- what the pipeline says ----------------------------------------------------------------------------------

    def begin(self, stream: dict[str, Any], init: bytes) -> None:
        """Another stream from now on."""
        self._stream, self._init = stream, init
        for viewer in self.viewers:
            viewer.say(stream)
            if not viewer.wants_jpeg:
                viewer.begin(init)

    def picture(self, message: bytes, *, key: bool, jpeg: bool) -> None:
        for viewer in self.viewers:
            if viewer.wants_jpeg == jpeg:
                viewer.picture(message, key=key)

    def show_figures(self, figures: Mapping[str, Any]) -> None:
        self._figures = figures
        text = json.dumps({"type": "figures"} | self.stats(), allow_nan=False)
        for viewer in self.viewers:
            viewer.show_figures(text)

    def stats(self) -> dict[str, Any]:
        """What ``/stats`` says."""
        dropped = self.dropped + sum(viewer.dropped for viewer in self.viewers)
        web = {"viewers": len(self.viewers), "viewers_so_far": self.joined, "dropped_pictures": dropped}
        return dict(self._figures) | {"web": web}

    def take_wish(self) -> bool:
        """Whether a keyframe is wanted now; asking clears the wish."""
        if not self._wish.is_set() or time.monotonic() - self._wished_at < LEAST_KEY_SECONDS:
            return False
        self._wish.clear()
        self._wished_at = time.monotonic()
        return True

    # -- what browsers say ---------------------------------------------------------------------------------------

    def _answer(self, connection: ServerConnection, request: Request) -> Response | None:
        """The answer to a request, or None to let a WebSocket in."""
        headers, path = request.headers, request.path.partition("?")[0]
        host, origin, authorization, cookies = (
            _only(headers, name) for name in ("Host", "Origin", "Authorization", "Cookie")
        )
        upgrade = "websocket" in (_only(headers, "Upgrade") or "").lower()
        address = (connection.remote_address or ("",))[0]
        refusal = self.gate.refuse_name(host)
        if refusal is None and upgrade:
            refusal = self.gate.refuse_origin(origin, host)
        refusal = refusal or self.gate.refuse_stranger(address, authorization, cookies)
        if refusal is not None:
            return _refuse(refusal)
        if upgrade and path == "/stream":
            full = len(self.viewers) >= self.most_viewers
            return _refuse(Refusal(503, f"{self.most_viewers} viewers look on already.")) if full else None
        if upgrade:
            return _refuse(Refusal(404, "There is no such stream."))
        if path == "/":
            more = {"Content-Security-Policy": self.policy}
            if self.gate.asks:
                more["Set-Cookie"] = f"{self.gate.cookie}={self.gate.token}; HttpOnly; SameSite=Strict; Path=/"
            return _response(200, "text/html; charset=utf-8", self.page, more)
        if path == "/stats":
            text = json.dumps(self.stats(), indent=2, allow_nan=False) + "\n"
            return _response(200, "application/json", text.encode())
        return _refuse(Refusal(404, "There are the page / and /stats."))

    async def _attend(self, connection: ServerConnection) -> None:
        if len(self.viewers) >= self.most_viewers:
            await connection.close(1013, "too many viewers")
            return
        raw = connection.transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        viewer = Viewer(connection, self._handle_command)
        viewer.say({"type": "hello", "read_only": self.controls is None})
        self.viewers.add(viewer)
        self.joined += 1
        self._count()
        if self._stream is not None:
            viewer.say(self._stream)
            viewer.begin(self._init)
        self._wish.set()
        try:
            await viewer.attend()
        finally:
            self.viewers.discard(viewer)
            self.dropped += viewer.dropped
            self._count()

    def _count(self) -> None:
        self.wants_jpeg = sum(viewer.wants_jpeg for viewer in self.viewers)
        self.wants_video = len(self.viewers) - self.wants_jpeg

    def _handle_command(self, viewer: Viewer, said: Mapping[str, Any]) -> None:
        """A message of a page. Raises ConfigError for what is not allowed or not understood."""
        kind, name, value = said.get("type"), said.get("name"), said.get("value")
        if kind == "jpeg":
            viewer.wants_jpeg = True
            self._count()
        elif kind == "key":
            self._wish.set()
        elif kind == "set" and isinstance(name, str) and isinstance(value, str):
            if self.controls is None:
                raise ConfigError("this page is read-only")
            self.controls.change(name, value)
        else:
            raise ConfigError("that is no message of this page")


def load_page() -> tuple[bytes, str]:
    """The page and the policy that lets run only what is in it."""
    page = resources.files("stream_sr.sinks.web").joinpath("page.html").read_bytes()
    hashes = {
        kind: " ".join(
            f"'sha256-{base64.b64encode(hashlib.sha256(part).digest()).decode()}'"
            for part in re.findall(rb"<%b>(.*?)</%b>" % (kind, kind), page, re.DOTALL)
        )
        for kind in (b"script", b"style")
    }
    policy = (
        f"default-src 'none'; script-src {hashes[b'script']}; style-src {hashes[b'style']}; connect-src 'self'; "
        "media-src blob:; img-src data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return page, policy


def _only(headers: Headers, name: str) -> str | None:
    """A header that may stand there once; twice is taken as not at all."""
    values = headers.get_all(name)
    return values[0] if len(values) == 1 else None


def _response(status: int, kind: str, body: bytes, more: Mapping[str, str] | None = None) -> Response:
    headers = Headers(
        {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Connection": "close",
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "X-Frame-Options": "DENY",
            "Cross-Origin-Resource-Policy": "same-origin",
            **(more or {}),
        }
    )
    return Response(status, http.HTTPStatus(status).phrase, headers, body)


def _refuse(refusal: Refusal) -> Response:
    ask = {"WWW-Authenticate": 'Basic realm="stream_sr", charset="UTF-8"'} if refusal.ask else {}
    return _response(refusal.status, "text/plain; charset=utf-8", f"{refusal.text}\n".encode(), ask)
