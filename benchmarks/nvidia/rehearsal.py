"""A processor in the place of the GPU, for ``--rehearse``: the same calls, nothing at once, nothing measured."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch

from benchmarks.nvidia import measure
from stream_sr.inference.backends.cuda.pinned import Bytes, PinnedPool
from stream_sr.inference.backends.torch import cuda


class ProcessorDriver:
    """A `schedule.Driver` that does everything at once, and `torch.cuda.TorchDriver`'s additions to it."""

    number = 0
    device = torch.device("cpu")

    def __init__(self, gpu: cuda.Gpu) -> None:
        self._gpu = gpu

    def current(self) -> AbstractContextManager[object]:
        return nullcontext()

    @contextlib.contextmanager
    def on(self, stream: Any) -> Iterator[None]:
        with torch.no_grad():
            yield

    def settle(self, stream: Any) -> None:
        pass

    def stream(self) -> Any:
        return object()

    def event(self) -> Any:
        return object()

    def device_memory(self, nbytes: int) -> Any:
        return torch.empty(nbytes, dtype=torch.uint8)

    def host_memory(self, nbytes: int) -> Bytes:
        return self._gpu.pinned.take(nbytes)

    def is_pinned(self, memory: Bytes) -> bool:
        return self._gpu.pinned.has(memory)

    def copy_in(self, device: Any, host: Bytes, stream: Any) -> None:
        device.copy_(torch.from_numpy(host))

    def copy_out(self, host: Bytes, device: Any, stream: Any) -> None:
        torch.from_numpy(host).copy_(device)

    def record(self, event: Any, stream: Any) -> None:
        pass

    def wait(self, stream: Any, event: Any) -> None:
        pass

    def synchronize(self, event: Any) -> None:
        pass

    def drain(self, stream: Any) -> None:
        pass

    def capture(self, work: Callable[[], None], stream: Any) -> Any:
        return work

    def replay(self, graph: Any, stream: Any) -> None:
        graph()

    def milliseconds(self, work: Callable[[], None], stream: Any) -> float:
        began = time.perf_counter()
        work()
        return (time.perf_counter() - began) * 1000

    def close(self) -> None:
        pass


def install() -> None:
    """Let the backend torch-cuda run on the processor, in this process."""
    torch.set_num_threads(1)
    measure.REPEATS, measure.SECONDS = 2, 0.02
    gpu = cuda.Gpu(0, "a processor", PinnedPool(lambda nbytes: np.empty(nbytes, np.uint8)))
    cuda.open_device = lambda number: gpu  # type: ignore[assignment]
    cuda.TorchDriver = ProcessorDriver  # type: ignore[misc, assignment]
