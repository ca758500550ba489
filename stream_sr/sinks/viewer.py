"""The process that owns the window of `window`: run by its path, with OpenCV and without PyAV.

Both libraries bring parts of libxcb under the same names. Where PyAV is loaded first, OpenCV's Qt hangs for ever in its
first window (PyAV issues 978 and 1050), and Qt aborts its process when the display goes away: neither may happen to a
process that is recording. So this module imports nothing of stream_sr.

Arguments: descriptor of a socket, descriptor of a memory file, title. The parent sends messages of 24 bytes,
`MESSAGE`: OPEN with height and width of the BGR pictures in the memory file and of the window, then SHOW for each
picture. Each is answered with `ANSWER`: key pressed since the last (-1: none) and whether the window is still open.
The first answer comes unasked, when OpenCV is loaded. The end of the socket ends the process.
"""

import mmap
import select
import signal
import socket
import struct
import sys
from typing import Any

MESSAGE = struct.Struct("<6i")  # what, height, width, window height, window width, 0
ANSWER = struct.Struct("<2i")
OPEN, SHOW = 1, 2
IDLE_SECONDS = 0.02  # between looks at the keyboard while no picture comes


def view(connection: socket.socket, memory: int, title: str) -> None:
    import cv2

    connection.sendall(ANSWER.pack(-1, 1))
    picture: Any = None
    shown, key = False, -1
    while True:
        if shown and not select.select([connection], [], [], IDLE_SECONDS)[0]:
            key = max(key, cv2.waitKey(1))
            continue
        message = connection.recv(MESSAGE.size, socket.MSG_WAITALL)
        if len(message) < MESSAGE.size:
            return
        what, height, width, window_height, window_width, _ = MESSAGE.unpack(message)
        if what == OPEN:
            picture = _map(memory, height, width)
            cv2.namedWindow(title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
            cv2.resizeWindow(title, window_width, window_height)
            shown = True
        elif _visible(cv2, title):
            cv2.imshow(title, picture)
        key = max(key, cv2.waitKey(1))
        connection.sendall(ANSWER.pack(key, _visible(cv2, title)))
        key = -1


def _map(memory: int, height: int, width: int) -> Any:
    import numpy as np

    return np.frombuffer(mmap.mmap(memory, height * width * 3), np.uint8).reshape(height, width, 3)


def _visible(cv2: Any, title: str) -> bool:
    try:
        return bool(cv2.getWindowProperty(title, cv2.WND_PROP_VISIBLE) >= 1)
    except cv2.error:  # Qt ends itself with its last window: the user has closed it
        return False


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's affair
    with socket.socket(fileno=int(sys.argv[1])) as parent:
        view(parent, int(sys.argv[2]), sys.argv[3])
