"""Small untrained models for tests: every form of graph that there is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import TensorProto, helper, numpy_helper

from stream_sr.model import ModelSpec
from stream_sr.networks import build_network
from stream_sr.train.export import write_model

FSRCNN = {"kind": "FSRCNN", "d": 16, "s": 6, "m": 1, "kernel": 9}
PLAIN = {"kind": "PlainSR", "width": 8, "depth": 1}
RECURRENT = {"kind": "RecurrentSR", "width": 8, "depth": 1}


def small_model(folder: Path, network: dict[str, Any], scale: int) -> ModelSpec:
    """A network as exported, its weights shaken so that nothing of it is trivial."""
    torch.manual_seed(scale)
    arguments = {key: value for key, value in network.items() if key != "kind"}
    module = build_network(network["kind"], scale=scale, **arguments)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.02)
    return write_model(folder, name=network["kind"].lower(), scale=scale, network=network, module=module)


def recurrent_model(folder: Path, *, channels: int = 4) -> ModelSpec:
    """x2: an anchor, and features that are made of the picture and of the features before."""
    random = np.random.default_rng(1)

    def constant(name: str, *shape: int, scale: float = 0.2) -> Any:
        return numpy_helper.from_array((random.standard_normal(shape) * scale).astype(np.float32), name)

    nodes = [
        helper.make_node("Cast", ["x"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["float", "small"], ["unit"]),
        helper.make_node("Concat", ["unit", "state_in.features"], ["both"], axis=1),
        helper.make_node("Conv", ["both", "w1", "b1"], ["mixed"], name="mix", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["mixed"], ["state_out.features"]),
        helper.make_node("ConvTranspose", ["state_out.features", "w2"], ["detail"], strides=[2, 2], pads=[2, 2, 2, 2]),
        helper.make_node("ConvTranspose", ["unit", "ones"], ["anchor"], strides=[2, 2]),
        helper.make_node("Add", ["detail", "anchor"], ["sum"]),
        helper.make_node("Mul", ["sum", "large"], ["levels"]),
        helper.make_node("Clip", ["levels", "least", "large"], ["clipped"]),
        helper.make_node("Round", ["clipped"], ["round"]),
        helper.make_node("Cast", ["round"], ["y"], to=TensorProto.UINT8),
    ]
    numbers = {"small": 1 / 255, "large": 255.0, "least": 0.0}
    initialisers = [
        constant("w1", channels, 1 + channels, 3, 3), constant("b1", channels),
        constant("w2", channels, 1, 6, 6, scale=0.02),
        numpy_helper.from_array(np.ones((1, 1, 2, 2), np.float32), "ones"),
        *(numpy_helper.from_array(np.array(value, np.float32), name) for name, value in numbers.items()),
    ]  # fmt: skip
    state = [1, channels, "height", "width"]

    def port(name: str, kind: int, shape: list[Any]) -> Any:
        return helper.make_tensor_value_info(name, kind, shape)

    graph = helper.make_graph(
        nodes, "recurrent",
        [port("x", TensorProto.UINT8, [1, 1, "height", "width"]), port("state_in.features", TensorProto.FLOAT, state)],
        [port("y", TensorProto.UINT8, [1, 1, "H", "W"]), port("state_out.features", TensorProto.FLOAT, state)],
        initialisers,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    path = folder / "recurrent.onnx"
    path.write_bytes(model.SerializeToString())
    return ModelSpec("recurrent", 2, path)
