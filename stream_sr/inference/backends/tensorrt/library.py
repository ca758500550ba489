"""The TensorRT library that is installed, the GPUs that CUDA shows, and whether the two go together.

Takes ``tensorrt``, else ``tensorrt_rtx``, else ``tensorrt_rtx_bindings`` (TensorRT-RTX's wheels, which build without a
GPU).
"""

from __future__ import annotations

import threading
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from stream_sr.inference.availability import Availability
from stream_sr.system import machine

LIBRARIES = ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings")
MAX_ERRORS = 20  # kept until they are taken
INSTALL = "pip install stream-sr[tensorrt] (or stream-sr[tensorrt-rtx])"


def library_name() -> str | None:
    """Name of the module that is taken, or None where none is installed."""
    return next((name for name in LIBRARIES if find_spec(name) is not None), None)


def library() -> Any:
    """The module."""
    name = library_name()
    assert name is not None
    return import_module(name)


class ErrorCollector:
    """Collect the error messages of the library, of any thread, until `close`: the text of our errors."""

    _listening: tuple[ErrorCollector, ...] = ()  # replaced whole: the library's threads read it without the lock
    _lock = threading.Lock()

    def __init__(self) -> None:
        self.messages: list[str] = []
        with ErrorCollector._lock:
            ErrorCollector._listening = (*ErrorCollector._listening, self)

    def take_first(self) -> str:
        """Return the first message since the last call; the others follow from it."""
        messages, self.messages = self.messages, []
        return " ".join(messages[0].split()) if messages else "it gave no reason"

    def close(self) -> None:
        """Stop listening. Safe to call twice."""
        with ErrorCollector._lock:
            ErrorCollector._listening = tuple(one for one in ErrorCollector._listening if one is not self)

    @classmethod
    def report(cls, message: str) -> None:
        for one in cls._listening:
            if len(one.messages) < MAX_ERRORS:
                one.messages.append(message.strip())


@lru_cache(maxsize=1)
def logger() -> Any:
    """The logger of the process, which prints nothing: errors go to each open `ErrorCollector`.

    One, and kept: of several loggers the library goes on using the first, also for what has a later one.
    """
    trt: Any = library()

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                ErrorCollector.report(message)

    return Logger()


def is_rtx() -> bool:
    """Whether it is TensorRT-RTX, which compiles for a GPU where it runs, and not for every GPU."""
    return str(library_name()).startswith("tensorrt_rtx")


def can_build() -> Availability:
    """Whether engines can be built here, with which library."""
    name = library_name()
    if name is None:
        return Availability(False, reason=f"none of {', '.join(LIBRARIES)} is installed", fix=INSTALL)
    if find_spec("onnx") is None:
        return Availability(False, reason="the package onnx is not installed", fix="pip install onnx")
    try:
        return Availability(True, library().__version__, f"builds with {name}")
    except Exception as error:  # the wheels load shared libraries: ImportError, OSError, RuntimeError
        return Availability(False, reason=f"{name} does not load: {error}", fix=f"{INSTALL} --force-reinstall")


def can_run(device: int = 0) -> Availability:
    """Whether engines can be run here on GPU ``device``, as CUDA counts them, and precisely why not."""
    found = can_build()
    if not found.usable:
        return found
    driver = machine.cuda()
    if not driver.devices:
        builds = found.reason if is_rtx() else f"{library_name()} is installed"
        reason = f"{builds}, but no GPU can run them: {driver.problem}"
        return Availability(False, found.version, reason, "use --backend openvino")
    if device >= len(driver.devices):
        names = ", ".join(f"{n} ({one.name})" for n, one in enumerate(driver.devices))
        return Availability(
            False, found.version, f"there is no GPU {device}; there is {names}", "give another --device"
        )
    if find_spec("pycuda") is None:
        return Availability(False, found.version, "pycuda is not installed", "pip install pycuda")
    gpu = driver.devices[device]
    return Availability(True, found.version, f"{library_name()} on GPU {device}: {gpu.name}, CUDA {driver.version}")


def is_listed(device: int = 0) -> str:
    """Empty where the library names this GPU's compute capability or says nothing of it; else what it names."""
    if not is_rtx():
        return ""
    members = [name for name in library().ComputeCapability.__members__ if name.startswith("SM")]
    listed = [name[2:-1] + "." + name[-1] for name in members]
    capability = machine.cuda().devices[device].compute_capability
    if capability in listed or float(capability) > max(map(float, listed)):
        return ""
    return f"TensorRT-RTX names the compute capabilities {', '.join(listed)}, the GPU has {capability}"


def cache_version(rewrite: int) -> str:
    """The library, its version and that of our rewriting, as in a `BuildKey`; empty where there is none."""
    found = can_build()
    name = "tensorrt_rtx" if is_rtx() else library_name()  # its bindings come under two names
    return f"{name} {found.version} rewrite {rewrite}" if found.usable else ""
