"""Passwords of RTSP: a client's answer to a challenge (`ClientAuth`), and the server's check (`ServerAuth`)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

HASHES = {"MD5": "md5", "SHA-256": "sha256"}  # algorithms of a digest


@dataclass(frozen=True, slots=True)
class AccessPolicy:
    """Who may watch a stream of our server. Without a ``user`` everyone may."""

    max_viewers: int = 64  # at the same time
    user: str | None = None
    password: str | None = None


class ClientAuth:
    """Authenticates a client: with Digest (RFC 7616, and RFC 2069 for old cameras), else with Basic.

    A challenge is answered once; another one only after an accepted request (the nonce may have expired).
    """

    def __init__(self, user: str | None, password: str | None) -> None:
        self._user, self._password = user, password or ""
        self._scheme = ""
        self._fields: dict[str, str] = {}
        self._uses = 0  # of the nonce
        self._tried = False

    def take_challenge(self, challenges: Sequence[str]) -> bool:
        """Take the ``WWW-Authenticate`` headers of a 401. Returns whether to send the request again."""
        if self._user is None or self._tried:
            return False
        known = [(scheme, fields) for scheme, fields in map(_challenge, challenges) if _answerable(scheme, fields)]
        if not known:
            return False
        self._scheme, self._fields = max(known, key=lambda challenge: challenge[0])  # digest before basic
        self._uses, self._tried = 0, True
        return True

    def accepted(self) -> None:
        """Note that the server accepted a request."""
        self._tried = False

    def authorization(self, method: str, url: str) -> str:
        """Return the ``Authorization`` header of a request; empty before a challenge."""
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
        sent = [f'username="{self._user}"', f'realm="{realm}"', f'nonce="{nonce}"', f'uri="{url}"']
        if "auth" in re.split(r"[\s,]+", fields.get("qop", "")):
            self._uses += 1
            count, own = f"{self._uses:08x}", secrets.token_hex(8)
            response = _hash(algorithm, f"{secret}:{nonce}:{count}:{own}:auth:{request}")
            sent += [f'response="{response}"', "qop=auth", f"nc={count}", f'cnonce="{own}"']
        else:
            sent.append(f'response="{_hash(algorithm, f"{secret}:{nonce}:{request}")}"')
        if "algorithm" in fields:
            sent.append(f"algorithm={fields['algorithm']}")
        if "opaque" in fields:
            sent.append(f'opaque="{fields["opaque"]}"')
        return "Digest " + ", ".join(sent)


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


class ServerAuth:
    """Checks passwords with Digest (RFC 7616 with MD5, which is what players know; with and without qop).

    One per connection: its nonce is valid for that connection only. With ``user`` None every request is authorized.
    """

    def __init__(self, user: str | None, password: str | None, *, realm: str = "stream_sr") -> None:
        self._user, self._password, self._realm = user, password or "", realm
        self._nonce = secrets.token_hex(16)

    @property
    def challenge(self) -> str:
        """The ``WWW-Authenticate`` header of a 401."""
        return f'Digest realm="{self._realm}", nonce="{self._nonce}", algorithm=MD5'

    def is_authorized(self, method: str, url: str, authorization: str) -> bool:
        """Whether the ``Authorization`` header of a request for ``url`` proves that the client knows the password."""
        if self._user is None:
            return True
        scheme, fields = _challenge(authorization)
        sent = {name: fields.get(name, "") for name in ("username", "nonce", "uri", "response", "nc", "cnonce", "qop")}
        if scheme != "digest" or sent["nonce"] != self._nonce or not _same_path(sent["uri"], url):
            return False
        secret = _hash("MD5", f"{self._user}:{self._realm}:{self._password}")
        request = _hash("MD5", f"{method}:{sent['uri']}")
        middle = f"{sent['nc']}:{sent['cnonce']}:{sent['qop']}:" if sent["qop"] else ""
        expected = _hash("MD5", f"{secret}:{self._nonce}:{middle}{request}")
        same_user = hmac.compare_digest(sent["username"].encode(), self._user.encode())
        return hmac.compare_digest(sent["response"].encode(), expected.encode()) and same_user


def _same_path(one: str, other: str) -> bool:
    """Whether two URLs, or a URL and a path, have the same path."""
    try:
        return urlsplit(one).path.rstrip("/") == urlsplit(other).path.rstrip("/")
    except ValueError:
        return False
