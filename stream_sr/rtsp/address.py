"""RTSP URLs: an address split into its parts, and the URL of a track."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import unquote, urlsplit

PORT = 554


class RtspAddress(NamedTuple):
    """The parts of an RTSP URL."""

    scheme: str  # rtsp or rtsps
    host: str
    port: int
    url: str  # as requests name it: without credentials
    user: str | None
    password: str | None


def parse_address(url: str) -> RtspAddress:
    """Split an RTSP URL. Raises ValueError for an invalid one; the message holds no part of the URL."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        # urlsplit quotes what it cannot read: with a password that holds a slash, that is the password.
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
    return RtspAddress(parts.scheme, host, port or PORT, bare, user, password)


def control_url(base: str, control: str) -> str:
    """Return the URL that the ``control`` attribute of a description means (RFC 2326, C.1.1)."""
    if not control or control == "*":
        return base
    if control.lower().startswith(("rtsp://", "rtspu://")):
        return control
    return base.rstrip("/") + "/" + control.lstrip("/")
