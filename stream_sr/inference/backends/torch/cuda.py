"""torch on an NVIDIA GPU: the overlapped schedule (page-locked, three streams, CUDA graph) over torch's CUDA calls.

For GPUs that no installed TensorRT takes. The network is the one of the backend ``torch``, in fp16, bf16 or fp32, with
either form of its head, as it is or compiled by torch.compile; the variant that is fastest on this GPU is kept.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from stream_sr.errors import EngineBuildError, EngineRunError, EngineUnavailable
from stream_sr.inference.availability import Availability
from stream_sr.inference.backends.cuda.pinned import Bytes, PinnedPool
from stream_sr.inference.backends.cuda.precisions import AUTO_PRECISIONS, WARM_UPS
from stream_sr.inference.backends.cuda.schedule import THROUGHPUT_DEPTH, OverlappedEngine, flow_bytes
from stream_sr.inference.backends.torch import cpu as reference_backend
from stream_sr.inference.model import ModelSpec
from stream_sr.inference.verify import WrongResult, check
from stream_sr.pipeline.engine import Engine, EngineOptions, EngineSpec
from stream_sr.system import machine
from stream_sr.video.frame import StreamInfo
from stream_sr.video.frame_pool import Allocate

if TYPE_CHECKING:
    from stream_sr.inference.backends.torch.frames import FrameNetwork, NetworkVariant

log = logging.getLogger("stream_sr")


def availability(device: int = 0) -> Availability:
    """Whether torch is installed with CUDA and the driver shows the GPU; torch itself is not imported."""
    found = reference_backend.availability()
    if not found.usable:
        return found
    if "+cpu" in found.version:
        return Availability(False, found.version, "torch was built without CUDA", "pip install torch (with CUDA)")
    driver = machine.cuda()
    if device >= len(driver.devices):
        shown = driver.problem or f"there is no GPU {device}, only {len(driver.devices)}"
        return Availability(False, found.version, f"no GPU: {shown}", "use --backend openvino")
    return Availability(True, found.version, f"on GPU {device}: {driver.devices[device].name}")


def open_model(model: ModelSpec, info: StreamInfo, options: EngineOptions) -> Engine:
    """The first precision of fp16, bf16, fp32 (or the one asked for) that passes the check, in its fastest variant.

    Raises EngineUnavailable, ModelError, EngineBuildError, EngineRunError.
    """
    found = availability(options.device)
    if not found.usable:
        raise EngineUnavailable(f"backend torch-cuda: {found.reason}; {found.fix}")
    notes: list[str] = []
    for precision in AUTO_PRECISIONS if options.precision == "auto" else (options.precision,):
        engine = open_fastest(model, info, options, precision)
        try:
            quality = check(engine, model, info.color.siting)
        except WrongResult as error:
            quality, reason = 0.0, str(error)
        else:
            reason = f"{quality:.1f} dB from the reference with this model, under {options.fidelity:g}"
        auto = options.precision == "auto" and precision != "fp32"
        if quality and (quality >= options.fidelity or not auto):
            far = () if quality >= options.fidelity else (f"{precision} is {reason}",)
            engine.spec = replace(engine.spec, notes=(*engine.spec.notes, *notes, *far))
            return engine
        engine.close()
        notes.append(f"torch in {precision} is not used: {reason}")
    raise EngineBuildError(f"no precision of model '{model.name}' can be used: {'; '.join(notes)}")


def open_fastest(model: ModelSpec, info: StreamInfo, options: EngineOptions, precision: str) -> OverlappedEngine:
    """Open every variant of the network on this GPU, one after the other; the fastest is left open.

    With one frame in flight, that is for a live stream, nothing is compiled: it would wait for that.
    """
    from stream_sr.inference.backends.torch.frames import VARIANTS

    times: dict[str, float] = {}
    best: OverlappedEngine | None = None
    notes: list[str] = []
    for variant in VARIANTS:
        if variant.compiled and options.depth == 1:
            continue
        try:
            engine = open_variant(model, info, options, precision, variant)
        except EngineRunError as error:
            if not variant.compiled:
                raise
            notes.append(f"torch.compile: {str(error).splitlines()[0]}")
            continue
        took = times[str(variant)] = min(engine.compute_ms.values())
        if best is None or took < min(best.compute_ms.values()):
            slower, best = best, engine
        else:
            slower = engine
        if slower is not None:
            slower.close()
    assert best is not None
    log.debug("torch-cuda %s: %s", precision, times)
    best.spec = replace(best.spec, notes=(*best.spec.notes, *notes))
    return best


def open_variant(
    model: ModelSpec,
    info: StreamInfo,
    options: EngineOptions,
    precision: str,
    variant: NetworkVariant,
    *,
    cuda_graphs: bool | None = None,
) -> OverlappedEngine:
    """Open one variant, unchecked. Raises ModelError, EngineRunError."""
    from stream_sr.inference.backends.torch.frames import FrameNetwork

    network = reference_backend.load_network(model)
    gpu = open_device(options.device)
    driver = TorchDriver(gpu)
    frames = FrameNetwork(network, info, model.scale, precision, variant)
    spec = EngineSpec(
        backend="torch-cuda",
        model=model.name,
        scale=model.scale,
        width=info.width,
        height=info.height,
        precision=precision,
        device=f"GPU {options.device}: {gpu.name}",
        head=str(variant),
        is_deterministic=not model.is_stateful,
    )
    depth = 1 if options.depth == 1 else max(options.depth, THROUGHPUT_DEPTH)
    return OverlappedEngine(spec, depth, driver, TorchProgram(driver, frames), cuda_graphs=cuda_graphs)


def allocator(device: int) -> Allocate:
    """Page-locked memory for frames on their way to and from this GPU."""
    return open_device(device).pinned.take


@dataclass(frozen=True)
class Gpu:
    """A GPU as torch knows it, and the page-locked memory of the process."""

    number: int
    name: str
    pinned: PinnedPool


@lru_cache
def open_device(number: int) -> Gpu:
    """The GPU, once for the process. Raises EngineUnavailable."""
    import torch

    try:
        name = torch.cuda.get_device_name(number)
        torch.backends.cudnn.benchmark = True  # frames have one size: the search for kernels pays
        torch.backends.cudnn.allow_tf32 = False  # fp32 is to be fp32
        torch.zeros(1, device=f"cuda:{number}")
    except (RuntimeError, AssertionError) as error:
        raise EngineUnavailable(
            f"torch cannot use GPU {number}: {_first_line(error)}; see `stream-sr doctor`"
        ) from error

    def lock_pages(nbytes: int) -> Bytes:
        with _errors(number):
            memory: Bytes = torch.empty(nbytes, dtype=torch.uint8, pin_memory=True).numpy()
            return memory

    return Gpu(number, name, PinnedPool(lock_pages))


class TorchDriver:
    """A `schedule.Driver` over torch.cuda."""

    def __init__(self, gpu: Gpu) -> None:
        import torch

        self._torch: Any = torch
        self._gpu = gpu
        self.device = torch.device(f"cuda:{gpu.number}")
        self.number = gpu.number
        self._pool: Any = None

    @contextlib.contextmanager
    def on(self, stream: Any) -> Iterator[None]:
        """What torch is asked for goes on this stream, and no gradients are kept."""
        with self._torch.no_grad(), self._torch.cuda.stream(stream):
            yield

    def settle(self, stream: Any) -> None:
        """What was put on torch's own stream comes before what will be put on this one."""
        stream.wait_stream(self._torch.cuda.current_stream())

    def current(self) -> AbstractContextManager[object]:
        return self._torch.cuda.device(self.device)

    def stream(self) -> Any:
        with _errors(self._gpu.number):
            return self._torch.cuda.Stream(self.device)

    def event(self) -> Any:
        return self._torch.cuda.Event()

    def device_memory(self, nbytes: int) -> Any:
        with _errors(self._gpu.number):
            return self._torch.empty(nbytes, dtype=self._torch.uint8, device=self.device)

    def host_memory(self, nbytes: int) -> Bytes:
        return self._gpu.pinned.take(nbytes)

    def is_pinned(self, memory: Bytes) -> bool:
        return self._gpu.pinned.has(memory)

    def copy_in(self, device: Any, host: Bytes, stream: Any) -> None:
        with _errors(self._gpu.number), self._torch.cuda.stream(stream):
            device.copy_(self._torch.from_numpy(host), non_blocking=True)

    def copy_out(self, host: Bytes, device: Any, stream: Any) -> None:
        with _errors(self._gpu.number), self._torch.cuda.stream(stream):
            self._torch.from_numpy(host).copy_(device, non_blocking=True)

    def copy_within(self, target: Any, source: Any, nbytes: int, stream: Any) -> None:
        with _errors(self._gpu.number), self._torch.cuda.stream(stream):
            target[:nbytes].copy_(source[:nbytes], non_blocking=True)

    def record(self, event: Any, stream: Any) -> None:
        event.record(stream)

    def wait(self, stream: Any, event: Any) -> None:
        stream.wait_event(event)

    def synchronize(self, event: Any) -> None:
        with _errors(self._gpu.number):
            event.synchronize()

    def drain(self, stream: Any) -> None:
        with _errors(self._gpu.number):
            stream.synchronize()

    def capture(self, work: Callable[[], None], stream: Any) -> Any:
        """The ring's graphs share their memory: they only ever run one after the other, on one stream."""
        if self._pool is None:
            self._pool = self._torch.cuda.graph_pool_handle()
        graph = self._torch.cuda.CUDAGraph()
        with (
            _errors(self._gpu.number),
            self._torch.cuda.graph(graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"),
        ):
            work()
        return graph

    def replay(self, graph: Any, stream: Any) -> None:
        with _errors(self._gpu.number), self._torch.cuda.stream(stream):
            graph.replay()

    def milliseconds(self, work: Callable[[], None], stream: Any) -> float:
        with _errors(self._gpu.number):
            begin, end = (self._torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record(stream)
            work()
            end.record(stream)
            end.synchronize()
            return float(begin.elapsed_time(end))

    def close(self) -> None:
        """Nothing: torch keeps the memory for whoever comes next, once the engine's tensors are gone."""


class TorchProgram:
    """A `schedule.Program`: the network on the memory of each of the ring."""

    def __init__(self, driver: TorchDriver, frames: FrameNetwork) -> None:
        self._driver, self._frames = driver, frames
        self._ring: Sequence[tuple[Any, Any]] = ()
        self.previous: Any = None
        self.flow: Any = None

    def prepare(self, ring: Sequence[tuple[Any, Any]], stream: Any) -> None:
        """See `schedule.Program`. The first runs search for kernels, and compile."""
        with _errors(self._driver.number):
            self._frames.to(self._driver.device)
            if self._frames.recurrent:
                height, width = self._frames.large
                self.previous = self._driver.device_memory(height * width)
                self.flow = self._driver.device_memory(flow_bytes(self._frames.size)).zero_()
            self._ring = ring
            self._run = self._frames.ready()
            self._driver.settle(stream)
        for _ in range(WARM_UPS):
            for index in range(len(ring)):
                self.launch(index, stream)
        self._driver.drain(stream)

    def launch(self, index: int, stream: Any) -> None:
        """See `schedule.Program`."""
        with _errors(self._driver.number), self._driver.on(stream):
            self._run(*self._ring[index], self.previous, self.flow)

    def close(self) -> None:
        self._ring, self.previous, self.flow = (), None, None


@contextlib.contextmanager
def _errors(device: int) -> Iterator[None]:
    """torch's exceptions as EngineRunError."""
    import torch

    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise EngineRunError(
            f"GPU {device} is out of memory: {_first_line(error)}; end other programs on it, or take a smaller picture"
        ) from error
    except EngineRunError:
        raise
    except Exception as error:  # torch.compile raises what its parts do
        raise EngineRunError(f"torch failed on GPU {device}: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
