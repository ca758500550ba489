"""Many streams in one process: `stream-sr serve cameras.toml`. Each fails and restarts alone; engines are shared."""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stream_sr.config import Config, make_config, read_toml, read_values
from stream_sr.errors import ConfigError, ModelError, PipelineStalled, SourceRefused, StreamSRError
from stream_sr.media import FrameSink, PacketSink, SinkOptions, redact
from stream_sr.metrics import Camera, Cameras
from stream_sr.pipeline import Pipeline
from stream_sr.session import Hooks, run
from stream_sr.sinks import is_file, open_sink, refuse_unknown
from stream_sr.sinks.lasting import LastingFile
from stream_sr.status import describe
from stream_sr.telemetry import auto_line
from stream_sr.threads import Worker

FIRST_WAIT_SECONDS, MOST_WAIT_SECONDS = 0.5, 5.0
REFUSED_WAIT_SECONDS = 30.0  # cameras lock out who comes too often with a wrong password
LEAVE_SECONDS = 10.0  # that a camera which was changed may take to end before its successor starts all the same
WELL_AFTER_SECONDS = 60.0  # a run that lasted so long starts the waits anew
LOG_EVERY_SECONDS = 60.0
FORM = '[camera.NAME] with source = "ADDRESS", sinks = ["ADDRESS", ...] and options'

log = logging.getLogger("stream_sr")


@dataclass(frozen=True)
class CameraPlan:
    """One stream as the file asks for it."""

    name: str
    source: str
    sinks: tuple[str, ...]
    config: Config


@dataclass(frozen=True)
class Fleet:
    """A whole file."""

    cameras: tuple[CameraPlan, ...]
    metrics_port: int | None = None
    metrics_host: str = "127.0.0.1"


def read_fleet(file: Path) -> Fleet:
    """Read a file of cameras. Raises ConfigError for whatever is wrong in it.

    ``[all]`` holds options for every camera, ``[camera.NAME]`` its source, sinks and options, which go before those in
    the environment. The names of recordings may hold the time at which they begin, as in ``door-%Y%m%d-%H%M%S.mkv``.
    """
    raw = read_toml(file)
    port, host = raw.pop("metrics-port", None), raw.pop("metrics-host", "127.0.0.1")
    shared, cameras = raw.pop("all", {}), raw.pop("camera", {})
    if raw:
        raise ConfigError(
            f"{file}: '{next(iter(raw))}' is not known; there are metrics-port, metrics-host, [all], {FORM}"
        )
    if not isinstance(shared, dict) or not isinstance(cameras, dict) or not cameras:
        raise ConfigError(f"{file} names no camera; write {FORM}")
    if port is not None and (isinstance(port, bool) or not isinstance(port, int) or not 0 <= port < 65536):
        raise ConfigError(f"{file}: metrics-port is {port!r}; it is a number up to 65535")
    base = read_values(shared, f"{file}: [all]")
    plans = tuple(_camera(file, name, table, base, len(cameras)) for name, table in cameras.items())
    _refuse_twice(file, plans)
    devices = {plan.config.device for plan in plans}
    if len(devices) > 1:
        raise ConfigError(
            f"{file}: cameras on the GPUs {', '.join(map(str, sorted(devices)))}; "
            "one process serves one GPU: write a file for each and start one for each"
        )
    return Fleet(plans, port, str(host))


def _camera(file: Path, name: str, table: Any, base: Mapping[str, Any], cameras: int) -> CameraPlan:
    where = f"{file}: [camera.{name}]"
    if not isinstance(table, dict):
        raise ConfigError(f"{where} is no table; write {FORM}")
    options = dict(table)
    source, sinks = options.pop("source", None), options.pop("sinks", None)
    if not isinstance(source, str) or not source:
        raise ConfigError(f"{where} has no source; write {FORM}")
    if not isinstance(sinks, list) or not sinks or not all(isinstance(sink, str) and sink for sink in sinks):
        raise ConfigError(f"{where} has no sinks; write {FORM}")
    for place in (source, *sinks):
        if place in ("-", "window:"):
            raise ConfigError(f"{where}: '{place}' is for one stream at a terminal; use `stream-sr run` for that")
    try:
        for sink in sinks:
            refuse_unknown(sink)
    except StreamSRError as error:
        raise ConfigError(f"{where}: {error}") from error
    config = replace(make_config(read_values(options, where), file=base), cameras=cameras)
    return CameraPlan(name, source, tuple(sinks), config)


