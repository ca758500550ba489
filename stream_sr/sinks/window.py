"""A window on the desktop that shows the pictures, through OpenCV."""

from __future__ import annotations

import logging
import mmap
import os
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
from av.video.reformatter import VideoReformatter

from stream_sr.codec.decode import SWSCALE_MATRIX
from stream_sr.codec.rgb import QUICK, to_rgb
from stream_sr.color import Matrix
from stream_sr.errors import SinkOpenError, SinkWriteError
from stream_sr.frame import Frame, StreamInfo
from stream_sr.sinks import viewer

log = logging.getLogger("stream_sr")

SHARE_OF_SCREEN = 0.9  # the window opens no larger than this part of the screen; it can be resized
QUIT_KEYS = (ord("q"), ord("Q"), 27)
CONNECT_SECONDS = 3.0
ANSWER_SECONDS = 10.0  # to load OpenCV on a busy machine; a picture takes milliseconds


class WindowSink:
    """Shows each frame as soon as it comes; q, Esc or the close button end the run (`write` returns False).

    Pixels are converted with the stream's own matrix and range, stretched to square pixels and turned by the stream's
    rotation. The window belongs to a process of its own (see `viewer`), which `check` starts and `close` ends; nothing
    that happens to it, or to the display, can take this process along.
    """

    name = "window:"
    paced = True
    pairs = False

    def __init__(self, title: str = "stream_sr") -> None:
        self._title = title
        self._viewer: _Viewer | None = None
        self._info: StreamInfo | None = None
        self._screen = (0, 0)
        self._reformatter = VideoReformatter()

    def check(self) -> None:
        """Raises SinkOpenError when there is no display, or when OpenCV cannot be loaded."""
        if self._viewer is None:
            self._screen = ask_display(os.environ)
            self._viewer = _Viewer(self._title)

    def open(self, info: StreamInfo) -> None:
        self.check()
        if info.color.matrix not in SWSCALE_MATRIX and info.color.matrix != Matrix.UNKNOWN:
            log.warning("window: colours of matrix %d are shown as BT.601", info.color.matrix)
        width, height = shown_size(info)
        shrink = min(
            1.0, *(SHARE_OF_SCREEN * room / side for room, side in zip(self._screen, (width, height), strict=True))
        )
        assert self._viewer is not None
        self._viewer.begin(width, height, max(1, round(width * shrink)), max(1, round(height * shrink)))
        self._info = info

    def write(self, frame: Frame) -> bool:
        if self._viewer is None or self._info is None:
            raise SinkWriteError("window: is not open")
        key, visible = self._viewer.show(to_bgr(frame, self._info.rotation, self._reformatter))
        return visible and key not in QUIT_KEYS

    def close(self) -> None:
        process, self._viewer, self._info = self._viewer, None, None
        if process is not None:
            process.close()


