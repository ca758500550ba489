"""The schedule's driver on pycuda, with CUDA graphs through cuda-bindings (pycuda has none) on pycuda's streams.

Everything happens in the device's primary context, which torch and TensorRT share. A context, and the page-locked
memory that was made in it, live as long as the process; such memory is handed out again when nobody has it any more.
"""

from __future__ import annotations

import atexit
import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import numpy as np

from stream_sr.errors import EngineRunError, EngineUnavailable
from stream_sr.inference.backends.cuda.pinned import Bytes, PinnedPool


class PycudaDriver:
    """A `schedule.Driver` on one GPU. Raises EngineUnavailable when the GPU cannot be used."""

    def __init__(self, device: int) -> None:
        self._device = open_device(device)
        self._cuda = self._device.cuda
        self._memory: list[Any] = []
        self._graphs: list[Any] = []
        self._closed = False

    def current(self) -> AbstractContextManager[object]:
        return self._device.current()

    def stream(self) -> Any:
        with self._device.errors("making a stream"):
            return self._cuda.Stream(STREAM_NON_BLOCKING)

    def event(self) -> Any:
        with self._device.errors("making an event"):
            return self._cuda.Event(self._cuda.event_flags.DISABLE_TIMING)

    def device_memory(self, nbytes: int) -> int:
        with self._device.errors(f"taking {nbytes / 2**20:.1f} MiB of memory"):
            self._memory.append(self._cuda.mem_alloc(max(1, nbytes)))
        return int(self._memory[-1])

    def host_memory(self, nbytes: int) -> Bytes:
        return self._device.pinned.take(nbytes)

    def is_pinned(self, memory: Bytes) -> bool:
        return self._device.pinned.has(memory)

    def copy_in(self, device: int, host: Bytes, stream: Any) -> None:
        with self._device.errors("an upload"):
            self._cuda.memcpy_htod_async(device, host, stream)

    def copy_out(self, host: Bytes, device: int, stream: Any) -> None:
        with self._device.errors("a download"):
            self._cuda.memcpy_dtoh_async(host, device, stream)

    def copy_within(self, target: int, source: int, nbytes: int, stream: Any) -> None:
        with self._device.errors("a copy on the GPU"):
            self._cuda.memcpy_dtod_async(target, source, nbytes, stream)

    def record(self, event: Any, stream: Any) -> None:
        with self._device.errors("an event"):
            event.record(stream)

    def wait(self, stream: Any, event: Any) -> None:
        with self._device.errors("waiting for an event"):
            stream.wait_for_event(event)

    def synchronize(self, event: Any) -> None:
        with self._device.errors("the computation"):
            event.synchronize()

    def drain(self, stream: Any) -> None:
        with self._device.errors("the computation"):
            stream.synchronize()

    def capture(self, work: Callable[[], None], stream: Any) -> Any:
        if find_spec("cuda") is None or find_spec("cuda.bindings") is None:
            raise EngineRunError("cuda-bindings is not installed; pip install cuda-bindings")
        try:
            from cuda.bindings import driver as cu
        except Exception as error:  # one for another CUDA raises ImportError or RuntimeError
            raise EngineRunError(f"cuda-bindings does not load ({error}); install the one for this CUDA") from error

        handle = cu.CUstream(stream.handle)
        mode = cu.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        _value_of(cu.cuStreamBeginCapture(handle, mode), "beginning a capture")
        try:
            work()
        except BaseException:
            cu.cuStreamEndCapture(handle)
            raise
        captured = _value_of(cu.cuStreamEndCapture(handle), "ending a capture")
        try:
            self._graphs.append(_value_of(cu.cuGraphInstantiate(captured, 0), "instantiating a graph"))
        finally:
            cu.cuGraphDestroy(captured)
        return self._graphs[-1]

    def replay(self, graph: Any, stream: Any) -> None:
        from cuda.bindings import driver as cu

        _value_of(cu.cuGraphLaunch(graph, cu.CUstream(stream.handle)), "launching a graph")

    def milliseconds(self, work: Callable[[], None], stream: Any) -> float:
        with self._device.errors("the computation"):
            begin, end = self._cuda.Event(), self._cuda.Event()
            begin.record(stream)
            work()
            end.record(stream)
            end.synchronize()
            return float(begin.time_till(end))

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(EngineRunError), self.current():
            if self._graphs:
                from cuda.bindings import driver as cu

                for graph in self._graphs:
                    cu.cuGraphExecDestroy(graph)
            for memory in self._memory:
                with contextlib.suppress(self._cuda.Error):  # a lost device took it along
                    memory.free()
        self._graphs.clear()
        self._memory.clear()


STREAM_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: not in step with the legacy default stream


class Device:
    """A GPU: its primary context, and the page-locked memory of the process."""

    def __init__(self, number: int) -> None:
        self.number = number
        try:
            import pycuda.driver as cuda
        except Exception as error:  # a wheel for another CUDA raises ImportError or OSError
            reason = f"pycuda does not load ({error}); pip install --force-reinstall --no-binary :all: pycuda"
            raise EngineUnavailable(reason) from error
        self.cuda = cuda
        try:
            cuda.init()
            self._gpu = cuda.Device(number)
            self.context = self._gpu.retain_primary_context()
        except cuda.Error as error:
            raise EngineUnavailable(f"GPU {number} cannot be used: {error}; see `stream-sr doctor`") from error
        atexit.register(self.context.detach)  # else pycuda complains aloud when the interpreter goes
        self.name = str(self._gpu.name())
        self.pinned = PinnedPool(self._lock_pages)

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """The context, current in this thread."""
        with self.errors("entering the context"):
            self.context.push()
        try:
            yield
        finally:
            self.cuda.Context.pop()

    @contextlib.contextmanager
    def errors(self, doing: str) -> Iterator[None]:
        """pycuda's exceptions as EngineRunError."""
        try:
            yield
        except self.cuda.MemoryError as error:
            raise EngineRunError(
                f"GPU {self.number} ({self.name}) is out of memory while {doing}{self._free()}; "
                "end other programs on it, or take a smaller picture or model"
            ) from error
        except self.cuda.Error as error:
            raise EngineRunError(
                f"GPU {self.number} ({self.name}) failed at {doing}: {error}; if it stays so, see nvidia-smi"
            ) from error

    def _lock_pages(self, nbytes: int) -> Bytes:
        with self.current(), self.errors(f"locking {nbytes / 2**20:.1f} MiB of host memory"):
            flags = self.cuda.host_alloc_flags.PORTABLE
            memory: Bytes = self.cuda.pagelocked_empty(nbytes, np.uint8, mem_flags=flags)
            return memory

    def _free(self) -> str:
        try:
            free, total = self.cuda.mem_get_info()
        except self.cuda.Error:
            return ""
        return f": {free / 2**30:.1f} of {total / 2**30:.1f} GiB are free"


@lru_cache
def open_device(number: int) -> Device:
    """The device, once for the process. Raises EngineUnavailable."""
    return Device(number)


def _value_of(answer: tuple[Any, ...], doing: str) -> Any:
    """The value of a call of cuda-bindings, or EngineRunError with its code's name."""
    code, *values = answer
    if int(code) != 0:
        raise EngineRunError(f"CUDA refused {doing}: {getattr(code, 'name', code)}")
    return values[0] if values else None
