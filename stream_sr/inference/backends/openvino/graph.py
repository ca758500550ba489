"""A model's ONNX as an OpenVINO graph, rewritten, exactly, into the form that is fast on a CPU.

A deconvolution becomes a convolution and depth-to-space, which moves behind the anchor and the rounding to uint8, so
that bytes are shuffled and not floats. Scaling to [0, 1] and back is folded into the biases where every layer between
is homogeneous, so that under bf16 the input is exact.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import numpy as np

from stream_sr.errors import EngineBuildError, ModelError
from stream_sr.inference.backends.openvino.quantized_graph import merge_quantizers, quantize_weight, weight_of
from stream_sr.inference.model import LUMA, PREVIOUS, UPSCALED, ModelSpec
from stream_sr.networks import deconvolution
from stream_sr.pipeline.stall import working
from stream_sr.video.color import chroma_kernel

LOWERED = "convolution + depth-to-space"
REWRITE = 4  # counts the changes to the rewriting here; part of the cache's key
TRIAL = (48, 64)  # height and width of the trial that tells a graph's scale
HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}  # of what is not in eight bits
HOMOGENEOUS = (
    "Convolution", "ConvolutionBackpropData", "PRelu", "Relu", "Add", "Subtract", "SpaceToDepth", "DepthToSpace",
    "FakeQuantize", "Maximum", "Minimum", "Multiply",
)  # fmt: skip
WITH_LEVELS = ("Add", "FakeQuantize", "Maximum", "Minimum")
POINTWISE = ("Add", "Multiply", "Clamp", "Round", "Convert", "Minimum", "Maximum")


_loading = threading.Lock()


def core() -> Any:
    """OpenVINO's entry point, one for the process, from any thread. Nothing else of OpenVINO is used before it."""
    with _loading:
        return _load()


@lru_cache(maxsize=1)
def _load() -> Any:
    import openvino
    from openvino import opset13 as ops

    # Its first array sets its binding to numpy up, and two threads that do that at once wait for each other for ever:
    # one holds Python's lock, the other that of C++'s static variable.
    ops.constant(np.zeros(1, np.float32)).get_data()
    return openvino.Core()


def cache_version() -> str:
    """What a cached blob depends on besides the model and the machine; empty where OpenVINO is not installed."""
    if find_spec("openvino") is None:
        return ""
    import openvino

    return f"{openvino.get_version()} rewrite {REWRITE}"


def settings(precision: str, threads: int, streams: int) -> dict[str, Any]:
    """OpenVINO's properties for a compiled model."""
    return {
        "INFERENCE_PRECISION_HINT": HINTS[precision],  # OpenVINO takes bf16 by itself where it can
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": streams,
        "ENABLE_CPU_PINNING": False,  # decoder and encoder need the cores too
    }