class _Viewer:
    """The process with the window, the socket to it and the memory in which it finds the picture."""

    def __init__(self, title: str) -> None:
        self._connection, theirs = socket.socketpair()
        self._connection.settimeout(ANSWER_SECONDS)
        self._memory = os.memfd_create("stream_sr window")
        self._picture: npt.NDArray[np.uint8] | None = None
        self._words = tempfile.TemporaryFile()  # noqa: SIM115
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(Path(__file__).with_name("viewer.py")),
                 str(theirs.fileno()), str(self._memory), title],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self._words,
                pass_fds=(theirs.fileno(), self._memory),
                env=os.environ | {"QT_QPA_PLATFORM": "xcb", "QT_LOGGING_RULES": "*.warning=false"},
            )  # fmt: skip
        try:
            self._answer()
        except OSError as error:
            raise self._refusal(error) from error

    def begin(self, width: int, height: int, window_width: int, window_height: int) -> None:
        """Show an empty window for BGR pictures of a size. Raises SinkOpenError."""
        try:
            os.ftruncate(self._memory, width * height * 3)
            memory = mmap.mmap(self._memory, width * height * 3)
            self._picture = np.frombuffer(memory, np.uint8).reshape(height, width, 3)
            self._connection.sendall(viewer.MESSAGE.pack(viewer.OPEN, height, width, window_height, window_width, 0))
            self._answer()
        except OSError as error:
            raise self._refusal(error) from error

    def show(self, pixels: npt.NDArray[np.uint8]) -> tuple[int, bool]:
        """Show a picture; the key pressed since the last one (-1: none) and whether the window is still open."""
        assert self._picture is not None
        try:
            np.copyto(self._picture, pixels)
            self._connection.sendall(viewer.MESSAGE.pack(viewer.SHOW, 0, 0, 0, 0, 0))
            return self._answer()
        except OSError as error:
            said = self._end()
            raise SinkWriteError(f"window: the window is gone ({said or error}); did the display end?") from error

    def close(self) -> None:
        """End the process and wait for it."""
        self._end()
        if not self._words.closed:
            self._words.close()
            os.close(self._memory)

    def _answer(self) -> tuple[int, bool]:
        data = self._connection.recv(viewer.ANSWER.size, socket.MSG_WAITALL)
        if len(data) < viewer.ANSWER.size:
            raise ConnectionError("its process ended")
        key, visible = viewer.ANSWER.unpack(data)
        return key, bool(visible)

    def _refusal(self, error: OSError) -> SinkOpenError:
        """What to tell when the process did not come up."""
        said = self._end()
        self.close()
        if "libGL" in said:
            hint = "install its system library: apt-get install libgl1"
        elif "cannot open shared object" in said:
            hint = "install its system libraries: apt-get install libgl1 libglib2.0-0"
        elif "No module named" in said:
            hint = "install it: pip install opencv-python"
        elif "not implemented" in said:
            hint = "this OpenCV is built without windows; pip install opencv-python (not -headless)"
        else:
            hint = "does the desktop session work? Or choose another output, e.g. rtsp://@:8654/live"
        return SinkOpenError(f"window: OpenCV cannot open a window ({said or error}); {hint}")

    def _end(self) -> str:
        """Let the process end, by force if need be; its last words."""
        self._connection.close()
        try:
            self._process.wait(ANSWER_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._words.closed:
            return ""
        self._words.seek(0)
        lines = self._words.read().decode("utf-8", "replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")


def shown_size(info: StreamInfo) -> tuple[int, int]:
    """Width and height of the picture in square pixels, after rotation. The wider side grows, none shrinks."""
    width, height = square_size(info.width, info.height, info.sample_aspect)
    return (height, width) if info.rotation in (90, 270) else (width, height)


def square_size(width: int, height: int, aspect: Fraction) -> tuple[int, int]:
    """The size with square pixels of a picture whose pixels are ``aspect`` times as wide as high."""
    return (round(width * aspect), height) if aspect >= 1 else (width, round(height / aspect))


def to_bgr(frame: Frame, rotation: int, reformatter: VideoReformatter) -> npt.NDArray[np.uint8]:
    """The frame as BGR ``[H, W, 3]`` with square pixels, turned by ``rotation`` degrees clockwise. See `to_rgb`."""
    size = square_size(frame.width, frame.height, frame.sample_aspect)
    pixels = to_rgb(frame, "bgr24", size=size, flags=QUICK, reformatter=reformatter)
    return np.ascontiguousarray(np.rot90(pixels, -(rotation // 90))) if rotation else pixels


def ask_display(environment: os._Environ[str] | dict[str, str]) -> tuple[int, int]:
    """Width and height of the screen. Raises SinkOpenError unless the X display answers and lets us in.

    The Qt inside OpenCV speaks X11 only, under Wayland through XWayland; so DISPLAY decides. Asked before Qt is, which
    only aborts: the answer here is one that can be told.
    """
    display = environment.get("DISPLAY", "")
    if not display:
        raise SinkOpenError(
            "window: there is no display (DISPLAY is not set); run it in a desktop session or with ssh -X, "
            "or choose another output, e.g. rtsp://@:8654/live"
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
            f"window: the display {display} does not answer ({error}); "
            "run it in a desktop session or choose another output, e.g. rtsp://@:8654/live"
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
