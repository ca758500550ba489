"""TensorRT compiles what we make of every model, without a GPU; keys, cache and the words when something is wrong."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from fractions import Fraction
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest

from stream_sr.errors import ConfigError, EngineBuildError, EngineUnavailable, ModelError
from stream_sr.inference import cache
from stream_sr.inference.availability import Availability
from stream_sr.inference.backends.cuda.precisions import PRECISIONS
from stream_sr.inference.backends.tensorrt import builder, library
from stream_sr.inference.backends.tensorrt import engine as tensorrt
from stream_sr.inference.backends.tensorrt.build import build_engine, engine_key
from stream_sr.inference.backends.tensorrt.frames import FrameLayout
from stream_sr.inference.backends.tensorrt.graph import DECONVOLUTION, HEADS, LOWERED, frame_graph
from stream_sr.inference.model import ModelSpec, find_model, list_models
from stream_sr.pipeline.engine import EngineOptions
from stream_sr.system import machine
from stream_sr.video.color import ColorInfo, Siting
from stream_sr.video.frame import StreamInfo

needs_tensorrt = pytest.mark.skipif(
    library.library_name() is None, reason="no TensorRT: pip install tensorrt-rtx-cu13-bindings tensorrt-rtx-cu13-libs"
)
needs_rtx = pytest.mark.skipif(not library.is_rtx(), reason="this is about TensorRT-RTX, which builds without a GPU")
INFO = StreamInfo(64, 48, Fraction(1, 25), color=ColorInfo(siting=Siting.LEFT))
without_gpu = pytest.mark.skipif(bool(machine.cuda().devices), reason="about machines without a GPU")
MODELS = list_models()
SMALL = find_model("tiny", 2)


pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("own_cache")]


def shape_of(model: ModelSpec) -> tuple[object, ...]:
    """What TensorRT compiles of a model: weights do not change it."""
    return (*sorted(model.network.items()), model.scale)


SHAPES = list({shape_of(model): model for model in reversed(MODELS)}.values())[::-1]  # a model of each


def without_weights(graph: bytes) -> bytes:
    model = onnx.load_from_string(graph)
    for constant in model.graph.initializer:
        if len(constant.dims) > 0:
            constant.ClearField("raw_data")
    return model.SerializeToString(deterministic=True)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.label())
def test_models_of_one_shape_give_one_graph(model: ModelSpec) -> None:
    """So that one of them is enough for the builds below."""
    layout = FrameLayout(64, 48, model.scale, Siting.LEFT)
    (first,) = [one for one in SHAPES if shape_of(one) == shape_of(model)]
    graphs = [frame_graph(one.onnx.read_bytes(), layout, "fp32", LOWERED) for one in (model, first)]
    assert without_weights(graphs[0]) == without_weights(graphs[1])


@needs_rtx
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("model", SHAPES, ids=lambda model: f"{model.name}-x{model.scale}")
def test_every_shape_of_the_shipped_models_builds_in_every_precision(model: ModelSpec, precision: str) -> None:
    for head in HEADS:
        if (precision, head) == ("bf16", DECONVOLUTION):
            continue  # what TensorRT-RTX cannot do; see below
        odd = (852, 476) if model.network["kind"] == "Autoencoder" else (853, 479)  # it takes multiples of 4 alone
        for size in ((1920, 1080), odd):
            engine = build_engine(model, FrameLayout(*size, model.scale, Siting.LEFT), precision, head)
            assert len(engine) > 10_000


@dataclass(frozen=True)
class Built:
    """What one run of the builder left and reported."""

    cache: Path
    lines: list[dict[str, Any]]
    needs_user_allocation: list[bool]  # of each engine


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The engines of `SMALL` for `INFO`, built once for this module by the builder's process function."""
    trt = library.library()
    real, flags, lines = trt.Builder, list[bool](), io.StringIO()

    class Builder:
        def __init__(self, logger: object) -> None:
            self._real = real(logger)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._real, name)

        def build_serialized_network(self, network: object, config: Any) -> Any:
            flags.append(config.get_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION))
            return self._real.build_serialized_network(network, config)

    folder = tmp_path_factory.mktemp("built")
    asked = builder.request(SMALL, INFO, EngineOptions(backend="tensorrt"))
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(lines):
        patch.setenv("STREAM_SR_CACHE", str(folder))
        patch.setattr(trt, "Builder", Builder)
        patch.setattr(sys, "stdin", io.StringIO(json.dumps(asked)))
        assert builder.main() == 0
    return Built(folder, [json.loads(line) for line in lines.getvalue().splitlines()], flags)


@pytest.fixture
def own_copy(built: Built, tmp_path: Path) -> Path:
    """A copy of the built engines as this test's cache."""
    shutil.copytree(built.cache, tmp_path / "cache")
    return tmp_path / "cache"


@needs_rtx
@without_gpu
def test_the_builder_reports_its_progress_and_leaves_both_heads(built: Built) -> None:
    assert built.lines[-1] == {"done": True}
    assert {line["doing"].partition(" ")[0] for line in built.lines[:-1]} == {"building"}
    assert max(line["share"] for line in built.lines[:-1]) == 1.0
    assert len(list((built.cache / "engines").glob("*.engine"))) == 2


