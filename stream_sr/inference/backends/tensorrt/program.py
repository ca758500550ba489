"""A built engine as the schedule's program: its tensors in one frame's memory."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stream_sr.errors import EngineBuildError, EngineRunError
from stream_sr.inference import cache
from stream_sr.inference.backends.cuda.precisions import WARM_UPS
from stream_sr.inference.backends.cuda.schedule import flow_bytes
from stream_sr.inference.backends.tensorrt import library
from stream_sr.inference.backends.tensorrt.driver import PycudaDriver
from stream_sr.inference.backends.tensorrt.frames import FLOW, FrameLayout, tensors
from stream_sr.inference.model import PREVIOUS


class TensorRTProgram:
    """A `schedule.Program`. Each of the ring has an execution context whose addresses are set once; they share the
    scratch memory, because one computation follows the other.

    ``runtime_cache`` is where TensorRT-RTX keeps what it compiled for this GPU. Raises EngineBuildError where the
    library refuses the engine.
    """

    def __init__(self, driver: PycudaDriver, engine: bytes, layout: FrameLayout, runtime_cache: Path) -> None:
        self._driver, self._layout, self._runtime_cache = driver, layout, runtime_cache
        self._trt = library.library()
        self._errors = library.ErrorCollector()
        self._contexts: list[Any] = []
        self._config: Any = None  # of the contexts, kept as long as they are
        self._compiled: Any = None  # TensorRT-RTX's cache, which they fill
        self.previous: int | None = None
        self.flow: int | None = None
        self._runtime: Any = None
        self._engine: Any = None
        try:
            with driver.current():  # the runtime too: without a context it would make itself one on the first GPU
                self._runtime = self._trt.Runtime(library.logger())
                self._engine = self._runtime.deserialize_cuda_engine(engine)
        except TypeError as error:  # the bindings' word for no runtime
            self._refuse("does not start", error)
        if self._engine is None:
            self._refuse("refuses the engine")

    def _refuse(self, what: str, cause: BaseException | None = None) -> None:
        self._errors.close()
        raise EngineBuildError(f"{library.library_name()} {what}: {self._errors.take_first()}") from cause

    def prepare(self, ring: Sequence[tuple[int, int]], stream: Any) -> None:
        """See `schedule.Program`. The first run compiles, with TensorRT-RTX; what it compiled is kept."""
        engine = self._engine
        self._config = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if library.is_rtx():
            strategy, self._config = self._config, engine.create_runtime_config()
            self._config.set_execution_context_allocation_strategy(strategy)
            self._open_runtime_cache()
        size = max(1, int(engine.device_memory_size_v2))
        scratch = self._driver.device_memory(size)
        if PREVIOUS in self._names():
            self.previous = self._driver.device_memory(math.prod(self._layout.output))
            nothing = self._driver.host_memory(flow_bytes((self._layout.height, self._layout.width)))
            nothing[:] = 0  # until there is a frame
            self.flow = self._driver.device_memory(nothing.nbytes)
            self._driver.copy_in(self.flow, nothing, stream)
        for inputs, outputs in ring:
            context = engine.create_execution_context(self._config)
            if context is None:
                raise EngineBuildError(f"{library.library_name()} cannot run the engine: {self._errors.take_first()}")
            context.set_device_memory(scratch, size)
            self._bind(context, inputs, outputs)
            self._contexts.append(context)
        for _ in range(WARM_UPS):
            for index in range(len(ring)):
                self.launch(index, stream)
        self._driver.drain(stream)
        self._keep_runtime_cache()

    def _bind(self, context: Any, inputs: int, outputs: int) -> None:
        addresses = {
            name: (inputs if self._is_input(name) else outputs) + offset
            for name, (offset, _) in tensors(self._layout).items()
        }
        if self.previous is not None and self.flow is not None:
            addresses |= {PREVIOUS: self.previous, FLOW: self.flow}
        for name, address in addresses.items():
            if not context.set_tensor_address(name, address):
                raise EngineBuildError(
                    f"the engine has no place for '{name}': {self._errors.take_first()}; build it again"
                )

    def launch(self, index: int, stream: Any) -> None:
        """See `schedule.Program`."""
        if not self._contexts[index].execute_async_v3(stream.handle):
            raise EngineRunError(f"{library.library_name()} could not compute: {self._errors.take_first()}")

    def close(self) -> None:
        """Free the engine; the driver frees the memory. Safe to call twice."""
        self._errors.close()
        self._contexts.clear()
        self._config = self._compiled = None
        self._engine = self._runtime = None

    def _names(self) -> list[str]:
        return [self._engine.get_tensor_name(n) for n in range(self._engine.num_io_tensors)]

    def _is_input(self, name: str) -> bool:
        return bool(self._engine.get_tensor_mode(name) == self._trt.TensorIOMode.INPUT)

    def _open_runtime_cache(self) -> None:
        """TensorRT-RTX's memory of what it compiled; TensorRT itself compiled everything when it built."""
        self._compiled = self._config.create_runtime_cache()
        with contextlib.suppress(OSError):
            self._compiled.deserialize(self._runtime_cache.read_bytes())  # one that does not fit is left aside
        self._config.set_runtime_cache(self._compiled)
        self._errors.take_first()  # of that: no reason for what may fail later

    def _keep_runtime_cache(self) -> None:
        if self._compiled is not None:
            with contextlib.suppress(OSError):  # it only makes the next start quicker
                cache.write_atomically(self._runtime_cache, bytes(self._compiled.serialize()))
