"""The process that owns the window of `window`: run by its path, with OpenCV and without PyAV.

Both libraries bring parts of libxcb under the same names. Where PyAV is loaded first, OpenCV's Qt hangs for ever in its
first window (PyAV issues 978 and 1050), and Qt aborts its process when the display is lost: neither may happen to a
process that is recording. So this module imports nothing that loads PyAV.

Arguments: title, folder for PNGs, number of a socket. First the process sends `HELLO`, when OpenCV is loaded: width and
height of the screen, 0 where unknown. Then the parent sends `MESSAGE`, followed by text: OPEN with the size of the
pictures and of the window and the name of shared memory, which holds `BUFFERS` buffers of two BGR pictures each; SHOW
with the buffer that the parent has filled, whether its left side is new too, and the figures. Each message is
acknowledged with `ACKNOWLEDGEMENT`: the next key for the parent (ASCII, lower case; -1: none), whether the window is
still open, whether both sides are wanted, and the buffer that the parent may fill next. The parent never writes into
another: what is shown is not overwritten, however often it is drawn. The end of the socket ends the process.
"""

import os
import select
import signal
import socket
import struct
import sys
import time
from collections import deque
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

HELLO = struct.Struct("<2i")
MESSAGE = struct.Struct("<8i")  # what, height, width, window height, window width, buffer, both sides, bytes of text
ACKNOWLEDGEMENT = struct.Struct("<4i")
OPEN, SHOW = 1, 2
BUFFERS, SIDES = 2, 2
IDLE_SECONDS = 0.02  # between looks at mouse and keyboard while no picture comes
SILENCE_SECONDS = 2.0
NOTICE_SECONDS = 3.0
STEP, LARGE_STEP = 0.02, 0.1  # of the width: how far an arrow key moves the split line, and with Shift
HELP = (
    "h  help", "s  split on and off", "left, right, mouse  move the line", "Home, End  line to the edge", "1-4  model",
    "a  the model that keeps up", "space  pause, on both sides", "p  save as PNG", "r  record", "i  figures on and off",
    "f  full screen", "q  quit",
)  # fmt: skip

# `cv2.waitKeyEx` reports keys without an ASCII character as X keysyms: Qt alone, GTK with the state of the modifiers
# above 16 bits. `cv2.waitKey` would keep 8 bits: Left, 0xFF51, would be the letter Q.
LEFT, RIGHT = (0xFF51, 0xFF96), (0xFF53, 0xFF98)  # on the keyboard and on the keypad
HOME, END = (0xFF50, 0xFF95), (0xFF57, 0xFF9C)
SHIFT = 1
HARMLESS = SHIFT | 0x2 | 0x10 | 0x6000  # modifiers that leave a letter a letter: Caps Lock, Num Lock, keyboard layout


def decode(code: int) -> tuple[int, bool]:
    """Return the key of a code of `cv2.waitKeyEx`, and whether Shift was reported with it (by GTK only).

    The key is ASCII in lower case, an X keysym, or -1: no key, or one with Control, Alt or Super (as far as reported).
    """
    state, key = code >> 16, code & 0xFFFF
    if code <= 0 or state & ~HARMLESS:  # Qt gives 0 for dead keys and letters outside ASCII, and negative Latin-1
        return -1, False
    return ord(chr(key).lower()) if key < 128 else key, bool(state & SHIFT)


