"""Export: a trained network as the graph that is shipped, ``model.onnx``, with ``model.toml`` beside it.

The graph is written node by node from the traced module, so that it holds only Cast, Mul, Add, Conv, PRelu, Relu,
ConvTranspose, Clip, Round, and where a network has them MaxPool, Sigmoid, Sub, SpaceToDepth and DepthToSpace; its
initialisers bear the network's own parameter names (a network is rebuilt from its ONNX), and the same weights give the
same bytes. Needs torch and onnx.
"""

import json
import math
import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, fx, nn

from stream_sr.errors import ConfigError, ModelError
from stream_sr.inference import reference
from stream_sr.inference.model import INT8_FILE, PREVIOUS, UPSCALED, ModelSpec, read_model
from stream_sr.networks.layers import Deconvolution
from stream_sr.networks.recurrent import RecurrentSR, repeated
from stream_sr.networks.registry import LumaGraph, RecurrentLumaGraph, restore_network
from stream_sr.training.loop import load_checkpoint

OPSET = 18
IR_VERSION = 10
ARITHMETIC: Mapping[Any, str] = {operator.mul: "Mul", operator.add: "Add", operator.sub: "Sub"}
PREFIX = "network."  # LumaGraph's name for the network; the initialisers go without


def export_onnx(network: nn.Module, path: Path) -> None:
    """Write ``network`` (luma in [0, 1] to luma in [0, 1]) as a uint8 graph ``luma`` -> ``upscaled``, ``[1,1,H,W]``.

    Height and width are dynamic. A recurrent network has a second input ``previous``, its last output, uint8
    ``[1,1,sH,sW]``. Raises ModelError for a network with an operation that is not in the table here.
    """
    was_training = network.training
    module = (RecurrentLumaGraph(network) if isinstance(network, RecurrentSR) else LumaGraph(network)).eval()
    try:
        data = _Writer(module).write()
    finally:
        network.train(was_training)
    path.parent.mkdir(parents=True, exist_ok=True)
    _replace(path, data)


def write_model(
    folder: Path,
    *,
    name: str,
    scale: int,
    network: Mapping[str, Any],
    module: nn.Module,
    training: Mapping[str, Any] | None = None,
    psnr_y: Mapping[str, float] | None = None,
    default: bool = False,
    weights: str = "clean",
) -> ModelSpec:
    """Write ``model.onnx`` and ``model.toml`` into ``folder`` and read them back.

    ``network`` is ``{"kind": ..., arguments}`` of `build_network`, ``module`` that network with its weights,
    ``training`` the recipe. Raises ModelError.
    """
    export_onnx(module, folder / "model.onnx")
    top = {
        "name": name,
        "scale": scale,
        "weights": weights,
        "default": default,
        "parameters": count_parameters(module),
        "macs_per_pixel": count_macs(module),
    }
    tables = {"network": network, "psnr_y": psnr_y or {}, "training": training or {}}
    (folder / INT8_FILE).unlink(missing_ok=True)  # it was made from what is replaced
    _replace(folder / "model.toml", _toml(top, tables).encode())
    return read_model(folder / "model.toml")


def export_checkpoint(
    checkpoint: Path,
    folder: Path,
    name: str | None = None,
    *,
    average: Sequence[Path] = (),
    psnr_y: Mapping[str, float] | None = None,
    default: bool = False,
) -> ModelSpec:
    """Export the best weights of a training run into ``folder``, under ``name`` or the recipe's, with its reference.

    ``average``: checkpoints of other runs of the same network, from the same start, whose weights are averaged with
    them (Wortsman and others, "Model soups", ICML 2022). Raises ModelError.
    """
    state, network, module = _restored(checkpoint)
    recipe = state["recipe"]
    if average:
        others = [_restored(path) for path in average]
        for path, (other, shape, _) in zip(average, others, strict=True):
            if (shape, other["recipe"]["scale"]) != (network, recipe["scale"]):
                raise ModelError(
                    f"{path} holds {shape} x{other['recipe']['scale']}, {checkpoint} {network} x{recipe['scale']}; "
                    "only weights of one network can be averaged"
                )
        all_weights = [one.state_dict() for one in (module, *(found for _, _, found in others))]
        module.load_state_dict(
            {name: torch.stack([one[name] for one in all_weights]).mean(0) for name in all_weights[0]}
        )
    training = {key: value for key, value in recipe.items() if key not in ("name", "scale", "weights", "network")}
    training["iteration"] = state["iteration"]
    if average:
        training["averaged"] = 1 + len(average)
    elif math.isfinite(state["best_psnr"]):  # it is not before the first validation
        training["validation_psnr"] = round(float(state["best_psnr"]), 4)
    model = write_model(
        folder,
        name=name or recipe["name"],
        scale=recipe["scale"],
        network=network,
        module=module,
        training=training,
        psnr_y=psnr_y,
        default=default,
        weights=recipe["weights"],
    )
    reference.write(model)
    return model