def _refuse_twice(file: Path, plans: tuple[CameraPlan, ...]) -> None:
    seen: dict[str, str] = {}
    for plan in plans:
        for sink in plan.sinks:
            place = os.path.realpath(sink) if is_file(sink) else sink
            if sink != "null:" and place in seen:
                raise ConfigError(f"{file}: {redact(sink)} is an output of both {seen[place]} and {plan.name}")
            seen[place] = plan.name


class Keeper:
    """One camera's thread: runs it, and runs it again after a failure, with growing waits."""

    def __init__(self, plan: CameraPlan, cameras: Cameras) -> None:
        self.plan = plan
        self.camera: Camera = cameras.add(plan.name)
        self.stuck: PipelineStalled | None = None
        self._cameras = cameras
        self._stopping = threading.Event()
        self._aborting = False
        self._pipeline: Pipeline | None = None
        self._said = ""  # the last failure that was logged
        self._lock = threading.Lock()
        self._rate_at, self._rate_frames = time.monotonic(), 0
        self._worker = Worker(f"camera {plan.name}", self._keep)

    def stop(self) -> None:
        """End softly; returns at once."""
        self._stopping.set()
        with self._lock:
            if self._pipeline is not None:
                self._pipeline.stop()

    def abort(self) -> None:
        """End now; returns at once."""
        self._stopping.set()
        self._aborting = True
        with self._lock:
            if self._pipeline is not None:
                self._pipeline.abort()

    def join(self, timeout: float | None = None) -> bool:
        """Whether it has ended."""
        if not self._worker.join(timeout):
            return False
        self._cameras.remove(self.camera)
        return True

    def line(self) -> str:
        """What a log tells of it."""
        pipeline, now = self._pipeline, time.monotonic()
        if pipeline is None:
            return f"{self.plan.name}: {self.camera.health()}" + (f": {self.camera.error}" if self.camera.error else "")
        summary = pipeline.stats.summary()
        fps = (summary["frames_out"] - self._rate_frames) / max(1e-3, now - self._rate_at)
        self._rate_at, self._rate_frames = now, summary["frames_out"]
        model = auto_line(pipeline.plan.engine.spec, pipeline.stats)
        return f"{self.plan.name}: {self.camera.health()}  {describe('', max(0.0, fps), summary, model).strip()}"

    def _keep(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            began = time.monotonic()
            error = self._once()
            if self._stopping.is_set() or error is None:
                self.camera.detach("ended")
                return
            if isinstance(error, PipelineStalled):
                self.stuck = error
            if isinstance(error, ConfigError | ModelError | PipelineStalled):
                log.error("%s: %s; it waits for SIGHUP with another file", self.plan.name, error)
                self.camera.detach("failed", error)
                return
            failures = 1 if time.monotonic() - began > WELL_AFTER_SECONDS else failures + 1
            wait = _wait(failures, error) * random.uniform(0.5, 1)
            # a camera that is away for a night says so once, and each minute with the others
            level = logging.DEBUG if str(error) == self._said else logging.WARNING
            log.log(level, "%s: %s; starting it again in %.1f s", self.plan.name, error, wait)
            self._said = str(error)
            self.camera.detach("restarting", error)
            self.camera.restarts += 1
            self._stopping.wait(wait)
        self.camera.detach("ended")

    def _once(self) -> BaseException | None:
        """One run; why it ended, None when its source came to its end."""
        try:
            hooks = Hooks(
                started=self._attach, ticked=self.camera.tick, show_status=False, open_sink=_open_sink,
                cancelled=self._stopping,
            )  # fmt: skip
            return run(self.plan.source, self.plan.sinks, self.plan.config, hooks).error
        except StreamSRError as error:
            return error
        except Exception as error:
            log.exception("%s: this is a defect of ours", self.plan.name)
            return error
        finally:
            with self._lock:
                pipeline, self._pipeline = self._pipeline, None
            if pipeline is not None and pipeline.stats.summary()["frames_out"]:
                self._said = ""  # it has run: what ended it is news

    def _attach(self, pipeline: Pipeline) -> None:
        self.camera.attach(pipeline)
        with self._lock:
            self._pipeline = pipeline
            self._rate_at, self._rate_frames = time.monotonic(), 0
            if self._stopping.is_set():
                pipeline.stop()
            if self._aborting:
                pipeline.abort()


def _wait(failures: int, error: BaseException) -> float:
    """Seconds, after so many failures in a row, the last being ``error``."""
    if isinstance(error, SourceRefused):
        return REFUSED_WAIT_SECONDS
    return min(MOST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2.0 ** min(failures - 1, 9))


def _open_sink(address: str, options: SinkOptions) -> FrameSink | PacketSink:
    return LastingFile(address, options) if is_file(address) else open_sink(address, options)


class Supervisor:
    """All cameras of a file. `run` blocks; `stop`, `abort` and `reload` may be called by a signal handler."""

    def __init__(self, file: Path, cameras: Cameras) -> None:
        """Raises ConfigError."""
        self._file, self._cameras = file, cameras
        self.fleet = read_fleet(file)
        self._keepers: dict[str, Keeper] = {}
        self._leaving: list[Keeper] = []  # stopped, not ended yet
        self._patience = 0.0  # until when their successors wait
        self._stop_wanted = self._abort_wanted = self._reload_wanted = False

    def stop(self) -> None:
        self._stop_wanted = True

    def abort(self) -> None:
        self._stop_wanted = self._abort_wanted = True

    def reload(self) -> None:
        self._reload_wanted = True

    def run(self) -> None:
        """Until `stop`, or until every camera has come to its own end.

        Raises PipelineStalled at the end, if a thread of any camera hangs: the process cannot end by itself then.
        """
        due = time.monotonic() + LOG_EVERY_SECONDS
        try:
            while not self._stop_wanted and self._alive():
                if self._reload_wanted:
                    self._reload_wanted = False
                    self._take_up()
                self._leaving = [keeper for keeper in self._leaving if not keeper.join(0)]
                self._start()
                time.sleep(0.1)
                if time.monotonic() >= due:
                    due = time.monotonic() + LOG_EVERY_SECONDS
                    for keeper in self._keepers.values():
                        log.info("%s", keeper.line())
        finally:
            self._end()

    def _alive(self) -> bool:
        waiting = len(self._keepers) < len(self.fleet.cameras)
        return waiting or any(keeper.camera.state != "ended" for keeper in self._keepers.values())

    def _start(self) -> None:
        """Start what is not running, once the ports and files of those that leave are free, or they take too long."""
        waiting = [plan for plan in self.fleet.cameras if plan.name not in self._keepers]
        if not waiting or (self._leaving and time.monotonic() < self._patience):
            return
        for keeper in self._leaving:
            log.warning("%s takes its time to end", keeper.plan.name)
        for plan in waiting:
            self._keepers[plan.name] = Keeper(plan, self._cameras)

    def _take_up(self) -> None:
        """The file again: what is unchanged is not touched."""
        try:
            fleet = read_fleet(self._file)
        except ConfigError as error:
            log.error("the cameras stay as they are: %s", error)
            return
        if (fleet.metrics_port, fleet.metrics_host) != (self.fleet.metrics_port, self.fleet.metrics_host):
            log.warning("%s: another metrics-port or metrics-host is taken up by a restart only", self._file)
        wanted = {plan.name: plan for plan in fleet.cameras}
        changed = [
            name for name, keeper in self._keepers.items()
            if wanted.get(name) != keeper.plan or keeper.camera.state in ("failed", "ended")
        ]  # fmt: skip
        new = [name for name in wanted if name not in self._keepers]
        for name in changed:
            keeper = self._keepers.pop(name)
            keeper.stop()
            self._leaving.append(keeper)
        self._patience = time.monotonic() + LEAVE_SECONDS
        self.fleet = fleet
        gone = [name for name in changed if name not in wanted]
        log.info(
            "reloaded %s: %s", self._file,
            ", ".join(
                f"{word} {', '.join(names)}"
                for word, names in (("new", new), ("changed", [n for n in changed if n in wanted]), ("gone", gone))
                if names
            ) or "nothing has changed",
        )  # fmt: skip

    def _end(self) -> None:
        keepers = [*self._keepers.values(), *self._leaving]
        for keeper in keepers:
            keeper.stop()
        waiting = list(keepers)
        while waiting:
            if self._abort_wanted:
                for keeper in waiting:
                    keeper.abort()
            waiting = [keeper for keeper in waiting if not keeper.join(0.05)]
        stuck = [keeper.stuck for keeper in keepers if keeper.stuck is not None]
        if stuck:
            raise stuck[0]
