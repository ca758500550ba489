"""Start at once on an engine that is ready, while TensorRT's engine is built in another process.

The builder is a process of its own because a compiler for GPUs may take minutes, all of a core and the process with it.
What it builds goes through the cache of engines; when it is there, it is loaded, checked and offered to the running
engine.
"""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from stream_sr.errors import EngineUnavailable, StreamSRError
from stream_sr.inference.engines import choose_backend, choose_cpu_backend, open_engine
from stream_sr.inference.hot_swap import SwapEngine
from stream_sr.inference.model import ModelSpec
from stream_sr.pipeline.engine import Engine, EngineOptions
from stream_sr.pipeline.stall import working
from stream_sr.pipeline.threads import Worker
from stream_sr.system.processes import OWN_GROUP
from stream_sr.video.frame import Frame, StreamInfo
from stream_sr.video.frame_pool import Allocate
from stream_sr.video.planes import empty_planes, read_only

BUILDER = (sys.executable, "-m", "stream_sr.inference.backends.tensorrt.builder")
LOGGED_SHARE = 0.25  # progress is logged in quarters
MAX_LOAD = 0.7  # share of the time between two frames that the network may take on the processor
DEFAULT_FPS = 30  # of a stream that does not say
TRIALS = 3
log = logging.getLogger("stream_sr")


