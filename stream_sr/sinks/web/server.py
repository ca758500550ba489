"""The web server of the page: the page itself, ``/stats`` as JSON, a WebSocket for every client, and no files."""

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

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from stream_sr.errors import ConfigError
from stream_sr.pipeline.interfaces import Controls
from stream_sr.sinks.web.auth import Refusal, WebAuth
from stream_sr.sinks.web.client import MAX_MESSAGE_BYTES, WebClient

HANDSHAKE_SECONDS = 5.0
PING_SECONDS = 20.0  # between pings, and to answer one
CLOSE_SECONDS = 1.0  # for closing a connection that does not answer
SEND_BUFFER_BYTES = 256 << 10  # the system's, for each client: what is there is late and cannot be dropped
MIN_KEYFRAME_SECONDS = 0.5  # between keyframes that clients request by joining
GOING_AWAY = 1001
QUIET = logging.getLogger("stream_sr.web")  # of websockets, which logs every connection
QUIET.setLevel(logging.CRITICAL)


class WebServer:
    """Lives on the loop. `wants_video`, `wants_jpeg` and `take_keyframe_request` may be used from any thread."""

    def __init__(self, auth: WebAuth, controls: Controls | None, max_viewers: int) -> None:
        self.auth, self.controls, self.max_viewers = auth, controls, max_viewers
        self.page, self.content_security_policy = load_page()
        self.clients: set[WebClient] = set()
        self.wants_video = self.wants_jpeg = 0  # clients of each kind
        self.joined = self.dropped = 0
        self._figures: Mapping[str, Any] = {}
        self._stream: dict[str, Any] | None = None
        self._init = b""
        self._keyframe_requested = threading.Event()
        self._last_keyframe_at = -MIN_KEYFRAME_SECONDS
        self._server: Server | None = None

    async def start(self, listener: socket.socket) -> None:
        """Accept connections of a listening socket."""
        self._server = await serve(
            self._serve_client,
            sock=listener,
            process_request=self._answer,
            compression=None,
            logger=QUIET,
            open_timeout=HANDSHAKE_SECONDS,
            ping_interval=PING_SECONDS,
            ping_timeout=PING_SECONDS,
            close_timeout=CLOSE_SECONDS,
            max_size=MAX_MESSAGE_BYTES,
            max_queue=4,
            write_limit=64 << 10,
            server_header=None,
        )

    async def stop(self) -> None:
        """Close the port and all connections."""
        if self._server is not None:
            self._server.close(close_connections=False)
            closing = [asyncio.ensure_future(client.close(GOING_AWAY, "the program ends")) for client in self.clients]
            if closing:
                await asyncio.wait(closing, timeout=CLOSE_SECONDS)
            self._server.close()

    # -- from the pipeline ---------------------------------------------------------------------------------------

    def begin_stream(self, stream: dict[str, Any], init: bytes) -> None:
        """Begin another stream for all clients: its description for the page, and the message with its beginning."""
        self._stream, self._init = stream, init
        for client in self.clients:
            client.send_message(stream)
            if not client.wants_jpeg:
                client.begin_stream(init)

    def send_frame(self, message: bytes, *, keyframe: bool, jpeg: bool) -> None:
        """Queue a frame for the clients that take video, or for those that take JPEG."""
        for client in self.clients:
            if client.wants_jpeg == jpeg:
                client.send_frame(message, keyframe=keyframe)

    def show_figures(self, figures: Mapping[str, Any]) -> None:
        """Send figures to all clients, and keep them for ``/stats``."""
        self._figures = figures
        text = json.dumps({"type": "figures"} | self.stats(), allow_nan=False)
        for client in self.clients:
            client.show_figures(text)

    def stats(self) -> dict[str, Any]:
        """Return what ``/stats`` answers."""
        dropped = self.dropped + sum(client.dropped for client in self.clients)
        web = {"viewers": len(self.clients), "viewers_so_far": self.joined, "dropped_pictures": dropped}
        return dict(self._figures) | {"web": web}

    def take_keyframe_request(self) -> bool:
        """Whether a keyframe is requested now; the call clears the request."""
        if not self._keyframe_requested.is_set() or time.monotonic() - self._last_keyframe_at < MIN_KEYFRAME_SECONDS:
            return False
        self._keyframe_requested.clear()
        self._last_keyframe_at = time.monotonic()
        return True

    # -- from browsers --------------------------------------------------------------------------------------------

    def _answer(self, connection: ServerConnection, request: Request) -> Response | None:
        """Return the answer to a request, or None to accept a WebSocket."""
        headers, path = request.headers, request.path.partition("?")[0]
        host, origin, authorization, cookies = (
            _only(headers, name) for name in ("Host", "Origin", "Authorization", "Cookie")
        )
        upgrade = "websocket" in (_only(headers, "Upgrade") or "").lower()
        address = (connection.remote_address or ("",))[0]
        refusal = self.auth.check_host(host)
        if refusal is None and upgrade:
            refusal = self.auth.check_origin(origin, host)
        refusal = refusal or self.auth.check_password(address, authorization, cookies)
        if refusal is not None:
            return _refuse(refusal)
        if upgrade and path == "/stream":
            full = len(self.clients) >= self.max_viewers
            return _refuse(Refusal(503, f"{self.max_viewers} viewers look on already.")) if full else None
        if upgrade:
            return _refuse(Refusal(404, "There is no such stream."))
        if path == "/":
            more = {"Content-Security-Policy": self.content_security_policy}
            if self.auth.has_password:
                more["Set-Cookie"] = f"{self.auth.cookie}={self.auth.token}; HttpOnly; SameSite=Strict; Path=/"
            return _response(200, "text/html; charset=utf-8", self.page, more)
        if path == "/stats":
            text = json.dumps(self.stats(), indent=2, allow_nan=False) + "\n"
            return _response(200, "application/json", text.encode())
        return _refuse(Refusal(404, "There are the page / and /stats."))

    async def _serve_client(self, connection: ServerConnection) -> None:
        if len(self.clients) >= self.max_viewers:
            await connection.close(1013, "too many viewers")
            return
        raw = connection.transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client = WebClient(connection, self._handle_command)
        client.send_message({"type": "hello", "read_only": self.controls is None})
        self.clients.add(client)
        self.joined += 1
        self._count()
        if self._stream is not None:
            client.send_message(self._stream)
            client.begin_stream(self._init)
        self._keyframe_requested.set()
        try:
            await client.run()
        finally:
            self.clients.discard(client)
            self.dropped += client.dropped
            self._count()

    def _count(self) -> None:
        self.wants_jpeg = sum(client.wants_jpeg for client in self.clients)
        self.wants_video = len(self.clients) - self.wants_jpeg

    def _handle_command(self, client: WebClient, command: Mapping[str, Any]) -> None:
        """Handle a message of the page. Raises ConfigError if it is not allowed or not known."""
        kind, name, value = command.get("type"), command.get("name"), command.get("value")
        if kind == "jpeg":
            client.wants_jpeg = True
            self._count()
        elif kind == "key":
            self._keyframe_requested.set()
        elif kind == "set" and isinstance(name, str) and isinstance(value, str):
            if self.controls is None:
                raise ConfigError("this page is read-only")
            self.controls.change(name, value)
        else:
            raise ConfigError("that is no message of this page")


def load_page() -> tuple[bytes, str]:
    """Return the page, and the Content-Security-Policy that allows only the scripts and styles in it."""
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
    """Return a header; None if it is missing or repeated."""
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
    ask = {"WWW-Authenticate": 'Basic realm="stream_sr", charset="UTF-8"'} if refusal.ask_password else {}
    return _response(refusal.status, "text/plain; charset=utf-8", f"{refusal.text}\n".encode(), ask)
