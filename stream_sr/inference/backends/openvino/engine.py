"""OpenVINO on the CPU: the default where there is no GPU.

The graph is rewritten before it is compiled (`graph`). Chroma is enlarged by a small fp32 model of its own.
"""

from __future__ import annotations

import io
import logging
import threading
from collections import deque
from collections.abc import Callable, Hashable
from importlib import metadata
from importlib.util import find_spec
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt

from stream_sr.errors import EngineRunError, EngineUnavailable, PictureShapeError
from stream_sr.inference import cache
from stream_sr.inference.availability import Availability, cpu_threads
from stream_sr.inference.backends.openvino.graph import (
    OpenVINOGraph,
    chroma_graph,
    compile_graph,
    core,
    first_line,
    settings,
)
from stream_sr.inference.backends.openvino.graph import cache_version as cache_version
from stream_sr.inference.backends.openvino.precision import PrecisionChoice, choose_precision, cpu
from stream_sr.inference.backends.openvino.precision import check_supported as check_supported
from stream_sr.inference.backends.openvino.tuning import Parallelism, candidates, tune
from stream_sr.inference.frames_in_flight import FramesInFlight, OutputMemory, output_memory
from stream_sr.inference.model import LUMA, PREVIOUS, UPSCALED, BuildKey, ModelSpec
from stream_sr.pipeline.engine import Engine, EngineOptions, EngineSpec, Pending
from stream_sr.video.frame import Frame, StreamInfo
from stream_sr.video.frame_pool import Allocate, Slot
from stream_sr.video.optical_flow import PreviousOutput
from stream_sr.video.planes import chroma_shape
from stream_sr.video.quality import texture

PRECISIONS = ("fp32", "bf16", "int8")
INSTALL = "pip install openvino"
BENCHMARK_PIXELS, BENCHMARK_ROWS = 640 * 360, 64  # of what is measured to choose threads, streams and depth
log = logging.getLogger("stream_sr")


def availability() -> Availability:
    """Whether OpenVINO is installed and loads."""
    if find_spec("openvino") is None:
        return Availability(False, reason="openvino not installed", fix=INSTALL)
    version = metadata.version("openvino")
    try:
        found = str(cpu())
    except Exception as error:  # a broken wheel raises ImportError, OSError or RuntimeError
        return Availability(False, version, f"openvino does not load: {error}", f"{INSTALL} --force-reinstall")
    return Availability(True, version, f"on {found}")


def open_model(model: ModelSpec, info: StreamInfo, options: EngineOptions) -> Engine:
    """Compile, or take from the cache. Raises EngineUnavailable, ModelError, EngineBuildError."""
    found = availability()
    if not found.usable:
        raise EngineUnavailable(f"backend openvino: {found.reason}; {found.fix}")
    chosen = choose_precision(model, options.precision, options.fidelity)
    graph, scale = chosen.graph, chosen.graph.scale
    size = (info.height, info.width)
    parallelism, note = _choose_parallelism(chosen, size, options)
    luma = _compile_cached(chosen, size, threads=parallelism.threads, streams=parallelism.streams, keep=options.keep)
    chroma = _compile_chroma(
        chroma_shape(info.width, info.height),
        scale,
        info.color.siting,
        threads=min(parallelism.threads, options.cameras),
    )
    spec = EngineSpec(
        backend="openvino",
        model=model.name,
        scale=scale,
        width=info.width,
        height=info.height,
        precision=chosen.precision,
        device=f"CPU: {cpu().name}, {parallelism.threads} threads",
        head=chosen.head,
        notes=(*chosen.notes, note) if note else chosen.notes,
        is_deterministic=not graph.recurrent,
    )
    return OpenVINOEngine(spec, luma, chroma, parallelism.depth)


