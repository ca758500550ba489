"""The shipped file is the network: same values, clean names, the same bytes every time."""

import dataclasses
import math
import tomllib
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import nn

from stream_sr.errors import ModelError
from stream_sr.networks.fsrcnn import FSRCNN
from stream_sr.networks.layers import collapse
from stream_sr.networks.registry import LumaGraph, build_network
from stream_sr.training.export import count_macs, count_parameters, export_checkpoint, export_onnx, write_model
from stream_sr.training.recipe import load_recipe

pytestmark = pytest.mark.long

SMALL = {"kind": "FSRCNN", "d": 6, "s": 4, "m": 1, "kernel": 9}


def small(scale: int = 2) -> nn.Module:
    torch.manual_seed(scale)
    return build_network("FSRCNN", scale=scale, d=6, s=4, m=1, kernel=9)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_onnx_computes_what_the_network_does(scale: int, tmp_path: Path) -> None:
    """By onnx's reference evaluator, at two sizes of one file."""
    network = small(scale)
    export_onnx(network, tmp_path / "model.onnx")
    assert network.training  # left as it was
    graph = LumaGraph(network).eval()
    run = ReferenceEvaluator(str(tmp_path / "model.onnx"))
    for height, width in ((5, 4), (3, 7)):
        luma = np.random.default_rng(width).integers(0, 256, (1, 1, height, width), np.uint8)
        (got,) = run.run(["upscaled"], {"luma": luma})
        with torch.no_grad():
            expected = graph(torch.from_numpy(luma)).numpy()
        assert got.dtype == np.uint8
        assert got.shape == (1, 1, height * scale, width * scale)
        assert np.abs(got.astype(int) - expected).max() <= 1


