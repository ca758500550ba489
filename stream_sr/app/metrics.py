"""What a monitoring system asks a running filter: ``/metrics`` in Prometheus' text form, and ``/healthz``."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)

from stream_sr.errors import ConfigError
from stream_sr.pipeline.pipeline import Pipeline
from stream_sr.pipeline.plan import counters_of
from stream_sr.pipeline.stats import Histogram, Stats
from stream_sr.pipeline.threads import Worker
from stream_sr.system.printable import printable

STUCK_SECONDS = 30.0  # a run in which nothing moves for so long is ill; a camera that is away is not
STARTING_SECONDS = 600.0  # so is a camera that has not begun by then; an engine may take minutes to compile
REQUEST_SECONDS = 2.0  # for a whole request: one thread answers all
BOUNDS_MS = (5, 10, 15, 20, 30, 40, 50, 75, 100, 150, 200, 300, 500, 1000, 2000, 5000)

log = logging.getLogger("stream_sr")


class CameraMetrics:
    """One stream as it is watched from outside; fed by the thread that runs it, read by any."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.state = "starting"  # then running, restarting, failed, stuck, ended
        self.restarts = 0
        self.error = ""
        self.pipeline: Pipeline | None = None
        self._progress = -1
        self._moved_ns = time.monotonic_ns()

    def attach(self, pipeline: Pipeline) -> None:
        """A run begins."""
        self.pipeline, self.state, self.error = pipeline, "running", ""
        self._progress, self._moved_ns = -1, time.monotonic_ns()

    def detach(self, state: str, error: BaseException | None = None) -> None:
        """A run is over."""
        self.pipeline, self.state, self.error = None, state, "" if error is None else str(error)

    def tick(self, stats: Stats) -> None:
        """Called now and then by the run."""
        if stats.progress != self._progress:
            self._progress, self._moved_ns = stats.progress, time.monotonic_ns()

    def health(self) -> str:
        """``live``, ``no signal``, ``stuck``, or the state of what is not running."""
        pipeline = self.pipeline
        since_seconds = (time.monotonic_ns() - self._moved_ns) / 1e9
        if self.state == "starting" and since_seconds > STARTING_SECONDS:
            return "stuck"
        if pipeline is None or self.state != "running":
            return self.state
        if since_seconds > STUCK_SECONDS or pipeline.busy_seconds > STUCK_SECONDS:
            return "stuck"
        return "live" if getattr(pipeline.plan.source, "signal", True) else "no signal"