def _restored(checkpoint: Path) -> tuple[dict[str, Any], dict[str, Any], nn.Module]:
    """What a checkpoint holds, its network's arguments, and that with its best weights. Raises ModelError."""
    if not checkpoint.is_file():
        raise ModelError(f"no such file: {checkpoint}; `stream-sr train` leaves a checkpoint.pt in its --out folder")
    try:
        state = load_checkpoint(checkpoint)
        network = dict(state["recipe"]["network"])
        return state, network, restore_network(network, scale=state["recipe"]["scale"], weights=state["best"])
    except (ConfigError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = "" if isinstance(error, ConfigError) else f"{checkpoint} is no checkpoint of `stream-sr train`: "
        raise ModelError(f"{reason}{error}") from error


def count_parameters(network: nn.Module) -> int:
    """Trainable numbers."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


@torch.no_grad()
def count_macs(network: nn.Module) -> int:
    """Multiplications per input pixel in the convolutions; of a deconvolution its k*k taps, in either form."""
    side, total = 48, 0

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        at = inputs[0] if isinstance(layer, nn.ConvTranspose2d) else output
        weight: Tensor = layer.weight  # type: ignore[assignment]
        total += weight.numel() * at.shape[-1] * at.shape[-2]

    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    was_training = network.training
    try:
        x = torch.zeros(1, 1, side, side)
        network.eval()
        if isinstance(network, RecurrentSR):
            network.step(x, repeated(x, network.scale))
        else:
            network(x)
    finally:
        network.train(was_training)
        for hook in hooks:
            hook.remove()
    return round(total / (side * side))


class _Tracer(fx.Tracer):
    """Leaves our own deconvolution whole: it is one node of the graph."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, Deconvolution) or super().is_leaf_module(m, module_qualified_name)


class _Writer:
    """Turns a traced module into ONNX, one method per kind of node."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.nodes: list[onnx.NodeProto] = []
        self.initialisers: dict[str, onnx.TensorProto] = {}
        self.names: dict[fx.Node, str] = {}

    def write(self) -> bytes:
        inputs = []
        for node in _Tracer().trace(self.module).nodes:
            self._add(node)
            if node.op == "placeholder":
                inputs.append(_input(self.names[node]))
        graph = helper.make_graph(
            self.nodes,
            "stream_sr",
            inputs,
            [helper.make_tensor_value_info(UPSCALED, TensorProto.UINT8, [1, 1, "output_height", "output_width"])],
            list(self.initialisers.values()),
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="stream_sr"
        )
        onnx.checker.check_model(model, full_check=True)
        return model.SerializeToString(deterministic=True)

    def _add(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            self.names[node] = str(node.target)
        elif node.op == "output":
            self.nodes[-1].output[0] = UPSCALED
        elif node.op == "call_module":
            self._layer(node, str(node.target).removeprefix(PREFIX), self.module.get_submodule(str(node.target)))
        elif node.op == "call_method" and node.target in ("to", "clamp", "round"):
            self._elementwise(node)
        elif node.op == "call_function" and node.target in ARITHMETIC:
            self._arithmetic(node)
        else:
            raise ModelError(
                f"a network with {node.op} '{node.target}' cannot be exported; add it to training/export.py"
            )

    def _emit(self, node: fx.Node, kind: str, inputs: list[str], **attributes: Any) -> None:
        self.names[node] = node.name
        self.nodes.append(helper.make_node(kind, inputs, [node.name], name=node.name, **attributes))

    def _keep(self, name: str, value: Tensor | float) -> str:
        array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.array(value)
        self.initialisers[name] = numpy_helper.from_array(np.ascontiguousarray(array, np.float32), name)
        return name

    def _layer(self, node: fx.Node, name: str, layer: nn.Module) -> None:
        (source,) = (self.names[one] for one in node.all_input_nodes)
        if isinstance(layer, nn.PReLU):
            slope = self._keep(f"{name}.weight", layer.weight.reshape(-1, 1, 1))
            self._emit(node, "PRelu", [source, slope])
        elif isinstance(layer, nn.ReLU | nn.Sigmoid):
            self._emit(node, "Relu" if isinstance(layer, nn.ReLU) else "Sigmoid", [source])
        elif isinstance(layer, nn.MaxPool2d):
            self._emit(node, "MaxPool", [source], kernel_shape=[layer.kernel_size] * 2, strides=[layer.stride] * 2)
        elif isinstance(layer, nn.PixelUnshuffle):  # ONNX orders the channels as torch does where there was one
            self._emit(node, "SpaceToDepth", [source], blocksize=layer.downscale_factor)
        elif isinstance(layer, nn.PixelShuffle):
            self._emit(node, "DepthToSpace", [source], blocksize=layer.upscale_factor, mode="CRD")
        elif isinstance(layer, nn.Conv2d | Deconvolution):
            self._convolution(node, name, layer, source)
        else:
            raise ModelError(f"layer {name} ({type(layer).__name__}) cannot be exported; add it to training/export.py")

    def _convolution(self, node: fx.Node, name: str, layer: nn.Conv2d | Deconvolution, source: str) -> None:
        if isinstance(layer.padding, str) or layer.padding_mode != "zeros":
            raise ModelError(f"layer {name}: padding must be numbers of zeros, not {layer.padding!r}")
        inputs = [source, self._keep(f"{name}.weight", layer.weight)]
        if layer.bias is not None:
            inputs.append(self._keep(f"{name}.bias", layer.bias))
        shape: dict[str, Any] = {
            "kernel_shape": list(layer.kernel_size),
            "strides": list(layer.stride),
            "pads": list(layer.padding) * 2,
            "dilations": list(layer.dilation),
            "group": layer.groups,
        }
        if isinstance(layer, Deconvolution):
            self._emit(node, "ConvTranspose", inputs, output_padding=list(layer.output_padding), **shape)
        else:
            self._emit(node, "Conv", inputs, **shape)

    def _elementwise(self, node: fx.Node) -> None:
        source = self.names[node.all_input_nodes[0]]
        if node.target == "to":
            types = {torch.float32: TensorProto.FLOAT, torch.uint8: TensorProto.UINT8}
            self._emit(node, "Cast", [source], to=types[node.args[1]])  # type: ignore[index]
        elif node.target == "clamp":
            low, high = (float(bound) for bound in node.args[1:])  # type: ignore[arg-type]
            bounds = [self._keep(f"{node.name}.{end}", value) for end, value in (("low", low), ("high", high))]
            self._emit(node, "Clip", [source, *bounds])
        else:
            self._emit(node, "Round", [source])

    def _arithmetic(self, node: fx.Node) -> None:
        kind = ARITHMETIC[node.target]
        inputs = [
            self.names[one] if isinstance(one, fx.Node) else self._keep(f"{node.name}.constant", float(one))  # type: ignore[arg-type]
            for one in node.args
        ]
        self._emit(node, kind, inputs)


def _input(name: str) -> onnx.ValueInfoProto:
    """The last output has sides of its own: a graph cannot say how many times the luma's they are."""
    larger = "previous_" if name == PREVIOUS else ""
    return helper.make_tensor_value_info(name, TensorProto.UINT8, [1, 1, f"{larger}height", f"{larger}width"])


def _toml(top: Mapping[str, Any], tables: Mapping[str, Mapping[str, Any]]) -> str:
    lines = ["# Written by `stream-sr export`."]
    lines += [f"{key} = {_value(value)}" for key, value in top.items()]
    for title, table in tables.items():
        lines += ["", f"[{title}]"]
        lines += [f"{key} = {_value(value)}" for key, value in table.items() if value is not None]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(_value(one) for one in value)}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{json.dumps(key)} = {_value(one)}' for key, one in value.items())}}}"
    if isinstance(value, bool | int | float | str):
        return json.dumps(value, ensure_ascii=False)  # of these types, JSON is TOML
    raise TypeError(f"{value!r} cannot be written to model.toml")


def _replace(path: Path, data: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    partial.replace(path)
