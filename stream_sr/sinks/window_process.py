"""The process that owns the window of `window`: run by its path, with OpenCV and without PyAV.

Both libraries bring parts of libxcb under the same names. Where PyAV is loaded first, OpenCV's Qt hangs for ever in its
first window (PyAV issues 978 and 1050), and Qt aborts its process when the display goes away: neither may happen to a
process that is recording. So this module imports nothing of stream_sr.

Arguments: descriptor of a socket, descriptor of a memory file, title, folder for PNGs. The parent sends messages of 28
bytes, `MESSAGE`: OPEN with height and width of the two BGR pictures in the memory file and of the window, then SHOW for
each picture, with whether both sides are new, and the length of the text that follows. Each is answered with `ANSWER`:
the next key for the parent (ASCII, lower case; -1: none), whether the window is still open, and whether both sides are
wanted. The first answer comes unasked, when OpenCV is loaded. The end of the socket ends the process.
"""

import mmap
import select
import signal
import socket
import struct
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

MESSAGE = struct.Struct("<7i")  # what, height, width, window height, window width, both sides, bytes of text
ANSWER = struct.Struct("<3i")
OPEN, SHOW = 1, 2
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


class Window:
    """What is shown, and what mouse and keys do to it."""

    def __init__(self, cv2: Any, title: str, folder: Path) -> None:
        self.cv2, self.title, self.folder = cv2, title, folder
        self.memory: Any = None  # both sides, [2, H, W, 3], written by the parent
        self.held: Any = None  # a copy of them, while paused
        self.both = False  # whether the left side is there
        self.split, self.split_on = 0.5, True
        self.text, self.figures_on, self.help_on, self.full = "", True, False, False
        self.notice, self.notice_until = "", 0.0
        self.came = time.monotonic()  # the last picture
        self.keys: deque[int] = deque(maxlen=16)  # for the parent: one goes with each answer
        self.shown: Any = None  # what was drawn last: nothing is drawn twice

    def open(self, memory: int, height: int, width: int, window: tuple[int, int]) -> None:
        import numpy as np

        cv2 = self.cv2
        self.memory = np.frombuffer(mmap.mmap(memory, 2 * height * width * 3), np.uint8).reshape(2, height, width, 3)
        cv2.namedWindow(self.title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
        cv2.resizeWindow(self.title, *window)
        cv2.setMouseCallback(self.title, self._mouse)

    def take(self, both: bool, text: str) -> None:
        """A new picture lies in the memory."""
        self.both, self.text, self.came = both, text, time.monotonic()
        if self.held is None:
            self.draw()

    def draw(self) -> None:
        pictures = self.memory if self.held is None else self.held
        image = pictures[1].copy()
        height, width = image.shape[:2]
        if self.split_on and self.both:
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
            self.held = self.memory.copy() if self.held is None else None
            self.draw()
        elif letter == "p":
            self._save()
        elif letter == "f":
            self.full = not self.full
            self.cv2.setWindowProperty(self.title, self.cv2.WND_PROP_FULLSCREEN, float(self.full))
        else:
            return False
        return True

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
            self.split = min(max(x / self.memory.shape[2], 0.0), 1.0)

    def _notice(self) -> str:
        now = time.monotonic()
        if now < self.notice_until:
            return self.notice
        if now - self.came > SILENCE_SECONDS:
            return "no signal"
        return "paused" if self.held is not None else ""

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
        """Both sides beside each other, or ours alone while the split is off."""
        pictures = self.memory if self.held is None else self.held
        image = self.cv2.hconcat([pictures[0], pictures[1]]) if self.both and self.split_on else pictures[1]
        stem, number = time.strftime("stream_sr-%Y%m%d-%H%M%S"), 1
        path = self.folder / f"{stem}.png"
        while path.exists():
            number += 1
            path = self.folder / f"{stem}-{number}.png"
        done = self.cv2.imwrite(str(path), image)
        self.notice = f"saved {path.name}" if done else f"{path.name} cannot be written"
        self.notice_until = time.monotonic() + NOTICE_SECONDS


def view(connection: socket.socket, memory: int, title: str, folder: Path) -> None:
    import cv2

    connection.sendall(ANSWER.pack(-1, 1, 1))
    window, opened = Window(cv2, title, folder), False
    while True:
        if opened and not select.select([connection], [], [], IDLE_SECONDS)[0]:
            window.press(cv2.waitKeyEx(1))
            if window.visible():
                window.refresh()
            continue
        message = _receive(connection, MESSAGE.size)
        if len(message) < MESSAGE.size:
            return
        what, height, width, window_height, window_width, both, size = MESSAGE.unpack(message)
        text = _receive(connection, size).decode()
        if what == OPEN:
            window.open(memory, height, width, (window_width, window_height))
            opened = True
        elif window.visible():
            window.take(bool(both), text)
        window.press(cv2.waitKeyEx(1))
        key = window.keys.popleft() if window.keys else -1
        connection.sendall(ANSWER.pack(key, window.visible(), window.split_on))


def _receive(connection: socket.socket, size: int) -> bytes:
    return connection.recv(size, socket.MSG_WAITALL) if size else b""


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's affair
    with socket.socket(fileno=int(sys.argv[1])) as parent:
        view(parent, int(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
