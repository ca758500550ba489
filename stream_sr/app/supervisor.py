"""Many streams in one process: `stream-sr serve cameras.toml`. Each fails and restarts alone; engines are shared."""

from __future__ import annotations

import logging
import random
import threading
import time
from pathlib import Path

from stream_sr.app.fleet import CameraPlan, check_fleet, read_fleet
from stream_sr.app.metrics import CameraCollector, CameraMetrics
from stream_sr.app.session import RunHooks, run
from stream_sr.app.status import describe
from stream_sr.app.telemetry import auto_line
from stream_sr.errors import ConfigError, ModelError, PipelineStalled, SourceRefused, StreamSRError
from stream_sr.pipeline.interfaces import FrameSink, PacketSink, SinkOptions
from stream_sr.pipeline.pipeline import ABORT_SECONDS, Pipeline
from stream_sr.pipeline.threads import Worker
from stream_sr.sinks import is_file, open_sink
from stream_sr.sinks.restarting import RestartingFile

FIRST_WAIT_SECONDS, MOST_WAIT_SECONDS = 0.5, 5.0
REFUSED_WAIT_SECONDS = 30.0  # cameras lock out who comes too often with a wrong password
LEAVE_SECONDS = 10.0  # that a camera which was changed may take to end before its successor starts all the same
AGAIN_SECONDS = 5.0  # after a camera for which there was no thread
END_SECONDS = 60.0  # for all cameras to end after a stop: a pipeline gives up after 30 s without progress
WELL_AFTER_SECONDS = 60.0  # a run that lasted so long starts the waits anew
LOG_EVERY_SECONDS = 60.0

log = logging.getLogger("stream_sr")


