"""What the GPU benchmark measures, piece by piece: engines of ours, their peers, the limits of the machine.

Every function takes what it needs and returns plain values for JSON. Nothing here needs av or openvino, and cv2 only
recurrent models.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np

from stream_sr.inference.backends.cuda.schedule import (
    BACK_TO_BACK_RUNS,
    OverlappedEngine,
    back_to_back,
    flow_bytes,
    i420_bytes,
)
from stream_sr.inference.model import LUMA, PREVIOUS, ModelSpec
from stream_sr.pipeline.engine import EngineOptions
from stream_sr.video.color import ColorInfo, Siting
from stream_sr.video.frame import Frame, StreamInfo
from stream_sr.video.frame_pool import FramePool
from stream_sr.video.planes import read_only
from stream_sr.video.quality import texture

REPEATS = 40
SECONDS = 0.35  # of each loop that is timed by the host's clock
LOWERED, DECONVOLUTION = "convolution + depth-to-space", "deconvolution"


def stream_info(width: int, height: int) -> StreamInfo:
    """A stream of frames of this size."""
    return StreamInfo(width, height, Fraction(1, 60), color=ColorInfo(siting=Siting.LEFT))


def percentiles(times: Sequence[float]) -> dict[str, float]:
    """p50 and p99 in ms."""
    return {"p50": round(float(np.percentile(times, 50)), 4), "p99": round(float(np.percentile(times, 99)), 4)}


# our engines


def open_torch(
    model: ModelSpec,
    info: StreamInfo,
    precision: str,
    head: str,
    *,
    device: int,
    depth: int = 3,
    mode: str | None = None,
) -> OverlappedEngine:
    """The backend torch-cuda in one form; compiled where torch.compile's mode is given."""
    from stream_sr.inference.backends.torch import cuda
    from stream_sr.inference.backends.torch.frames import NetworkVariant

    options = EngineOptions(backend="torch-cuda", device=device, depth=depth)
    variant = NetworkVariant(lowered=head == LOWERED, compiled=mode is not None, mode=mode or "default")
    return cuda.open_variant(model, info, options, precision, variant)


def open_tensorrt(
    model: ModelSpec, info: StreamInfo, precision: str, head: str, *, device: int, depth: int = 3
) -> OverlappedEngine:
    """The backend tensorrt in one form, built in this process."""
    from stream_sr.inference.backends.tensorrt.checked_engine import BuildRequest, layout_of, load_engine

    options = EngineOptions(backend="tensorrt", device=device, depth=depth, keep=False)
    request = BuildRequest(model, layout_of(model, info), options)
    return load_engine(request, precision, head, _built(model, request.layout, precision, head, device))


_blobs: dict[tuple[Any, ...], bytes] = {}  # the two latest: a row opens the faster of two heads again, twice


def _built(model: ModelSpec, picture: Any, precision: str, head: str, device: int) -> bytes:
    from stream_sr.inference.backends.tensorrt.build import build_engine

    key = model.sha256(), picture, precision, head, device
    if key not in _blobs:
        for old in list(_blobs)[:-1]:
            del _blobs[old]
        _blobs[key] = build_engine(model, picture, precision, head, device=device)
    return _blobs[key]


OPEN: dict[str, Callable[..., OverlappedEngine]] = {"torch-cuda": open_torch, "tensorrt": open_tensorrt}


def measure_engine(engine: OverlappedEngine) -> dict[str, Any]:
    """Stages alone, end to end one at a time, and overlapped: pinned and pageable."""
    spec = engine.spec
    stages = {name: percentiles(times) for name, times in engine.stage_times(REPEATS).items()}
    slowest = max(stage["p50"] for stage in stages.values())
    pinned = overlapped(engine, pinned=True)
    return {
        "device": spec.device,
        "form": spec.head,
        "stages_ms": stages,
        "launch_and_graph_ms": rounded(engine.compute_ms),
        "end_to_end_ms": end_to_end(engine),
        "overlapped_fps": round(pinned, 1),
        "overlapped_fps_pageable": round(overlapped(engine, pinned=False), 1),
        "overlap": round(pinned * slowest / 1000, 3),  # share of what the slowest stage alone would allow
        "depth": engine.depth,
        "notes": list(spec.notes),
    }


def rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in values.items()}


