"""A window on the desktop that shows the pictures, before and after, through OpenCV."""

from __future__ import annotations

import logging
import mmap
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from av.video.reformatter import VideoReformatter

from stream_sr.codec.decode import SWSCALE_MATRIX
from stream_sr.codec.picture import shown_size, square_size
from stream_sr.codec.rgb import QUICK, to_rgb
from stream_sr.codec.side_by_side import Bicubic, PairShape, pair_shape
from stream_sr.errors import PictureShapeError, SinkOpenError, SinkWriteError, StreamSRError
from stream_sr.inference.model import AUTO
from stream_sr.pipeline.interfaces import Controls, SinkOptions
from stream_sr.sinks import window_process
from stream_sr.sinks.x11 import INSTEAD, ask_display
from stream_sr.system import machine
from stream_sr.system.printable import printable
from stream_sr.video.color import Matrix
from stream_sr.video.frame import Frame, StreamInfo
from stream_sr.video.orientation import Orientation

log = logging.getLogger("stream_sr")

SHARE_OF_SCREEN = 0.9  # the window opens no larger than this part of the screen; it can be resized
QUIT_KEYS = (ord("q"), 27)  # as `window_process.decode` gives them: letters in lower case
RECORD_KEY, AUTO_KEY = ord("r"), ord("a")
MODEL_KEYS = (ord("1"), ord("2"), ord("3"), ord("4"))
ANSWER_SECONDS = 10.0  # to load OpenCV on a busy machine; a picture takes milliseconds

Pixels = npt.NDArray[np.uint8]  # BGR, [H, W, 3]


class WindowSink:
    """Shows each frame as soon as it comes; q, Esc or the close button end the run (`write` returns False).

    Left of a line that the mouse and the arrow keys move is the source by bicubic, right of it the result;
    `window_process.HELP` lists the keys. PNGs go into ``record_dir``, or where the program was started. Pixels are
    converted with the stream's own matrix and range, stretched to square pixels and turned upright. The window belongs
    to a process of its own (see `window_process`), which `check` starts and `close` ends; nothing that happens to it,
    or to the display, can take this process along. See `interfaces.FrameSink` and `interfaces.Display`.
    """

    name = "window:"
    paced = True
    with_source = True

    def __init__(self, options: SinkOptions, title: str = "stream_sr") -> None:
        self._folder = options.record_dir or Path()
        self._title = title
        self._viewer: _Viewer | None = None
        self._info: StreamInfo | None = None
        self._screen = (0, 0)
        self._reformatters = (VideoReformatter(), VideoReformatter())
        self._bicubic: tuple[PairShape, Bicubic] | None = None
        self._controls: Controls | None = None
        self._figures: Mapping[str, Any] = {}
        self._said = ""  # why a wish was refused

    def check(self) -> None:
        """Raises SinkOpenError when there is no display, or when OpenCV cannot be loaded."""
        if self._viewer is None:
            self._screen = ask_display(os.environ)
            self._viewer = _Viewer(self._title, self._folder)

    def take_controls(self, controls: Controls) -> None:
        """See `interfaces.Display`."""
        self._controls = controls

    def show_figures(self, figures: Mapping[str, Any]) -> None:
        """See `interfaces.Display`: they are drawn with the next picture."""
        self._figures = figures

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
        left = None
        if self._viewer.wants_both and frame.source is not None:
            left = to_bgr(self._enlarged(frame), self._info.orientation, self._reformatters[0])
        right = to_bgr(frame, self._info.orientation, self._reformatters[1])
        answer = self._viewer.show(left, right, overlay(self._figures, self._said))
        self._handle_command(answer.key)
        return answer.visible and answer.key not in QUIT_KEYS

    def close(self) -> None:
        process, self._viewer, self._info = self._viewer, None, None
        if process is not None:
            process.close()

    def _enlarged(self, frame: Frame) -> Frame:
        form = pair_shape(frame)
        if self._bicubic is None or self._bicubic[0] != form:
            self._bicubic = form, Bicubic(frame, (frame.width, frame.height))
        return replace(frame, planes=self._bicubic[1](frame), slot=None, source=None)

    def _handle_command(self, key: int) -> None:
        """Ask for what a key means; the answer is in the overlay."""
        controls = self._figures.get("controls")
        if self._controls is None or controls is None or key not in (*MODEL_KEYS, AUTO_KEY, RECORD_KEY):
            return
        self._said = ""
        try:
            if key == RECORD_KEY:
                recording = controls["recording"] or {"on": False}
                self._controls.change("record", "off" if recording["on"] else "on")
            elif key == AUTO_KEY:
                self._controls.change("model", AUTO)
            else:
                names, number = controls["choices"]["model"]["keys"], MODEL_KEYS.index(key)
                if number < len(names):
                    self._controls.change("model", names[number])
        except StreamSRError as error:
            self._said = str(error)


