"""Whether the X display can be used, asked in its own words: Qt, inside OpenCV, would only abort."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

from stream_sr.errors import SinkOpenError

CONNECT_SECONDS = 3.0
INSTEAD = "see it in a browser (--web 8080, or the output web:8080), or choose another output, e.g. rtsp://@:8654/live"


def ask_display(environment: os._Environ[str] | dict[str, str]) -> tuple[int, int]:
    """Width and height of the screen. Raises SinkOpenError unless the X display answers and lets us in.

    The Qt inside OpenCV speaks X11 only, under Wayland through XWayland; so DISPLAY decides. Asked before Qt is, which
    only aborts: the answer here is one that can be told.
    """
    display = environment.get("DISPLAY", "")
    if not display:
        raise SinkOpenError(
            f"window: there is no display (DISPLAY is not set); run it in a desktop session or with ssh -X, {INSTEAD}"
        )
    host, _, rest = display.rpartition(":")
    number = rest.partition(".")[0]
    if not number.isdecimal():
        raise SinkOpenError(f"window: DISPLAY is {display!r}; it should look like :0 or host:0.0")
    try:
        with _connect(host, int(number)) as connection:
            accepted, answer = _handshake(connection, _cookie(environment, number))
            if accepted:
                return _first_screen(answer)
    except (OSError, struct.error) as error:
        raise SinkOpenError(
            f"window: the display {display} does not answer ({error}); run it in a desktop session, {INSTEAD}"
        ) from error
    reason = answer.decode("latin-1").strip("\0\n ") or "no reason given"
    raise SinkOpenError(f"window: the display {display} does not let us in: {reason}; run it as the desktop's user")


def _connect(host: str, number: int) -> socket.socket:
    if host in ("", "unix"):
        path = f"/tmp/.X11-unix/X{number}"
        failure: OSError = OSError("no socket")
        for address in (path, "\0" + path):
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.settimeout(CONNECT_SECONDS)
            try:
                connection.connect(address)
                return connection
            except OSError as error:
                connection.close()
                failure = error
        raise failure
    return socket.create_connection((host, 6000 + number), CONNECT_SECONDS)


def _handshake(connection: socket.socket, cookie: bytes) -> tuple[bool, bytes]:
    """X11 connection setup (X protocol, chapter 8): whether we are let in, and the description or the reason."""
    name = b"MIT-MAGIC-COOKIE-1" if cookie else b""
    request = struct.pack("<BxHHHHxx", ord("l"), 11, 0, len(name), len(cookie))
    connection.sendall(request + name + bytes(-len(name) % 4) + cookie + bytes(-len(cookie) % 4))
    answer = _receive(connection, 8)
    rest = _receive(connection, 4 * struct.unpack("<H", answer[6:8])[0])
    return answer[0] == 1, rest[: answer[1]] if answer[0] == 0 else rest


def _first_screen(setup: bytes) -> tuple[int, int]:
    """Width and height in the display's description of itself (same chapter). Raises struct.error."""
    vendor, formats = struct.unpack_from("<16xH3xB", setup)
    screen = 32 + vendor + -vendor % 4 + 8 * formats
    width, height = struct.unpack_from("<20xHH", setup, screen)
    return width, height


def _receive(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = connection.recv(size - len(data))
        if not more:
            raise ConnectionError("it closed the connection")
        data += more
    return data


def _cookie(environment: os._Environ[str] | dict[str, str], number: str) -> bytes:
    """The secret for the display from the authority file; empty when there is none."""
    path = Path(environment.get("XAUTHORITY") or Path(environment.get("HOME", "/")) / ".Xauthority")
    try:
        data = path.read_bytes()
    except OSError:
        return b""
    for _, _, display, name, secret in _authorities(data):
        if name == b"MIT-MAGIC-COOKIE-1" and display in (b"", number.encode()):
            return secret
    return b""


def _authorities(data: bytes) -> Iterator[tuple[int, bytes, bytes, bytes, bytes]]:
    """Entries of an authority file: family, address, display number, protocol, secret; all big-endian, counted."""
    position = 0
    while position + 2 <= len(data):
        (family,) = struct.unpack_from(">H", data, position)
        position += 2
        fields = []
        for _ in range(4):
            (size,) = struct.unpack_from(">H", data, position)
            fields.append(data[position + 2 : position + 2 + size])
            position += 2 + size
        yield family, fields[0], fields[1], fields[2], fields[3]