class CameraCollector:
    """All streams of the process; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cameras: dict[str, CameraMetrics] = {}

    def add(self, name: str) -> CameraMetrics:
        with self._lock:
            camera = self._cameras[name] = CameraMetrics(name)
            return camera

    def remove(self, camera: CameraMetrics) -> None:
        with self._lock:
            if self._cameras.get(camera.name) is camera:
                del self._cameras[camera.name]

    def __iter__(self) -> Iterator[CameraMetrics]:
        with self._lock:
            return iter(list(self._cameras.values()))

    def health(self) -> tuple[bool, dict[str, Any]]:
        """Return whether every camera is healthy, and the JSON of ``/healthz``. A disconnected camera is healthy."""
        states = {camera.name: camera.health() for camera in self}
        healthy = not any(state in ("stuck", "failed") for state in states.values())
        errors = {camera.name: camera.error for camera in self if camera.error}
        return healthy, {"status": "ok" if healthy else "ill", "cameras": states, "errors": errors}

    def collect(self) -> Iterable[Metric]:
        """For prometheus_client: everything, as it is now."""
        running = [(camera, camera.pipeline) for camera in self]
        up = GaugeMetricFamily("stream_sr_up", "Whether the stream's pipeline runs.", labels=["camera"])
        restarts = CounterMetricFamily("stream_sr_restarts", "Times the pipeline was started anew.", labels=["camera"])
        for camera, pipeline in running:
            up.add_metric(_labels(camera.name), 0 if pipeline is None else 1)
            restarts.add_metric(_labels(camera.name), camera.restarts)
        yield up
        yield restarts
        yield from _of_pipelines([(camera.name, pipeline) for camera, pipeline in running if pipeline is not None])


def _labels(*values: str) -> list[str]:
    """Label values: names of files and cameras may hold what the exposition format, which is UTF-8, cannot."""
    return [printable(value) for value in values]


def _of_pipelines(pipelines: list[tuple[str, Pipeline]]) -> Iterable[Metric]:
    counters = {
        "frames_in": CounterMetricFamily("stream_sr_frames_in", "Frames captured.", labels=["camera"]),
        "frames_out": CounterMetricFamily(
            "stream_sr_frames_out", "Frames handed to an output.", labels=["camera", "output"]
        ),
        "repeated": CounterMetricFamily(
            "stream_sr_frames_repeated", "Frames that were the one before and not computed again.", labels=["camera"]
        ),
        "dropped": CounterMetricFamily(
            "stream_sr_frames_dropped", "Frames lost on the way to the first output.", labels=["camera", "reason"]
        ),
        "output_dropped": CounterMetricFamily(
            "stream_sr_output_frames_dropped", "Frames lost on the way to an output.", labels=["camera", "output"]
        ),
        "source": CounterMetricFamily(
            "stream_sr_source_events", "What the input has lost or met.", labels=["camera", "kind"]
        ),
        "failures": CounterMetricFamily(
            "stream_sr_recording_failures",
            "Files that could not be begun or finished, or were removed.",
            labels=["camera", "output"],
        ),
        "reconnects": CounterMetricFamily(
            "stream_sr_reconnects", "Times a lost input or server came back.", labels=["camera", "end"]
        ),
    }
    steps = CounterMetricFamily(
        "stream_sr_model_steps", "Times that --model auto took another model.", labels=["camera", "direction"]
    )
    model = GaugeMetricFamily(
        "stream_sr_model",
        "1 for the model in use, 0 for others that --model auto may take.",
        labels=["camera", "model"],
    )
    signal = GaugeMetricFamily("stream_sr_signal", "Whether the camera sends pictures.", labels=["camera"])
    viewers = GaugeMetricFamily("stream_sr_viewers", "Who watches now.", labels=["camera", "output"])
    recording = GaugeMetricFamily("stream_sr_recording", "Whether a file is written now.", labels=["camera", "output"])
    busy = GaugeMetricFamily(
        "stream_sr_busy_seconds", "How long engine or encoder have been working on one frame.", labels=["camera"]
    )
    depth = GaugeMetricFamily("stream_sr_queue_depth", "What waits in a queue.", labels=["camera", "queue"])
    latency = HistogramMetricFamily("stream_sr_latency_seconds", "From capture to the first output.", labels=["camera"])
    stages = HistogramMetricFamily(
        "stream_sr_stage_seconds", "What frames took in a stage.", labels=["camera", "stage"]
    )
    engine = InfoMetricFamily("stream_sr_engine", "What computes.", labels=["camera"])
    for name, pipeline in pipelines:
        summary = pipeline.stats.summary()
        source = pipeline.plan.source.counters()
        counters["frames_in"].add_metric(_labels(name), summary["frames_in"])
        counters["repeated"].add_metric(_labels(name), summary["repeated"])
        for reason, count in summary["dropped"].items():
            counters["dropped"].add_metric(_labels(name, reason), count)
        for kind, count in source.items():
            counters["source"].add_metric(_labels(name, kind), count)
        counters["reconnects"].add_metric(_labels(name, "input"), source.get("reconnects", 0))
        for sink, (output, counts) in zip(pipeline.plan.sinks, summary["outputs"].items(), strict=False):
            counters["frames_out"].add_metric(_labels(name, output), counts["frames"])
            counters["output_dropped"].add_metric(_labels(name, output), counts["dropped"])
            counts = counters_of(sink)
            if "viewers" in counts:
                viewers.add_metric(_labels(name, output), counts["viewers"])
            if "recording" in counts:
                recording.add_metric(_labels(name, output), counts["recording"])
            if "failures" in counts:
                counters["failures"].add_metric(_labels(name, output), counts["failures"])
            if "reconnects" in counts:
                counters["reconnects"].add_metric(_labels(name, output), counts["reconnects"])
        for queue, waiting in pipeline.queues().items():
            depth.add_metric(_labels(name, queue), waiting)
        for stage, histogram in pipeline.stats.histograms().items():
            buckets, total = _buckets(histogram), histogram.sum_ns / 1e9
            if stage == "latency":
                latency.add_metric(_labels(name), buckets, total)
            else:
                stages.add_metric(_labels(name, stage), buckets, total)
        busy.add_metric(_labels(name), pipeline.busy_seconds)
        signal.add_metric(_labels(name), getattr(pipeline.plan.source, "signal", True))
        spec = pipeline.plan.engine.spec
        for one in dict.fromkeys((*spec.ladder, spec.model)):
            model.add_metric(_labels(name, one), one == spec.model)
        for direction, count in pipeline.stats.steps(0).items():
            if direction != "steps":
                steps.add_metric(_labels(name, direction), count)
        engine.add_metric(
            _labels(name),
            {
                "model": printable(spec.model),
                "scale": str(spec.scale),
                "backend": spec.backend,
                "precision": spec.precision,
                "device": spec.device,
            },
        )
    yield from counters.values()
    yield from (steps, model, signal, busy, viewers, recording, depth, latency, stages, engine)


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = [(str(ms / 1000), histogram.below(ms * 1_000_000)) for ms in BOUNDS_MS]
    return [*found, ("+Inf", histogram.count)]


class MetricsServer:
    """Answers over HTTP until it is closed. One thread, one request at a time, none longer than two seconds.

    Raises ConfigError where the port cannot be had. There is no password: by default it binds to this machine.
    """

    def __init__(self, cameras: CameraCollector, port: int, host: str = "127.0.0.1") -> None:
        registry = CollectorRegistry()
        registry.register(cameras)
        ProcessCollector(registry=registry)

        class Handler(_Handler):
            pass

        Handler.cameras, Handler.registry = cameras, registry
        try:
            self._server = _Server((host, port), Handler)
        except (OSError, ValueError, OverflowError) as error:  # ValueError: no host name at all
            reason = getattr(error, "strerror", None) or "it is no host name"
            raise ConfigError(f"--metrics-port {port} at {host} cannot be had ({reason}); choose another") from error
        self.port = int(self._server.server_address[1])
        self._worker = Worker("metrics", lambda: self._server.serve_forever(poll_interval=0.1))
        log.info("metrics at http://%s:%d/metrics", host, self.port)

    def close(self) -> None:
        self._server.shutdown()
        self._worker.join()
        self._server.server_close()

    def __enter__(self) -> MetricsServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Server(HTTPServer):
    def __init__(self, address: tuple[str, int], handler: type[_Handler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, handler)

    def handle_error(self, request: object, client_address: object) -> None:
        log.debug("a request for metrics failed", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    cameras: CameraCollector
    registry: CollectorRegistry
    timeout = REQUEST_SECONDS
    server_version, sys_version = "stream_sr", ""

    def do_GET(self) -> None:
        if self.path == "/metrics":
            self._answer(200, CONTENT_TYPE_LATEST, generate_latest(self.registry))
        elif self.path == "/healthz":
            healthy, text = self.cameras.health()
            self._answer(200 if healthy else 503, "application/json", (json.dumps(text) + "\n").encode())
        else:
            self._answer(404, "text/plain", b"there are /metrics and /healthz\n")

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        log.debug("metrics: " + format, *args)
