"""The rewritten graph of every network computes what torch does, and holds what is fast."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from stream_sr.errors import ModelError
from stream_sr.inference.backends.openvino import graph as openvino_graph
from stream_sr.inference.backends.openvino.graph import OpenVINOGraph, compile_graph, read_graph, rewrite
from stream_sr.inference.model import LUMA, PREVIOUS, UPSCALED, ModelSpec
from stream_sr.networks.layers import collapse
from stream_sr.networks.recurrent import RecurrentSR
from stream_sr.networks.registry import LumaGraph, build_network
from stream_sr.training.export import write_model
from stream_sr.video.optical_flow import PreviousOutput, flows
from stream_sr.video.quality import texture

pytestmark = pytest.mark.long

KINDS = [
    {"kind": "FSRCNN", "d": 8, "s": 4, "m": 1, "kernel": 9},
    {"kind": "PlainSR", "width": 8, "depth": 2},
    {"kind": "RecurrentSR", "width": 8, "depth": 2},
]
SIZES = [(8, 16), (23, 18)]


def make(folder: Path, network: dict[str, object], scale: int) -> tuple[ModelSpec, nn.Module]:
    """A model with weights that do something, and its network."""
    torch.manual_seed(scale)
    arguments = {key: value for key, value in network.items() if key != "kind"}
    module = build_network(str(network["kind"]), scale=scale, **arguments)
    with torch.no_grad():
        for parameter in (p for p in module.parameters() if p.requires_grad):
            parameter.add_(torch.randn_like(parameter), alpha=0.03)
    collapse(module)
    return write_model(folder, name="small", scale=scale, network=network, module=module), module.eval()


def run(graph: OpenVINOGraph, pictures: list[npt.NDArray[np.uint8]]) -> list[npt.NDArray[np.uint8]]:
    height, width = pictures[0].shape
    request = compile_graph(graph.sized(height, width), precision="fp32", threads=1, streams=1).create_infer_request()
    last, results = PreviousOutput(graph.scale), []
    for picture in pictures:
        request.get_tensor(LUMA).data[0, 0] = picture
        if graph.recurrent:
            last.write(picture, request.get_tensor(PREVIOUS).data[0, 0])
        request.infer()
        results.append(request.get_tensor(UPSCALED).data[0, 0].copy())
        last.keep(results[-1])
    return results


@torch.no_grad()
def expected(module: nn.Module, pictures: list[npt.NDArray[np.uint8]]) -> list[npt.NDArray[np.uint8]]:
    if not isinstance(module, RecurrentSR):
        return [LumaGraph(module)(torch.from_numpy(one)[None, None])[0, 0].numpy() for one in pictures]
    sequence = torch.from_numpy(np.stack(pictures))[None, :, None].float() / 255
    moved = torch.from_numpy(flows(pictures, module.scale))[None]
    return list((module(sequence, moved)[0, :, 0] * 255).clamp(0, 255).round().to(torch.uint8).numpy())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("network", KINDS, ids=lambda one: str(one["kind"]))
def test_both_forms_give_what_torch_gives(
    network: dict[str, object], scale: int, size: tuple[int, int], tmp_path: Path
) -> None:
    model, module = make(tmp_path, network, scale)
    pictures = [np.roll(texture(*size), shift, 1) for shift in range(3)]
    wanted = expected(module, pictures)
    read = read_graph(model)
    assert read.scale == scale
    for graph in (read, rewrite(read)[0]):
        for got, want in zip(run(graph, pictures), wanted, strict=True):
            assert got.shape == want.shape
            assert np.abs(got.astype(int) - want.astype(int)).max() <= 1


@pytest.mark.parametrize(
    ("network", "scale"),
    [({"kind": "BareDeconvolution", "width": 8}, 2), ({"kind": "Autoencoder", "width": 4}, 1)],
    ids=["BareDeconvolution", "Autoencoder"],
)
def test_the_reference_designs_are_rewritten_too(network: dict[str, object], scale: int, tmp_path: Path) -> None:
    """Their deconvolutions have many channels, whose biases no shuffle may pass."""
    model, module = make(tmp_path, network, scale)
    pictures = [np.roll(texture(24, 16), shift, 1) for shift in range(2)]
    graph, head = rewrite(read_graph(model))
    assert head == openvino_graph.LOWERED
    for got, want in zip(run(graph, pictures), expected(module, pictures), strict=True):
        assert np.abs(got.astype(int) - want.astype(int)).max() <= 1


@pytest.mark.parametrize("network", KINDS, ids=lambda one: str(one["kind"]))
def test_the_shuffle_comes_last_and_the_scalings_are_gone(network: dict[str, object], tmp_path: Path) -> None:
    graph, head = rewrite(read_graph(make(tmp_path, network, 2)[0]))
    kinds = [node.get_type_name() for node in graph.model.get_ordered_ops()]
    assert head == openvino_graph.LOWERED
    assert kinds.count("DepthToSpace") == 1  # the head's and the anchor's are one
    recurrent = network["kind"] == "RecurrentSR"
    assert not {"ConvolutionBackpropData", "Identity"} & set(kinds)
    assert kinds.count("SpaceToDepth") == recurrent  # of its last output
    assert kinds.count("Multiply") == 3 * recurrent  # what it fades by, and its gate, which is a share
    (shuffle,) = [node for node in graph.model.get_ordered_ops() if node.get_type_name() == "DepthToSpace"]
    assert shuffle.get_output_element_type(0).get_type_name() == "u8"  # bytes are shuffled, not floats
    assert graph.model.outputs[0].get_any_name() == UPSCALED


def test_the_last_output_is_what_comes_from_before(tmp_path: Path) -> None:
    model, _ = make(tmp_path, KINDS[2], 2)
    graph = rewrite(read_graph(model))[0]
    assert graph.recurrent
    a, b = texture(16, 16), texture(16, 16) // 8 * 7 + 20  # alike, as the detector of cuts has it
    after_a, alone = run(graph, [a, b])[1], run(graph, [b])[0]
    assert (after_a != alone).any()
    assert (run(graph, [b, b])[1] != after_a).any()


def test_a_recurrent_graph_of_another_form_is_refused_and_so_is_a_bare_one(tmp_path: Path) -> None:
    import onnx

    model, _ = make(tmp_path, KINDS[2], 2)
    proto = onnx.load(str(model.onnx))
    with pytest.raises(ModelError, match=r"scale must be in a model\.toml"):
        read_graph(ModelSpec("bare", 0, model.onnx))
    proto.graph.input[1].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    del proto.graph.node[:]
    proto.graph.node.append(onnx.helper.make_node("Identity", ["luma"], ["upscaled"]))
    model.onnx.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match="it must have one input and one output, uint8 luma"):
        read_graph(model)


def test_the_first_use_from_several_threads_at_once_does_not_hang() -> None:
    """As `serve` begins: in a fresh process, where OpenVINO's binding to numpy is not set up yet."""
    code = (
        "import threading, numpy as np\n"
        "from stream_sr.inference.backends.openvino.graph import core\n"
        "gate = threading.Barrier(8)\n"
        "def work():\n"
        "    gate.wait()\n"
        "    core()\n"
        "    from openvino import opset13 as ops\n"
        "    for _ in range(50): ops.constant(np.zeros(4, np.float32)).get_data()\n"
        "threads = [threading.Thread(target=work) for _ in range(8)]\n"
        "for thread in threads: thread.start()\n"
        "for thread in threads: thread.join()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
