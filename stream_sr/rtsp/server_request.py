"""RTSP requests as our server reads them (RFC 2326): taken from the received bytes, with limits on their size."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urlsplit

METHODS = "OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN, GET_PARAMETER, SET_PARAMETER"
REQUEST_BYTES = 16 << 10  # largest request head
BODY_BYTES = 64 << 10
BUFFER_BYTES = REQUEST_BYTES + BODY_BYTES  # most that a client may send while a request is being answered
REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    405: "Method Not Allowed",
    413: "Request Entity Too Large",
    453: "Not Enough Bandwidth",
    454: "Session Not Found",
    455: "Method Not Valid in This State",
    459: "Aggregate Operation Not Allowed",
    461: "Unsupported Transport",
    500: "Internal Server Error",
    503: "Service Unavailable",
    505: "RTSP Version Not Supported",
}


class BadRequest(Exception):
    """The bytes received are not a request, or one that is too large."""

    def __init__(self, status: int) -> None:
        super().__init__(REASONS[status])
        self.status = status  # to answer


class RtspRequest(NamedTuple):
    """A request without its body."""

    method: str
    url: str
    version: str
    headers: dict[str, str]  # names in lower case


def take_request(buffer: bytearray) -> RtspRequest | None:
    """Remove the next request, and interleaved packets before it, from the buffer; None while it is incomplete.

    The packets are RTCP of the player, which the server does not need. Raises BadRequest.
    """
    while buffer[:1] == b"$":
        size = 4 + int.from_bytes(buffer[2:4], "big")
        if len(buffer) < max(4, size):
            return None
        del buffer[:size]
    head, mark, _ = buffer.partition(b"\r\n\r\n")
    if not mark:
        if len(buffer) > REQUEST_BYTES:
            raise BadRequest(413)
        return None
    request = parse_request(bytes(head))
    length = request.headers.get("content-length", "0") if request is not None else "x"
    if request is None or not length.isascii() or not length.isdecimal() or len(head) > REQUEST_BYTES:
        raise BadRequest(400)
    if len(length) > 6 or int(length) > BODY_BYTES:
        raise BadRequest(413)
    end = len(head) + 4 + int(length)
    if len(buffer) < end:
        return None
    del buffer[:end]
    return request


def parse_request(head: bytes) -> RtspRequest | None:
    """Read the request line and the headers; None if the bytes are not a request."""
    lines = head.decode("latin-1").lstrip("\r\n").split("\r\n")
    words = lines[0].split(" ")
    if len(words) != 3 or not words[0].replace("_", "").isalpha() or not words[2].startswith("RTSP/"):
        return None
    headers = {}
    for line in lines[1:]:
        name, mark, value = line.partition(":")
        if not mark:
            return None
        headers[name.strip().lower()] = value.strip()
    number = headers.get("cseq", "0")
    if not (number.isascii() and number.isdecimal() and len(number) < 12):
        return None
    if any(letter < " " or letter > "~" for letter in words[1]):
        return None
    try:
        urlsplit(words[1])
    except ValueError:
        return None
    return RtspRequest(words[0], words[1], words[2], headers)


def parse_pair(text: str, maximum: int) -> tuple[int, int] | None:
    """Read ``4-5``, or ``4`` for the same, as two numbers up to ``maximum``; None for anything else."""
    numbers = text.split("-")
    if not all(number.isascii() and number.isdecimal() and len(number) < 6 for number in numbers):
        return None
    first, last = int(numbers[0]), int(numbers[-1])
    last = first + 1 if last == first else last
    return (first, last) if max(first, last) <= maximum else None
