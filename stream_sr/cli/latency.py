"""Glass to glass through the real chain: a camera process, the filter, a viewer process, and a clock in the picture.

The camera burns the moment into each picture. The filter reads it where a picture comes in and where its result is
there; the viewer reads it when it has decoded what the filter sent. So every picture tells where its time went.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from stream_sr.app.session import RunHooks, run
from stream_sr.cli.demo import LEFT_NOTHING, child, free_port, wait_for_port
from stream_sr.config import Config
from stream_sr.errors import ConfigError, SourceOpenError, StreamSRError
from stream_sr.pipeline.interfaces import SourceOptions
from stream_sr.pipeline.stats import Stats
from stream_sr.sinks import is_published, is_served
from stream_sr.sources import open_source
from stream_sr.system import machine
from stream_sr.system.printable import redact
from stream_sr.video import barcode
from stream_sr.video.frame import Frame

SOURCE = "synthetic:photos,640x360@30"
WARM_UP_SECONDS = 2.0  # at the beginning, not counted: caches, the first keyframes
PATIENCE_SECONDS = 20.0

log = logging.getLogger("stream_sr")


class LatencyProbe:
    """What the filter's own process reads: from the camera's glass to here, and to the result. One thread."""

    def __init__(self) -> None:
        self.stats = Stats()
        self.sequences: dict[int, int] = {}  # sequence number: when the result was there
        self.burnt: dict[int, int] = {}  # ... and when it was burnt, to 0.1 ms
        self._began = time.monotonic_ns()

    def see(self, before: Frame, after: Frame) -> None:
        """A picture and its result."""
        now = time.monotonic_ns()
        reading = barcode.read(before.planes[0])
        if reading is None:
            self.stats.count("unreadable_barcodes")
        elif now - self._began > WARM_UP_SECONDS * 1e9:
            self.stats.stage("camera", max(0, reading.age_ns(before.captured_ns)))
            self.stats.stage("filter", now - before.captured_ns)
            self.sequences[reading.sequence] = now
            self.burnt[reading.sequence] = now - reading.age_ns(now)


def measure(
    source: str, sink: str, seconds: float, config: Config, *, started: Callable[[Any], None] = lambda _: None
) -> dict[str, Any]:
    """Run the chain for ``seconds`` and report p50, p95 and p99 of every stage in ms.

    ``source`` is ``synthetic:...``, which becomes a camera process served over RTSP, or a camera that shows such a
    clock and runs on this machine's. ``sink`` is our server (``rtsp://@...``), another that is published to, or
    ``null:`` for the filter alone. Raises what the filter raises, and SourceOpenError where no clock was seen.
    """
    if not (is_served(sink) or is_published(sink) or sink == "null:"):
        raise ConfigError(f"{redact(sink)} cannot be watched; give rtsp://@:PORT/PATH, rtsp://HOST/PATH or null:")
    marks = LatencyProbe()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if source.startswith("synthetic:"):
            port = free_port()
            stack.enter_context(
                child("camera", "run", source, f"rtsp://@:{port}/camera", "--backend", "bicubic", "--scale", "1")
            )
            wait_for_port(port, PATIENCE_SECONDS)
            source = f"rtsp://127.0.0.1:{port}/camera"
            config = replace(config, read_timeout=max(config.read_timeout, PATIENCE_SECONDS))  # it is only starting
        viewer = None
        if sink != "null:":
            url = _watched(sink)
            words = ("view", url, str(folder / "viewer.json"), config.rtsp_transport)
            viewer = stack.enter_context(child("viewer", *words, module="stream_sr.cli.latency"))
        config = replace(config, duration=seconds + WARM_UP_SECONDS)
        outcome = run(source, [sink], config, RunHooks(started=started, seen=marks.see))
        if outcome.error is not None:
            raise outcome.error
        seen: dict[str, int] = {}
        if viewer is not None:
            with suppress(Exception):
                viewer.wait(PATIENCE_SECONDS)
            seen = _read(folder / "viewer.json")
    return _report(outcome.report, marks, {int(key): value for key, value in seen.items()}, sink != "null:")


def _watched(sink: str) -> str:
    """The address for a player on this machine."""
    if not is_served(sink):
        return sink
    from stream_sr.sinks.rtsp_server import RtspServerSink

    return RtspServerSink(sink).url


def _read(path: Path) -> dict[str, int]:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError) as error:
        raise SourceOpenError(LEFT_NOTHING) from error


def chain(marks: LatencyProbe, seen: Mapping[int, int]) -> dict[str, dict[str, float]]:
    """p50, p95, p99 in ms of the camera (glass to capture), the filter (capture to result), out (result to the viewer's
    decoder) and glass to glass.

    ``seen`` is when the viewer had decoded each sequence number. A stage that nobody saw has the count 0.
    """
    stats = Stats()
    for sequence, decoded_ns in seen.items():
        for name, begins in (("out", marks.sequences), ("glass to glass", marks.burnt)):
            if sequence in begins:
                stats.stage(name, max(0, decoded_ns - begins[sequence]))
    found = marks.stats.summary()["stages_ms"] | stats.summary()["stages_ms"]
    return {name: found.get(name, {"count": 0}) for name in ("camera", "filter", "out", "glass to glass")}


def _report(report: dict[str, Any], marks: LatencyProbe, seen: Mapping[int, int], viewed: bool) -> dict[str, Any]:
    found = chain(marks, seen)
    if not viewed:
        found = {name: found[name] for name in ("camera", "filter")}
    if not found["camera"]["count"]:
        raise SourceOpenError(
            "no clock was seen in the pictures; give synthetic:..., or a camera that shows `stream-sr`'s test picture"
        )
    kept = ("model", "scale", "backend", "precision", "device", "frames_in", "frames_out", "dropped", "fps", "source",
            "output", "stages_ms")  # fmt: skip
    return {key: report[key] for key in kept} | {"chain_ms": found, "machine": machine.describe()}


def format_latency(report: dict[str, Any]) -> str:
    """The figures as a table."""
    source, output = report["source"], report["output"]
    lines = [
        f"{source['width']}x{source['height']} > {output['width']}x{output['height']}  {report['fps']:.1f} fps  "
        f"{report['model']} x{report['scale']} on {report['backend']} {report['precision']}, {report['device']}",
        f"dropped: {', '.join(f'{why} {count}' for why, count in report['dropped'].items()) or 'none'}",
        "",
        f"{'':<26}{'p50':>8}{'p95':>8}{'p99':>8}  ms",
    ]
    names = {
        "camera": "camera to capture",
        "filter": "capture to result",
        "out": "result to viewer",
        "glass to glass": "glass to glass",
    }
    lines += [_line(names[name], block) for name, block in report["chain_ms"].items()]
    lines += ["", *(_line(f"  {name}", block) for name, block in report["stages_ms"].items())]
    return "\n".join(lines)


def _line(name: str, block: dict[str, float]) -> str:
    if not block.get("count"):
        return f"{name:<26}{'not measured':>24}"
    return f"{name:<26}{block['p50']:>8.1f}{block['p95']:>8.1f}{block['p99']:>8.1f}"


def view(url: str, file: Path, transport: str) -> int:
    """The viewer: decode what comes until it ends; when each sequence number was decoded."""
    deadline = time.monotonic() + 2 * PATIENCE_SECONDS
    seen: dict[int, int] = {}
    while True:
        try:
            source = open_source(url, SourceOptions(rtsp_transport=transport, read_timeout=10))
            break
        except SourceOpenError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
    try:
        for frame in source.frames():
            now = time.monotonic_ns()
            reading = barcode.read(frame.planes[0])
            if reading is not None:
                seen[reading.sequence] = now
    except StreamSRError as error:
        log.debug("the stream ended: %s", error)  # the filter has ended: so does the measurement
    finally:
        source.close()
    file.write_text(json.dumps(seen))
    return 0


if __name__ == "__main__":
    sys.exit(view(sys.argv[2], Path(sys.argv[3]), sys.argv[4]))
