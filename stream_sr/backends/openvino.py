"""OpenVINO on the CPU: the default where there is no GPU.

The graph is rewritten, exactly, before it is compiled (CPU.md of the design has the measurements): the deconvolution
becomes a convolution and depth-to-space, which moves behind the rounding to uint8 so that bytes are shuffled and not
floats; scaling to [0, 1] and back is folded into the biases where every layer between is homogeneous, so that under
bf16 the input is exact. Chroma is enlarged by a small fp32 model of its own.
"""

from __future__ import annotations

import io
import logging
from collections import deque
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import metadata
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt

from stream_sr import deconvolution
from stream_sr.backends import cache
from stream_sr.backends.output import Availability, InFlight, Output, Result, cpu_threads, make_output
from stream_sr.color import chroma_kernel
from stream_sr.engine import Engine, EngineOptions, EngineSpec, Pending
from stream_sr.errors import EngineBuildError, EngineRunError, EngineUnavailable, ModelError
from stream_sr.frame import Frame, StreamInfo, chroma_shape
from stream_sr.model import BuildKey, ModelSpec
from stream_sr.quality import psnr
from stream_sr.ring import Allocate, Slot

PRECISIONS = ("fp32", "bf16")
INSTALL = "pip install openvino"
LOWERED = "convolution + depth-to-space"
REWRITE = 2  # counts the changes to the rewriting here; part of the cache's key
BF16_BROKEN = 30.0  # dB, below which nobody gets it
TRIAL = (48, 64)  # height and width of the trial that tells a graph's scale
CHECK = (96, 160)  # of the frame that bf16 is checked on
HINTS = {"fp32": "f32", "bf16": "bf16"}
log = logging.getLogger("stream_sr")


def availability() -> Availability:
    """Whether OpenVINO is installed and loads."""
    if find_spec("openvino") is None:
        return Availability(False, reason="openvino not installed", mend=INSTALL)
    version = metadata.version("openvino")
    try:
        name, bf16 = cpu()
    except Exception as error:  # a broken wheel raises ImportError, OSError or RuntimeError
        return Availability(False, version, f"openvino does not load: {error}", f"{INSTALL} --force-reinstall")
    return Availability(True, version, f"on {name}, {'with' if bf16 else 'without'} bf16")


@lru_cache(maxsize=1)
def core() -> Any:
    """OpenVINO's entry point, one for the process."""
    import openvino

    return openvino.Core()


@lru_cache(maxsize=1)
def cpu() -> tuple[str, bool]:
    """The processor's name and whether it computes in bf16 (avx512_bf16 or amx)."""
    name = " ".join(str(core().get_property("CPU", "FULL_DEVICE_NAME")).split())
    return name, "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def open_model(model: ModelSpec, info: StreamInfo, options: EngineOptions) -> Engine:
    """Compile, or take from the cache. Raises EngineUnavailable, ModelError, EngineBuildError."""
    found = availability()
    if not found.usable:
        raise EngineUnavailable(f"backend openvino: {found.reason}; {found.mend}")
    if options.precision == "bf16" and not cpu()[1]:
        raise EngineUnavailable(f"{cpu()[0]} has no bf16 (avx512_bf16 or amx); use --precision fp32 or auto")
    graph, head = rewrite(read_graph(model))
    scale = graph.scale
    precision, notes = choose_precision(graph, options.precision, options.fidelity)
    threads = cpu_threads(options)
    streams = min(options.depth, threads)
    luma = _compile_cached(
        graph, (info.height, info.width), precision=precision, threads=threads, streams=streams,
        onnx_sha256=model.sha256(), head=head, keep=options.keep,
    )  # fmt: skip
    chroma = _compile(
        chroma_graph(chroma_shape(info.width, info.height), scale, info.color.siting),
        precision="fp32", threads=1, streams=1,
    )  # fmt: skip
    spec = EngineSpec(
        backend="openvino", model=model.name, scale=scale, width=info.width, height=info.height,
        precision=precision, device=f"CPU: {cpu()[0]}, {threads} threads", head=head, notes=notes,
    )  # fmt: skip
    return OpenVINOEngine(spec, luma, chroma, options.depth)


