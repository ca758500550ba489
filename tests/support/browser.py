"""What the tests of the page share: a feed of known pictures into a real `WebSink`, and ways to look at the canvas."""

from __future__ import annotations

import base64
import functools
import io
import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
from peers import need
from PIL import Image

from stream_sr.cli.screenshot import find_chromium
from stream_sr.codec.rgb import to_rgb
from stream_sr.codec.side_by_side import Bicubic
from stream_sr.pipeline.interfaces import Controls, SinkOptions
from stream_sr.pipeline.threads import Worker
from stream_sr.sinks.web.sink import WebSink
from stream_sr.video import barcode
from stream_sr.video.color import ColorInfo, Matrix, Range, Siting
from stream_sr.video.frame import Frame, StreamInfo
from stream_sr.video.planes import read_only

WIDTH, HEIGHT = 640, 360  # of the result; the source is half of it
BASE = Fraction(1, 1000)
BT601 = ColorInfo(Matrix.SMPTE170M, Range.LIMITED, 6, 6, Siting.LEFT)
INFO = StreamInfo(WIDTH, HEIGHT, BASE, Fraction(15), color=BT601, live=True, name="feed")
PATIENCE_SECONDS = 30.0

Picture = npt.NDArray[np.uint8]  # [H, W, 3], RGB
Planes = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], npt.NDArray[np.uint8]]


def chromium() -> str:
    """Path of Debian's browser, or of another Chromium."""
    found = find_chromium()
    need(found is not None, "Chromium", "chromium")
    assert found is not None
    return found


@functools.cache
def scene() -> npt.NDArray[np.float64]:
    """Luma of a wide scene with detail that bicubic interpolation loses, ``[HEIGHT, 2 * WIDTH]``, 40 to 215."""
    y, x = np.mgrid[0:HEIGHT, 0 : 2 * WIDTH]
    waves = np.sin(x / 37) * 30 + np.sin((x * 3 + y * 5) / 90) * 25
    fine = 30 * np.sin(x * math.pi / 2.3) * (np.sin(y / 19) > 0) + 25 * np.sin(y * math.pi / 2.1) * (np.sin(x / 31) > 0)
    return np.clip(128 + waves + fine, 40, 215)


def pair(number: int, clock_ns: int = 0) -> Frame:
    """Frame ``number`` with its source, both with the barcode: the scene moved by 3 pixels a frame."""
    at = number * 3 % WIDTH
    luma = scene()[:, at : at + WIDTH]
    small = luma.reshape(HEIGHT // 2, 2, WIDTH // 2, 2).mean(axis=(1, 3))
    frames = []
    for plane in (small, luma):
        y = np.rint(plane).astype(np.uint8)
        barcode.burn(y, number, clock_ns)
        rows, columns = y.shape[0] // 2, y.shape[1] // 2
        u = np.broadcast_to(np.linspace(90, 160, columns), (rows, columns)).astype(np.uint8)
        v = np.broadcast_to(np.linspace(170, 100, rows)[:, None], (rows, columns)).astype(np.uint8)
        frames.append(
            Frame(
                read_only((y, u, v)),
                pts=number * 67,
                time_base=BASE,
                duration=67,
                number=number,
                color=BT601,
                captured_ns=clock_ns,
            )
        )
    return replace(frames[1], source=frames[0])


def sides(frame: Frame) -> tuple[Picture, Picture]:
    """What is to be seen of a frame, left and right, as RGB."""
    plain = Bicubic(frame, (frame.width, frame.height))(frame)
    return to_rgb(replace(frame, planes=plain, source=None)), to_rgb(frame)


class Feed:
    """Writes frames into a sink by the clock, on a thread of its own, until it is closed."""

    def __init__(
        self,
        port: int = 0,
        *,
        make: Callable[[int, int], Frame] = pair,
        info: StreamInfo = INFO,
        controls: Controls | None = None,
        first: int = 0,
        fps: float = 15.0,
        **options: Any,
    ) -> None:
        self.sink = WebSink(f"web:{port}", SinkOptions(**options))
        if controls is not None:
            self.sink.take_controls(controls)
        self.sink.open(info)
        self.number = first
        self.held = threading.Event()  # while set no frame is written
        self.slowest = 0.0  # seconds that a write took at most
        self._make, self._period = make, 1 / fps
        self._stop = threading.Event()
        self._worker = Worker("feed", self._run)

    @property
    def url(self) -> str:
        return self.sink.url

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            due = max(due + self._period, time.monotonic() - self._period)
            if self.held.is_set():
                continue
            frame = self._make(self.number, time.monotonic_ns())
            began = time.monotonic()
            self.sink.write(frame)
            self.slowest = max(self.slowest, time.monotonic() - began)
            self.number += 1

    def close(self) -> None:
        self._stop.set()
        self._worker.join()
        self.sink.close()
        if self._worker.error is not None:
            raise self._worker.error

    def __enter__(self) -> Feed:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def wait_for(page: Any, expression: str, seconds: float = PATIENCE_SECONDS) -> Any:
    """Evaluate in the page until it is true; its value. Playwright's own needs ``eval``, which the page forbids."""
    deadline = time.monotonic() + seconds
    while True:
        value = page.evaluate(expression)
        if value:
            return value
        if time.monotonic() > deadline:
            state = page.evaluate("[streamSr.shown, streamSr.jpeg, document.getElementById('state').textContent]")
            raise AssertionError(f"not true within {seconds:g} s: {expression}; the page is at {state}")
        page.wait_for_timeout(50)


def wait_for_pictures(page: Any, more: int = 3) -> None:
    """Wait until some more pictures have been drawn."""
    before = page.evaluate("streamSr.shown.pictures")
    wait_for(page, f"streamSr.shown.pictures >= {before + more}")


def canvas(page: Any) -> Picture:
    """The canvas as it is."""
    return from_data_url(page.evaluate("document.getElementById('picture').toDataURL('image/png')"))


def from_data_url(url: str) -> Picture:
    return from_png(base64.b64decode(url.partition(",")[2]))


def from_png(data: bytes) -> Picture:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def luma(picture: Picture) -> npt.NDArray[np.uint8]:
    return np.rint(picture @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)


def figures(model: str = "tiny", recording: bool = False) -> Mapping[str, Any]:
    choice = {"value": model, "values": ["tiny", "fast", "bad"], "keys": ["tiny", "fast"]}
    return {
        "source": {"name": "feed", "width": 320, "height": 180}, "output": {"width": WIDTH, "height": HEIGHT},
        "engine": {"model": model, "scale": 2, "backend": "openvino", "precision": "bf16", "device": "CPU"},
        "fps_in": 15.0, "fps_out": 14.5, "latency_ms": {"p50": 12.34, "p99": None}, "dropped": {"overload": 3},
        "lost_in_source": {"corrupt_packets": 1}, "cpu": {"process": 10.0, "machine": 20.0}, "memory_mib": 150.0,
        "gpus": [{"name": "GPU X", "percent": 33}],
        "controls": {"choices": {"model": choice}, "message": "",
                     "recording": {"on": recording, "file": "", "seconds": 2.0, "error": ""}},
    }  # fmt: skip
