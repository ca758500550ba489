"""The screen that a window opens on. The window's process asks: libX11 and PyAV's parts of X do not get on."""

from __future__ import annotations

import ctypes
import os
import sys

LIBX11 = "libX11.so.6"
HAS_X11 = sys.platform not in ("win32", "cygwin", "darwin")


def screen_size() -> tuple[int, int] | None:
    """Return width and height of the screen in pixels; None where windows need no X display (Windows, macOS).

    The Qt inside OpenCV speaks X11 only, under Wayland through XWayland; and it aborts the process where the display
    refuses it. So Xlib is asked first: raises OSError for a display that cannot be opened, and Xlib writes the server's
    reason to standard error.
    """
    if not HAS_X11:
        return None
    display = os.environ.get("DISPLAY", "")
    if not display:
        raise OSError("DISPLAY is not set")
    xlib = ctypes.CDLL(LIBX11)
    xlib.XOpenDisplay.restype = ctypes.c_void_p
    connection = ctypes.c_void_p(xlib.XOpenDisplay(None))
    if not connection:
        raise OSError(f"the display {display} cannot be opened")
    screen = xlib.XDefaultScreen(connection)
    size = xlib.XDisplayWidth(connection, screen), xlib.XDisplayHeight(connection, screen)
    xlib.XCloseDisplay(connection)
    return size
