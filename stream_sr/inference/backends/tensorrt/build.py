"""A serialized engine from a model's ONNX, on any machine: its key, and TensorRT's builder."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from stream_sr.errors import EngineBuildError, ModelError, StreamSRError
from stream_sr.inference import cache
from stream_sr.inference.backends.tensorrt import library
from stream_sr.inference.backends.tensorrt.driver import open_device
from stream_sr.inference.backends.tensorrt.frames import FrameLayout
from stream_sr.inference.backends.tensorrt.graph import REWRITE, frame_graph
from stream_sr.inference.model import BuildKey, ModelSpec
from stream_sr.system import machine
from stream_sr.video.color import Siting

Progress = Callable[[str, float], None]  # what is being done, and how much of it is done, 0 to 1
log = logging.getLogger("stream_sr")


ANY_DEVICE = "any"  # device, compute capability and driver of an engine that was built without a GPU


def engine_key(model: ModelSpec, layout: FrameLayout, precision: str, head: str, device: int = 0) -> BuildKey:
    """Return what the engine and what was measured of it depend on; without a GPU that is `portable_key`."""
    found = machine.cuda()
    key = portable_key(model, layout, precision, head)
    if device >= len(found.devices):
        return key
    gpu = found.devices[device]
    return replace(key, device=gpu.name, compute_capability=gpu.compute_capability, driver=machine.nvidia_driver())


def portable_key(model: ModelSpec, layout: FrameLayout, precision: str, head: str) -> BuildKey:
    """Return the key of an engine that was built without a GPU, the same on every machine.

    TensorRT-RTX compiles in two steps: a portable engine, for every GPU from compute capability 8.0 on, and the GPU's
    own code when that is loaded (its documentation, CPU-Only AOT).
    """
    profile = f"{layout.width}x{layout.height}, chroma {Siting(layout.siting).name.lower()}"
    return BuildKey(
        onnx_sha256=model.sha256(),
        backend="tensorrt",
        backend_version=library.cache_version(REWRITE),
        device=ANY_DEVICE,
        compute_capability=ANY_DEVICE,
        driver=ANY_DEVICE,
        precision=precision,
        profile=profile,
        head=head,
    )


def read_onnx(model: ModelSpec) -> bytes:
    """The model's file. Raises ModelError."""
    try:
        return model.onnx.read_bytes()
    except OSError as error:
        raise ModelError(f"{model.onnx} cannot be read: {error}") from error


def build_engine(
    model: ModelSpec,
    layout: FrameLayout,
    precision: str,
    head: str,
    *,
    device: int = 0,
    progress: Progress = lambda what, share: None,
) -> bytes:
    """Build one engine, for GPU ``device`` where there is one; it is not kept.

    Raises ModelError, EngineBuildError with TensorRT's own words, EngineUnavailable for a GPU that cannot be used.
    """
    graph = frame_graph(read_onnx(model), layout, precision, head)
    timing = _timing_path(engine_key(model, layout, precision, head, device))
    trt = library.library()
    name = f"{model.name} in {precision} with {head}"
    errors = library.ErrorCollector()
    try:
        with _on_gpu(device):
            return _build(trt, graph, name, errors, timing, progress)
    except StreamSRError:
        raise
    except Exception as error:  # the bindings raise what pybind11 makes of the library's exceptions
        raise EngineBuildError(f"{library.library_name()} could not build {name}: {error}") from error
    finally:
        errors.close()


def _on_gpu(device: int) -> AbstractContextManager[object]:
    """TensorRT tries kernels on the GPU that is current, which without this is the first."""
    if device < len(machine.cuda().devices) and find_spec("pycuda") is not None:
        return open_device(device).current()
    return contextlib.nullcontext()


def _build(
    trt: Any, graph: bytes, name: str, errors: library.ErrorCollector, timing: Path, progress: Progress
) -> bytes:
    builder = trt.Builder(library.logger())
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, library.logger())
    if not parser.parse(graph):
        parser_errors = "; ".join(parser.get_error(n).desc() for n in range(parser.num_errors))
        raise EngineBuildError(f"{library.library_name()} cannot parse {name}: {parser_errors}")
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # fp32 is to be fp32
    if library.is_rtx():
        # Else it may take memory while it runs, for large tensors, which a CUDA graph cannot hold.
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
    config.progress_monitor = _make_monitor(trt, name, progress)
    timings = None if library.is_rtx() else _attach_timing_cache(config, timing)
    errors.take_first()  # of cached timings that do not fit: no reason for what may fail below
    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        raise EngineBuildError(f"{library.library_name()} could not build {name}: {errors.take_first()}")
    if timings is not None:
        with contextlib.suppress(OSError):  # it only makes the next build quicker
            cache.write_atomically(timing, bytes(timings.serialize()))
    return bytes(serialized)


def _attach_timing_cache(config: Any, path: Path) -> Any:
    """What TensorRT measured of its kernels on this device, for all engines of this device and version.

    What it does not take (damaged, of another device) is left aside.
    """
    try:
        known = path.read_bytes()
    except OSError:
        known = b""
    for content in (known, b""):
        timings = config.create_timing_cache(content)
        if timings is not None and config.set_timing_cache(timings, False):
            return timings
    return None


def _timing_path(key: BuildKey) -> Path:
    return cache.companion(cache.shared(key), ".timing")


def _make_monitor(trt: Any, name: str, progress: Progress) -> Any:
    """Tells ``progress`` how far the outermost phase of a build is."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if not parent_phase:
                self.steps[phase_name] = max(1, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name in self.steps:
                progress(f"building {name}", min(1.0, (step + 1) / self.steps[phase_name]))
            return True

        def phase_finish(self, phase_name: str) -> None:
            if self.steps.pop(phase_name, None):
                progress(f"building {name}", 1.0)

    return Monitor()