@dataclass(frozen=True, slots=True)
class Graph:
    """An OpenVINO model of one luma plane, with free height and width, and its scale."""

    model: Any
    scale: int
    name: str

    def sized(self, height: int, width: int) -> Any:
        """A copy of the model for one size. Raises ModelError where the graph does not take it."""
        sized = self.model.clone()
        try:
            sized.reshape([1, 1, height, width])
        except RuntimeError as error:
            raise ModelError(f"{self.name} does not take frames of {width}x{height}: {_first_line(error)}") from error
        return sized


def read_graph(model: ModelSpec) -> Graph:
    """Read the ONNX and make sure of its form: one uint8 luma plane in, one enlarged by an integer out.

    The scale comes from a trial and must be the model's, if that says one. Raises ModelError that names what was found.
    """
    path = model.onnx
    try:
        with path.open("rb") as file:
            if file.read(1) != b"\x08":  # the field ir_version; OpenVINO would try other formats, aloud
                raise ModelError(f"{path} is not an ONNX file; export the model again")
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error
    try:
        graph = core().read_model(str(path))
    except Exception as error:
        raise ModelError(f"{path} cannot be read as ONNX: {_first_line(error)}; export the model again") from error
    found = (_ports(graph.inputs), _ports(graph.outputs))
    if not (_is_plane(graph.inputs) and _is_plane(graph.outputs)):
        raise ModelError(
            f"{path} has the inputs {found[0]} and the outputs {found[1]}; "
            "it must have one input and one output, uint8 luma [1,1,H,W]"
        )
    scale = _trial_scale(Graph(graph, 0, str(path)))
    if model.scale not in (0, scale):
        raise ModelError(f"{path} enlarges by {scale}, x{model.scale} was expected")
    return Graph(graph, scale, str(path))


def _is_plane(ports: Any) -> bool:
    if len(ports) != 1 or ports[0].get_element_type().get_type_name() != "u8":
        return False
    shape = ports[0].get_partial_shape()
    if shape.rank.is_dynamic or len(shape) != 4:
        return False
    return all(side.is_dynamic or side.get_length() == 1 for side in (shape[0], shape[1]))


def _ports(ports: Any) -> str:
    found = [f"{port.get_element_type().get_type_name()} {port.get_partial_shape()}" for port in ports]
    return ", ".join(found) or "none"


def _trial_scale(graph: Graph) -> int:
    height, width = TRIAL
    sized = graph.sized(height, width)
    shape = sized.outputs[0].get_partial_shape()
    if shape.is_dynamic:  # the graph computes its own size: run it
        compiled = _compile(sized, precision="fp32", threads=1, streams=1)
        result = compiled(np.zeros((1, 1, height, width), np.uint8))
        shape = list(result[0].shape)
    else:
        shape = list(shape.to_shape())
    scale = shape[2] // height
    if scale < 1 or shape != [1, 1, height * scale, width * scale]:
        raise ModelError(
            f"{graph.name} makes {shape} of [1, 1, {height}, {width}]; the output must be larger by an integer"
        )
    return scale


def rewrite(graph: Graph) -> tuple[Graph, str]:
    """The graph in the form that is fast here, with the same values, and the name of its head's form.

    A graph without a deconvolution is left as it is.
    """
    from openvino.passes import ConstantFolding, Manager

    model = graph.model.clone()
    folding = Manager()
    folding.register_pass(ConstantFolding())  # the reader computes the shape of each bias in the graph
    folding.run_passes(model)
    _work_in_levels(model)
    lowered = [_lower(model, node) for node in model.get_ordered_ops() if _kind(node) == "ConvolutionBackpropData"]
    model.validate_nodes_and_infer_types()
    return replace(graph, model=model), LOWERED if lowered and all(lowered) else "as exported"