class ComparisonWindow:
    """Source and result in one window, and what mouse and keys do to it."""

    def __init__(self, cv2: Any, title: str, folder: Path) -> None:
        self.cv2, self.title, self.folder = cv2, title, folder
        self.memory: Any = None  # [buffer, side, H, W, 3], written by the parent
        self.buffer = 0  # the one that is shown: the parent does not write there
        self.both = [False] * BUFFERS  # whether a buffer has its left side
        self.paused: tuple[Any, bool] | None = None  # a copy of the pictures that are shown, and whether both are there
        self.split, self.split_on = 0.5, True
        self.text, self.figures_on, self.help_on, self.full = "", True, False, False
        self.notice, self.notice_until = "", 0.0
        self.came = time.monotonic()  # the last frame
        self.keys: deque[int] = deque(maxlen=16)  # for the parent: one goes with each acknowledgement
        self.shown: Any = None  # what was drawn last: nothing is drawn twice

    def open(self, memory: Any, window: tuple[int, int]) -> None:
        """Show an empty window of a size for the pictures in ``memory``, uint8 ``[buffer, side, H, W, 3]``."""
        cv2 = self.cv2
        self.memory = memory
        cv2.namedWindow(self.title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
        cv2.resizeWindow(self.title, *window)
        cv2.setMouseCallback(self.title, self._mouse)

    def take(self, buffer: int, both: bool, text: str) -> None:
        """Show the pictures that the parent has put into a buffer. From now on the other one is the parent's."""
        self.buffer, self.both[buffer], self.text, self.came = buffer, both, text, time.monotonic()
        if self.paused is None:
            self.draw()

    @property
    def free(self) -> int:
        """The buffer that the parent may fill next: not the one that is shown."""
        return (self.buffer + 1) % BUFFERS

    def pictures(self) -> tuple[Any, bool]:
        """What is shown now, ``[side, H, W, 3]``, and whether the left side is there."""
        return (self.memory[self.buffer], self.both[self.buffer]) if self.paused is None else self.paused

    def draw(self) -> None:
        pictures, both = self.pictures()
        image = pictures[1].copy()
        height, width = image.shape[:2]
        if self.split_on and both:
            cut = min(max(round(self.split * width), 0), width)
            image[:, :cut] = pictures[0][:, :cut]
            thick = max(1, round(width / 640))
            self.cv2.line(image, (cut, 0), (cut, height), (255, 255, 255), thick)
        lines = self.text.split("\n") if self.figures_on and self.text else []
        self._write(image, lines, top=True)
        if self.help_on:
            self._write(image, HELP, top=False)
        notice = self._notice()
        if notice:
            self._write(image, [notice], top=False)
        self.shown = (self.split, self.split_on, self.figures_on, self.help_on, notice)
        self.cv2.imshow(self.title, image)

    def refresh(self) -> None:
        """Draw again if something but the picture has changed."""
        if self.shown != (self.split, self.split_on, self.figures_on, self.help_on, self._notice()):
            self.draw()

    def press(self, code: int) -> None:
        """Do what the key of a code of `cv2.waitKeyEx` means here; keep a key that is the parent's."""
        key, shift = decode(code)
        if key >= 128:
            self._move_split(key, LARGE_STEP if shift else STEP)
        elif not self._handle_command(chr(key) if key > 0 else ""):
            if key > 0:
                self.keys.append(key)
            return
        self.refresh()

    def _handle_command(self, letter: str) -> bool:
        """Do what a letter means here; False if it means nothing."""
        if letter == "h":
            self.help_on = not self.help_on
        elif letter == "s":
            self.split_on = not self.split_on
        elif letter == "i":
            self.figures_on = not self.figures_on
        elif letter == " ":
            self._pause()
        elif letter == "p":
            self._save()
        elif letter == "f":
            self.full = not self.full
            self.cv2.setWindowProperty(self.title, self.cv2.WND_PROP_FULLSCREEN, float(self.full))
        else:
            return False
        return True

    def _pause(self) -> None:
        """Hold the pictures that are shown, or show the newest again. Frames are taken meanwhile, but not shown."""
        if self.paused is None:
            pictures, both = self.pictures()
            self.paused = pictures.copy(), both
        else:
            self.paused = None
        self.draw()

    def _move_split(self, keysym: int, step: float) -> None:
        """Move the split line by an arrow key, Home or End; other keys do nothing."""
        if not self.split_on:
            return
        if keysym in HOME:
            self.split = 0.0
        elif keysym in END:
            self.split = 1.0
        elif keysym in LEFT:
            self.split = max(0.0, self.split - step)
        elif keysym in RIGHT:
            self.split = min(1.0, self.split + step)

    def visible(self) -> bool:
        try:
            return bool(self.cv2.getWindowProperty(self.title, self.cv2.WND_PROP_VISIBLE) >= 1)
        except self.cv2.error:  # Qt ends itself with its last window: the user has closed it
            return False

    def _mouse(self, event: int, x: int, y: int, flags: int, _: Any) -> None:
        pressed = event == self.cv2.EVENT_LBUTTONDOWN or flags & self.cv2.EVENT_FLAG_LBUTTON
        if pressed and self.split_on:
            self.split = min(max(x / self.memory.shape[3], 0.0), 1.0)

    def _notice(self) -> str:
        now = time.monotonic()
        if now < self.notice_until:
            return self.notice
        if now - self.came > SILENCE_SECONDS:
            return "no signal"
        return "paused" if self.paused is not None else ""

    def _write(self, image: Any, lines: Any, *, top: bool) -> None:
        """Lines on a dark ground, at the upper left or in the middle; of one size in the window.

        OpenCV's letters are of another width in another weight, so an outline would not fit around them.
        """
        if not lines:
            return
        cv2, (height, width) = self.cv2, image.shape[:2]
        size = 0.5 * height / max(120, cv2.getWindowImageRect(self.title)[3])
        step, thick = round(44 * size), max(1, round(2 * size))
        across = max(cv2.getTextSize(line, cv2.FONT_HERSHEY_SIMPLEX, size, thick)[0][0] for line in lines)
        x, y = (step // 2, step // 2) if top else ((width - across) // 2, (height - step * len(lines)) // 2)
        box = image[
            max(0, y - step // 4) : y + step * len(lines) + step // 4, max(0, x - step // 2) : x + across + step
        ]
        box[:] = box // 3
        for line in lines:
            y += step
            cv2.putText(
                image, line, (x, y - step // 4), cv2.FONT_HERSHEY_SIMPLEX, size, (255, 255, 255), thick, cv2.LINE_AA
            )

    def _save(self) -> None:
        """Save both sides beside each other, or the result alone while the split is off."""
        pictures, both = self.pictures()
        image = self.cv2.hconcat([pictures[0], pictures[1]]) if both and self.split_on else pictures[1]
        stem, number = time.strftime("stream_sr-%Y%m%d-%H%M%S"), 1
        path = self.folder / f"{stem}.png"
        while path.exists():
            number += 1
            path = self.folder / f"{stem}-{number}.png"
        done = self.cv2.imwrite(str(path), image)
        self.notice = f"saved {path.name}" if done else f"{path.name} cannot be written"
        self.notice_until = time.monotonic() + NOTICE_SECONDS


def attach(name: str, height: int, width: int) -> tuple[SharedMemory, Any]:
    """Open the parent's shared memory; the memory, and its pictures as ``[buffer, side, H, W, 3]``.

    The parent alone removes it. Before Python 3.13, which can be told so, the resource tracker of this process would
    remove it as well, with a warning.
    """
    import numpy as np

    options: dict[str, Any] = {"track": False}
    if sys.version_info < (3, 13):
        resource_tracker.register = lambda name, rtype: None
        options = {}
    memory = SharedMemory(name, **options)
    assert memory.buf is not None
    shape = BUFFERS, SIDES, height, width, 3
    return memory, np.frombuffer(memory.buf, np.uint8, count=BUFFERS * SIDES * height * width * 3).reshape(shape)


def view(connection: socket.socket, title: str, folder: Path) -> None:
    """Show what the parent sends until it closes the connection. Raises OSError without a display."""
    from stream_sr.system.display import screen_size

    screen = screen_size() or (0, 0)
    import cv2

    connection.sendall(HELLO.pack(*screen))
    window, memory = ComparisonWindow(cv2, title, folder), None
    while True:
        if memory is not None and not select.select([connection], [], [], IDLE_SECONDS)[0]:
            window.press(cv2.waitKeyEx(1))
            if window.visible():
                window.refresh()
            continue
        try:
            what, height, width, window_height, window_width, buffer, both, size = MESSAGE.unpack(
                receive(connection, MESSAGE.size)
            )
            text = receive(connection, size).decode()
        except ConnectionError:
            return
        if what == OPEN:
            memory, pictures = attach(text, height, width)
            window.open(pictures, (window_width, window_height))
        elif window.visible():
            window.take(buffer, bool(both), text)
        window.press(cv2.waitKeyEx(1))
        key = window.keys.popleft() if window.keys else -1
        connection.sendall(ACKNOWLEDGEMENT.pack(key, window.visible(), window.split_on, window.free))


def receive(connection: socket.socket, size: int) -> bytes:
    """Return ``size`` bytes. Raises ConnectionError if the connection ends before, TimeoutError as the socket does."""
    data = b""
    while len(data) < size:
        more = connection.recv(size - len(data))
        if not more:
            raise ConnectionError("its process ended")
        data += more
    return data


def main() -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    try:
        with socket.socket(fileno=int(sys.argv[3])) as parent:
            view(parent, sys.argv[1], Path(sys.argv[2]))
    except Exception as error:  # the parent reports what stands in the last lines
        kind = "" if type(error) is OSError else f"{type(error).__name__}: "
        sys.stderr.write(f"{kind}{error}\n")
        sys.stderr.flush()
        return 1
    return 0


if __name__ == "__main__":
    sys.path.append(str(Path(__file__).resolve().parents[2]))  # for stream_sr.system, which loads no library
    os._exit(main())  # no destructors: Qt's, of a display that was lost, would abort