class CameraWorker:
    """One camera's thread: runs it, and runs it again after a failure, with growing waits."""

    def __init__(self, plan: CameraPlan, cameras: CameraCollector) -> None:
        self.plan = plan
        self.camera: CameraMetrics = cameras.add(plan.name)
        self.stuck: PipelineStalled | None = None
        self._cameras = cameras
        self._stopping = threading.Event()
        self._aborting = False
        self._pipeline: Pipeline | None = None
        self._logged = ""  # the last failure that was logged
        self._lock = threading.Lock()
        self._rate_at, self._rate_frames = time.monotonic(), 0
        try:
            self._worker = Worker(f"camera {plan.name}", self._run_until_stopped)
        except BaseException:
            cameras.remove(self.camera)
            raise

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

    def _run_until_stopped(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            began = time.monotonic()
            error = self._once()
            if isinstance(error, PipelineStalled):
                self.stuck = error
                self.camera.detach("stuck", error)
                return
            if self._stopping.is_set() or error is None:
                self.camera.detach("ended")
                return
            if isinstance(error, ConfigError | ModelError):
                log.error("%s: %s; it waits for SIGHUP with another file", self.plan.name, error)
                self.camera.detach("failed", error)
                return
            failures = 1 if time.monotonic() - began > WELL_AFTER_SECONDS else failures + 1
            wait = _wait(failures, error) * random.uniform(0.5, 1)
            # a camera that is away for a night says so once, and each minute with the others
            level = logging.DEBUG if str(error) == self._logged else logging.WARNING
            log.log(level, "%s: %s; starting it again in %.1f s", self.plan.name, error, wait)
            self._logged = str(error)
            self.camera.detach("restarting", error)
            self.camera.restarts += 1
            self._stopping.wait(wait)
        self.camera.detach("ended")

    def _once(self) -> BaseException | None:
        """One run; why it ended, None when its source came to its end."""
        try:
            hooks = RunHooks(
                started=self._attach,
                ticked=self.camera.tick,
                show_status=False,
                open_sink=_open_sink,
                cancelled=self._stopping,
                supervised=True,
            )
            return run(self.plan.source, self.plan.sinks, self.plan.config, hooks).error
        except StreamSRError as error:
            return error
        except Exception as error:
            log.exception("%s: internal error", self.plan.name)
            return error
        finally:
            with self._lock:
                pipeline, self._pipeline = self._pipeline, None
            if pipeline is not None and pipeline.stats.summary()["frames_out"]:
                self._logged = ""  # it has run: what ended it is news

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
    return RestartingFile(address, options) if is_file(address) else open_sink(address, options)


class Supervisor:
    """All cameras of a file. `run` blocks; `stop`, `abort` and `reload` may be called by a signal handler."""

    def __init__(self, file: Path, cameras: CameraCollector) -> None:
        """Raises ConfigError."""
        self._file, self._cameras = file, cameras
        self.fleet = read_fleet(file)
        self._workers: dict[str, CameraWorker] = {}
        self._stopping_workers: list[CameraWorker] = []  # stopped, not ended yet
        self._stuck: list[PipelineStalled] = []  # of cameras that have left
        self._patience = 0.0  # until when their successors wait
        self._start_at = 0.0  # no camera is started before
        self._stop_wanted = self._abort_wanted = self._reload_wanted = False

    def stop(self) -> None:
        self._stop_wanted = True

    def abort(self) -> None:
        self._stop_wanted = self._abort_wanted = True

    def reload(self) -> None:
        self._reload_wanted = True

    def run(self) -> None:
        """Until `stop`, or until every camera has come to its own end.

        Raises PipelineStalled at the end, if a thread of any camera hangs: the process cannot end by itself then. One
        that runs on in a library also takes what other cameras need, so all are ended when a camera that is wanted
        hangs: whoever started the process starts it again.
        """
        due = time.monotonic() + LOG_EVERY_SECONDS
        try:
            while not self._stop_wanted and self._alive():
                if self._reload_wanted:
                    self._reload_wanted = False
                    self._reload()
                self._forget_ended()
                if any(worker.stuck for worker in self._workers.values()):
                    break
                self._start()
                time.sleep(0.1)
                if time.monotonic() >= due:
                    due = time.monotonic() + LOG_EVERY_SECONDS
                    for worker in self._workers.values():
                        log.info("%s", worker.line())
        finally:
            self._end()

    def _forget_ended(self) -> None:
        """Forget cameras that were stopped and have ended; of one that hangs it is kept that it does."""
        ended = [worker for worker in self._stopping_workers if worker.join(0)]
        self._stopping_workers = [worker for worker in self._stopping_workers if worker not in ended]
        for worker in ended:
            if worker.stuck is not None:
                log.error(
                    "%s was stopped, but %s; the process has to be restarted some time", worker.plan.name, worker.stuck
                )
                self._stuck.append(worker.stuck)

    def _alive(self) -> bool:
        waiting = len(self._workers) < len(self.fleet.cameras)
        return waiting or any(worker.camera.state != "ended" for worker in self._workers.values())

    def _start(self) -> None:
        """Start what is not running, once the ports and files of those that leave are free, or they take too long."""
        waiting = [plan for plan in self.fleet.cameras if plan.name not in self._workers]
        now = time.monotonic()
        if not waiting or now < self._start_at or (self._stopping_workers and now < self._patience):
            return
        for worker in self._stopping_workers:
            log.warning("%s takes its time to end", worker.plan.name)
        for plan in waiting:
            try:
                self._workers[plan.name] = CameraWorker(plan, self._cameras)
            except (RuntimeError, MemoryError) as error:  # the system gives no more threads
                log.error("%s cannot be started: %s; trying again in %.0f s", plan.name, error, AGAIN_SECONDS)
                self._start_at = time.monotonic() + AGAIN_SECONDS
                return

    def _reload(self) -> None:
        """Read the file again, check it as a whole, and stop what it changes. Unchanged cameras are not touched."""
        running = {worker.plan for worker in self._workers.values() if worker.camera.state not in ("failed", "ended")}
        try:
            fleet = check_fleet(self._file, running)
        except ConfigError as error:
            log.error("%s; the cameras keep running as they are", error)
            return
        except Exception as error:  # no file may end the cameras that run
            log.exception("internal error while %s was read again: %s", self._file, type(error).__name__)
            log.error("the cameras keep running as they are")
            return
        if (fleet.metrics_port, fleet.metrics_host) != (self.fleet.metrics_port, self.fleet.metrics_host):
            log.warning("%s: another metrics-port or metrics-host is taken up by a restart only", self._file)
        wanted = {plan.name: plan for plan in fleet.cameras}
        changed = [
            name
            for name, worker in self._workers.items()
            if wanted.get(name) != worker.plan or worker.camera.state in ("failed", "ended")
        ]
        new = [name for name in wanted if name not in self._workers]
        for name in changed:
            worker = self._workers.pop(name)
            worker.stop()
            self._stopping_workers.append(worker)
        self._patience = time.monotonic() + LEAVE_SECONDS
        self.fleet = fleet
        gone = [name for name in changed if name not in wanted]
        log.info(
            "reloaded %s: %s",
            self._file,
            ", ".join(
                f"{word} {', '.join(names)}"
                for word, names in (("new", new), ("changed", [n for n in changed if n in wanted]), ("gone", gone))
                if names
            )
            or "nothing has changed",
        )

    def _end(self) -> None:
        """Stop every camera and wait for it; raise what hangs."""
        workers = [*self._workers.values(), *self._stopping_workers]
        stuck = [(worker.plan.name, worker.stuck) for worker in self._workers.values() if worker.stuck is not None]
        for name, error in stuck:
            log.error("%s: %s; ending the other cameras, and the process with exit code 6", name, error)
        for worker in workers:
            worker.stop()
        limit = LEAVE_SECONDS if stuck else END_SECONDS
        waiting, deadline, aborted = list(workers), time.monotonic() + limit, False
        while waiting and time.monotonic() < deadline:
            if self._abort_wanted and not aborted:
                aborted, deadline = True, time.monotonic() + ABORT_SECONDS + 1
                for worker in waiting:
                    worker.abort()
            waiting = [worker for worker in waiting if not worker.join(0.05)]
        if stuck:
            raise PipelineStalled(f"{stuck[0][0]}: {stuck[0][1]}")
        if waiting:
            names = ", ".join(worker.plan.name for worker in waiting)
            raise PipelineStalled(f"these cameras did not end in time: {names}")
        late = [worker.stuck for worker in workers if worker.stuck is not None] + self._stuck
        if late:
            raise late[0]
