"""TensorRT compiles what we make of every model, without a GPU; keys, cache and the words when something is wrong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from small_models import RECURRENT, small_model

from stream_sr.errors import ConfigError, EngineBuildError, EngineUnavailable, ModelError
from stream_sr.inference import cache
from stream_sr.inference.backends.tensorrt import engine as tensorrt
from stream_sr.inference.backends.tensorrt import library
from stream_sr.inference.backends.tensorrt.build import build_engine, engine_key
from stream_sr.inference.backends.tensorrt.frames import Picture
from stream_sr.inference.backends.tensorrt.graph import DECONVOLUTION, HEADS, LOWERED, PRECISIONS
from stream_sr.inference.model import ModelSpec, list_models
from stream_sr.inference.results import Availability
from stream_sr.pipeline.engine import EngineOptions
from stream_sr.system import machine
from stream_sr.video.color import ColorInfo, Siting
from stream_sr.video.frame import StreamInfo

needs_tensorrt = pytest.mark.skipif(
    library.library_name() is None, reason="no TensorRT: pip install tensorrt-rtx-cu13-bindings tensorrt-rtx-cu13-libs"
)
needs_rtx = pytest.mark.skipif(not library.is_rtx(), reason="this is about TensorRT-RTX, which builds without a GPU")
INFO = StreamInfo(64, 48, Fraction(1, 25), color=ColorInfo(siting=Siting.LEFT))
MODELS = list_models()


pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("own_cache")]


@needs_rtx
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("model", MODELS, ids=lambda model: f"{model.name}-x{model.scale}")
def test_every_shipped_model_builds_in_every_precision(model: ModelSpec, precision: str) -> None:
    for head in HEADS:
        if (precision, head) == ("bf16", DECONVOLUTION):
            continue  # what TensorRT-RTX cannot do; see below
        odd = (852, 476) if model.network["kind"] == "Autoencoder" else (853, 479)  # it takes multiples of 4 alone
        for size in ((1920, 1080), odd):
            engine = build_engine(model, Picture(*size, model.scale, Siting.LEFT), precision, head)
            assert len(engine) > 10_000


@needs_rtx
def test_engines_take_no_memory_of_their_own_while_they_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT-RTX wants to be told so, or CUDA may refuse to capture them."""
    trt = library.library()
    real, flags = trt.Builder, []

    class Builder:
        def __init__(self, logger: object) -> None:
            self._real = real(logger)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._real, name)

        def build_serialized_network(self, network: object, config: Any) -> Any:
            flags.append(config.get_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION))
            return self._real.build_serialized_network(network, config)

    monkeypatch.setattr(trt, "Builder", Builder)
    model = MODELS[0]
    assert build_engine(model, Picture(64, 48, model.scale, Siting.LEFT), "fp16", LOWERED)
    assert flags == [True]


@needs_rtx
def test_recurrent_models_build(tmp_path: Path) -> None:
    model = small_model(tmp_path, RECURRENT, 2)
    for precision in PRECISIONS:
        assert build_engine(model, Picture(64, 48, 2, Siting.LEFT), precision, LOWERED)


@needs_rtx
def test_what_tensorrt_cannot_do_is_said_in_its_words() -> None:
    model = MODELS[0]
    with pytest.raises(EngineBuildError, match=f"could not build {model.name} in bf16 with deconvolution: .*Myelin"):
        build_engine(model, Picture(64, 48, model.scale, Siting.LEFT), "bf16", DECONVOLUTION)


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
    assert build_engine(model, Picture(64, 48, model.scale, Siting.LEFT), "fp32", LOWERED, device=1) == b"engine"
    assert entered == ["1", "in", "build", "out"]


@needs_rtx
@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu_both_heads_are_built_once_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, float]] = []
    keys = tensorrt.build(MODELS[0], INFO, EngineOptions(), progress=lambda what, share: told.append((what, share)))
    assert [key.head for key in keys] == list(HEADS)
    assert {(key.precision, key.profile, key.device) for key in keys} == {("fp16", "64x48, chroma left", "any")}
    assert {key.backend_version for key in keys} == {tensorrt.cache_version()} != {""}
    blobs = [cache.load(key) for key in keys]
    assert all(blobs)
    assert {what.partition(" ")[0] for what, _ in told} == {"building"}
    assert max(share for _, share in told) == 1.0
    monkeypatch.setattr(tensorrt, "build_engine", None)  # nothing is built again
    assert tensorrt.build(MODELS[0], INFO, EngineOptions()) == keys
    assert cache.prune() == []
    with monkeypatch.context() as other:
        other.setattr(library, "can_build", lambda: Availability(True, "0.0"))
        assert {entry.key for entry in cache.prune()} == set(keys), "of another version"
    with pytest.raises(TypeError):
        tensorrt.build(MODELS[0], INFO, EngineOptions(), rebuild=True)


LOOK_UP = """
import json, sys
from dataclasses import replace
from fractions import Fraction
from stream_sr import machine
from stream_sr.inference import cache
from stream_sr.inference.backends.tensorrt.engine import is_ready
from stream_sr.inference.backends.tensorrt.graph import HEADS
from stream_sr.inference.backends.tensorrt.ladder import Wish, picture_of
from stream_sr.video.color import ColorInfo, guess_unknown
from stream_sr.config import make_config
from stream_sr.video.frame import StreamInfo
from stream_sr.app.session import models_of_run

machine.cuda = lambda: machine.Cuda((machine.CudaDevice("NVIDIA X", "8.9", 24.0),), "13.0")
machine.nvidia_driver = lambda: "580.1"
paths = []
for live in (False, True):
    info = StreamInfo(64, 48, Fraction(1, 90000), Fraction(25), live=live)
    info = replace(info, color=guess_unknown(ColorInfo(), width=64, height=48))
    config = make_config({"model": sys.argv[1], "backend": "tensorrt"})
    for model in models_of_run(config, info):
        options = config.engine_options(depth=1 if live else 2, live=live)
        wish = Wish(model, picture_of(model, info), options)
        assert is_ready(model, info, options), (model, live)
        assert wish.key("fp16", HEADS[0]).device == "NVIDIA X"
        paths += [str(cache.entry_path(wish.portable_key("fp16", head))) for head in HEADS]
print(json.dumps(paths))
"""


@needs_rtx
@pytest.mark.usefixtures("no_gpu")
def test_what_engine_build_makes_without_a_gpu_is_what_runs_look_for_on_one(tmp_path: Path) -> None:
    """For a file and for a camera, whose weights are others; the cache's folder is copied in between."""
    here, there = tmp_path / "here", tmp_path / "there"
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
    picture = Picture(64, 48, 2, Siting.LEFT)
    key = engine_key(MODELS[0], picture, "fp16", LOWERED)
    others = [
        engine_key(MODELS[0], replace(picture, siting=Siting.CENTER), "fp16", LOWERED),
        engine_key(MODELS[0], replace(picture, width=65), "fp16", LOWERED),
        engine_key(MODELS[0], picture, "fp32", LOWERED),
        engine_key(MODELS[0], picture, "fp16", DECONVOLUTION),
        engine_key(MODELS[1], picture, "fp16", LOWERED),
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
@pytest.mark.usefixtures("no_gpu")
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
