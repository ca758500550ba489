"""A model in eight bits as OpenVINO computes it fastest: each QuantizeLinear and DequantizeLinear as one FakeQuantize.

So the passes of `graph` see one operation with values in, values out, and OpenVINO's own make bytes of it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

BYTES = {"u8": (0, 255), "i8": (-128, 127)}


def merge_quantizers(model: Any) -> int:
    """Replace the pairs, of weights too, in place; how many there were.

    Of a weight, bytes scaled by a constant, becomes FakeQuantize of its values, which changes none of them.
    """
    from openvino import opset13 as ops

    count = 0
    for node in model.get_ordered_ops():
        found = _dequantized(node)
        if found is None:
            continue
        stored, zero, scale = found
        kind = str(stored.get_element_type().get_type_name())
        if kind not in BYTES:
            continue
        source = stored.get_node()
        low, high = ((np.float32(end) - zero) * scale for end in BYTES[kind])
        if source.get_type_name() == "Constant":
            low = -high  # symmetric weights: -128 is not used
            value = ops.constant((np.asarray(source.get_data(), np.float32) - zero) * scale).output(0)
        elif source.get_type_name() == "Convert" and _maker(source, 0).get_type_name() == "FakeQuantize":
            value = _maker(source, 0).input_value(0)
        else:
            continue
        levels = 255 if source.get_type_name() == "Constant" else 256
        ends = [ops.constant(np.asarray(end, np.float32)) for end in (low, high)]
        merged = ops.fake_quantize(value, *ends, *ends, levels)
        for target in list(node.output(0).get_target_inputs()):
            target.replace_source_output(merged.output(0))
        count += 1
    model.validate_nodes_and_infer_types()
    return count


def weight_of(node: Any) -> tuple[Any, npt.NDArray[np.float32] | None]:
    """The constant behind a convolution's weights, and the largest value of each of their ranges if they have any."""
    source = _maker(node, 1)
    if source.get_type_name() != "FakeQuantize":
        return source, None
    return _maker(source, 0), np.asarray(_maker(source, 2).get_data(), np.float32)


def quantize_weight(weight: npt.NDArray[np.float32], largest: npt.NDArray[np.float32]) -> Any:
    """Weights ``[C, ...]`` on the grid of 255 levels that ends at ``largest`` ``[C]``."""
    from openvino import opset13 as ops

    high = np.ascontiguousarray(largest, np.float32).reshape(-1, *[1] * (weight.ndim - 1))
    ends = [ops.constant(-high), ops.constant(high)]
    return ops.fake_quantize(ops.constant(weight), *ends, *ends, 255)


def _dequantized(node: Any) -> tuple[Any, Any, npt.NDArray[np.float32]] | None:
    """What a DequantizeLinear reads, its zero point and its scale: ``(Convert(x) - zero) * scale``."""
    if node.get_type_name() != "Multiply":
        return None
    scale, before = _constant(_maker(node, 1)), _maker(node, 0)
    zero: Any = np.float32(0)
    if scale is not None and before.get_type_name() == "Subtract":
        zero, before = _constant(_maker(before, 1)), _maker(before, 0)
    if scale is None or zero is None or before.get_type_name() != "Convert":
        return None
    return before.input_value(0), zero, scale


def _constant(node: Any) -> npt.NDArray[np.float32] | None:
    """The value of a constant, seen through conversion and reshaping to constant shapes."""
    if node.get_type_name() == "Constant":
        return np.asarray(node.get_data(), np.float32)
    if node.get_type_name() == "Convert":
        return _constant(_maker(node, 0))
    if node.get_type_name() == "Reshape":
        value, shape = _constant(_maker(node, 0)), _constant(_maker(node, 1))
        return None if value is None or shape is None else value.reshape(shape.astype(int))
    return None


def _maker(node: Any, n: int) -> Any:
    return node.input_value(n).get_node()