def frames_of(info: StreamInfo, count: int, pool: FramePool | None) -> list[Frame]:
    """Different pictures, in slots of the pool or in memory of their own."""
    made = []
    base = texture(96, 160)
    for number in range(count):
        slot = pool.lease() if pool else None
        buffer = slot.buffer if slot else np.empty(i420_bytes(info.width, info.height), np.uint8)
        buffer[:] = np.resize(np.roll(base, 7 * number), buffer.size)
        luma, rest = info.width * info.height, buffer[info.width * info.height :]
        half = rest.size // 2
        shape = ((info.height + 1) // 2, (info.width + 1) // 2)
        planes = (
            buffer[:luma].reshape(info.height, info.width),
            rest[:half].reshape(shape),
            rest[half:].reshape(shape),
        )
        if slot:
            planes = slot.planes
        made.append(Frame(read_only(planes), pts=number, time_base=info.time_base, number=number, slot=slot))
    return made


def _pools(engine: OverlappedEngine, *, pinned: bool) -> tuple[StreamInfo, list[Frame], FramePool | None]:
    spec, count = engine.spec, engine.depth + 2
    info = stream_info(spec.width, spec.height)
    if not pinned:
        return info, frames_of(info, count, None), None
    before = FramePool(spec.width, spec.height, count, allocate=engine.allocate)
    after = FramePool(*spec.output_size, engine.depth + 2, allocate=engine.allocate)
    return info, frames_of(info, count, before), after


def end_to_end(engine: OverlappedEngine) -> dict[str, float]:
    """Milliseconds from submission to result by the host's clock, one frame at a time, in pinned memory."""
    _, frames, pool = _pools(engine, pinned=True)
    assert pool is not None
    times = []
    ends = time.perf_counter() + SECONDS
    for number in range(1_000_000):
        slot = pool.lease()
        began = time.perf_counter()
        engine.submit(frames[number % len(frames)], slot).wait()
        times.append((time.perf_counter() - began) * 1000)
        slot.release()
        if time.perf_counter() > ends and number > 20:
            break
    return percentiles(times[5:])


def overlapped(engine: OverlappedEngine, *, pinned: bool) -> float:
    """Frames per second with ``depth`` in flight."""
    _, frames, pool = _pools(engine, pinned=pinned)
    flying: deque[tuple[Any, Any]] = deque()
    done, began = 0, 0.0
    for number in range(10_000_000):
        slot = pool.lease() if pool else None
        flying.append((engine.submit(frames[number % len(frames)], slot), slot))
        if len(flying) < engine.depth:
            continue
        pending, old = flying.popleft()
        pending.wait()
        if old is not None:
            old.release()
        now = time.perf_counter()
        if number == 2 * engine.depth + 5:
            done, began = 0, now
            continue
        done += 1
        if began and now - began > SECONDS and done >= 15:
            break
    for pending, _ in flying:
        pending.wait()
    return done / (now - began)


# the limits


def floor(model: ModelSpec, info: StreamInfo, precision: str, limits: dict[str, Any]) -> dict[str, float]:
    """The least time a frame can take here, in ms: over the link, through the device's memory once, in arithmetic."""
    scale = model.scale
    size_in = i420_bytes(info.width, info.height)
    size_out = i420_bytes(info.width * scale, info.height * scale)
    operations = 2 * model.macs_per_pixel * info.width * info.height
    found = {
        "upload": size_in / limits["upload_pinned_gbs"] / 1e6,
        "download": size_out / limits["download_pinned_gbs"] / 1e6,
        "memory": (size_in + size_out) / limits["device_copy_gbs"] / 1e6,
        "arithmetic": operations / limits["tflops"][precision] / 1e9,
    }
    return {name: round(value, 5) for name, value in found.items()}


def limits(device: str) -> dict[str, Any]:
    """Bandwidths in GB/s and matrix products in TFLOP/s (TF32 off), as torch reaches them on random data."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    large = device != "cpu"
    found: dict[str, Any] = {"device_copy_gbs": copy_gbs(device, 2**30 if large else 2**20)}
    size = 64 * 2**20 if large else 2**20
    on_device = torch.randint(0, 255, (size,), dtype=torch.uint8, device=device)
    for name, pinned in (("pinned", large), ("pageable", False)):
        host = torch.empty(size, dtype=torch.uint8, pin_memory=pinned)
        up = best_ms(lambda host=host: on_device.copy_(host, non_blocking=True), device)  # type: ignore[misc]
        down = best_ms(lambda host=host: host.copy_(on_device, non_blocking=True), device)  # type: ignore[misc]
        found |= {f"upload_{name}_gbs": size / up / 1e6, f"download_{name}_gbs": size / down / 1e6}
    side = 8192 if large else 128
    found["tflops"] = {}
    for name, kind in (("fp16", torch.float16), ("bf16", torch.bfloat16), ("fp32", torch.float32)):
        a, b = (torch.randn(side, side, device=device, dtype=kind) for _ in range(2))
        found["tflops"][name] = 2 * side**3 / min(device_times(lambda a=a, b=b: a @ b, device)) / 1e9  # type: ignore[misc]
    rounding = {name: float(f"{value:.4g}") for name, value in found.items() if name != "tflops"}
    return rounding | {"tflops": {name: float(f"{value:.4g}") for name, value in found["tflops"].items()}}


def copy_gbs(device: str, size: int) -> float:
    """Bytes read and written per ns in the device's memory; ``size`` should be many times the second-level cache."""
    import torch

    one, other = (torch.randint(0, 255, (size,), dtype=torch.uint8, device=device) for _ in range(2))
    return 2 * size / min(device_times(lambda: other.copy_(one), device)) / 1e6


def best_ms(work: Callable[[], Any], device: str, repeats: int = 8) -> float:
    """The least time of several runs, in ms, the device waited for."""
    import torch

    def settle() -> None:
        if device != "cpu":
            torch.cuda.synchronize(device)

    times = []
    for _ in range(repeats + 2):
        settle()
        began = time.perf_counter()
        work()
        settle()
        times.append((time.perf_counter() - began) * 1000)
    return max(1e-6, min(times[2:]))


# the peers


def device_times(work: Callable[[], Any], device: str) -> list[float]:
    """Device milliseconds of each run; on the processor the host's clock."""
    import torch

    if device == "cpu":
        return [best_ms(work, device, 1) for _ in range(3)]
    for _ in range(5):
        work()
    torch.cuda.synchronize(device)
    times = []
    for _ in range(REPEATS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        begin.record()
        back_to_back(work)()
        end.record()
        end.synchronize()
        times.append(float(begin.elapsed_time(end)) / BACK_TO_BACK_RUNS)
    return times


def time_torch(model: ModelSpec, info: StreamInfo, precision: str, mode: str | None, device: str, head: str) -> Any:
    """Whole frames through torch, already on the device: eager, or torch.compile in one mode. No graph of ours."""
    import torch

    from stream_sr.inference.backends.torch.cpu import load_network
    from stream_sr.inference.backends.torch.frames import FrameNetwork, NetworkVariant

    torch._dynamo.reset()
    frames = FrameNetwork(
        load_network(model), info, model.scale, precision, NetworkVariant(lowered=head == LOWERED)
    ).to(device)
    options: dict[str, Any] = {} if mode == "default" else {"mode": mode}
    run = frames if mode is None else torch.compile(frames, fullgraph=True, dynamic=False, **options)
    picture = frames_of(info, 1, None)[0]
    source = torch.from_numpy(np.concatenate([plane.ravel() for plane in picture.planes])).to(device)
    width, height = info.width * model.scale, info.height * model.scale
    target = torch.empty(i420_bytes(width, height), dtype=torch.uint8, device=device)
    previous = target[: width * height].clone() if frames.recurrent else None
    flow = None if previous is None else torch.zeros(flow_bytes(frames.size), dtype=torch.uint8, device=device)
    kept = [one for one in (source, target, previous, flow) if one is not None]
    for one in kept:  # else torch.compile leaves its graph out
        torch._dynamo.mark_static_address(one)
    with torch.no_grad():
        return percentiles(device_times(lambda: run(source, target, previous, flow), device))


def time_onnxruntime(model: ModelSpec, info: StreamInfo, precision: str, device: str, head: str) -> Any:
    """The same frames through ONNX Runtime, bound to device memory; fp16 by our own pass over the graph."""
    try:
        import onnxruntime
    except ImportError as error:
        raise Skipped(f"onnxruntime is not installed: {error}") from error
    from stream_sr.inference.backends.tensorrt.frames import FRAME, FrameLayout, tensors
    from stream_sr.inference.backends.tensorrt.graph import frame_graph

    wanted = "CPUExecutionProvider" if device == "cpu" else "CUDAExecutionProvider"
    if wanted not in onnxruntime.get_available_providers():
        raise Skipped(f"this onnxruntime has no {wanted}: {', '.join(onnxruntime.get_available_providers())}")
    picture = FrameLayout(info.width, info.height, model.scale, int(info.color.siting))
    data = frame_graph(model.onnx.read_bytes(), picture, precision, head)
    number = 0 if device == "cpu" else int(device.partition(":")[2])
    options = {} if device == "cpu" else {"device_id": number, "use_tf32": 0}
    session = onnxruntime.InferenceSession(data, providers=[(wanted, options)])
    if wanted not in session.get_providers():
        raise Skipped(f"onnxruntime fell back to {', '.join(session.get_providers())}")
    if any(one.name == PREVIOUS for one in session.get_inputs()):
        raise Skipped("a recurrent network is not timed through onnxruntime")
    where = "cpu" if device == "cpu" else "cuda"
    binding = session.io_binding()
    values = []
    for name, (_, shape) in tensors(picture).items():
        array = np.resize(texture(96, 160), shape).astype(np.uint8)
        values.append(onnxruntime.OrtValue.ortvalue_from_numpy(array, where, number))
        if name in (FRAME, LUMA, "chroma"):
            binding.bind_ortvalue_input(name, values[-1])
        else:
            binding.bind_ortvalue_output(name, values[-1])

    without_waiting = onnxruntime.RunOptions()
    without_waiting.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def work() -> None:
        back_to_back(lambda: session.run_with_iobinding(binding, without_waiting))()
        binding.synchronize_outputs()

    for _ in range(2):
        work()
    times = []
    for _ in range(REPEATS if device != "cpu" else 3):
        began = time.perf_counter()
        work()
        times.append((time.perf_counter() - began) * 1000 / BACK_TO_BACK_RUNS)
    return percentiles(times)


class Skipped(Exception):
    """What cannot be measured here, and why: no failure."""


# conformance


def mixed_up(engine: OverlappedEngine, count: int) -> dict[str, int]:
    """Of ``count`` frames computed ``depth`` at a time, in pinned memory, how many differ from the same one at a time.

    Each begins without memory of the one before, so that the order of a recurrent network does not matter.
    """
    _, frames, pool = _pools(engine, pinned=True)
    assert pool is not None
    frames = [replace(frame, discontinuity=True) for frame in frames]
    alone = []
    for frame in frames:
        slot = pool.lease()
        engine.submit(frame, slot).wait()
        alone.append(slot.buffer.copy())
        slot.release()
    flying: deque[tuple[int, Any, Any]] = deque()
    wrong = 0
    for number in range(count + engine.depth):
        if len(flying) == engine.depth or (flying and number >= count):
            index, pending, slot = flying.popleft()
            pending.wait()
            wrong += not np.array_equal(slot.buffer, alone[index])
            slot.release()
        if number < count:
            slot, index = pool.lease(), number % len(frames)
            flying.append((index, engine.submit(frames[index], slot), slot))
    return {"frames": count, "differ": wrong}


def conformance(engine: Any, expected: list[Frame], frames: list[Frame]) -> dict[str, float]:
    """Largest difference in levels and PSNR of luma, and of chroma the largest difference, over the frames in turn."""
    luma_error, luma_worst, chroma_worst = [], 0, 0
    for frame, right in zip(frames, expected, strict=True):
        result = engine.submit(replace(frame, discontinuity=frame.number == 0)).wait()
        for index, (got, wanted) in enumerate(zip(result.planes, right.planes, strict=True)):
            off = np.abs(got.astype(np.int16) - wanted)
            if index == 0:
                luma_error.append(float((off.astype(np.float64) ** 2).mean()))
                luma_worst = max(luma_worst, int(off.max()))
            else:
                chroma_worst = max(chroma_worst, int(off.max()))
    mean = float(np.mean(luma_error))
    decibel = 99.0 if mean == 0 else round(10 * float(np.log10(255**2 / mean)), 2)
    return {"luma_levels": luma_worst, "luma_psnr": decibel, "chroma_levels": chroma_worst}
