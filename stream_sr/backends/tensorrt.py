"""TensorRT: builds a serialized engine from a model's ONNX, on any machine; this version does not run it.

Takes ``tensorrt``, else ``tensorrt_rtx``, else ``tensorrt_rtx_bindings`` (TensorRT-RTX's wheels, which build without a
GPU). All are strongly typed: the precision is in the graph, so it is changed in the ONNX before it is parsed.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from stream_sr.backends import cache
from stream_sr.backends.output import Availability
from stream_sr.engine import Engine, EngineOptions
from stream_sr.errors import ConfigError, EngineBuildError, EngineUnavailable, ModelError
from stream_sr.frame import StreamInfo
from stream_sr.model import BuildKey, ModelSpec

PRECISIONS = ("fp32", "fp16")  # bf16: TensorRT-RTX 1.7 cannot build a deconvolution in it
LIBRARIES = ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings")
INSTALL = "pip install stream-sr[tensorrt] (or stream-sr[tensorrt-rtx])"
NOT_YET = "this version builds TensorRT engines (`stream-sr engine build`) but does not run them yet"


@dataclass(frozen=True, slots=True)
class Profile:
    """The input sizes that an engine takes, each (width, height): smallest, the one it is tuned for, largest."""

    smallest: tuple[int, int] = (64, 64)
    usual: tuple[int, int] = (640, 360)
    largest: tuple[int, int] = (3840, 2160)

    def check(self) -> None:
        """Raises ConfigError unless the sizes grow in both directions."""
        for low, usual, high in zip(self.smallest, self.usual, self.largest, strict=True):
            if not 1 <= low <= usual <= high:
                raise ConfigError(f"the profile {self} cannot be: it is smallest <= usual <= largest, both ways")

    def __str__(self) -> str:
        return " ".join(f"{width}x{height}" for width, height in (self.smallest, self.usual, self.largest))


def library_name() -> str | None:
    """Name of the module that is taken, or None where none is installed."""
    return next((name for name in LIBRARIES if find_spec(name) is not None), None)


def can_build() -> Availability:
    """Whether engines can be built here, with which library."""
    name = library_name()
    if name is None:
        return Availability(False, reason=f"none of {', '.join(LIBRARIES)} is installed", mend=INSTALL)
    try:
        return Availability(True, _library().__version__, f"builds with {name}")
    except Exception as error:  # the wheels load shared libraries: ImportError, OSError, RuntimeError
        return Availability(False, reason=f"{name} does not load: {error}", mend=f"{INSTALL} --force-reinstall")


def availability() -> Availability:
    """Not usable for running; the reason says whether it can at least build."""
    found = can_build()
    if not found.usable:
        return found
    return Availability(False, found.version, f"{found.reason}; {NOT_YET}", "use --backend openvino")


def open_model(model: ModelSpec, info: StreamInfo, options: EngineOptions) -> Engine:
    """Raises EngineUnavailable, always, with the reason."""
    found = availability()
    raise EngineUnavailable(f"backend tensorrt cannot run: {found.reason}; {found.mend}")


def build(
    model: ModelSpec, precision: str = "fp16", profile: Profile | None = None, *, device: int = 0, rebuild: bool = False
) -> tuple[BuildKey, bytes]:
    """The serialized engine of a model, from the cache or (always with ``rebuild``) built and kept there, and its key.

    Raises ConfigError for a precision or profile that cannot be, EngineUnavailable where TensorRT is not installed,
    EngineBuildError with TensorRT's own words.
    """
    found = can_build()
    if not found.usable:
        raise EngineUnavailable(f"TensorRT engines cannot be built: {found.reason}; {found.mend}")
    if precision not in PRECISIONS:
        raise ConfigError(f"TensorRT engines have no precision '{precision}'; it is {', '.join(PRECISIONS)}")
    profile = profile or Profile()
    profile.check()
    key = build_key(model, precision, profile, device)
    if not rebuild and (kept := cache.load(key)) is not None:
        return key, kept
    try:
        onnx = to_precision(model.onnx.read_bytes(), precision)
    except OSError as error:
        raise ModelError(f"{model.onnx} cannot be read: {error}") from error
    engine = _build(onnx, profile, model.name)
    cache.store(key, engine)
    return key, engine


def build_key(model: ModelSpec, precision: str, profile: Profile, device: int = 0) -> BuildKey:
    """What the engine depends on. Device and driver are "any" without a GPU: TensorRT-RTX finishes it where it runs."""
    name, capability, driver = gpu(device)
    return BuildKey(
        onnx_sha256=model.sha256(), backend="tensorrt", backend_version=cache_version(), device=name,
        compute_capability=capability, driver=driver, precision=precision, profile=str(profile),
    )  # fmt: skip


def cache_version() -> str:
    """The library and its version, as in a `BuildKey`; empty where there is none."""
    found = can_build()
    return f"{library_name()} {found.version}" if found.usable else ""


@lru_cache
def gpu(device: int) -> tuple[str, str, str]:
    """Name, compute capability and driver of a GPU, as nvidia-smi says; "any" each where there is none."""
    query = ["nvidia-smi", f"--id={device}", "--query-gpu=name,compute_cap,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout
        name, capability, driver = (one.strip() for one in answer.strip().split(","))
    except (OSError, subprocess.SubprocessError, ValueError):
        return "any", "any", "any"
    return name, capability, driver


def to_precision(onnx_bytes: bytes, precision: str) -> bytes:
    """The graph with its layers up to the last convolution in fp16; the tail (scaling, rounding) stays fp32.

    Raises EngineUnavailable without the package onnx, ModelError for a file that is no ONNX.
    """
    if precision == "fp32":
        return onnx_bytes
    if find_spec("onnx") is None:
        raise EngineUnavailable(f"an engine in {precision} needs the package onnx; pip install onnx, or build fp32")
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    low = TensorProto.FLOAT16
    try:
        model = onnx.load_from_string(onnx_bytes)
    except Exception as error:  # protobuf's DecodeError comes from one of its two implementations
        raise ModelError(f"the model cannot be read as ONNX: {error}") from error
    nodes = list(model.graph.node)
    convolutions = [n for n, node in enumerate(nodes) if node.op_type in ("Conv", "ConvTranspose")]
    if not convolutions:
        raise ModelError("the model has no convolution; only fp32 can be built")
    body, tail = nodes[: convolutions[-1] + 1], nodes[convolutions[-1] + 1 :]
    made = {name for node in body for name in node.output}
    used = {name for node in body for name in node.input}
    for constant in model.graph.initializer:
        if constant.name in used and constant.data_type == TensorProto.FLOAT:
            constant.CopyFrom(
                numpy_helper.from_array(numpy_helper.to_array(constant).astype(np.float16), constant.name)
            )
    for node in body:
        if node.op_type == "Cast":
            for attribute in node.attribute:
                if attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                    attribute.i = low
    handed_over = sorted({name for node in tail for name in node.input if name in made})
    casts = [
        helper.make_node("Cast", [name], [f"{name}.fp32"], name=f"{name}.fp32", to=TensorProto.FLOAT)
        for name in handed_over
    ]
    for node in tail:
        for n, name in enumerate(node.input):
            if name in made:
                node.input[n] = f"{name}.fp32"
    del model.graph.node[:]
    model.graph.node.extend([*body, *casts, *tail])
    return model.SerializeToString(deterministic=True)


def _library() -> Any:
    name = library_name()
    assert name is not None
    return import_module(name)


def _build(onnx: bytes, profile: Profile, name: str) -> bytes:
    trt = _library()
    complaints: list[str] = []
    builder = trt.Builder(_make_logger(trt, complaints))
    flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, builder.logger)
    if not parser.parse(onnx):
        errors = "; ".join(parser.get_error(n).desc() for n in range(parser.num_errors))
        raise EngineBuildError(f"{library_name()} cannot parse model '{name}': {errors}")
    if network.num_inputs != 1:
        raise EngineBuildError(f"model '{name}' has {network.num_inputs} inputs; it must have one, uint8 luma")
    config = builder.create_builder_config()
    shapes = builder.create_optimization_profile()
    sizes = [(1, 1, height, width) for width, height in (profile.smallest, profile.usual, profile.largest)]
    try:
        shapes.set_shape(network.get_input(0).name, *sizes)
        added = config.add_optimization_profile(shapes)
    except (RuntimeError, ValueError, TypeError) as error:
        raise EngineBuildError(f"the profile {profile} is refused: {error}") from error
    if added < 0:
        raise EngineBuildError(
            f"the profile {profile} is refused: {'; '.join(complaints)}; smallest <= usual <= largest"
        )
    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        raise EngineBuildError(
            f"{library_name()} could not build model '{name}': {'; '.join(complaints) or 'no reason'}"
        )
    return bytes(serialized)


def _first(complaints: list[str]) -> str:
    """What TensorRT said first; the rest follows from it."""
    return complaints[0] if complaints else "it gave no reason"


def _make_logger(trt: Any, complaints: list[str]) -> Any:
    """A TensorRT logger that keeps errors for our message and prints nothing."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                complaints.append(message.strip())

    return Logger()
