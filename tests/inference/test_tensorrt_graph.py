"""The passes over a model's ONNX give the same pictures, in any form of head, any precision, any size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from small_models import FSRCNN, PLAIN, RECURRENT, small_model

from stream_sr.errors import ModelError
from stream_sr.inference import reference
from stream_sr.inference.backends.cuda.precisions import PRECISIONS
from stream_sr.inference.backends.tensorrt.frames import FLOW, FrameLayout, tensors
from stream_sr.inference.backends.tensorrt.graph import DECONVOLUTION, HEADS, LOWERED, frame_graph, scale_of
from stream_sr.inference.model import PREVIOUS, ModelSpec
from stream_sr.inference.verify import enlarge_chroma
from stream_sr.video import optical_flow
from stream_sr.video.color import Siting
from stream_sr.video.optical_flow import MOST, PreviousOutput, flow_size, register
from stream_sr.video.planes import chroma_shape
from stream_sr.video.quality import psnr, texture

pytestmark = pytest.mark.gpu

LEAST = {"fp32": 75.0, "fp16": 55.0, "bf16": 42.0}  # dB; of networks that were not trained for it


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelSpec]:
    made = {f"fsrcnn x{scale}": small_model(tmp_path_factory.mktemp("m"), FSRCNN, scale) for scale in (2, 3)}
    made["plain x2"] = small_model(tmp_path_factory.mktemp("m"), PLAIN, 2)
    made["plain x4"] = small_model(tmp_path_factory.mktemp("m"), PLAIN, 4)
    made["recurrent x2"] = small_model(tmp_path_factory.mktemp("m"), RECURRENT, 2)
    return made


def frame_of(layout: FrameLayout) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    rows, columns = chroma_shape(layout.width, layout.height)
    chroma = texture(2 * rows, columns)
    return np.concatenate([texture(layout.height, layout.width).ravel(), chroma.ravel()])


def run(graph: bytes, layout: FrameLayout, frames: list[np.ndarray[Any, np.dtype[np.uint8]]]) -> list[Any]:
    """The graph on whole frames in turn, the last output handed on; each result as one I420 frame."""
    model = onnx.load_from_string(graph)
    onnx.checker.check_model(model, full_check=True)
    ports = tensors(layout)
    evaluator = ReferenceEvaluator(model)
    last, (width, height) = PreviousOutput(layout.scale), layout.output
    results = []
    for frame in frames:
        inputs = {one.name: one for one in model.graph.input}
        feeds: dict[str, Any] = {
            name: frame[at : at + int(np.prod(shape))].reshape(shape)
            for name, (at, shape) in ports.items()
            if name in inputs
        }
        names = [one.name for one in model.graph.output]
        if PREVIOUS in inputs:
            feeds[PREVIOUS] = np.empty((1, 1, height, width), np.uint8)
            assert [side.dim_value for side in inputs[PREVIOUS].type.tensor_type.shape.dim] == [1, 1, height, width]
            luma = frame[: layout.width * layout.height].reshape(layout.height, -1)
            last.write(luma, feeds[PREVIOUS][0, 0])
            feeds[FLOW] = np.zeros((1, 2, *luma.shape), np.float32)  # it is moved already
        values = dict(zip(names, evaluator.run(None, feeds), strict=True))
        whole = [(ports[name][0], values[name]) for name in names if name in ports]
        for name in names:
            if name in ports:
                assert values[name].shape == ports[name][1]
        results.append(np.concatenate([value.ravel() for _, value in sorted(whole, key=lambda one: one[0])]))
        last.keep(results[-1][: width * height].reshape(height, width))
    return results


@pytest.mark.parametrize("size", [(16, 16), (17, 11), (18, 9)], ids=str)
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", ["fsrcnn x2", "fsrcnn x3", "plain x2", "plain x4", "recurrent x2"])
def test_the_same_picture_in_every_form(
    name: str, head: str, size: tuple[int, int], models: dict[str, ModelSpec]
) -> None:
    model = models[name]
    layout = FrameLayout(*size, model.scale, Siting.LEFT)
    assert layout.packed == (size != (16, 16))
    width, height = layout.output
    frame = frame_of(layout)
    luma = frame[: size[0] * size[1]].reshape(size[1], size[0])
    wanted = reference.evaluate(model, [luma, luma])
    rows, columns = chroma_shape(*size)
    u = frame[size[0] * size[1] :][: rows * columns].reshape(rows, columns)
    for precision in PRECISIONS:
        graph = frame_graph(model.onnx.read_bytes(), layout, precision, head)
        results = run(graph, layout, [frame] * len(wanted))
        for got, right in zip(results, wanted, strict=True):
            assert psnr(got[: height * width].reshape(height, width), right) > LEAST[precision], precision
        large_rows, large_columns = chroma_shape(width, height)
        got_u = results[0][height * width :][: large_rows * large_columns].reshape(large_rows, large_columns)
        right_u = enlarge_chroma(u, model.scale, Siting.LEFT)[:large_rows, :large_columns]
        assert np.abs(got_u.astype(int) - right_u).max() <= 1


def kinds(graph: bytes) -> list[str]:
    return [node.op_type for node in onnx.load_from_string(graph).graph.node]


def test_the_head_is_as_asked_for(models: dict[str, ModelSpec]) -> None:
    layout = FrameLayout(32, 16, 2, Siting.LEFT)
    for name, count in (("fsrcnn x2", 1), ("plain x2", 2), ("recurrent x2", 2)):
        data = models[name].onnx.read_bytes()
        assert kinds(frame_graph(data, layout, "fp32", DECONVOLUTION)).count("ConvTranspose") == count
        lowered = kinds(frame_graph(data, layout, "fp32", LOWERED))
        assert lowered.count("ConvTranspose") == 0
        kept = name.startswith("recurrent")  # of the last output
        assert lowered.count("DepthToSpace") == count + 1 + kept  # and that of chroma


def test_the_layers_are_low_and_anchor_tail_and_chroma_are_not(models: dict[str, ModelSpec]) -> None:
    layout = FrameLayout(32, 16, 2, Siting.LEFT)
    for precision, low in (("fp16", TensorProto.FLOAT16), ("bf16", TensorProto.BFLOAT16)):
        for name in ("fsrcnn x2", "plain x2", "recurrent x2"):
            graph = onnx.load_from_string(frame_graph(models[name].onnx.read_bytes(), layout, precision, LOWERED))
            found = onnx.shape_inference.infer_shapes(graph).graph
            types = {one.name: one.type.tensor_type.elem_type for one in (*found.value_info, *found.output)}
            for node in graph.graph.node:
                kind = types[node.output[0]]
                if node.op_type in ("Conv", "PRelu", "Relu"):
                    is_exact = node.output[0].startswith(("chroma", "anchor", "network_anchor", "previous"))
                    assert kind == (TensorProto.FLOAT if is_exact else low), node.output[0]
                if node.op_type in ("Clip", "Round", *(() if name.startswith("recurrent") else ("Add",))):
                    assert kind == TensorProto.FLOAT, node.output[0]


def test_in_bf16_the_levels_go_in_unscaled(models: dict[str, ModelSpec]) -> None:
    graph = onnx.load_from_string(
        frame_graph(models["fsrcnn x2"].onnx.read_bytes(), FrameLayout(32, 16, 2, Siting.LEFT), "bf16", LOWERED)
    )
    assert [node.op_type for node in graph.graph.node][:3] == ["Cast", "Cast", "Conv"]


def test_the_scale_is_told_by_the_graph(models: dict[str, ModelSpec]) -> None:
    plain = [model for name, model in models.items() if not name.startswith("recurrent")]
    assert [scale_of(model.onnx.read_bytes()) for model in plain] == [2, 3, 2, 4]


def test_graphs_of_another_form_are_refused_by_what_was_found(models: dict[str, ModelSpec]) -> None:
    layout = FrameLayout(32, 16, 2, Siting.LEFT)
    with pytest.raises(ModelError, match="cannot be read as ONNX"):
        frame_graph(b"\x08no ONNX", layout, "fp32", LOWERED)
    with pytest.raises(ModelError, match=r"makes .*96.* not 64x32"):
        frame_graph(models["fsrcnn x3"].onnx.read_bytes(), layout, "fp32", LOWERED)
    model = onnx.load_from_string(models["plain x2"].onnx.read_bytes())
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT
    with pytest.raises(ModelError, match=r"inputs luma float \[1,1,height,width\].*must have one input"):
        frame_graph(model.SerializeToString(), layout, "fp32", LOWERED)
    with pytest.raises(ModelError, match=r"scale must be in a model\.toml"):
        scale_of(models["recurrent x2"].onnx.read_bytes())


def test_a_graph_without_convolutions_has_no_lower_precision(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Resize", ["f", "", "scales"], ["g"], mode="nearest"),
        helper.make_node("Cast", ["g"], ["y"], to=TensorProto.UINT8),
    ]
    scales = helper.make_tensor("scales", TensorProto.FLOAT, [4], [1, 1, 2, 2])
    plane = [helper.make_tensor_value_info(name, TensorProto.UINT8, [1, 1, None, None]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", plane[:1], plane[1:], [scales])
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()
    layout = FrameLayout(32, 16, 2, Siting.LEFT)
    assert scale_of(data) == 2
    frame_graph(data, layout, "fp32", LOWERED)
    with pytest.raises(ModelError, match="build it in fp32"):
        frame_graph(data, layout, "fp16", LOWERED)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("size", "most"), [((16, 16), MOST), ((17, 11), MOST), ((17, 11), 100)], ids=str)
def test_the_graph_moves_the_last_output_as_the_host_does(
    models: dict[str, ModelSpec], size: tuple[int, int], most: int, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optical_flow, "MOST", most)
    layout = FrameLayout(*size, 2, Siting.LEFT)
    width, height = layout.output
    model = onnx.load_from_string(frame_graph(models["recurrent x2"].onnx.read_bytes(), layout, precision, LOWERED))
    model.graph.output.append(onnx.ValueInfoProto(name="previous.moved"))
    frame, last = frame_of(layout), texture(height, width)
    feeds: dict[str, Any] = {
        name: frame[at : at + int(np.prod(shape))].reshape(shape)
        for name, (at, shape) in tensors(layout).items()
        if name in {one.name for one in model.graph.input}
    }
    rows, columns = flow_size(size[::-1])
    wave = np.sin(np.arange(columns) / 5) * np.cos(np.arange(rows) / 4)[:, None]
    flow = np.rint(np.stack([wave * 9, 5 - wave * 30])).astype(np.int16)
    feeds |= {PREVIOUS: last[None, None], FLOW: flow[None].astype(np.float32)}
    (moved,) = ReferenceEvaluator(model).run(["previous.moved"], feeds)
    wanted = np.empty_like(last)
    register(last, flow, wanted)
    assert np.abs(moved[0, 0] - wanted).max() <= 1
    assert np.abs(moved[0, 0] - last).max() > 20