def test_the_graph_is_plain(tmp_path: Path) -> None:
    network = small()
    export_onnx(network, tmp_path / "a.onnx")
    export_onnx(network, tmp_path / "b.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    model = onnx.load(str(tmp_path / "a.onnx"))
    assert {node.op_type for node in model.graph.node} == {
        "Cast",
        "Mul",
        "Conv",
        "PRelu",
        "ConvTranspose",
        "Clip",
        "Round",
    }
    names = {one.name for one in model.graph.initializer}
    assert set(network.state_dict()) <= names
    (luma,) = model.graph.input
    sides = luma.type.tensor_type.shape.dim
    assert [side.dim_value or side.dim_param for side in sides] == [1, 1, "height", "width"]


def test_what_cannot_be_exported_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="Tanh"):
        export_onnx(nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.Tanh()), tmp_path / "model.onnx")
    with pytest.raises(ModelError, match="'same'"):
        export_onnx(nn.Sequential(nn.Conv2d(1, 1, 3, padding="same")), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_counts() -> None:
    big = FSRCNN(scale=2)
    assert count_macs(big) == 12_464
    assert count_parameters(big) == sum(p.numel() for p in big.parameters()) == 12_809
    assert count_macs(FSRCNN(scale=4, d=32, s=5, m=1)) == 3_937


def test_a_written_model_reads_back(tmp_path: Path) -> None:
    spec = write_model(
        tmp_path / "new",
        name='a "quoted" ü',
        scale=2,
        network=SMALL,
        module=small(),
        training={"shrinks": [1.0, 0.5], "note": None, "shares": {"a b": 0.5}, "none": {}},
        psnr_y={"Set5": 36.5},
        default=True,
    )
    training = tomllib.loads(spec.onnx.with_name("model.toml").read_text())["training"]
    assert training == {"shrinks": [1.0, 0.5], "shares": {"a b": 0.5}, "none": {}}
    assert (spec.name, spec.scale, spec.default) == ('a "quoted" ü', 2, True)
    assert (dict(spec.network), dict(spec.psnr_y)) == (SMALL, {"Set5": 36.5})
    assert (spec.parameters, spec.macs_per_pixel) == (count_parameters(small()), count_macs(small()))
    assert sorted(path.name for path in spec.onnx.parent.iterdir()) == ["model.onnx", "model.toml"]


def test_the_best_weights_of_a_checkpoint_are_exported(tmp_path: Path) -> None:
    recipe = dataclasses.replace(load_recipe("fsrcnn-s", scale=2), network=SMALL)
    best, last = small(2).state_dict(), {name: torch.zeros_like(one) for name, one in small(2).state_dict().items()}
    path = tmp_path / "checkpoint.pt"
    state = {"recipe": {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(recipe).items()}}
    torch.save(state | {"best": best, "network": last, "iteration": 7, "best_psnr": 30.0}, path)
    spec = export_checkpoint(path, tmp_path / "out", default=True)
    assert (spec.name, spec.scale, spec.default) == ("fsrcnn-s", 2, True)
    stored = {one.name: onnx.numpy_helper.to_array(one) for one in onnx.load(str(spec.onnx)).graph.initializer}
    for name, value in best.items():
        np.testing.assert_array_equal(stored[name].ravel(), value.numpy().ravel())
    assert export_checkpoint(path, tmp_path / "named", "other").name == "other"


def test_runs_are_averaged(tmp_path: Path) -> None:
    recipe = dataclasses.replace(load_recipe("fsrcnn-s", scale=2), network=SMALL)
    state = {"recipe": {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(recipe).items()}}
    paths = [tmp_path / f"{n}.pt" for n in range(3)]
    weights = [small(2).state_dict() for _ in paths]
    for path, best in zip(paths, weights, strict=True):
        torch.save(state | {"best": best, "iteration": 7, "best_psnr": 30.0}, path)
    spec = export_checkpoint(paths[0], tmp_path / "out", average=paths[1:])
    stored = {one.name: onnx.numpy_helper.to_array(one) for one in onnx.load(str(spec.onnx)).graph.initializer}
    for name in weights[0]:
        mean = torch.stack([one[name] for one in weights]).mean(0)
        np.testing.assert_allclose(stored[name].ravel(), mean.numpy().ravel(), atol=1e-7)
    training = tomllib.loads(spec.onnx.with_name("model.toml").read_text())["training"]
    assert training["averaged"] == 3
    assert "validation_psnr" not in training
    other = state["recipe"] | {"network": SMALL | {"kernel": 7}}
    best = build_network("FSRCNN", scale=2, d=6, s=4, m=1, kernel=7).state_dict()
    torch.save({"recipe": other, "best": best, "iteration": 7, "best_psnr": 30.0}, paths[2])
    with pytest.raises(ModelError, match="only weights of one network"):
        export_checkpoint(paths[0], tmp_path / "no", average=[paths[2]])
    assert not (tmp_path / "no").exists()


def test_a_recurrent_run_is_exported_with_its_bound_kernels_plain(tmp_path: Path) -> None:
    """And a run that was stopped before its first validation has no figure to write."""
    network = {"kind": "RecurrentSR", "width": 4, "depth": 1}
    module = build_network("RecurrentSR", scale=2, width=4, depth=1)
    collapse(module)
    recipe = dataclasses.replace(load_recipe("recurrent", scale=2), network=network)
    state = {"recipe": {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(recipe).items()}}
    path = tmp_path / "checkpoint.pt"
    torch.save(state | {"best": module.state_dict(), "iteration": 1, "best_psnr": -math.inf}, path)
    spec = export_checkpoint(path, tmp_path / "out")
    assert dict(spec.network) == network
    stored = {one.name: onnx.numpy_helper.to_array(one) for one in onnx.load(str(spec.onnx)).graph.initializer}
    assert stored["recall.weight"].shape == (4, 4, 3, 3)
    assert "validation_psnr" not in tomllib.loads(spec.onnx.with_name("model.toml").read_text())["training"]


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    path.write_text("text")
    with pytest.raises(ModelError, match="is no checkpoint"):
        export_checkpoint(path, tmp_path / "out")
    torch.save({"weights": 1}, path)
    with pytest.raises(ModelError, match="is no checkpoint"):
        export_checkpoint(path, tmp_path / "out")
    with pytest.raises(ModelError, match="no such file"):
        export_checkpoint(tmp_path / "missing.pt", tmp_path / "out")
