"""What RTSP needs at both ends, whatever the connection: the address taken apart, and the password proven."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

PORT = 554
HASHES = {"MD5": "md5", "SHA-256": "sha256"}  # algorithms of a digest


class Target(NamedTuple):
    """An address taken apart."""

    scheme: str  # rtsp or rtsps
    host: str
    port: int
    url: str  # as it goes into requests: without credentials
    user: str | None
    password: str | None


def parse_target(url: str) -> Target:
    """Take an address apart. Raises ValueError, whose words hold no part of it, for one that is none."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        # urlsplit quotes what it stumbles over: with a password that holds a slash, that is the password.
        raise ValueError(
            "the host or the port cannot be read; in a user or password write %2F for /, %40 for @, %3A for :"
        ) from error
    if parts.scheme not in ("rtsp", "rtsps"):
        raise ValueError("it does not begin with rtsp://")
    if not host or port == 0:
        raise ValueError("the host is missing" if not host else "there is no port 0")
    if any(letter <= " " or letter == "\x7f" for letter in url):
        raise ValueError("blanks are not allowed in it; write %20")
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment="", path=parts.path or "/").geturl()
    user = None if parts.username is None else unquote(parts.username)
    password = None if parts.password is None else unquote(parts.password)
    return Target(parts.scheme, host, port or PORT, bare, user, password)


def join_control(base: str, control: str) -> str:
    """The URL that a description's ``control`` means (RFC 2326, C.1.1)."""
    if not control or control == "*":
        return base
    if control.lower().startswith(("rtsp://", "rtspu://")):
        return control
    return base.rstrip("/") + "/" + control.lstrip("/")


class Access:
    """User and password on their way to a server: Digest (RFC 7616, and 2069 as old cameras want it), else Basic.

    A challenge is answered once; a further one is only after requests that were let through (a nonce that has aged).
    """

    def __init__(self, user: str | None, password: str | None) -> None:
        self._user, self._password = user, password or ""
        self._scheme = ""
        self._fields: dict[str, str] = {}
        self._uses = 0  # of the nonce
        self._tried = False

    def challenged(self, challenges: Sequence[str]) -> bool:
        """Take up the ``WWW-Authenticate`` of a 401; whether it is worth another try."""
        if self._user is None or self._tried:
            return False
        known = [(scheme, fields) for scheme, fields in map(_challenge, challenges) if _answerable(scheme, fields)]
        if not known:
            return False
        self._scheme, self._fields = max(known, key=lambda challenge: challenge[0])  # digest before basic
        self._uses, self._tried = 0, True
        return True

    def accepted(self) -> None:
        """A request was let through."""
        self._tried = False

    def authorization(self, method: str, url: str) -> str:
        """The ``Authorization`` of a request; empty before a challenge."""
        if self._user is None or not self._scheme:
            return ""
        if self._scheme == "basic":
            return "Basic " + base64.b64encode(f"{self._user}:{self._password}".encode()).decode()
        return self._digest(method, url)

    def _digest(self, method: str, url: str) -> str:
        algorithm, fields = _algorithm(self._fields), self._fields
        realm, nonce = fields.get("realm", ""), fields.get("nonce", "")
        secret = _hash(algorithm, f"{self._user}:{realm}:{self._password}")
        request = _hash(algorithm, f"{method}:{url}")
        said = [f'username="{self._user}"', f'realm="{realm}"', f'nonce="{nonce}"', f'uri="{url}"']
        if "auth" in re.split(r"[\s,]+", fields.get("qop", "")):
            self._uses += 1
            count, own = f"{self._uses:08x}", secrets.token_hex(8)
            response = _hash(algorithm, f"{secret}:{nonce}:{count}:{own}:auth:{request}")
            said += [f'response="{response}"', "qop=auth", f"nc={count}", f'cnonce="{own}"']
        else:
            said.append(f'response="{_hash(algorithm, f"{secret}:{nonce}:{request}")}"')
        if "algorithm" in fields:
            said.append(f"algorithm={fields['algorithm']}")
        if "opaque" in fields:
            said.append(f'opaque="{fields["opaque"]}"')
        return "Digest " + ", ".join(said)


def _challenge(text: str) -> tuple[str, dict[str, str]]:
    """Scheme and parameters, names in lower case."""
    scheme, _, rest = text.strip().partition(" ")
    pairs = re.findall(r'([\w-]+)\s*=\s*(?:"([^"]*)"|([^",\s]*))', rest)
    return scheme.lower(), {name.lower(): quoted or bare for name, quoted, bare in pairs}


def _answerable(scheme: str, fields: dict[str, str]) -> bool:
    return scheme == "basic" or (scheme == "digest" and _algorithm(fields) in HASHES)


def _algorithm(fields: dict[str, str]) -> str:
    return fields.get("algorithm", "MD5").upper()


def _hash(algorithm: str, text: str) -> str:
    return hashlib.new(HASHES[algorithm], text.encode(), usedforsecurity=False).hexdigest()


class Gate:
    """The server's half of Digest (RFC 7616 with MD5, which is what players know; with and without qop).

    One per connection: its nonce is good for that connection only. ``user`` None lets everybody in.
    """

    def __init__(self, user: str | None, password: str | None, *, realm: str = "stream_sr") -> None:
        self._user, self._password, self._realm = user, password or "", realm
        self._nonce = secrets.token_hex(16)

    @property
    def challenge(self) -> str:
        """The ``WWW-Authenticate`` of a 401."""
        return f'Digest realm="{self._realm}", nonce="{self._nonce}", algorithm=MD5'

    def admits(self, method: str, url: str, authorization: str) -> bool:
        """Whether the ``Authorization`` of a request for ``url`` proves that the password is known."""
        if self._user is None:
            return True
        scheme, fields = _challenge(authorization)
        said = {name: fields.get(name, "") for name in ("username", "nonce", "uri", "response", "nc", "cnonce", "qop")}
        if scheme != "digest" or said["nonce"] != self._nonce or not _same_place(said["uri"], url):
            return False
        secret = _hash("MD5", f"{self._user}:{self._realm}:{self._password}")
        request = _hash("MD5", f"{method}:{said['uri']}")
        middle = f"{said['nc']}:{said['cnonce']}:{said['qop']}:" if said["qop"] else ""
        right = _hash("MD5", f"{secret}:{self._nonce}:{middle}{request}")
        known = hmac.compare_digest(said["username"].encode(), self._user.encode())
        return hmac.compare_digest(said["response"].encode(), right.encode()) and known


def _same_place(one: str, other: str) -> bool:
    """Whether two URLs, or a URL and a path, mean the same place of this server."""
    try:
        return urlsplit(one).path.rstrip("/") == urlsplit(other).path.rstrip("/")
    except ValueError:
        return False
