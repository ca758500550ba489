"""A model in the format of FFmpeg's own networks, for `dnn_processing` with the backend `native` (FFmpeg 4.3 to 5.1).

The format is that of FFmpeg's tools/python/convert_from_tensorflow.py, version 1: layers, operands, their counts; all
32-bit little-endian. It has convolutions with ReLU, depth-to-space, sums and maxima, so tiny and fast can be written;
PReLU, and so FSRCNN, cannot. Luma goes in and comes out as 0 to 1.
"""

import struct
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from stream_sr.errors import ModelError
from stream_sr.inference.backends.tensorrt.graph import OnnxGraph
from stream_sr.inference.model import ModelSpec

MAGIC, VERSION = b"FFMPEGDNNNATIVE", (1, 23)
CONV, DEPTH_TO_SPACE, MAXIMUM, SUM = 1, 2, 4, 5  # layers
SAME, RELU, LINEAR, ADD = 1, 0, 3, 1
INPUT, OUTPUT, INTERMEDIATE, FLOAT = 1, 2, 3, 1  # operands
AROUND = ("Cast", "Mul", "Clip", "Round")  # between uint8 and 0 to 1, which the filter does itself


def write_native(model: ModelSpec, path: Path) -> Path:
    """Write the model with its deconvolutions lowered. Raises ModelError for a layer that the format lacks."""
    graph = OnnxGraph.read(model.onnx.read_bytes())
    graph.lower()
    network = onnx.load_from_string(graph.serialize()).graph
    arrays = {one.name: numpy_helper.to_array(one) for one in network.initializer}
    nodes = [node for node in network.node if node.op_type not in AROUND]
    first = next(node for node in nodes if node.op_type == "Conv").input[0]
    operands = {first: 0}
    layers: list[bytes] = []
    for node, after in pairwise([*nodes, None]):
        if node is None or node.output[0] in operands:  # a ReLU that its convolution does
            continue
        readers = [one for one in nodes if node.output[0] in one.input]
        activated = node.op_type == "Conv" and readers == [after] and readers[0].op_type == "Relu"
        out = after.output[0] if activated and after is not None else node.output[0]
        places = [operands[name] for name in node.input if name in operands]
        operands[out] = len(operands)
        layers.append(_layer(node, arrays, places, operands[out], activated, model.name))
    last = len(operands) - 1
    kinds = {0: ("x", INPUT), last: ("y", OUTPUT)}
    written = [_operand(n, *kinds.get(n, (f"t{n}", INTERMEDIATE))) for n in range(len(operands))]
    counts = _words(len(layers), len(operands))
    path.write_bytes(b"".join([MAGIC, _words(*VERSION), *layers, *written, counts]))
    return path


def _layer(node: Any, arrays: Mapping[str, Any], places: Sequence[int], out: int, activated: bool, name: str) -> bytes:
    if node.op_type == "Conv":
        weight = arrays[node.input[1]]  # [out, in, k, k], written as [out, k, k, in]
        count, depth, kernel, _ = weight.shape
        bias = arrays[node.input[2]] if len(node.input) > 2 else np.zeros(count)
        head = _words(CONV, 1, SAME, RELU if activated else LINEAR, depth, count, kernel, 1)
        floats = [weight.transpose(0, 2, 3, 1).ravel(), bias]
        return head + np.concatenate(floats).astype("<f4").tobytes() + _words(places[0], out)
    if node.op_type == "DepthToSpace":
        size = next(attribute.i for attribute in node.attribute if attribute.name == "blocksize")
        return _words(DEPTH_TO_SPACE, size, places[0], out)
    if node.op_type == "Relu":
        return _words(MAXIMUM, 0, places[0], out)  # of 0, whose bits are those of the number
    if node.op_type == "Add" and len(places) == 2:
        return _words(SUM, ADD, 0, places[0], 0, places[1], out)
    raise ModelError(f"FFmpeg's own format has no {node.op_type}, which {name} needs")


def _operand(number: int, name: str, kind: int) -> bytes:
    """Any height and width; one channel where FFmpeg asks for it, at both ends."""
    channels = -1 if kind == INTERMEDIATE else 1
    return _words(number, len(name)) + name.encode() + _words(kind, FLOAT, 1, -1, -1, channels)


def _words(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}i", *values)