class BackgroundBuildEngine(SwapEngine):
    """Runs on ``ready`` until a process has built a better engine and ``open_built`` has opened it.

    ``command`` is given ``request`` on its standard input and reports on its standard output, a JSON object
    a line: ``{"doing": text, "share": 0 to 1}``, at the end ``{"done": true}`` or ``{"error": text}``. ``open_built``
    is called in the builder's thread and returns an engine that is warm. Whatever goes wrong, the run keeps
    running on ``ready``, and a note in ``spec`` says why. ``progress`` is what is being done, for a status line; empty
    when it has ended. `close` ends the process.
    """

    def __init__(
        self,
        ready: Engine,
        request: dict[str, Any],
        open_built: Callable[[], Engine],
        *,
        command: Sequence[str] = BUILDER,
        allocate: Allocate | None = None,
    ) -> None:
        super().__init__(ready, allocate=allocate)
        self.progress = "building an engine"
        self.finished = threading.Event()  # set when the builder and its thread have ended
        self._stopping = self._superseded = False
        self._take_over = threading.Lock()  # the built engine never replaces one that was asked for
        self._error_lines: deque[str] = deque(maxlen=20)
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                **OWN_GROUP,  # Ctrl-C is for the run, which ends the builder itself
            )
        except OSError:
            super().close()
            raise
        self._error_reader = Worker("engine builder's errors", self._read_errors)
        self._worker = Worker("engine builder", lambda: self._build(json.dumps(request), open_built))

    def offer(self, engine: Engine) -> None:
        """See `SwapEngine`. What is being built is not wanted any more then."""
        with self._take_over:
            super().offer(engine)
            self._superseded = True

    def _build(self, request: str, open_built: Callable[[], Engine]) -> None:
        try:
            problem = self._read_progress(request)
            if problem is None and not self._stopping:
                self.progress = "loading the built engine"
                built = open_built()
                with self._take_over:
                    if self._superseded:
                        built.close()
                    else:
                        super().offer(built)
        except StreamSRError as error:
            problem = str(error)
        except Exception as error:  # the run must not end for it
            problem = f"{type(error).__name__}: {error}"
        self.progress = ""
        if problem and not (self._stopping or self._superseded):
            self.note(f"no other engine takes over: {problem}")
        self.finished.set()

    def _read_progress(self, request: str) -> str | None:
        """Read what the process reports until it ends; return what went wrong, if anything."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError), process.stdin:
            process.stdin.write(request)
        logged, last = -1.0, dict[str, Any]()
        for line in process.stdout:
            with contextlib.suppress(ValueError):
                found = json.loads(line)
                last = found if isinstance(found, dict) else last
            if "doing" in last:
                self.progress = f"{last['doing']}, {100 * last.get('share', 0):.0f} %"
                step = last.get("share", 0) // LOGGED_SHARE
                if step != logged:
                    logged = step
                    log.info("%s", self.progress)
        code = process.wait()
        if "error" in last:
            return str(last["error"])
        if code != 0 or "done" not in last:
            return f"the builder {_describe_exit(code)}{self._last_error()}"
        return None

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if line.strip():
                self._error_lines.append(line.strip())

    def _last_error(self) -> str:
        self._error_reader.join(1)
        return f": {self._error_lines[-1][:300]}" if self._error_lines else ""

    def close(self) -> None:
        """Also ends the builder."""
        self._stopping = True
        with contextlib.suppress(OSError):
            self._process.kill()
        self._process.wait()
        self._worker.join()
        self._error_reader.join()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        super().close()


def _describe_exit(code: int) -> str:
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"was ended by {signal.Signals(-code).name}"
    return f"ended with code {code}" if code else "ended without a result"


def open_with_background_build(
    model: ModelSpec | None, info: StreamInfo, options: EngineOptions, *, finish: Callable[[Engine], Engine]
) -> Engine | None:
    """Open an engine that runs now and becomes TensorRT's when that is built; None where no build is needed.

    ``finish`` makes of an engine what is to run (resized, warm). Until TensorRT's is there the network runs on the
    processor where that keeps up with the stream, else frames are enlarged by bicubic interpolation. Raises what
    `open_engine` raises.
    """
    if model is None or not needs_build(model, info, options):
        return None
    from stream_sr.inference.backends.tensorrt import builder
    from stream_sr.inference.backends.tensorrt import engine as tensorrt

    options = replace(options, backend="tensorrt")
    ready = _open_interim(model, info, options)
    starting = BackgroundBuildEngine(
        finish(ready),
        builder.request(model, info, options),
        lambda: finish(open_engine(model, info, options)),
        allocate=tensorrt.allocator(options.device),
    )
    starting.note(f"until the TensorRT engine is built, {ready.spec.model} on {ready.spec.backend} computes")
    return starting


def needs_build(model: ModelSpec, info: StreamInfo, options: EngineOptions) -> bool:
    """Whether these options mean TensorRT, it can be used, and its engine for ``model`` is not in the cache."""
    if options.backend not in ("auto", "tensorrt"):
        return False
    if options.backend == "auto" and choose_backend(options.device).name != "tensorrt":
        return False
    from stream_sr.inference.backends.tensorrt import engine as tensorrt
    from stream_sr.inference.backends.tensorrt import library

    options = replace(options, backend="tensorrt")
    # where it cannot be used `open_engine` says why
    return library.can_run(options.device).usable and not tensorrt.is_ready(model, info, options)


def _open_interim(model: ModelSpec, info: StreamInfo, options: EngineOptions) -> Engine:
    """Open the network on the processor where it keeps up, else bicubic."""
    now = replace(options, device=0, precision="auto", tune=False)
    with contextlib.suppress(EngineUnavailable):
        engine = open_engine(model, info, replace(now, backend=choose_cpu_backend().name))
        if seconds_per_frame(engine, info) * float(info.fps or DEFAULT_FPS) < MAX_LOAD:
            return engine
        engine.close()
    from stream_sr.inference.backends.tensorrt.checked_engine import layout_of

    return open_engine(None, info, replace(now, backend="bicubic", threads=None), scale=layout_of(model, info).scale)


def seconds_per_frame(engine: Engine, info: StreamInfo, *, trials: int = TRIALS) -> float:
    """Return the least time of ``trials`` grey frames."""
    planes = empty_planes(info.width, info.height)
    for plane in planes:
        plane.fill(128)
    frame = Frame(read_only(planes), pts=0, time_base=info.time_base, color=info.color)
    times = []
    for _ in range(trials):
        began = time.perf_counter()
        with working("engine"):
            engine.submit(frame).wait()
        times.append(time.perf_counter() - began)
    return min(times)
