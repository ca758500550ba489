"""Eight bits from a trained network: the same function, equal channels, a graph that OpenVINO computes in bytes."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image
from small_models import FSRCNN, PLAIN, RECURRENT, small_model

from stream_sr.errors import ConfigError, ModelError
from stream_sr.evaluation.images import TIME_BASE, upscale_luma
from stream_sr.inference.backends.openvino import graph as openvino_graph
from stream_sr.inference.backends.openvino import precision as openvino_precision
from stream_sr.inference.engines import open_engine
from stream_sr.inference.model import INT8_FILE, LUMA, MAX_INT8_LOSS, UPSCALED, ModelSpec
from stream_sr.pipeline.engine import EngineOptions
from stream_sr.training import quantize
from stream_sr.video.frame import StreamInfo
from stream_sr.video.quality import psnr, texture

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(find_spec("nncf") is None, reason="quantising needs the extra [train]"),
]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(6):
        Image.fromarray(np.roll(texture(64, 80), 9 * number, 1)).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> ModelSpec:
    """PlainSR x2, quantised."""
    folder = tmp_path_factory.mktemp("int8")
    small_model(folder, PLAIN, 2)
    return quantize.quantize_model(folder, [pictures])


def test_what_is_recorded_is_what_is_found(model: ModelSpec, pictures: Path) -> None:
    assert model.int8 is not None
    assert model.int8.onnx.name == INT8_FILE
    assert model.int8.made_from == model.sha256()
    assert model.int8.loss < MAX_INT8_LOSS
    full = openvino_graph.rewrite(openvino_graph.read_graph(model))[0]
    small = openvino_graph.rewrite(openvino_graph.read_graph(model.as_int8()))[0]
    here = openvino_precision.measure_fidelity(full, small, "int8")
    assert 35 < here < 70
    if openvino_precision.cpu().int8:
        assert here == pytest.approx(model.int8.fidelity, abs=openvino_precision.SLACK)
    assert len(model.digests()) == 2


@pytest.mark.parametrize("scale", [2, 3])
@pytest.mark.parametrize("network", [PLAIN, FSRCNN], ids=lambda one: str(one["kind"]))
def test_the_rewritten_graph_computes_what_the_file_says(
    network: dict[str, object], scale: int, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantize, "MAX_INT8_LOSS", 10.0)  # untrained weights: whatever they lose
    small_model(tmp_path, network, scale)
    small = quantize.quantize_model(tmp_path, [pictures]).as_int8()
    picture = texture(40, 56)
    (wanted,) = quantize._run(onnx.load(str(small.onnx)), [picture])
    graph, head = openvino_graph.rewrite(openvino_graph.read_graph(small))
    assert head == openvino_graph.LOWERED
    request = openvino_graph.compile_graph(
        graph.sized(40, 56), precision="int8", threads=1, streams=1
    ).create_infer_request()
    request.get_tensor(LUMA).data[0, 0] = picture
    request.infer()
    got = request.get_tensor(UPSCALED).data[0, 0]
    # A value on the border of two levels falls to either side. Without VNNI sums of two products saturate at 16 bits.
    least, most = (50, 4) if openvino_precision.cpu().int8 else (30, 32)
    assert psnr(got, wanted) > least
    assert np.abs(got.astype(int) - wanted).max() <= most


def test_the_graph_computes_in_bytes(model: ModelSpec) -> None:
    graph, _ = openvino_graph.rewrite(openvino_graph.read_graph(model.as_int8()))
    kinds = [node.get_type_name() for node in graph.model.get_ordered_ops()]
    assert not {"ConvolutionBackpropData", "Multiply", "Subtract"} & set(kinds)
    assert kinds.count("DepthToSpace") == 1
    quantized = {
        node.get_friendly_name()
        for node in graph.model.get_ordered_ops()
        if node.get_type_name() == "Convolution"
        and {value.get_node().get_type_name() for value in node.input_values()} == {"FakeQuantize"}
    }
    assert len(quantized) == 3  # feature, body, head; the anchor is the fourth
    assert kinds.count("Convolution") == 4


def test_the_input_is_exact_and_the_anchor_untouched(model: ModelSpec) -> None:
    graph = onnx.load(str(model.as_int8().onnx)).graph
    stored = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    (scaled,) = [node.output[0] for node in graph.node if node.op_type == "Mul" and node.input[0] == "to"]
    (first,) = [node for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] == scaled]
    assert stored[first.input[1]] == np.float32(1 / 255)
    assert stored[first.input[2]] == 0
    (anchor,) = [node for node in graph.node if "anchor" in node.name and node.op_type == "ConvTranspose"]
    assert anchor.input[0] == scaled
    assert (stored[anchor.input[1]] == 1).all()


def test_equal_channels_compute_the_same(tmp_path: Path) -> None:
    for network in (PLAIN | {"depth": 3}, FSRCNN):
        model = small_model(tmp_path / str(network["kind"]), network, 2)
        graph = onnx.load(str(model.onnx))
        for one in graph.graph.initializer:  # a channel that is 100 times as large, and read as much less
            value = numpy_helper.to_array(one).copy()
            if one.name in ("feature.weight", "feature.bias", "feature.0.weight", "feature.0.bias"):
                value[0] *= 100
            elif one.name in ("body.1.weight", "shrink.0.weight"):
                value[:, 0] /= 100
            one.CopyFrom(numpy_helper.from_array(value, one.name))
        planes = [texture(32, 40)]
        equal = quantize.equalize(graph, planes)
        before, after = quantize._run(graph, planes)[0], quantize._run(equal, planes)[0]
        assert np.abs(before.astype(int) - after).max() <= 1
        ranges = []
        for candidate in (graph, equal):
            (_, name, _), *_ = quantize._links(candidate.graph)
            largest = quantize._channel_maxima(candidate, [name], planes)[name]
            ranges.append(largest.max() / np.median(largest))
        assert ranges[1] < ranges[0] / 4


def test_the_engine_runs_in_eight_bits(model: ModelSpec) -> None:
    if not openvino_precision.cpu().int8:
        pytest.skip("this CPU has no VNNI")
    picture = texture(48, 64)
    results = {}
    for precision in ("fp32", "int8", "auto"):
        engine = open_engine(
            model,
            StreamInfo(64, 48, TIME_BASE),
            EngineOptions(backend="openvino", precision=precision, threads=1, keep=False),
        )
        results[precision] = (engine.spec.precision, upscale_luma(engine, picture))
        engine.close()
    assert [precision for precision, _ in results.values()] == ["fp32", "int8", "int8"]
    np.testing.assert_array_equal(results["int8"][1], results["auto"][1])
    assert 35 < psnr(results["fp32"][1], results["int8"][1]) < 70


def test_a_model_that_loses_too_much_is_not_kept(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantize, "MAX_INT8_LOSS", -1.0)
    small_model(tmp_path, PLAIN, 2)
    (tmp_path / INT8_FILE).write_bytes(b"of an earlier run")
    model = quantize.quantize_model(tmp_path, [pictures])
    assert model.int8 is not None
    assert not model.int8.onnx.exists()
    with pytest.raises(ModelError, match="is not kept in eight bits"):
        model.as_int8()


def test_quantising_again_and_exporting_again(model: ModelSpec, pictures: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model.onnx.parent, folder)
    first = (folder / "model.toml").read_text()
    again = quantize.quantize_model(folder, [pictures])
    assert (folder / "model.toml").read_text() == first
    assert again.digests() == model.digests()  # the same bytes
    small = small_model(folder, PLAIN, 2)  # exported again: what was made from the old one is gone
    assert small.int8 is None
    assert not (folder / INT8_FILE).exists()


def test_what_cannot_be_quantised(pictures: Path, tmp_path: Path) -> None:
    small_model(tmp_path / "recurrent", RECURRENT, 2)
    with pytest.raises(ModelError, match="is recurrent"):
        quantize.quantize_model(tmp_path / "recurrent", [pictures])
    small_model(tmp_path / "plain", PLAIN, 2)
    one = tmp_path / "one"
    one.mkdir()
    shutil.copy(pictures / "0.png", one)
    with pytest.raises(ConfigError, match="too little to quantise with"):
        quantize.quantize_model(tmp_path / "plain", [one])