@needs_rtx
def test_the_builder_reports_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = replace(SMALL, onnx=tmp_path / "gone.onnx")
    asked = builder.request(gone, INFO, EngineOptions(backend="tensorrt"))
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(asked)))
    assert builder.main() == 2
    assert "cannot be read" in json.loads(capsys.readouterr().out)["error"]


@needs_rtx
@without_gpu
def test_engines_take_no_memory_of_their_own_while_they_run(built: Built) -> None:
    """TensorRT-RTX wants to be told so, or CUDA may refuse to capture them."""
    assert built.needs_user_allocation == [True, True]


@needs_rtx
def test_what_tensorrt_cannot_do_is_said_in_its_words() -> None:
    model = MODELS[0]
    with pytest.raises(EngineBuildError, match=f"could not build {model.name} in bf16 with deconvolution: .*Myelin"):
        build_engine(model, FrameLayout(64, 48, model.scale, Siting.LEFT), "bf16", DECONVOLUTION)


def test_an_engine_is_built_on_the_gpu_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    entered: list[str] = []

    @contextmanager
    def current() -> Iterator[None]:
        entered.append("in")
        yield
        entered.append("out")

    gpus = machine.Cuda((machine.CudaDevice("A", "8.9", 24), machine.CudaDevice("B", "8.9", 24)))
    monkeypatch.setattr(machine, "cuda", lambda: gpus)

    def fake_build(*_: object) -> bytes:
        entered.append("build")
        return b"engine"

    def fake_device(number: int) -> SimpleNamespace:
        entered.append(str(number))
        return SimpleNamespace(current=current)

    build = import_module(build_engine.__module__)  # the package has a function of that name
    monkeypatch.setattr(build, "find_spec", lambda name: object())
    monkeypatch.setattr(build, "open_device", fake_device)
    monkeypatch.setattr(build, "_build", fake_build)
    monkeypatch.setattr(library, "library", lambda: None)
    model = MODELS[0]
    assert build_engine(model, FrameLayout(64, 48, model.scale, Siting.LEFT), "fp32", LOWERED, device=1) == b"engine"
    assert entered == ["1", "in", "build", "out"]


@needs_rtx
@without_gpu
def test_without_a_gpu_both_heads_are_built_once_and_kept(own_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt, "build_engine", None)  # nothing is built again
    keys = tensorrt.build(SMALL, INFO, EngineOptions())
    assert [key.head for key in keys] == list(HEADS)
    assert {(key.precision, key.profile, key.device) for key in keys} == {("fp16", "64x48, chroma left", "any")}
    assert {key.backend_version for key in keys} == {tensorrt.cache_version()} != {""}
    assert all(cache.load(key) for key in keys)
    assert cache.prune() == []
    with monkeypatch.context() as other:
        other.setattr(library, "can_build", lambda: Availability(True, "0.0"))
        assert {entry.key for entry in cache.prune()} == set(keys), "of another version"
    with pytest.raises(TypeError):
        tensorrt.build(SMALL, INFO, EngineOptions(), rebuild=True)


LOOK_UP = """
import json, sys
from dataclasses import replace
from fractions import Fraction
from stream_sr.app.engine_setup import models_of_run
from stream_sr.config import make_config
from stream_sr.inference import cache
from stream_sr.inference.backends.tensorrt.engine import is_ready
from stream_sr.inference.backends.tensorrt.graph import HEADS
from stream_sr.inference.backends.tensorrt.checked_engine import BuildRequest, layout_of
from stream_sr.video.color import ColorInfo, guess_unknown
from stream_sr.system import machine
from stream_sr.video.frame import StreamInfo

machine.cuda = lambda: machine.Cuda((machine.CudaDevice("NVIDIA X", "8.9", 24.0),), "13.0")
machine.nvidia_driver = lambda: "580.1"
paths = []
for live in (False, True):
    info = StreamInfo(64, 48, Fraction(1, 90000), Fraction(25), live=live)
    info = replace(info, color=guess_unknown(ColorInfo(), width=64, height=48))
    config = make_config({"model": sys.argv[1], "backend": "tensorrt"})
    for model in models_of_run(config, info):
        options = config.engine_options(depth=1 if live else 2, live=live)
        request = BuildRequest(model, layout_of(model, info), options)
        assert is_ready(model, info, options), (model, live)
        assert request.key("fp16", HEADS[0]).device == "NVIDIA X"
        paths += [str(cache.entry_path(request.portable_key("fp16", head))) for head in HEADS]
print(json.dumps(paths))
"""


