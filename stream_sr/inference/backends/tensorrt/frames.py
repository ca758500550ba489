"""Whole frames through a luma graph: where the planes lie, and the nodes that enlarge chroma beside the network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stream_sr.errors import ModelError
from stream_sr.inference.model import LUMA, PREVIOUS
from stream_sr.video.color import chroma_kernel
from stream_sr.video.optical_flow import PARTS
from stream_sr.video.planes import chroma_shape

if TYPE_CHECKING:
    import onnx

ALIGNMENT = 256  # bytes; TensorRT wants its tensors to begin there
FRAME, CHROMA = "frame", "chroma"
FLOW = "flow"  # float32 [1, 2, h, w], a `optical_flow.Flow`: beside `previous`
UPSCALED, UPSCALED_LUMA, UPSCALED_CHROMA = "upscaled", "upscaled_luma", "upscaled_chroma"


@dataclass(frozen=True, slots=True)
class FrameLayout:
    """What a graph is made for: the size of the input, how much larger the output is, where chroma lies."""

    width: int
    height: int
    scale: int
    siting: int

    @property
    def output(self) -> tuple[int, int]:
        """Width and height of the result."""
        return self.width * self.scale, self.height * self.scale

    @property
    def packed(self) -> bool:
        """Whether a frame is one tensor, because its chroma would begin at an address that TensorRT does not take."""
        return self.width * self.height % ALIGNMENT != 0


def tensors(layout: FrameLayout) -> dict[str, tuple[int, tuple[int, ...]]]:
    """The uint8 inputs and outputs of a frame graph: name to (offset in the I420 frame, shape)."""
    luma = layout.height * layout.width
    chroma = chroma_shape(layout.width, layout.height)
    width, height = layout.output
    larger = chroma_shape(width, height)
    if layout.packed:
        return {
            FRAME: (0, (luma + 2 * chroma[0] * chroma[1],)),
            UPSCALED: (0, (height * width + 2 * larger[0] * larger[1],)),
        }
    return {
        LUMA: (0, (1, 1, layout.height, layout.width)),
        CHROMA: (luma, (2, 1, *chroma)),
        UPSCALED_LUMA: (0, (1, 1, height, width)),
        UPSCALED_CHROMA: (height * width, (2, 1, *larger)),
    }


class FrameNodes:
    """The nodes that make a luma graph, from the uint8 tensor ``luma`` to ``upscaled``, one of frames.

    ``keep`` adds a constant to the graph and returns its name.
    """

    def __init__(self, luma: str, upscaled: str, layout: FrameLayout, keep: Callable[[onnx.TensorProto], str]) -> None:
        self.luma, self.upscaled, self.layout, self.keep = luma, upscaled, layout, keep

    def around(self, nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
        """The luma graph's nodes and those of the rest of the frame. Raises ModelError."""
        return self._packed(nodes) if self.layout.packed else self._side_by_side(nodes)

    def move(self, nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
        """Move the last output as the flow says, where it comes in; as `optical_flow.register` does."""
        width, height = self.layout.output
        for node in nodes:
            _rename(node, {PREVIOUS: "previous.moved"})
        size = self._integers("flow.size", [1, 2, height, width])
        across, down = 2 / max(width - 1, 1), 2 / max(height - 1, 1)  # a pixel: places count from -1 to 1
        parts = np.array([across, down]).reshape(1, 2, 1, 1) / -PARTS
        columns = (np.arange(width) * across - 1).reshape(1, 1, 1, width)
        rows = (np.arange(height) * down - 1).reshape(1, 1, height, 1)
        return [
            self._node("Cast", [PREVIOUS], "previous.float", to=1),
            self._node("Resize", [FLOW, "", "", size], "flow.large", mode="linear"),
            self._node("Mul", ["flow.large", self._floats("flow.parts", parts)], "flow.back"),
            self._node("Add", ["flow.back", self._floats("flow.columns", columns)], "flow.across"),
            self._node("Add", ["flow.back", self._floats("flow.rows", rows)], "flow.down"),
            self._node("Slice", ["flow.across", *self._range(0, 1)], "flow.x"),
            self._node("Slice", ["flow.down", *self._range(1, 2)], "flow.y"),
            self._node("Concat", ["flow.x", "flow.y"], "flow.planes", axis=1),
            self._node("Transpose", ["flow.planes"], "flow.places", perm=[0, 2, 3, 1]),
            self._node(
                "GridSample",
                ["previous.float", "flow.places"],
                "previous.sampled",
                mode="linear",
                padding_mode="border",
                align_corners=1,
            ),
            self._node("Round", ["previous.sampled"], "previous.moved"),
            *nodes,
        ]

    def _range(self, begin: int, end: int) -> list[str]:
        """Of channels, for Slice."""
        parts = (("begin", begin), ("end", end), ("axis", 1))
        return [self._integers(f"channels.{begin}.{name}", [value]) for name, value in parts]

    def _floats(self, name: str, values: npt.NDArray[Any]) -> str:
        from onnx import numpy_helper

        return self.keep(numpy_helper.from_array(values.astype(np.float32), name))

    def _side_by_side(self, nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
        for node in nodes:
            _rename(node, {self.luma: LUMA, self.upscaled: UPSCALED_LUMA})
        first = self._node("Cast", [CHROMA], "chroma.float", to=1)
        return [*nodes, first, *self._enlarge("chroma.float", "chroma.levels"), *self._round("chroma.levels")]

    def _packed(self, nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
        """TensorRT takes uint8 only at its borders: the frame is cut and joined as float."""
        layout, ports = self.layout, tensors(self.layout)
        pixels = layout.height * layout.width
        head = [
            self._node("Cast", [FRAME], "frame.float", to=1),
            *self._cut("frame.float", "luma.float", 0, pixels, (1, 1, layout.height, layout.width)),
            *self._cut(
                "frame.float",
                "chroma.float",
                pixels,
                ports[FRAME][1][0],
                (2, 1, *chroma_shape(layout.width, layout.height)),
            ),
        ]
        body, levels = self._without_casts(nodes)
        joined = [
            self._node("Reshape", [levels, self._integers("flat", [-1])], "luma.flat"),
            self._node("Reshape", ["chroma.levels", self._integers("flat", [-1])], "chroma.flat"),
            self._node("Concat", ["luma.flat", "chroma.clean"], "frame.levels", axis=0),
            self._node("Cast", ["frame.levels"], UPSCALED, to=2),
        ]
        clean = self._clean("chroma.flat", "chroma.clean")
        return [*head, *body, *self._enlarge("chroma.float", "chroma.levels"), *joined[:2], *clean, *joined[2:]]

    def _without_casts(self, nodes: list[onnx.NodeProto]) -> tuple[list[onnx.NodeProto], str]:
        """The luma graph from floats to floats, and the name of its result."""
        readers = [node for node in nodes if self.luma in node.input]
        last = next(node for node in nodes if self.upscaled in node.output)
        if any(node.op_type != "Cast" for node in (*readers, last)):
            raise ModelError("the graph must begin and end with a cast from and to uint8; export the model again")
        names = {reader.output[0]: "luma.float" for reader in readers}
        kept = [node for node in nodes if not any(node is one for one in (*readers, last))]
        for node in kept:
            _rename(node, names)
        return kept, last.input[0]

    def _enlarge(self, source: str, target: str) -> list[onnx.NodeProto]:
        """Chroma as every backend enlarges it: color.chroma_kernel, borders repeated, cut to the output's size."""
        from onnx import numpy_helper

        layout = self.layout
        s = layout.scale
        kernel = self.keep(numpy_helper.from_array(chroma_kernel(s, layout.siting), "chroma.kernel"))
        rows, columns = chroma_shape(*layout.output)
        whole = tuple(s * side for side in chroma_shape(layout.width, layout.height))
        border = self._integers("chroma.border", [0, 0, 2, 2, 0, 0, 2, 2])
        larger = target if whole == (rows, columns) else "chroma.whole"
        nodes = [
            self._node("Pad", [source, border], "chroma.padded", mode="edge"),
            self._node("Conv", ["chroma.padded", kernel], "chroma.phases"),
            self._node("DepthToSpace", ["chroma.phases"], larger, blocksize=s, mode="CRD"),
        ]
        if larger != target:
            ends = [self._integers(f"chroma.{n}", v) for n, v in (("start", [0, 0]), ("end", [rows, columns]))]
            nodes.append(self._node("Slice", [larger, *ends, self._integers("chroma.axes", [2, 3])], target))
        return nodes

    def _round(self, levels: str) -> list[onnx.NodeProto]:
        return [*self._clean(levels, "chroma.clean"), self._node("Cast", ["chroma.clean"], UPSCALED_CHROMA, to=2)]

    def _clean(self, levels: str, target: str) -> list[onnx.NodeProto]:
        from onnx import numpy_helper

        limits = [
            self.keep(numpy_helper.from_array(np.array(value, np.float32), f"chroma.{name}"))
            for name, value in (("least", 0), ("most", 255))
        ]
        return [
            self._node("Clip", [levels, *limits], "chroma.clipped"),
            self._node("Round", ["chroma.clipped"], target),
        ]

    def _cut(self, source: str, target: str, begin: int, end: int, shape: tuple[int, ...]) -> list[onnx.NodeProto]:
        ends = [self._integers(f"{target}.{name}", [value]) for name, value in (("begin", begin), ("end", end))]
        return [
            self._node("Slice", [source, *ends, self._integers("first", [0])], f"{target}.cut"),
            self._node("Reshape", [f"{target}.cut", self._integers(f"{target}.shape", shape)], target),
        ]

    def _integers(self, name: str, values: Iterable[int]) -> str:
        from onnx import numpy_helper

        return self.keep(numpy_helper.from_array(np.array(list(values), np.int64), f"integers.{name}"))

    @staticmethod
    def _node(kind: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
        from onnx import helper

        return helper.make_node(kind, inputs, [output], name=output, **attributes)


def _rename(node: onnx.NodeProto, names: Mapping[str, str]) -> None:
    for side in (node.input, node.output):
        for n, name in enumerate(side):
            side[n] = names.get(name, name)