def compile_graph(model: Any, *, precision: str, threads: int, streams: int) -> Any:
    """Compile a graph of fixed size for the CPU. Raises EngineBuildError."""
    try:
        return core().compile_model(model, "CPU", settings(precision, threads, streams))
    except RuntimeError as error:
        raise EngineBuildError(f"OpenVINO could not compile the model: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """OpenVINO's messages are many lines of source locations; the last line that is not empty says what was wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


@dataclass(frozen=True, slots=True)
class OpenVINOGraph:
    """An OpenVINO model of one luma plane, with free height and width, and its scale."""

    model: Any
    scale: int
    name: str
    recurrent: bool = False  # it takes its last output beside the luma

    def sized(self, height: int, width: int) -> Any:
        """A copy of the model for one size. Raises ModelError where the graph does not take it."""
        sized = self.model.clone()
        try:
            sized.reshape({LUMA: [1, 1, height, width]} | self._larger(height, width))
        except RuntimeError as error:
            raise ModelError(f"{self.name} does not take frames of {width}x{height}: {first_line(error)}") from error
        return sized

    def _larger(self, height: int, width: int) -> dict[str, list[int]]:
        return {PREVIOUS: [1, 1, height * self.scale, width * self.scale]} if self.recurrent else {}


def read_graph(model: ModelSpec) -> OpenVINOGraph:
    """Read the ONNX and make sure of its form: one uint8 luma plane in, one enlarged by an integer out.

    A second input, ``previous``, makes it recurrent. The scale comes from a trial and must be the model's, if that says
    one; of a recurrent network it must. Raises ModelError that names what was found.
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
        raise ModelError(f"{path} cannot be read as ONNX: {first_line(error)}; export the model again") from error
    previous = [port for port in graph.inputs if PREVIOUS in port.get_names()]
    planes = [port for port in graph.inputs if PREVIOUS not in port.get_names()]
    if not (_is_plane(planes) and _is_plane(graph.outputs) and (not previous or _is_plane(previous))):
        raise ModelError(
            f"{path} has the inputs {_ports(graph.inputs)} and the outputs {_ports(graph.outputs)}; "
            "it must have one input and one output, uint8 luma [1,1,H,W]"
        )
    if previous and not model.scale:
        raise ModelError(f"{path} is a recurrent network; its scale must be in a model.toml beside it")
    planes[0].get_tensor().set_names({LUMA})
    graph.outputs[0].get_tensor().set_names({UPSCALED})
    found = OpenVINOGraph(graph, model.scale, str(path), bool(previous))
    scale = _trial_scale(found)
    if model.scale not in (0, scale):
        raise ModelError(f"{path} enlarges by {scale}, x{model.scale} was expected")
    return replace(found, scale=scale)


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


def _trial_scale(graph: OpenVINOGraph) -> int:
    height, width = TRIAL
    sized = graph.sized(height, width)
    shape = sized.output(UPSCALED).get_partial_shape()
    if shape.is_dynamic:  # the graph computes its own size: run it
        compiled = compile_graph(sized, precision="fp32", threads=1, streams=1)
        with working("engine"):
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


def rewrite(graph: OpenVINOGraph) -> tuple[OpenVINOGraph, str]:
    """The graph in the form that is fast here, with the same values, and the name of its head's form.

    A graph without a deconvolution is left as it is.
    """
    from openvino.passes import ConstantFolding, Manager

    model = graph.model.clone()
    names = [port.get_any_name() for port in model.outputs]
    merge_quantizers(model)
    folding = Manager()
    folding.register_pass(ConstantFolding())  # the reader computes the shape of each bias in the graph
    folding.run_passes(model)
    for node in model.get_ordered_ops():
        if _kind(node) == "Identity":
            _take_over(node, node.input_value(0).get_node())
    _work_in_levels(model)
    lowered = [_lower(node) for node in model.get_ordered_ops() if _kind(node) == "ConvolutionBackpropData"]
    model.validate_nodes_and_infer_types()
    _sink_all(model)
    for node in model.get_ordered_ops():
        if _kind(node) == "SpaceToDepth" and _undoes(node, node.input_value(0).get_node()):
            _take_over(node, node.input_value(0).get_node().input_value(0).get_node())
    _sink_all(model)
    for port, name in zip(model.outputs, names, strict=True):
        port.get_tensor().set_names({name})
    model.validate_nodes_and_infer_types()
    return replace(graph, model=model), LOWERED if lowered and all(lowered) else "as exported"


def _lower(node: Any) -> bool:
    """Replace one deconvolution whose output is exactly ``stride`` times its input; False where it is another kind."""
    from openvino import opset13 as ops

    attributes = node.get_attributes()
    stride, padding = attributes["strides"], list(attributes["pads_begin"])
    constant, largest = weight_of(node)
    if _kind(constant) != "Constant" or stride[0] != stride[1] or set(attributes["dilations"]) != {1}:
        return False
    weight = np.asarray(constant.get_data(), np.float32)
    kernel, s = weight.shape[-1], stride[0]
    exact = [
        kernel - s - begin - end + more == 0
        for begin, end, more in zip(padding, attributes["pads_end"], attributes["output_padding"], strict=True)
    ]
    if weight.shape[-2] != kernel or padding[0] != padding[1] or not all(exact) or attributes["auto_pad"] != "explicit":
        return False
    dense = deconvolution.lower_deconvolution(weight, s, padding[0])
    if largest is None:
        kernels = ops.constant(dense)
    else:  # those of one output channel, in every phase
        per_channel = np.broadcast_to(largest, (1, weight.shape[1], 1, 1)).reshape(-1)
        kernels = quantize_weight(dense, per_channel.repeat(s * s))
    reach = [dense.shape[-1] // 2] * 2
    convolution = ops.convolution(node.input_value(0), kernels, [1, 1], reach, reach, [1, 1])
    _take_over(node, ops.depth_to_space(convolution, "depth_first", s))
    return True


def _sink_all(model: Any) -> None:
    for node in model.get_ordered_ops():
        if _kind(node) == "DepthToSpace":
            _sink(model, node)


def _undoes(fold: Any, shuffle: Any) -> bool:
    """Whether a space-to-depth gives back what a depth-to-space of one plane was made of."""
    if _kind(shuffle) != "DepthToSpace":
        return False
    block = shuffle.get_attributes()["block_size"]
    plane = shuffle.get_output_partial_shape(0)[1]
    return bool(plane.is_static and plane.get_length() == 1 and fold.get_attributes()["block_size"] == block)


def _sink(model: Any, shuffle: Any) -> None:
    """Move a depth-to-space towards the output: behind operations with one value, and behind the sum of two of them."""
    from openvino import opset13 as ops

    while True:
        targets = list(shuffle.output(0).get_target_inputs())
        if len(targets) != 1:
            return
        node, block = targets[0].get_node(), shuffle.get_attributes()["block_size"]
        others = [one for one in node.input_values() if one.get_node().get_instance_id() != shuffle.get_instance_id()]
        if _kind(node) not in POINTWISE or len(node.input_values()) - len(others) != 1:
            return
        shuffled = [n for n, one in enumerate(node.input_values()) if not _is_single(one)]
        if not all(_is_like(node.input_value(n).get_node(), shuffle) for n in shuffled):
            return
        for n in shuffled:
            node.input(n).replace_source_output(node.input_value(n).get_node().input_value(0))
        model.validate_nodes_and_infer_types()
        after = list(node.output(0).get_target_inputs())
        shuffle = ops.depth_to_space(node.output(0), "depth_first", block)
        for target in after:
            target.replace_source_output(shuffle.output(0))
        model.validate_nodes_and_infer_types()


def _is_like(node: Any, shuffle: Any) -> bool:
    """Whether a node is the same depth-to-space, for nobody else."""
    if _kind(node) != "DepthToSpace" or node.get_attributes() != shuffle.get_attributes():
        return False
    return len(list(node.output(0).get_target_inputs())) == 1


def _is_single(value: Any) -> bool:
    return _kind(value.get_node()) == "Constant" and bool(np.prod(value.get_shape()) == 1)


def _work_in_levels(model: Any) -> None:
    """Let the network compute in 0..255 instead of [0, 1]: the biases times 255, and the scalings dropped.

    Only where all between them is homogeneous (convolutions, PReLU, ReLU, sums, and a recurrent network's gate, whose
    bounds and product are put right); any other graph stays as it is.
    """
    from openvino import opset13 as ops

    products = [one for one in model.get_ordered_ops() if _kind(one) == "Multiply"]
    firsts, lasts = ([one for one in products if np.isclose(_factor(one), factor)] for factor in (1 / 255, 255))
    if len(firsts) != len(model.inputs) or len(lasts) != 1:
        return
    factor, (last,) = np.float32(1 / 255), lasts
    end = last.get_instance_id()
    between, waiting = {}, firsts.copy()
    while waiting:
        for target in waiting.pop().output(0).get_target_inputs():
            node = target.get_node()
            if node.get_instance_id() not in between and node.get_instance_id() != end:
                between[node.get_instance_id()] = node
                waiting.append(node)
    if any(_kind(node) not in HOMOGENEOUS for node in between.values()):
        return
    for node in between.values():  # biases, bounds, and the ranges of quantised values
        for n, value in enumerate(node.input_values() if _kind(node) in WITH_LEVELS else []):
            if _kind(value.get_node()) == "Constant":
                levels = np.asarray(value.get_node().get_data(), np.float32) / factor
                node.input(n).replace_source_output(ops.constant(levels).output(0))
        if _kind(node) == "Multiply" and np.isnan(_factor(node)):  # by a gate of one channel, which is in levels too
            n = min((0, 1), key=lambda n: _channels(node.input_value(n)))
            share = ops.multiply(node.input_value(n), ops.constant(factor))
            node.input(n).replace_source_output(share.output(0))
    for one in (*firsts, last):
        _take_over(one, one.input_value(0).get_node())


def _channels(value: Any) -> int:
    channels = value.get_partial_shape()[1]
    return int(channels.get_length()) if channels.is_static else 0


def _factor(node: Any) -> float:
    constant = node.input_value(1).get_node()
    if _kind(constant) != "Constant" or np.prod(constant.get_output_shape(0)) != 1:
        return float("nan")
    return float(np.asarray(constant.get_data()).reshape(()))


def _take_over(node: Any, replacement: Any) -> None:
    for target in list(node.output(0).get_target_inputs()):
        target.replace_source_output(replacement.output(0))


def _kind(node: Any) -> str:
    return str(node.get_type_name())


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