def _choose_parallelism(
    chosen: PrecisionChoice, size: tuple[int, int], options: EngineOptions
) -> tuple[Parallelism, str]:
    """Return threads, streams and depth: as asked for, or measured where that is wanted and there is a choice."""
    depth = 1 if chosen.graph.recurrent else options.depth  # a recurrent network needs the frame before
    found = candidates(cpu_threads(options), depth, options.cameras)
    if not options.tune or options.threads is not None:
        return found[0], ""
    key = _key(chosen, f"{size[1]}x{size[0]}, {found[0].threads} threads, depth {depth}")
    return tune(key.digest(), found, lambda candidate: _LumaRunner(chosen, size, candidate))


class _LumaRunner:
    """A `tuning.Runner`: the luma network on a texture, of a large picture on its upper part."""

    def __init__(self, chosen: PrecisionChoice, size: tuple[int, int], candidate: Parallelism) -> None:
        size = min(size[0], max(BENCHMARK_ROWS, BENCHMARK_PIXELS // size[1])), size[1]
        compiled = compile_graph(
            chosen.graph.sized(*size), precision=chosen.precision, threads=candidate.threads, streams=candidate.streams
        )
        self._requests = deque(compiled.create_infer_request() for _ in range(candidate.depth))
        picture = texture(*size)
        for request in self._requests:
            request.get_tensor(LUMA).data[0, 0] = picture

    def start(self) -> Callable[[], None]:
        request = self._requests[0]
        self._requests.rotate(-1)
        request.start_async()
        return request.wait


def _compile_cached(chosen: PrecisionChoice, size: tuple[int, int], *, threads: int, streams: int, keep: bool) -> Any:
    key = _key(chosen, f"{size[1]}x{size[0]}, {threads} threads, {streams} streams")
    return _share(key, lambda: _load_or_compile(key, chosen.graph, size, threads, streams, keep))


def _compile_chroma(shape: tuple[int, int], scale: int, siting: int, *, threads: int) -> Any:
    """For the chroma of ``threads`` frames at once, each on one thread: it is little work."""
    return _share(
        (shape, scale, siting, threads),
        lambda: compile_graph(chroma_graph(shape, scale, siting), precision="fp32", threads=threads, streams=threads),
    )


def _key(chosen: PrecisionChoice, profile: str) -> BuildKey:
    return BuildKey(
        onnx_sha256=chosen.onnx_sha256,
        backend="openvino",
        backend_version=cache_version(),
        device=cpu().name,
        compute_capability=" ".join(sorted(core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))),
        driver="",
        precision=chosen.precision,
        profile=profile,
        head=chosen.head,
    )


# What is compiled once serves every stream of this process that needs the same, for as long as one does. Each has its
# own requests, which OpenVINO serves in the order they come. (It starts threads for everything that is compiled, keeps
# them for what is compiled next, and ends none: there are as many as were ever needed at once.)
_shared: WeakValueDictionary[Hashable, Any] = WeakValueDictionary()
_sharing = threading.Lock()


def _share(key: Hashable, make: Callable[[], Any]) -> Any:
    with _sharing:
        if (compiled := _shared.get(key)) is None:
            compiled = _shared[key] = make()
        return compiled


def _load_or_compile(
    key: BuildKey, graph: OpenVINOGraph, size: tuple[int, int], threads: int, streams: int, keep: bool
) -> Any:
    blob = cache.load(key)
    if blob is not None:
        try:
            return core().import_model(io.BytesIO(blob), "CPU", settings(key.precision, threads, streams))
        except RuntimeError as error:
            cache.discard(key, f"OpenVINO refuses it: {first_line(error)}")
    compiled = compile_graph(graph.sized(*size), precision=key.precision, threads=threads, streams=streams)
    if keep:
        exported = compiled.export_model()
        cache.store(key, exported if isinstance(exported, bytes) else exported.getvalue())
    return compiled


def bound(tensor: Callable[..., Any], memory: npt.NDArray[np.uint8]) -> Any:
    """An OpenVINO tensor on our memory. Raises PictureShapeError where it is a copy, or of another shape."""
    made = tensor(memory, shared_memory=True)
    if tuple(made.shape) != memory.shape or made.data.ctypes.data != memory.ctypes.data:
        raise PictureShapeError(f"OpenVINO has a tensor of {tuple(made.shape)} beside our memory of {memory.shape}")
    return made


class _Request:
    """One frame's worth of OpenVINO's memory, reused: its inputs are ours and are copied into."""

    def __init__(self, spec: EngineSpec, luma: Any, chroma: Any) -> None:
        self.luma, self.chroma = luma.create_infer_request(), chroma.create_infer_request()
        self.luma_in = self.luma.get_tensor(LUMA).data
        self.chroma_in = self.chroma.get_input_tensor().data
        self.chroma_shape = tuple(chroma.outputs[0].get_shape())
        self.last = PreviousOutput(spec.scale) if len(luma.inputs) > 1 else None
        self.output: OutputMemory | None = None

    def start(self, frame: Frame, output: OutputMemory) -> None:
        import openvino

        self.luma_in[0, 0] = frame.planes[0]
        self.chroma_in[0, 0] = frame.planes[1]
        self.chroma_in[1, 0] = frame.planes[2]
        self.output = output
        if self.last:
            previous = self.luma.get_tensor(PREVIOUS).data[0, 0]
            self.last.write(frame.planes[0], previous, reset=frame.discontinuity)
        # bound, not copied: without shared_memory OpenVINO would write into a copy of its own
        self.luma.set_tensor(UPSCALED, bound(openvino.Tensor, output.planes[0][None, None]))
        if self.chroma_shape == output.chroma.shape:
            self.chroma.set_output_tensor(bound(openvino.Tensor, output.chroma))
        self.luma.start_async()
        self.chroma.start_async()

    def finish(self) -> OutputMemory:
        output, self.output = self.output, None
        assert output is not None
        self.chroma.wait()
        if self.chroma_shape != output.chroma.shape:  # an odd size: the enlarged plane is cut
            _, _, height, width = output.chroma.shape
            output.chroma[:] = self.chroma.get_output_tensor().data[:, :, :height, :width]
        self.luma.wait()
        if self.last:
            self.last.keep(output.planes[0])
        return output


class OpenVINOEngine:
    """``depth`` requests, used in turn."""

    allocate: Allocate | None = None

    def __init__(self, spec: EngineSpec, luma: Any, chroma: Any, depth: int) -> None:
        self.spec, self.depth = spec, depth
        self._in_flight = FramesInFlight(depth)
        self._compiled: tuple[Any, Any] | None = (luma, chroma)
        self._idle = deque(_Request(spec, luma, chroma) for _ in range(depth))
        self._busy: deque[_Request] = deque()

    def submit(self, frame: Frame, slot: Slot | None = None) -> Pending:
        return self._in_flight.submit(lambda: self._start(frame, slot))

    def _start(self, frame: Frame, slot: Slot | None) -> Callable[[], Frame]:
        output = output_memory(frame, self.spec, slot)
        request = self._idle.popleft()
        self._busy.append(request)
        try:
            request.start(frame, output)
        except RuntimeError as error:
            self._reuse(request)
            raise EngineRunError(f"OpenVINO refused frame {frame.number}: {first_line(error)}") from error

        def finish() -> Frame:
            try:
                planes = request.finish().planes
            except RuntimeError as error:
                raise EngineRunError(f"OpenVINO failed at frame {frame.number}: {first_line(error)}") from error
            finally:
                self._reuse(request)
            return frame.with_planes(planes, slot)

        return finish

    def _reuse(self, request: _Request) -> None:
        self._busy.remove(request)
        self._idle.append(request)

    def close(self) -> None:
        self._in_flight.closed = True
        for request in self._busy:  # it writes into a slot that the caller will give back
            request.luma.wait()
            request.chroma.wait()
        self._idle.clear()
        self._compiled = None