@needs_rtx
@without_gpu
def test_what_engine_build_makes_without_a_gpu_is_what_runs_look_for_on_one(own_copy: Path, tmp_path: Path) -> None:
    """For a file, whose engines are there, and for a camera, whose weights are others; the folder is then copied."""
    here, there = own_copy, tmp_path / "there"
    words = ["engine", "build", "--model", "tiny", "--scale", "2", "--input-size", "64x48", "--json", "-"]
    built = subprocess.run(
        [sys.executable, "-m", "stream_sr", *words],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
        env=os.environ | {"STREAM_SR_CACHE": str(here)},
    )
    shutil.copytree(here, there)
    asked = subprocess.run(
        [sys.executable, "-c", LOOK_UP, "tiny"],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env=os.environ | {"STREAM_SR_CACHE": str(there)},
    )
    assert asked.returncode == 0, asked.stderr
    paths = [Path(path) for path in json.loads(asked.stdout)]
    assert all(path.is_file() and path.parent == there / "engines" for path in paths)
    files = {row["file"] for row in json.loads(built.stdout)["engines"]}
    assert files == {path.name for path in paths}
    assert len(files) == 4, "two heads, of the weights for clean pictures and of those for cameras"


def test_the_classic_tensorrt_refuses_to_build_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cuda", lambda: machine.Cuda(problem="no NVIDIA driver"))
    monkeypatch.setattr(library, "library_name", lambda: "tensorrt")
    monkeypatch.setattr(library, "can_build", lambda: Availability(True, "10.13", "builds with tensorrt"))
    with pytest.raises(EngineUnavailable, match=r"tensorrt builds engines on the GPU .*no NVIDIA driver.*tensorrt-rtx"):
        tensorrt.build(MODELS[0], INFO, EngineOptions())
    assert cache.engine_entries() == []
    assert "builds" not in library.can_run().reason


def test_the_two_names_of_tensorrt_rtx_are_one_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "can_build", lambda: Availability(True, "1.7"))
    versions = set()
    for name in ("tensorrt_rtx", "tensorrt_rtx_bindings", "tensorrt"):
        monkeypatch.setattr(library, "library_name", lambda name=name: name)
        versions.add(library.cache_version(4))
    assert versions == {"tensorrt_rtx 1.7 rewrite 4", "tensorrt 1.7 rewrite 4"}


def test_the_key_holds_all_that_the_graph_depends_on() -> None:
    layout = FrameLayout(64, 48, 2, Siting.LEFT)
    key = engine_key(MODELS[0], layout, "fp16", LOWERED)
    others = [
        engine_key(MODELS[0], replace(layout, siting=Siting.CENTER), "fp16", LOWERED),
        engine_key(MODELS[0], replace(layout, width=65), "fp16", LOWERED),
        engine_key(MODELS[0], layout, "fp32", LOWERED),
        engine_key(MODELS[0], layout, "fp16", DECONVOLUTION),
        engine_key(MODELS[1], layout, "fp16", LOWERED),
    ]
    assert len({one.digest() for one in (key, *others)}) == 6


@needs_tensorrt
def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no precision 'int8'; it is fp32, fp16, bf16"):
        tensorrt.build(MODELS[0], INFO, EngineOptions(precision="int8"))
    broken = tmp_path / "broken.onnx"
    broken.write_text("no ONNX")
    with pytest.raises(ModelError, match="cannot be read as ONNX"):
        tensorrt.build(ModelSpec("broken", 2, broken), INFO, EngineOptions())
    with pytest.raises(ModelError, match="cannot be read"):
        tensorrt.build(ModelSpec("gone", 2, tmp_path / "gone.onnx"), INFO, EngineOptions())


# what the machine has


@needs_tensorrt
@without_gpu
def test_without_a_driver_the_reason_is_precise() -> None:
    found = tensorrt.availability()
    assert not found.usable
    assert "no NVIDIA driver (libcuda.so.1" in found.reason
    with pytest.raises(EngineUnavailable, match=r"cannot run: .*no NVIDIA driver .*use --backend openvino"):
        tensorrt.open_model(MODELS[0], INFO, EngineOptions(backend="tensorrt"))


@needs_tensorrt
def test_a_driver_that_shows_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = machine.Cuda(version="13.0", problem="the driver shows none (error 100, CUDA_VISIBLE_DEVICES is '7')")
    monkeypatch.setattr(machine, "cuda", lambda: shown)
    assert "CUDA_VISIBLE_DEVICES is '7'" in tensorrt.availability().reason


@needs_tensorrt
def test_a_gpu_that_is_not_there_or_not_listed(one_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "there is no GPU 1; there is 0 (NVIDIA X)" in tensorrt.availability(1).reason
    monkeypatch.setattr(library, "find_spec", lambda name: None if name == "pycuda" else True)
    monkeypatch.setattr(library, "library_name", lambda: "tensorrt_rtx_bindings")
    assert tensorrt.availability().reason == "pycuda is not installed"
    monkeypatch.setattr(library, "find_spec", lambda name: True)
    found = tensorrt.availability()
    assert not found.usable
    assert "the GPU has 9.0" in found.reason
    monkeypatch.setattr(library, "is_rtx", lambda: False)
    assert tensorrt.availability().usable


def test_no_library_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "find_spec", lambda name: None)
    assert "none of tensorrt, tensorrt_rtx, tensorrt_rtx_bindings is installed" in tensorrt.availability().reason
    assert tensorrt.cache_version() == ""
    monkeypatch.setattr(library, "find_spec", lambda name: name == "tensorrt" or None)
    assert "onnx is not installed" in tensorrt.availability().reason