def _lower(model: Any, node: Any) -> bool:
    """Replace one deconvolution whose output is exactly ``stride`` times its input; False where it is another kind."""
    from openvino import opset13 as ops

    form = node.get_attributes()
    stride, padding = form["strides"], list(form["pads_begin"])
    constant = node.input_value(1).get_node()
    if _kind(constant) != "Constant" or stride[0] != stride[1] or set(form["dilations"]) != {1}:
        return False
    weight = np.asarray(constant.get_data(), np.float32)
    kernel, s = weight.shape[-1], stride[0]
    exact = [kernel - s - begin - end + more == 0 for begin, end, more in zip(
        padding, form["pads_end"], form["output_padding"], strict=True)]  # fmt: skip
    if weight.shape[-2] != kernel or padding[0] != padding[1] or not all(exact) or form["auto_pad"] != "explicit":
        return False
    dense = deconvolution.lower_deconvolution(weight, s, padding[0])
    reach = [dense.shape[-1] // 2] * 2
    convolution = ops.convolution(node.input_value(0), ops.constant(dense), [1, 1], reach, reach, [1, 1])
    tail = _tail(node) if weight.shape[1] == 1 else None
    if tail is None:
        _take_over(node, ops.depth_to_space(convolution, "depth_first", s))
    else:
        _take_over(node, convolution)
        model.validate_nodes_and_infer_types()
        source = tail.input_value(0)
        tail.input(0).replace_source_output(ops.depth_to_space(source, "depth_first", s).output(0))
    return True


def _tail(node: Any) -> Any:
    """The Result at the end of a chain of operations on single values, to behind which a shuffle can move; or None."""
    while True:
        targets = list(node.output(0).get_target_inputs())
        if len(targets) != 1:
            return None
        node = targets[0].get_node()
        if _kind(node) == "Result":
            return node
        if _kind(node) not in ("Add", "Multiply", "Clamp", "Round", "Convert", "Minimum", "Maximum"):
            return None
        others = [one for one in node.input_values() if _kind(one.get_node()) == "Constant"]
        if len(others) != len(node.input_values()) - 1 or any(np.prod(one.get_shape()) != 1 for one in others):
            return None


def _work_in_levels(model: Any) -> None:
    """Let the network compute in 0..255 instead of [0, 1]: the biases times 255, and both scalings dropped.

    Only for a plain chain of homogeneous layers (convolutions, PReLU, ReLU); any other graph stays as it is.
    """
    from openvino import opset13 as ops

    chain, biases = [], []
    node = model.inputs[0].get_node()
    while (targets := list(node.output(0).get_target_inputs())) and len(targets) == 1:
        node = targets[0].get_node()
        chain.append(node)
    inner = [one for one in chain if _kind(one) == "Multiply"]
    if len(inner) != 2 or not np.isclose(_factor(inner[0]) * _factor(inner[1]), 1, rtol=1e-6):
        return
    first, last = chain.index(inner[0]), chain.index(inner[1])
    for one in chain[first + 1 : last]:
        if _kind(one) not in ("Convolution", "ConvolutionBackpropData", "PRelu", "Relu", "Add"):
            return
        if _kind(one) == "Add":
            biases.append(one)
    if any(_kind(one.input_value(1).get_node()) != "Constant" for one in biases):
        return
    for one in biases:
        constant = one.input_value(1).get_node()
        scaled = np.asarray(constant.get_data(), np.float32) / np.float32(_factor(inner[0]))
        one.input(1).replace_source_output(ops.constant(scaled).output(0))
    for one in inner:
        _take_over(one, one.input_value(0).get_node())


def _factor(node: Any) -> float:
    constant = node.input_value(1).get_node()
    if _kind(constant) != "Constant" or np.prod(constant.get_output_shape(0)) != 1:
        return float("nan")
    return float(np.asarray(constant.get_data()).reshape(()))


def _take_over(node: Any, replacement: Any) -> None:
    for target in list(node.output(0).get_target_inputs()):
        target.replace_source_output(replacement.output(0))


def _kind(node: Any) -> str:
    return node.get_type_name()


def chroma_graph(shape: tuple[int, int], scale: int, siting: int) -> Any:
    """Both chroma planes, uint8 ``[2, 1, h, w]`` to ``[2, 1, s*h, s*w]``, borders replicated."""
    import openvino
    from openvino import opset13 as ops

    planes = ops.parameter([2, 1, *shape], np.uint8)
    border = np.array([0, 0, 2, 2])
    padded = ops.pad(ops.convert(planes, "f32"), border, border, "edge")
    x = ops.convolution(padded, ops.constant(chroma_kernel(scale, siting)), [1, 1], [0, 0], [0, 0], [1, 1])
    x = ops.convert(ops.round(ops.clamp(x, 0, 255), "half_to_even"), "u8")
    return openvino.Model([ops.depth_to_space(x, "depth_first", scale)], [planes])


def choose_precision(graph: Graph, asked: str, fidelity: float) -> tuple[str, tuple[str, ...]]:
    """fp32 or bf16, and what the user has to know about it. bf16 is compared with fp32 on a generated picture.

    ``auto`` takes bf16 where the CPU has it and the comparison gives ``fidelity`` dB. Raises EngineBuildError
    where bf16 was asked for and gives nonsense.
    """
    if asked == "fp32" or (asked == "auto" and not cpu()[1]):
        return "fp32", ()
    quality = compare_bf16(graph)
    if asked == "auto":
        if quality >= fidelity:
            return "bf16", ()
        return "fp32", (f"bf16 is {quality:.1f} dB from fp32 with this model, under {fidelity:g}: computing in fp32",)
    if quality < BF16_BROKEN:
        raise EngineBuildError(f"bf16 is only {quality:.1f} dB from fp32 with {graph.name}; use --precision fp32")
    note = f"bf16 is {quality:.1f} dB from fp32 with this model, under the {fidelity:g} that auto asks for"
    return "bf16", (note,) if quality < fidelity else ()


def compare_bf16(graph: Graph) -> float:
    """PSNR in dB of bf16 against fp32 on `texture`; inf when equal."""
    picture = texture(*CHECK)[None, None]
    results = []
    for precision in PRECISIONS:
        compiled = _compile(graph.sized(*CHECK), precision=precision, threads=1, streams=1)
        results.append(np.asarray(compiled(picture)[0])[0, 0])
    return psnr(results[0], results[1])


def texture(height: int, width: int) -> npt.NDArray[np.uint8]:
    """A fixed picture with the spectrum of photographs (amplitude 1/f) and a few hard edges, ``[height, width]``."""
    random = np.random.default_rng(1)
    f = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    spectrum = np.fft.rfft2(random.standard_normal((height, width))) / np.maximum(f, 1 / max(height, width))
    picture = np.fft.irfft2(spectrum, (height, width))
    picture = (picture - picture.mean()) / picture.std() * 45 + 125
    picture[height // 4 : height // 2, width // 4 : width // 2] = 225
    picture[height // 2 : height * 3 // 4, width // 2 : width * 3 // 4] = 25
    return np.clip(picture, 0, 255).astype(np.uint8)


def _compile(model: Any, *, precision: str, threads: int, streams: int) -> Any:
    try:
        return core().compile_model(model, "CPU", _settings(precision, threads, streams))
    except RuntimeError as error:
        raise EngineBuildError(f"OpenVINO could not compile the model: {_first_line(error)}") from error


def _settings(precision: str, threads: int, streams: int) -> dict[str, Any]:
    return {
        "INFERENCE_PRECISION_HINT": HINTS[precision],  # OpenVINO takes bf16 by itself where it can
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": streams,
        "ENABLE_CPU_PINNING": False,  # decoder and encoder need the cores too
    }


def _compile_cached(
    graph: Graph,
    size: tuple[int, int],
    *,
    precision: str,
    threads: int,
    streams: int,
    onnx_sha256: str,
    head: str,
    keep: bool,
) -> Any:
    key = BuildKey(
        onnx_sha256=onnx_sha256, backend="openvino", backend_version=cache_version(), device=cpu()[0],
        compute_capability=" ".join(sorted(core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))), driver="",
        precision=precision, profile=f"{size[1]}x{size[0]}, {threads} threads, {streams} streams", head=head,
    )  # fmt: skip
    blob = cache.load(key)
    if blob is not None:
        try:
            return core().import_model(io.BytesIO(blob), "CPU", _settings(precision, threads, streams))
        except RuntimeError as error:
            cache.discard(key, f"OpenVINO refuses it: {_first_line(error)}")
    compiled = _compile(graph.sized(*size), precision=precision, threads=threads, streams=streams)
    if keep:
        exported = compiled.export_model()
        cache.store(key, exported if isinstance(exported, bytes) else exported.getvalue())
    return compiled


def cache_version() -> str:
    """What a cached blob depends on besides the model and the machine; empty where OpenVINO is not installed."""
    if find_spec("openvino") is None:
        return ""
    import openvino

    return f"{openvino.get_version()} rewrite {REWRITE}"


class _Request:
    """One frame's worth of OpenVINO's memory, reused: its inputs are ours and are copied into."""

    def __init__(self, luma: Any, chroma: Any) -> None:
        self.luma, self.chroma = luma.create_infer_request(), chroma.create_infer_request()
        self.luma_in = self.luma.get_input_tensor().data
        self.chroma_in = self.chroma.get_input_tensor().data
        self.chroma_shape = tuple(chroma.outputs[0].get_shape())
        self.output: Output | None = None

    def start(self, frame: Frame, output: Output) -> None:
        import openvino

        self.luma_in[0, 0] = frame.planes[0]
        self.chroma_in[0, 0] = frame.planes[1]
        self.chroma_in[1, 0] = frame.planes[2]
        self.output = output
        # bound, not copied: without shared_memory OpenVINO would write into a copy of its own
        self.luma.set_output_tensor(openvino.Tensor(output.planes[0][None, None], shared_memory=True))
        if self.chroma_shape == output.chroma.shape:
            self.chroma.set_output_tensor(openvino.Tensor(output.chroma, shared_memory=True))
        self.luma.start_async()
        self.chroma.start_async()

    def finish(self) -> Output:
        output, self.output = self.output, None
        assert output is not None
        self.chroma.wait()
        if self.chroma_shape != output.chroma.shape:  # an odd size: the enlarged plane is cut
            _, _, height, width = output.chroma.shape
            output.chroma[:] = self.chroma.get_output_tensor().data[:, :, :height, :width]
        self.luma.wait()
        return output


class OpenVINOEngine:
    """``depth`` requests, used in turn."""

    allocate: Allocate | None = None

    def __init__(self, spec: EngineSpec, luma: Any, chroma: Any, depth: int) -> None:
        self.spec, self.depth = spec, depth
        self._in_flight = InFlight(depth)
        self._compiled: tuple[Any, Any] | None = (luma, chroma)
        self._idle = deque(_Request(luma, chroma) for _ in range(depth))
        self._busy: deque[_Request] = deque()

    def submit(self, frame: Frame, slot: Slot | None = None) -> Pending:
        output = make_output(frame, self.spec, slot)
        self._in_flight.enter()
        request = self._idle.popleft()
        self._busy.append(request)
        try:
            request.start(frame, output)
        except RuntimeError as error:
            self._done(request)
            raise EngineRunError(f"OpenVINO refused frame {frame.number}: {_first_line(error)}") from error

        def finish() -> Frame:
            try:
                planes = request.finish().planes
            except RuntimeError as error:
                raise EngineRunError(f"OpenVINO failed at frame {frame.number}: {_first_line(error)}") from error
            finally:
                self._done(request)
            return frame.with_planes(planes, slot)

        return Result(finish)

    def _done(self, request: _Request) -> None:
        self._in_flight.leave()
        self._busy.remove(request)
        self._idle.append(request)

    def close(self) -> None:
        self._in_flight.closed = True
        for request in self._busy:  # it writes into a slot that the caller will give back
            request.luma.wait()
            request.chroma.wait()
        self._idle.clear()
        self._compiled = None


def _first_line(error: BaseException) -> str:
    """OpenVINO's messages are many lines of source locations; the last line that is not empty says what was wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
