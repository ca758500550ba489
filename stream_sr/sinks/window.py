"""A window on the desktop that shows the pictures, before and after, through OpenCV."""

from __future__ import annotations

import logging
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from stream_sr.system import machine
from stream_sr.system.memory import create_shared
from stream_sr.system.printable import printable
from stream_sr.system.processes import start_with_socket
from stream_sr.video.color import Matrix
from stream_sr.video.frame import Frame, StreamInfo
from stream_sr.video.orientation import Orientation

if TYPE_CHECKING:
    from multiprocessing.shared_memory import SharedMemory

log = logging.getLogger("stream_sr")

SHARE_OF_SCREEN = 0.9  # the window opens no larger than this part of the screen; it can be resized
QUIT_KEYS = (ord("q"), 27)  # as `window_process.decode` gives them: letters in lower case
RECORD_KEY, AUTO_KEY = ord("r"), ord("a")
MODEL_KEYS = (ord("1"), ord("2"), ord("3"), ord("4"))
UNKNOWN_SCREEN = (1280, 720)  # assumed where the system does not report the size of its screen
OUTPUT_LINES = 3  # of the process, that an error quotes
INSTEAD = "see it in a browser (--web 8080, or the output web:8080), or choose another output, e.g. rtsp://@:8654/live"
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
        self._process: _WindowProcess | None = None
        self._info: StreamInfo | None = None
        self._reformatters = (VideoReformatter(), VideoReformatter())
        self._bicubic: tuple[PairShape, Bicubic] | None = None
        self._controls: Controls | None = None
        self._figures: Mapping[str, Any] = {}
        self._said = ""  # why a request was refused

    def check(self) -> None:
        """Raises SinkOpenError when there is no display, or when OpenCV cannot be loaded."""
        if self._process is None:
            self._process = _WindowProcess(self._title, self._folder)

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
        assert self._process is not None
        width, height = shown_size(info)
        screen = self._process.screen if all(self._process.screen) else UNKNOWN_SCREEN
        shrink = min(1.0, *(SHARE_OF_SCREEN * room / side for room, side in zip(screen, (width, height), strict=True)))
        self._process.begin(width, height, max(1, round(width * shrink)), max(1, round(height * shrink)))
        self._info = info

    def write(self, frame: Frame) -> bool:
        if self._process is None or self._info is None:
            raise SinkWriteError("window: is not open")
        left = None
        if self._process.wants_both and frame.source is not None:
            left = to_bgr(self._enlarged(frame), self._info.orientation, self._reformatters[0])
        right = to_bgr(frame, self._info.orientation, self._reformatters[1])
        answer = self._process.show(left, right, overlay(self._figures, self._said))
        self._handle_command(answer.key)
        return answer.visible and answer.key not in QUIT_KEYS

    def close(self) -> None:
        process, self._process, self._info = self._process, None, None
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
class _Acknowledgement:
    """What the window's process answers to each message."""

    key: int  # -1: none
    visible: bool  # whether the window is still open
    wants_both: bool  # whether the split is on, so that the next frame is to come with its other side
    buffer: int  # the one that may be filled next; the other is shown


