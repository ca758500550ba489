"""How old a frame is in a browser: the filter's page, and MJPEG of the same frames, in turns in one run.

    python -m benchmarks page [--seconds 20] [--rounds 3] [--model fast] [--size 640x360@30]

The synthetic camera burns its clock into each picture. The page draws it on its canvas; where it has been drawn the
clock is read back from the canvas, in the page, and compared with the same clock there. MJPEG is the picture as JPEG
(quality 90) in an ``img``, drawn on a canvas as soon as another one is there. The filter runs all the time; only one
of the two is watched at a time. Chromium needs to be installed.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import sync_playwright

from benchmarks.interface import Benchmark, Measurement, MeasurementFailed
from stream_sr.bench.engine import spread
from stream_sr.cli.demo import free_port, wait_for_port
from stream_sr.cli.screenshot import find_chromium

BOUNDARY = b"--frame\r\nContent-Type: image/jpeg\r\n\r\n"

# Reads the barcode (stream_sr/video/barcode.py) from the middle of each cell of a canvas; ages in ms, by its clock.
READER = """
window.ages = [];
window.readAge = (ink, width, height, offset) => {
  const now = performance.timeOrigin + performance.now() - offset;
  const rows = [0.5, 1.5].map(row => ink.getImageData(0, Math.floor(row * height / 45), width, 1).data);
  const levels = [];
  for (const row of rows) for (let i = 0; i < 32; i++) levels.push(row[4 * Math.floor((i + 0.5) * width / 32) + 1]);
  const middle = (Math.min(...levels) + Math.max(...levels)) / 2, bits = levels.map(level => level > middle ? 1 : 0);
  const number = (from, count) => bits.slice(from, from + count).reduce((sum, bit) => sum * 2 + bit, 0);
  let crc = 0xffff;
  for (const bit of bits.slice(0, 48)) {
    const carry = (crc >> 15 & 1) ^ bit;
    crc = (crc << 1 & 0xffff) ^ (carry ? 0x1021 : 0);
  }
  if (crc !== number(48, 16)) return window.ages.push([-1, 0]);
  let age = (Math.round(now * 10) - number(16, 32)) % 2 ** 32;
  if (age < 0) age += 2 ** 32;
  window.ages.push([number(0, 16), age / 10]);
};
"""
OURS = """
offset => {
  let last = -1;
  const canvas = document.getElementById("picture"), ink = canvas.getContext("2d");
  const look = () => {
    requestAnimationFrame(look);
    if (streamSr.shown.pictures === last) return;
    last = streamSr.shown.pictures;
    readAge(ink, canvas.width, canvas.height, offset);
  };
  look();
}
"""
MJPEG = """
<body><img id="source"><canvas id="picture"></canvas></body>
"""
MJPEG_LOOP = """
offset => {
  const image = document.getElementById("source"), canvas = document.getElementById("picture");
  const ink = canvas.getContext("2d");
  const look = () => {
    requestAnimationFrame(look);
    if (!image.naturalWidth) return;
    if (canvas.width !== image.naturalWidth) { canvas.width = image.naturalWidth; canvas.height = image.naturalHeight; }
    ink.drawImage(image, 0, 0);
    readAge(ink, canvas.width, canvas.height, offset);
  };
  look();
}
"""


class Pictures:
    """The newest picture that the filter wrote as y4m, as JPEG for whoever waits for one."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._changed = threading.Condition()
        self._planes: tuple[bytes, int, int] | None = None
        self._number = 0

    def read(self) -> None:
        """Read to the end of the stream."""
        head = self._stream.readline().split()
        width, height = (int(next(word[1:] for word in head if word[:1] == mark)) for mark in (b"W", b"H"))
        size = width * height + 2 * ((width + 1) // 2) * ((height + 1) // 2)
        while self._stream.readline():
            data = self._stream.read(size)
            with self._changed:
                self._planes, self._number = (data, width, height), self._number + 1
                self._changed.notify_all()

    def after(self, number: int) -> tuple[int, bytes]:
        """The next picture after ``number`` as JPEG, and its number."""
        with self._changed:
            self._changed.wait_for(lambda: self._number > number)
            assert self._planes is not None
            (data, width, height), number = self._planes, self._number
        luma = np.frombuffer(data, np.uint8, width * height).reshape(height, width)
        chroma = np.frombuffer(data, np.uint8, offset=width * height).reshape(2, height // 2, width // 2)
        planes = [luma, *(plane.repeat(2, axis=0).repeat(2, axis=1) for plane in chroma)]
        packed = io.BytesIO()
        Image.fromarray(np.stack(planes, axis=2), "YCbCr").save(packed, "JPEG", quality=90)
        return number, packed.getvalue()


@contextmanager
def mjpeg_server(pictures: Pictures) -> Iterator[str]:
    """Serves the page and the endless picture, as cameras do."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            if self.path == "/":
                self.send_header("Content-Type", "text/html")
                self.end_headers()
                self.wfile.write(MJPEG.encode())
                return
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            number = 0
            try:
                while True:
                    number, data = pictures.after(number)
                    self.wfile.write(BOUNDARY + data + b"\r\n")
            except OSError:
                return

        def log_message(self, *words: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def clock_offset_ms() -> float:
    """Wall clock less monotonic clock: the browser knows the first, the barcode says the second."""
    best: tuple[int, int] = (1 << 62, 0)
    for _ in range(50):
        before, wall, after = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
        best = min(best, (after - before, wall - (before + after) // 2))
    return best[1] / 1e6


def watch(browser: Any, url: str, loop: str, seconds: float, image: str = "") -> dict[str, Any]:
    """Watch one page; ages of the pictures when they were first on the canvas."""
    page = browser.new_context(viewport={"width": 1300, "height": 820}).new_page()
    page.add_init_script(READER)
    page.goto(url)
    if image:
        page.evaluate("address => { document.getElementById('source').src = address; }", image)
    page.evaluate(loop, clock_offset_ms())
    page.wait_for_timeout(3000)
    page.evaluate("ages.length = 0")
    began = time.monotonic()
    page.wait_for_timeout(seconds * 1000)
    took, ages = time.monotonic() - began, page.evaluate("ages")
    page.context.close()
    first = {int(number): age for number, age in reversed(ages) if number >= 0}
    return {"ages_ms": list(first.values()), "seconds": took, "unreadable": sum(number < 0 for number, _ in ages)}


def summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    ages = [round(age * 1e6) for one in rounds for age in one["ages_ms"]]
    seconds = sum(one["seconds"] for one in rounds)
    return {
        "latency_ms": spread(ages),
        "fps": round(len(ages) / seconds, 2),
        "frames": len(ages),
        "unreadable": sum(one["unreadable"] for one in rounds),
    }


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=20, help="of each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="fast")
    parser.add_argument("--size", default="640x360@30")


def measure(parsed: argparse.Namespace) -> Measurement:
    chromium = find_chromium()
    if chromium is None:
        raise MeasurementFailed("Chromium is not installed; on Debian: apt-get install chromium")
    port = free_port()
    engine = ["--backend", "bicubic"] if parsed.model == "bicubic" else ["--model", parsed.model]
    words = [sys.executable, "-m", "stream_sr", "run", f"synthetic:photos,{parsed.size}", f"web:{port}", "-", *engine]
    program = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    pictures = Pictures(program.stdout)
    reader = threading.Thread(target=pictures.read)
    reader.start()
    rounds: dict[str, list[dict[str, Any]]] = {"page": [], "mjpeg": []}
    try:
        wait_for_port(port, 60)
        with sync_playwright() as playwright, mjpeg_server(pictures) as mjpeg:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            version = browser.version
            for _ in range(parsed.rounds):
                rounds["page"].append(watch(browser, f"http://127.0.0.1:{port}/", OURS, parsed.seconds))
                rounds["mjpeg"].append(watch(browser, mjpeg, MJPEG_LOOP, parsed.seconds, f"{mjpeg}video"))
            browser.close()
    finally:
        program.terminate()
        reader.join()
        program.wait(30)
    figures = {name: summary(found) for name, found in rounds.items()}
    for name, row in figures.items():
        print(f"{name}: {row}")
    return Measurement({"model": parsed.model, "size": parsed.size, **figures, "browser": f"Chromium {version}"})


ENTRY = Benchmark(add_options=add_options, measure=measure)
