"""The demonstration: a camera, the filter and a viewer, three processes on this machine, over real RTSP.

The camera burns its clock into every picture; the viewer decodes what the filter serves and reads the clock back, so
the glass-to-glass latency is measured in the picture itself.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from stream_sr.app.session import RunHooks, run
from stream_sr.cli.screenshot import find_chromium
from stream_sr.config import Config
from stream_sr.errors import SinkOpenError, SourceOpenError, StreamSRError
from stream_sr.evaluation.before_after import ExampleFrames
from stream_sr.pipeline.pipeline import Pipeline
from stream_sr.pipeline.stages import measure
from stream_sr.pipeline.stats import Stats
from stream_sr.pipeline.threads import Worker
from stream_sr.sources import open_source
from stream_sr.system import machine
from stream_sr.system.processes import OWN_GROUP, ended_by_terminate, started_ns
from stream_sr.video.timing import MonotonicClock

log = logging.getLogger("stream_sr")

SIZE = "640x360@30"
PATIENCE_SECONDS = 30.0  # with a process that is starting, on a small or busy machine
PAGE_PORT = 8080
SCREENSHOT_SECONDS = 60.0  # at most
LEFT_NOTHING = (
    "the viewer process left no measurement; where no line above says why, the machine was too busy: try again"
)
TRY_NEXT = """\
Try next:
  {0} preview 0 --web 8080                             your webcam, before and after in the browser
  {0} restream rtsp://CAMERA/stream rtsp://@:8654/sr   your own camera, served at twice the size
  {0} run FILE.mp4 LARGE.mp4                           a file, with its sound"""


def demo(out: Path, seconds: float, config: Config, *, started: Callable[[Any], None] = lambda _: None) -> str:
    """Run the demonstration and write ``demo.mp4``, ``before_after.png`` and ``report.json`` into ``out``.

    The address of the page is told first. Where Chromium is installed, ``page.png`` shows it; that is taken afterwards,
    in a run of its own, because a browser on this machine would be measured too.

    Returns the final report as text. Raises the first failure of the filter; a camera or viewer that fails is one line
    in the log.
    """
    began_ns = started_ns()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SinkOpenError(f"--out {out} cannot be made: {error.strerror}; give a folder of your own") from error
    video, picture, report_file = (out / name for name in ("demo.mp4", "before_after.png", "report.json"))
    camera_port, served_port, page_port = free_port(), free_port(), free_port(PAGE_PORT)
    page = f"web:{page_port}"
    log.info("before and after, live in your browser: http://127.0.0.1:%d/", page_port)
    camera_url = f"rtsp://127.0.0.1:{camera_port}/camera"
    served_url = f"rtsp://127.0.0.1:{served_port}/demo"
    patience = max(config.read_timeout, PATIENCE_SECONDS)  # with a camera that is only starting, on a busy machine
    config = replace(config, overwrite=True, duration=seconds, read_timeout=patience)
    pairs = ExampleFrames(wanted=round(min(seconds / 2, 3) * 30))  # a place that shows the motorcycle
    runs: list[Pipeline] = []

    def start(pipeline: Pipeline) -> None:
        runs.append(pipeline)
        started(pipeline)

    with child(
        "camera",
        "run",
        f"synthetic:photos,{SIZE}",
        f"rtsp://@:{camera_port}/camera",
        "--backend",
        "bicubic",
        "--scale",
        "1",
    ):
        wait_for_port(camera_port, PATIENCE_SECONDS)
        with child("viewer", "view", served_url, str(out / "viewer.json"), module="stream_sr.cli.demo") as viewer:
            log.info("or in a player: ffplay -flags low_delay %s", served_url)
            hooks = RunHooks(started=start, seen=pairs.see)
            outcome = run(camera_url, [f"rtsp://@:{served_port}/demo", str(video), page], config, hooks)
            if outcome.error is not None:
                raise outcome.error
            with suppress(subprocess.TimeoutExpired):  # what it has left undone is noticed below
                viewer.wait(PATIENCE_SECONDS)
        if find_chromium() is not None and not runs[0].stopping:
            _take_screenshot(camera_url, page, out / "page.png", config, start)
    seen = _take(out / "viewer.json")
    report = outcome.report | {
        "glass_to_glass_ms": seen["glass_to_glass_ms"],
        "viewer": seen["viewer"],
        "first_frame_seconds": round((seen["first_frame_ns"] - began_ns) / 1e9, 3) if seen["first_frame_ns"] else None,
    }
    report_file.write_text(json.dumps(report, indent=2) + "\n")
    pairs.save(picture, model=f"{report['model']} x{report['scale']}")
    files = [video, picture, report_file, *([out / "page.png"] if len(runs) > 1 else [])]
    return (
        format_report(report, [file for file in files if file.exists()]) + "\n\n" + TRY_NEXT.format(machine.program())
    )


def _take_screenshot(camera: str, page: str, file: Path, config: Config, started: Callable[[Pipeline], None]) -> None:
    """Run the filter for the page alone until there is a picture of it."""
    url = f"http://127.0.0.1:{page.removeprefix('web:')}/"
    file.unlink(missing_ok=True)
    with child("screenshot", url, str(file), module="stream_sr.cli.screenshot") as browser:
        ended: list[Worker] = []

        def start(pipeline: Pipeline) -> None:
            started(pipeline)
            ended.append(Worker("screenshot", partial(_stop_after, browser, pipeline)))

        outcome = run(camera, [page], replace(config, duration=SCREENSHOT_SECONDS), RunHooks(start, show_status=False))
        if browser.poll() is None:
            browser.terminate()
        for worker in ended:
            worker.join()
        if outcome.error is not None:
            raise outcome.error


def _stop_after(process: subprocess.Popen[bytes], pipeline: Pipeline) -> None:
    process.wait()
    pipeline.stop()


def format_report(report: dict[str, Any], files: list[Path]) -> str:
    """The final figures, for a person."""
    source, output = report["source"], report["output"]
    dropped = ", ".join(f"{reason} {count}" for reason, count in report["dropped"].items()) or "none"
    first = report["first_frame_seconds"]
    arrival = "never reached the viewer" if first is None else f"{first:.1f} s after the start, at the viewer"
    sizes = f"{source['width']}x{source['height']} > {output['width']}x{output['height']}"
    rows = [
        ("picture", f"{sizes}, {report['fps']:.1f} fps"),
        ("engine", f"{report['model']} x{report['scale']} on {report['backend']} {report['precision']}"),
        ("device", report["device"]),
        ("frames", f"{report['frames_out']} of {report['frames_in']}, dropped: {dropped}"),
        ("first picture", arrival),
        ("latency", _percentiles(report["latency_ms"]) + ", capture to output"),
        ("glass to glass", _percentiles(report["glass_to_glass_ms"]) + ", read from the picture at the viewer"),
        *((f"  {name}", _percentiles(stage)) for name, stage in report["stages_ms"].items()),
        *(("wrote", str(file)) for file in files),
    ]
    return "\n".join(f"{name:<16}{text}" for name, text in rows)


def _percentiles(block: dict[str, float]) -> str:
    if not block.get("count"):
        return "not measured"
    return f"p50 {block['p50']:6.1f}  p95 {block['p95']:6.1f}  p99 {block['p99']:6.1f} ms"


# -- processes ---------------------------------------------------------------------------------------------------


@contextmanager
def child(name: str, *arguments: str, module: str = "stream_sr") -> Iterator[subprocess.Popen[bytes]]:
    """A process of this program, ended with the block. It does not get the terminal's Ctrl-C: the block ends it.

    Options in the environment are for the filter, not for its children.
    """
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("STREAM_SR_") or name == "STREAM_SR_CACHE"
    }
    quiet = subprocess.DEVNULL
    with tempfile.TemporaryFile() as words:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=quiet,
            stdout=quiet,
            stderr=words,
            env=environment,
            **OWN_GROUP,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.returncode != 0 and not ended_by_terminate(process.returncode):
                words.seek(0)
                last = words.read().decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
                log.warning("the %s process ended with %d: %s", name, process.returncode, last[0])


def free_port(wanted: int = 0) -> int:
    """A TCP port that nobody listens on now: the wanted one, if it is free."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(port: int, seconds: float) -> None:
    """Wait until somebody listens. Raises SourceOpenError."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise SourceOpenError(f"nothing listened on port {port} within {seconds:g} s")


def _take(path: Path) -> dict[str, Any]:
    """Read a file of the viewer process and remove it."""
    try:
        text = path.read_text()
    except OSError as error:
        raise SourceOpenError(LEFT_NOTHING) from error
    path.unlink()
    return dict(json.loads(text))


def view(url: str, file: Path) -> int:
    """The viewer: decode what is served until it ends, read the clocks, write the figures."""
    wait_for_port(int(url.split(":")[2].split("/")[0]), 2 * PATIENCE_SECONDS)
    stats, first_ns, frames = Stats(), 0, 0
    source = open_source(url)
    try:
        for _ in measure(source.frames(), clock=MonotonicClock(), stats=stats):
            first_ns = first_ns or time.monotonic_ns()
            frames += 1
    except StreamSRError as error:
        log.debug("the stream ended: %s", error)  # the filter's server has closed: the end of the demonstration
    finally:
        source.close()
    summary = stats.summary()
    result = {
        "glass_to_glass_ms": summary["stages_ms"].get("glass_to_glass", {"count": 0}),
        "viewer": {"frames": frames, "unreadable_barcodes": summary.get("unreadable_barcodes", 0)},
        "first_frame_ns": first_ns,
    }
    file.write_text(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(view(sys.argv[2], Path(sys.argv[3])))
