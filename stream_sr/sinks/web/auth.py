"""Access to the page: checks the host name of a request, the origin of a WebSocket, and the password."""

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

MAX_WRONG_PASSWORDS = 5  # from one address within `WRONG_PASSWORD_SECONDS`
WRONG_PASSWORD_SECONDS = 60.0
MAX_ADDRESSES = 1000  # whose wrong passwords are counted


@dataclass(frozen=True, slots=True)
class Refusal:
    """The answer to a request that is refused."""

    status: int
    text: str
    ask_password: bool = False


class WebAuth:
    """Checks each request, in this order: Host (against DNS rebinding), Origin of a WebSocket, password.

    Allowed host names are those that no foreign page can have chosen: IP addresses, localhost, this machine's own name,
    and ``names``. With a ``login`` (user, password) a request must carry it (HTTP Basic), or the cookie with the token
    of this process. After five wrong passwords an address is refused for a minute. One thread.

    Each check returns a Refusal, or None if the request passes.
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
    def has_password(self) -> bool:
        """Whether a password is needed."""
        return self._login is not None

    def check_host(self, host: str | None) -> Refusal | None:
        """Check the Host header."""
        name = _host_name(host or "")
        if name in self._names or _is_address(name):
            return None
        hint = f"open it by IP address, or allow the name: --web-name {name}" if name else "the request names no host"
        return Refusal(403, f"This page is not served under the name '{name}'; {hint}.")

    def check_origin(self, origin: str | None, host: str | None) -> Refusal | None:
        """Check the Origin header of a WebSocket: only our own page may open one."""
        scheme, mark, netloc = (origin or "").lower().partition("://")
        if mark and scheme in ("http", "https") and netloc == (host or "").lower():
            return None
        return Refusal(403, "This stream is only for its own page.")

    def check_password(self, address: str, authorization: str | None, cookies: str | None) -> Refusal | None:
        """Check the password, or the cookie with the token."""
        if self._login is None or hmac.compare_digest(self._cookie(cookies), self.token.encode()):
            return None
        recent = [at for at in self._wrong.get(address, ()) if self._now() - at < WRONG_PASSWORD_SECONDS]
        if len(recent) >= MAX_WRONG_PASSWORDS:
            return Refusal(429, "Too many wrong passwords; wait for a minute.")
        given = _basic_login(authorization)
        if given is not None and hmac.compare_digest(given, self._login):
            self._wrong.pop(address, None)
            return None
        if given is not None:
            while len(self._wrong) >= MAX_ADDRESSES:
                self._wrong.pop(next(iter(self._wrong)))
            self._wrong[address] = [*recent, self._now()]
        return Refusal(401, "A password is needed.", ask_password=True)

    def _cookie(self, header: str | None) -> bytes:
        for part in (header or "").split(";"):
            name, _, value = part.strip().partition("=")
            if name == self.cookie:
                return value.encode()
        return b""


def _host_name(host: str) -> str:
    """Return the host name of a Host header in lower case, without the port; empty if it is invalid."""
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
    """Return ``user:password`` of an Authorization header (RFC 7617); None if it is missing, empty if it is invalid."""
    kind, _, rest = (header or "").partition(" ")
    if kind.lower() != "basic":
        return None
    try:
        return base64.b64decode(rest.strip(), validate=True)
    except (binascii.Error, ValueError):
        return b""
