"""A model's ONNX made into the graph that TensorRT compiles: whole frames, one size, a precision, a form of the head.

TensorRT (from 11 on) and TensorRT-RTX are strongly typed: what is computed in which precision is said by the graph. The
passes walk the graph and take it as it is: several deconvolutions, an anchor, a gate. Needs the package onnx.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stream_sr.errors import ModelError
from stream_sr.inference.backends.tensorrt.frames import CHROMA, FLOW, FRAME, FrameLayout, FrameNodes, tensors
from stream_sr.inference.model import LUMA, PREVIOUS
from stream_sr.networks import deconvolution
from stream_sr.video.optical_flow import flow_size

if TYPE_CHECKING:
    import onnx

DECONVOLUTION, LOWERED = "deconvolution", "convolution + depth-to-space"
HEADS = (LOWERED, DECONVOLUTION)
REWRITE = 4  # counts the changes to the passes here and to the builder's flags; part of the cache's key
CONVOLUTIONS = ("Conv", "ConvTranspose")
MOVES = ("DepthToSpace", "Reshape", "Transpose")  # cheaper before the cast to fp32 than behind it
BF16_OPSET = 22  # the first in which a convolution may be bf16
MOVING_OPSET = 20  # the first in which GridSample's linear is called so


def frame_graph(onnx_bytes: bytes, layout: FrameLayout, precision: str, head: str) -> bytes:
    """The graph of whole frames, uint8 in and out as `tensors` says; a recurrent one with ``previous`` beside them.

    The layers between the first and the last convolution are in ``precision``, scaling, anchor, rounding and chroma in
    fp32. Raises ModelError for a file that is no ONNX or of another form.
    """
    graph = OnnxGraph.read(onnx_bytes)
    graph.fix_size(layout)
    if head == LOWERED:
        graph.lower()
    graph.lower_precision(precision)
    graph.take_frames(layout)
    return graph.serialize()


def scale_of(onnx_bytes: bytes) -> int:
    """How much larger the output is, from the strides of what enlarges. Raises ModelError where that is not told."""
    graph = OnnxGraph.read(onnx_bytes)
    if any(one.name == PREVIOUS for one in graph.graph.input):
        raise ModelError("the graph is a recurrent network; its scale must be in a model.toml beside it")
    shapes = graph.shapes({"height": 48, "width": 64})
    found = shapes.get(graph.upscaled, ())
    if not found or found[2] % 48 or found != (1, 1, found[2], found[2] // 48 * 64):
        raise ModelError(f"the graph makes {found} of [1, 1, 48, 64]; the output must be larger by an integer")
    return found[2] // 48


class OnnxGraph:
    """A model's graph while it is rewritten in place."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.graph = model.graph
        self._check()

    @classmethod
    def read(cls, onnx_bytes: bytes) -> OnnxGraph:
        """Parse and check the form: a uint8 plane in and out, and maybe the last output. Raises ModelError."""
        import onnx

        try:
            model = onnx.load_from_string(onnx_bytes)
            onnx.checker.check_model(model)
        except Exception as error:  # protobuf's DecodeError comes from one of its two implementations
            raise ModelError(f"the model cannot be read as ONNX: {_first_line(error)}; export it again") from error
        return cls(model)

    def _check(self) -> None:
        constants = {one.name for one in self.graph.initializer}
        inputs = [one for one in self.graph.input if one.name not in constants]
        luma, upscaled = [one for one in inputs if one.name != PREVIOUS], list(self.graph.output)
        if not (_is_plane(luma) and _is_plane(upscaled)):
            raise ModelError(
                f"the graph has the inputs {_ports(inputs)} and the outputs {_ports(self.graph.output)}; "
                "it must have one input and one output, uint8 luma [1,1,H,W]"
            )
        self.luma, self.upscaled = luma[0].name, upscaled[0].name

    @cached_property
    def constants(self) -> dict[str, onnx.TensorProto]:
        return {one.name: one for one in self.graph.initializer}

    def serialize(self) -> bytes:
        del self.graph.value_info[:]
        return self.model.SerializeToString(deterministic=True)

    def shapes(self, sizes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
        """Shapes of all tensors whose shape is known once the input's sides (and the scale) are ``sizes``."""
        import onnx

        sized = OnnxGraph(type(self.model).FromString(self.model.SerializeToString()))
        sized._fix_inputs(sizes["height"], sizes["width"], sizes.get("scale", 1))
        inferred = onnx.shape_inference.infer_shapes(sized.model, data_prop=True).graph
        return {
            one.name: tuple(side.dim_value or -1 for side in one.type.tensor_type.shape.dim)
            for one in (*inferred.value_info, *inferred.input, *inferred.output)
        }

    def fix_size(self, layout: FrameLayout) -> None:
        """Give the inputs the picture's size. Raises ModelError where the output is not ``scale`` times as large."""
        shapes = self.shapes({"height": layout.height, "width": layout.width, "scale": layout.scale})
        width, height = layout.output
        found = shapes.get(self.upscaled, ())
        if any(side not in (-1, right) for side, right in zip(found, (1, 1, height, width), strict=False)):
            raise ModelError(f"the graph makes {found} of {layout.width}x{layout.height}, not {width}x{height}")
        self._fix_inputs(layout.height, layout.width, layout.scale)

    def _fix_inputs(self, height: int, width: int, scale: int) -> None:
        for port in self.graph.input:
            if port.name in self.constants:
                continue
            dims = port.type.tensor_type.shape.dim
            s = scale if port.name == PREVIOUS else 1
            for side, value in ((dims[0], 1), (dims[2], s * height), (dims[3], s * width)):
                side.Clear()
                side.dim_value = value
        for port in self.graph.output:
            port.type.tensor_type.ClearField("shape")

    def lower(self) -> None:
        """Replace each deconvolution whose output is exactly ``stride`` times its input, exactly; see deconvolution."""
        from onnx import helper, numpy_helper

        nodes = []
        for node in self.graph.node:
            found = self._deconvolution(node)
            if found is None:
                nodes.append(node)
                continue
            weight, stride, padding = found
            dense = deconvolution.lower_deconvolution(weight, stride, padding)
            name, reach = node.output[0], dense.shape[-1] // 2
            inputs = [node.input[0], self._add(numpy_helper.from_array(dense, f"{name}.dense"))]
            if len(node.input) > 2 and node.input[2]:
                bias = self._array(node.input[2]).repeat(stride * stride)
                inputs.append(self._add(numpy_helper.from_array(bias, f"{name}.bias")))
            nodes += [
                helper.make_node("Conv", inputs, [f"{name}.phases"], name=f"{name}.phases", pads=[reach] * 4),
                helper.make_node(
                    "DepthToSpace", [f"{name}.phases"], [name], name=f"{name}.shuffle", blocksize=stride, mode="CRD"
                ),
            ]
        self._set_nodes(nodes)

    def _deconvolution(self, node: onnx.NodeProto) -> tuple[npt.NDArray[np.float32], int, int] | None:
        """Weight, stride and padding of a deconvolution that can be lowered."""
        if node.op_type != "ConvTranspose" or node.input[1] not in self.constants:
            return None
        form = _attributes(node)
        weight = self._array(node.input[1])
        strides, pads = form.get("strides", [1, 1]), form.get("pads", [0, 0, 0, 0])
        more = form.get("output_padding", [0, 0])
        plain = form.get("group", 1) == 1 and set(form.get("dilations", [1])) == {1} and "output_shape" not in form
        even = len(set(strides)) == 1 and len(set(pads)) == 1 and len(set(more)) == 1 and weight.ndim == 4
        if not (plain and even and form.get("auto_pad", b"NOTSET") == b"NOTSET"):
            return None
        kernel, stride, padding = weight.shape[-1], strides[0], pads[0]
        exact = weight.shape[-2] == kernel and kernel - stride - 2 * padding + more[0] == 0
        return (weight, stride, padding) if exact else None

    def lower_precision(self, precision: str) -> None:
        """Compute what lies on a way from a convolution to another in ``precision``; see `_body`."""
        from onnx import TensorProto, helper

        if precision == "fp32":
            return
        low = TensorProto.FLOAT16 if precision == "fp16" else TensorProto.BFLOAT16
        if precision == "bf16":
            self._raise_opset(BF16_OPSET)
            self._scale_weights()
        body = self._body()
        if not body:
            raise ModelError(f"the model has no layer that could be computed in {precision}; build it in fp32")
        floats = self._floats()
        made_low = {name for node in body.values() for name in node.output}
        for node in self.graph.node:
            if node.op_type in MOVES and node.input[0] in made_low:
                body[id(node)] = node
                made_low.update(node.output)
        nodes: list[onnx.NodeProto] = []
        casts: dict[str, str] = {}
        for node in self.graph.node:
            is_low = id(node) in body
            for n, name in enumerate(node.input):
                if name not in floats or (name in made_low) == is_low:
                    continue
                if is_low and name in self.constants:
                    node.input[n] = self._constant_as(name, low)
                    continue
                cast = f"{name}.{precision if is_low else 'fp32'}"
                if cast not in casts:
                    casts[cast] = name
                    target = low if is_low else TensorProto.FLOAT
                    nodes.append(helper.make_node("Cast", [name], [cast], name=cast, to=target))
                node.input[n] = cast
            nodes.append(node)
        self._set_nodes(nodes)
        self._drop_unused_constants()

    def _scale_weights(self) -> None:
        """Move a factor before a convolution into its weights: levels 0..255 are exact in bf16, their 255th not."""
        from onnx import numpy_helper

        users = self._users()
        for node in list(self.graph.node):
            factor = self._factor(node)
            readers = users.get(node.output[0], [])
            heavy = [one for one in readers if self._is_heavy(one)]
            if factor is None or not heavy:
                continue
            for reader in heavy:
                weight = self._array(reader.input[1]) * factor[1]
                reader.input[1] = self._add(
                    numpy_helper.from_array(weight, f"{reader.name or reader.output[0]}.scaled")
                )
                reader.input[0] = factor[0]
        self._drop_unused_nodes()

    def _factor(self, node: onnx.NodeProto) -> tuple[str, np.float32] | None:
        """The other input of a multiplication by one constant number, and the number."""
        if node.op_type != "Mul":
            return None
        for n in (0, 1):
            if node.input[n] in self.constants and (value := self._array(node.input[n])).size == 1:
                return node.input[1 - n], np.float32(value.reshape(()))
        return None

    def _is_heavy(self, node: onnx.NodeProto) -> bool:
        """A convolution that is work. An anchor, which only repeats its one channel, is not: it stays exact."""
        if node.op_type not in CONVOLUTIONS or node.input[1] not in self.constants:
            return node.op_type in CONVOLUTIONS
        weight = self._array(node.input[1])
        channels = weight.shape[1] if node.op_type == "Conv" else weight.shape[0]
        return channels > 1 or bool(np.ptp(weight) > 0)

    def _body(self) -> dict[int, onnx.NodeProto]:
        """The nodes on a way from one heavy convolution to another, both included, by identity."""
        after: set[str] = set()
        behind: dict[int, onnx.NodeProto] = {}
        for node in self.graph.node:
            if self._is_heavy(node) or any(name in after for name in node.input):
                behind[id(node)] = node
                after.update(node.output)
        before: set[str] = set()
        body = {}
        for node in reversed(self.graph.node):
            if self._is_heavy(node) or any(name in before for name in node.output):
                before.update(node.input)
                if id(node) in behind:
                    body[id(node)] = node
        return body

    def _floats(self) -> set[str]:
        """Names of the tensors that hold fp32."""
        import onnx
        from onnx import TensorProto

        inferred = onnx.shape_inference.infer_shapes(self.model).graph
        ports = (*inferred.value_info, *inferred.input, *inferred.output)
        found = {one.name for one in ports if one.type.tensor_type.elem_type == TensorProto.FLOAT}
        return found | {one.name for one in self.graph.initializer if one.data_type == TensorProto.FLOAT}

    def take_frames(self, layout: FrameLayout) -> None:
        """Put chroma beside the luma: into one tensor each way, or two, as `tensors` says."""
        from onnx import TensorProto, helper

        ports = tensors(layout)
        previous = [one for one in self.graph.input if one.name == PREVIOUS]
        made = {
            name: helper.make_tensor_value_info(name, TensorProto.UINT8, shape) for name, (_, shape) in ports.items()
        }
        sources = [made[name] for name in ports if name in (FRAME, LUMA, CHROMA)]
        results = [made[name] for name in ports if name not in (FRAME, LUMA, CHROMA)]
        frames = FrameNodes(self.luma, self.upscaled, layout, self._add)
        nodes = frames.around(list(self.graph.node))
        if previous:
            self._raise_opset(MOVING_OPSET)
            nodes = frames.move(nodes)
            size = flow_size((layout.height, layout.width))
            previous.append(helper.make_tensor_value_info(FLOW, TensorProto.FLOAT, [1, 2, *size]))
        del self.graph.input[:]
        del self.graph.output[:]
        self.graph.input.extend([*sources, *previous])
        self.graph.output.extend(results)
        self._set_nodes(nodes)

    def _raise_opset(self, least: int) -> None:
        for one in self.model.opset_import:
            if one.domain in ("", "ai.onnx"):
                one.version = max(one.version, least)

    def _users(self) -> dict[str, list[onnx.NodeProto]]:
        users: dict[str, list[onnx.NodeProto]] = {}
        for node in self.graph.node:
            for name in node.input:
                users.setdefault(name, []).append(node)
        return users

    def _set_nodes(self, nodes: Iterable[onnx.NodeProto]) -> None:
        kept = list(nodes)
        del self.graph.node[:]
        self.graph.node.extend(kept)

    def _drop_unused_nodes(self) -> None:
        wanted = {one.name for one in self.graph.output}
        kept = []
        for node in reversed(self.graph.node):
            if any(name in wanted for name in node.output):
                wanted.update(node.input)
                kept.append(node)
        self._set_nodes(reversed(kept))

    def _drop_unused_constants(self) -> None:
        used = {name for node in self.graph.node for name in node.input}
        kept = [one for one in self.graph.initializer if one.name in used]
        del self.graph.initializer[:]
        self.graph.initializer.extend(kept)
        self.__dict__.pop("constants", None)

    def _add(self, constant: onnx.TensorProto) -> str:
        if constant.name not in self.constants:
            self.graph.initializer.append(constant)
            self.__dict__.pop("constants", None)
        return constant.name

    def _array(self, name: str) -> npt.NDArray[np.float32]:
        from onnx import numpy_helper

        return np.asarray(numpy_helper.to_array(self.constants[name]), np.float32)

    def _constant_as(self, name: str, kind: int) -> str:
        from onnx import helper

        array = self._array(name)
        return self._add(helper.make_tensor(f"{name}.{kind}", kind, array.shape, array.ravel()))


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    from onnx import helper

    return {one.name: helper.get_attribute_value(one) for one in node.attribute}


def _is_plane(ports: list[onnx.ValueInfoProto]) -> bool:
    if len(ports) != 1 or ports[0].type.tensor_type.elem_type != 2:
        return False
    dims = ports[0].type.tensor_type.shape.dim
    return len(dims) == 4 and all(not dims[n].HasField("dim_value") or dims[n].dim_value == 1 for n in (0, 1))


def _ports(ports: Iterable[onnx.ValueInfoProto]) -> str:
    from onnx import TensorProto

    def words(port: onnx.ValueInfoProto) -> str:
        tensor = port.type.tensor_type
        sides = ",".join(str(side.dim_value or side.dim_param or "?") for side in tensor.shape.dim)
        return f"{port.name} {TensorProto.DataType.Name(tensor.elem_type).lower()} [{sides}]"

    return ", ".join(words(port) for port in ports) or "none"


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