class _WindowProcess:
    """The process with the window, the socket to it and the memory that both share."""

    def __init__(self, title: str, folder: Path) -> None:
        self._memory: SharedMemory | None = None
        self._buffers: Pixels | None = None  # [buffer, side, H, W, 3]; the process shows one, the other is ours
        self._free = 0  # the one that is ours
        self.wants_both = True
        self._output = tempfile.TemporaryFile()  # noqa: SIM115
        environment = {
            "QT_QPA_PLATFORM": "xcb",
            "QT_LOGGING_RULES": "*.warning=false",
            "OPENCV_FOR_THREADS_NUM": str(machine.cores()),
        }
        self._process, self._connection = start_with_socket(
            [sys.executable, "-P", window_process.__file__, title, str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._output,
            env=os.environ | environment,
        )
        self._connection.settimeout(ANSWER_SECONDS)
        try:
            hello = window_process.receive(self._connection, window_process.HELLO.size)
            self.screen = window_process.HELLO.unpack(hello)
        except OSError as error:
            raise self._refusal(error) from error

    def begin(self, width: int, height: int, window_width: int, window_height: int) -> None:
        """Show an empty window for BGR pictures of a size. Raises SinkOpenError."""
        shape = window_process.BUFFERS, window_process.SIDES, height, width, 3
        size = math.prod(shape)
        self._release()
        try:
            memory = create_shared(size)
        except OSError as error:
            self.close()
            raise SinkOpenError(f"window: frames cannot be passed to it: {error.strerror}") from error
        self._memory = memory
        try:
            assert memory.buf is not None
            self._buffers = np.frombuffer(memory.buf, np.uint8, count=size).reshape(shape)
            sizes = height, width, window_height, window_width
            self._send(window_process.OPEN, sizes=sizes, text=memory.name)
        except OSError as error:
            raise self._refusal(error) from error
        finally:
            memory.unlink()  # both processes have opened it, or one has failed: nothing is left behind

    def show(self, left: Pixels | None, right: Pixels, text: str) -> _Acknowledgement:
        """Show a frame, with its other side where there is one, and lines of text on it.

        Raises SinkWriteError when the process has ended, PictureShapeError for another size than that of `begin`.
        """
        assert self._buffers is not None
        for side, pixels in enumerate((left, right)):
            if pixels is not None and pixels.shape != self._buffers.shape[2:]:
                raise PictureShapeError(f"a picture of {pixels.shape} came to a window of {self._buffers.shape[2:]}")
            if pixels is not None:
                np.copyto(self._buffers[self._free, side], pixels)
        try:
            return self._send(window_process.SHOW, both=left is not None, text=text)
        except OSError as error:
            raise SinkWriteError(f"window: the window is gone ({self._end(error)}); did the display end?") from error

    def close(self) -> None:
        """End the process and wait for it."""
        self._end()
        self._release()
        self._output.close()

    def _send(
        self, what: int, *, sizes: tuple[int, int, int, int] = (0, 0, 0, 0), both: bool = False, text: str
    ) -> _Acknowledgement:
        """Send a message and wait for its acknowledgement. Raises OSError."""
        words = text.encode()
        message = window_process.MESSAGE.pack(what, *sizes, self._free, both, len(words))
        self._connection.sendall(message + words)
        data = window_process.receive(self._connection, window_process.ACKNOWLEDGEMENT.size)
        key, visible, both, self._free = window_process.ACKNOWLEDGEMENT.unpack(data)
        self.wants_both = bool(both)
        return _Acknowledgement(key, bool(visible), bool(both), self._free)

    def _release(self) -> None:
        """Close the shared memory; it goes when the other process has closed it too."""
        memory, self._memory, self._buffers = self._memory, None, None
        if memory is not None:
            memory.close()

    def _refusal(self, error: OSError) -> SinkOpenError:
        """End the process, which has not come up; the reason and what to do, in one line."""
        output = self._end(error)
        self.close()
        if "DISPLAY is not set" in output:
            hint = f"run it in a desktop session or with ssh -X, {INSTEAD}"
            return SinkOpenError(f"window: there is no display ({output}); {hint}")
        if "cannot be opened" in output:
            hint = f"run it in a desktop session, as its user, or {INSTEAD}"
        elif "libX11" in output:
            hint = "install its system library: apt-get install libx11-6"
        elif "libGL" in output:
            hint = "install its system library: apt-get install libgl1"
        elif "cannot open shared object" in output:
            hint = "install its system libraries: apt-get install libgl1 libglib2.0-0"
        elif "No module named" in output:
            hint = "install it: pip install opencv-python"
        elif "not implemented" in output:
            hint = "this OpenCV is built without windows; pip install opencv-python (not -headless)"
        else:
            hint = f"does the desktop session work? If not, {INSTEAD}"
        return SinkOpenError(f"window: OpenCV cannot open a window ({output}); {hint}")

    def _end(self, error: OSError | None = None) -> str:
        """End the process, by force if it does not answer; the last lines of its output, or how it ended, as one."""
        self._connection.close()
        silent = f"it did not answer within {ANSWER_SECONDS:g} s" if isinstance(error, TimeoutError) else ""
        try:
            self._process.wait(0 if silent else ANSWER_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._output.closed:
            return ""
        self._output.seek(0)
        lines = self._output.read().decode("utf-8", "replace").splitlines()
        last = "; ".join([line.strip() for line in lines if line.strip()][-OUTPUT_LINES:])
        return printable(last) or silent or f"its process ended with code {self._process.returncode}"


def to_bgr(frame: Frame, orientation: Orientation, reformatter: VideoReformatter) -> npt.NDArray[np.uint8]:
    """The frame as BGR ``[H, W, 3]`` with square pixels, upright. See `to_rgb`."""
    size = square_size(frame.width, frame.height, frame.sample_aspect)
    pixels = to_rgb(frame, "bgr24", size=size, flags=QUICK, reformatter=reformatter)
    return np.ascontiguousarray(orientation.upright(pixels))
