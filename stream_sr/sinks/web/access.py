"""Who may see the page: the name it was asked for, where the asking page came from, and the password."""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import secrets
import socket
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from urllib.parse import urlsplit

WRONG_PASSWORDS = 5  # from one address within `FORGET_SECONDS`
FORGET_SECONDS = 60.0
REMEMBERED_ADDRESSES = 1000


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer that is no page. ``ask``: with a request for the password."""

    status: int
    text: str
    ask: bool = False


class Gate:
    """Decides on each request, in this order: Host (against DNS rebinding), Origin of a WebSocket, password.

    A name is good if no foreign page can have chosen it: an IP address, localhost, this machine's own name, and those
    given as ``names``. With a ``login`` (user, password) a request must bring it (HTTP Basic) or the cookie with the
    token of this process. After five wrong passwords an address waits for a minute. Used by one thread.
    """

    def __init__(
        self,
        port: int,
        *,
        names: Collection[str] = (),
        login: tuple[str, str] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.token = secrets.token_urlsafe(24)
        self.cookie = f"stream_sr_{port}"  # cookies know no ports
        own = socket.gethostname().lower()
        self._names = {"localhost", own, f"{own}.local", *(name.lower() for name in names)}
        self._login = ":".join(login).encode() if login is not None else None
        self._now = now
        self._wrong: dict[str, list[float]] = {}

    @property
    def asks(self) -> bool:
        """Whether there is a password."""
        return self._login is not None

    def refuse_name(self, host: str | None) -> Refusal | None:
        """Look at the Host header."""
        name = _host_name(host or "")
        if name in self._names or _is_address(name):
            return None
        hint = f"open it by IP address, or allow the name: --web-name {name}" if name else "the request names no host"
        return Refusal(403, f"This page is not served under the name '{name}'; {hint}.")

    def refuse_origin(self, origin: str | None, host: str | None) -> Refusal | None:
        """Look at where the page came from that opens a WebSocket: only from here."""
        scheme, mark, netloc = (origin or "").lower().partition("://")
        if mark and scheme in ("http", "https") and netloc == (host or "").lower():
            return None
        return Refusal(403, "This stream is only for its own page.")

    def refuse_stranger(self, address: str, authorization: str | None, cookies: str | None) -> Refusal | None:
        """Look at the password or the token."""
        if self._login is None or hmac.compare_digest(self._cookie(cookies), self.token.encode()):
            return None
        recent = [moment for moment in self._wrong.get(address, ()) if self._now() - moment < FORGET_SECONDS]
        if len(recent) >= WRONG_PASSWORDS:
            return Refusal(429, "Too many wrong passwords; wait for a minute.")
        given = _basic_login(authorization)
        if given is not None and hmac.compare_digest(given, self._login):
            self._wrong.pop(address, None)
            return None
        if given is not None:
            while len(self._wrong) >= REMEMBERED_ADDRESSES:
                self._wrong.pop(next(iter(self._wrong)))
            self._wrong[address] = [*recent, self._now()]
        return Refusal(401, "A password is needed.", ask=True)

    def _cookie(self, header: str | None) -> bytes:
        for part in (header or "").split(";"):
            name, _, value = part.strip().partition("=")
            if name == self.cookie:
                return value.encode()
        return b""


def _host_name(host: str) -> str:
    """The Host header without the port, in lower case; empty if it is none."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _basic_login(header: str | None) -> bytes | None:
    """``user:password`` of an Authorization header (RFC 7617); None where there is none, empty if it cannot be read."""
    kind, _, rest = (header or "").partition(" ")
    if kind.lower() != "basic":
        return None
    try:
        return base64.b64decode(rest.strip(), validate=True)
    except (binascii.Error, ValueError):
        return b""