def overlay(figures: Mapping[str, Any], said: str = "") -> str:
    """The figures of `telemetry` as the lines that stand on the picture, in ASCII."""
    if not figures:
        return _ascii([said] if said else [])
    engine, source, output, late = (figures[key] for key in ("engine", "source", "output", "latency_ms"))
    dropped = ", ".join(f"{why} {count}" for why, count in {**figures["dropped"], **figures["lost_in_source"]}.items())
    lines = [
        f"{engine['model']} x{engine['scale']}  {engine['backend']} {engine['precision']}{_auto(figures)}",
        f"{source['width']}x{source['height']} > {output['width']}x{output['height']}"
        f"  {figures['fps_in']:.1f} > {figures['fps_out']:.1f} fps",
        f"latency p50 {_ms(late['p50'])} p99 {_ms(late['p99'])} ms",
        f"dropped {dropped or 'none'}",
        "  ".join([f"CPU {figures['cpu']['machine']:.0f} %", *(_gpu(gpu) for gpu in figures["gpus"])]),
    ]
    controls = figures.get("controls") or {}
    recording = controls.get("recording") or {}
    if recording.get("on"):
        lines.append(f"recording {recording['seconds']:.0f} s")
    lines += [text for text in (engine.get("state"), recording.get("error"), controls.get("message"), said) if text]
    return _ascii(lines)


def _ascii(lines: list[str]) -> str:
    """OpenCV's letters are ASCII; a line stays one, whatever a file or camera is called."""
    return "\n".join(printable(line) for line in lines).encode("ascii", "replace").decode()


def _auto(figures: Mapping[str, Any]) -> str:
    auto = figures.get("auto") or {"on": False}
    return f"  auto, {auto['up']} up {auto['down']} down" if auto["on"] else ""


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _gpu(gpu: Mapping[str, Any]) -> str:
    return f"GPU {'-' if gpu['percent'] is None else gpu['percent']} %"


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the viewer answers to a picture: the next key (-1: none), and whether its window is open."""

    key: int
    visible: bool
    wants_both: bool  # whether the split is on, so that the next picture is to come with its other side


class _Viewer:
    """The process with the window, the socket to it and the memory in which it finds the picture."""

    def __init__(self, title: str, folder: Path) -> None:
        self._connection, theirs = socket.socketpair()
        self._connection.settimeout(ANSWER_SECONDS)
        self._memory = os.memfd_create("stream_sr window")
        self._pictures: Pixels | None = None  # both sides, [2, H, W, 3]
        self.wants_both = True
        self._words = tempfile.TemporaryFile()  # noqa: SIM115
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(Path(__file__).with_name("window_process.py")),
                 str(theirs.fileno()), str(self._memory), title, str(folder)],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self._words,
                pass_fds=(theirs.fileno(), self._memory),
                env=os.environ | {"QT_QPA_PLATFORM": "xcb", "QT_LOGGING_RULES": "*.warning=false",
                                  "OPENCV_FOR_THREADS_NUM": str(machine.cores())},
            )  # fmt: skip
        try:
            self._answer()
        except OSError as error:
            raise self._refusal(error) from error

    def begin(self, width: int, height: int, window_width: int, window_height: int) -> None:
        """Show an empty window for BGR pictures of a size. Raises SinkOpenError."""
        try:
            os.ftruncate(self._memory, 2 * width * height * 3)
            memory = mmap.mmap(self._memory, 2 * width * height * 3)
            self._pictures = np.frombuffer(memory, np.uint8).reshape(2, height, width, 3)
            self._connection.sendall(
                window_process.MESSAGE.pack(window_process.OPEN, height, width, window_height, window_width, 0, 0)
            )
            self._answer()
        except OSError as error:
            raise self._refusal(error) from error

    def show(self, left: Pixels | None, right: Pixels, text: str) -> _Answer:
        """Show a picture, with its other side where there is one, and lines of text on it."""
        assert self._pictures is not None
        words = text.encode()
        try:
            if left is not None:
                _place(left, self._pictures[0])
            _place(right, self._pictures[1])
            message = window_process.MESSAGE.pack(window_process.SHOW, 0, 0, 0, 0, int(left is not None), len(words))
            self._connection.sendall(message + words)
            answer = self._answer()
        except OSError as error:
            said = self._end()
            raise SinkWriteError(f"window: the window is gone ({said or error}); did the display end?") from error
        self.wants_both = answer.wants_both
        return answer

    def close(self) -> None:
        """End the process and wait for it."""
        self._end()
        if not self._words.closed:
            self._words.close()
            os.close(self._memory)

    def _answer(self) -> _Answer:
        data = self._connection.recv(window_process.ANSWER.size, socket.MSG_WAITALL)
        if len(data) < window_process.ANSWER.size:
            raise ConnectionError("its process ended")
        key, visible, both = window_process.ANSWER.unpack(data)
        return _Answer(key, bool(visible), bool(both))

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
            hint = f"does the desktop session work? If not, {INSTEAD}"
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


def _place(pixels: Pixels, memory: Pixels) -> None:
    """Copy a picture into the memory of the window, which is of one size. Raises PictureShapeError for another."""
    if pixels.shape != memory.shape:
        raise PictureShapeError(f"a picture of {pixels.shape} came to a window of {memory.shape}")
    np.copyto(memory, pixels)


def to_bgr(frame: Frame, orientation: Orientation, reformatter: VideoReformatter) -> npt.NDArray[np.uint8]:
    """The frame as BGR ``[H, W, 3]`` with square pixels, upright. See `to_rgb`."""
    size = square_size(frame.width, frame.height, frame.sample_aspect)
    pixels = to_rgb(frame, "bgr24", size=size, flags=QUICK, reformatter=reformatter)
    return np.ascontiguousarray(orientation.upright(pixels))
