"""From a model to an engine that is right: the real fallbacks, cache, check and schedule; the library's engine is ONNX.

In the place of TensorRT's runtime stands ONNX's reference evaluator on the very graph that would be compiled, with its
real fp16 and bf16; the CUDA calls are the recording double's.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from doubles_cuda import RecordingDriver, Work
from onnx.reference import ReferenceEvaluator
from small_models import PLAIN, RECURRENT, small_model

from stream_sr.cli.listing import format_engines
from stream_sr.errors import EngineBuildError, EngineRunError, EngineUnavailable
from stream_sr.inference import cache, reference
from stream_sr.inference.backends.cuda import schedule
from stream_sr.inference.backends.cuda.schedule import OverlappedEngine, flow_bytes
from stream_sr.inference.backends.tensorrt import checked_engine
from stream_sr.inference.backends.tensorrt import engine as tensorrt
from stream_sr.inference.backends.tensorrt.checked_engine import (
    BuildRequest,
    can_open_without_build,
    layout_of,
    open_checked,
)
from stream_sr.inference.backends.tensorrt.frames import FLOW, FrameLayout, tensors
from stream_sr.inference.backends.tensorrt.graph import DECONVOLUTION, HEADS, LOWERED, frame_graph
from stream_sr.inference.model import PREVIOUS, ModelSpec
from stream_sr.inference.verify import WrongResult, check
from stream_sr.pipeline.engine import EngineOptions
from stream_sr.system import machine
from stream_sr.video.color import ColorInfo, Siting
from stream_sr.video.frame import StreamInfo
from stream_sr.video.optical_flow import flow_size

pytestmark = pytest.mark.gpu

INFO = StreamInfo(24, 16, Fraction(1, 25), color=ColorInfo(siting=Siting.LEFT))
Spoil = Callable[[str, np.ndarray[Any, Any]], None]


class Library:
    """The double of builder and runtime. ``spoil`` gets precision and result of each computation."""

    def __init__(self) -> None:
        self.built: list[tuple[str, str]] = []
        self.closed = 0
        self.spoil: dict[str, Callable[[np.ndarray[Any, Any]], None]] = {}  # by precision
        self.unbuildable: set[tuple[str, str]] = set()
        self.slow: str | None = None  # the head that takes longer

    def build_engine(self, model: ModelSpec, layout: FrameLayout, precision: str, head: str, **_: Any) -> bytes:
        self.built.append((precision, head))
        if (precision, head) in self.unbuildable:
            raise EngineBuildError(f"the double has no {precision} {head}")
        graph = frame_graph(model.onnx.read_bytes(), layout, precision, head)
        return f"{precision}|{head}|".encode() + graph

    def program(self, driver: RecordingDriver, blob: bytes, layout: FrameLayout, path: Path) -> Program:
        if blob.count(b"|") < 2:
            raise EngineBuildError("the double does not know this engine")
        precision, head, graph = blob.split(b"|", 2)
        driver.slow = head.decode() == self.slow  # type: ignore[attr-defined]
        return Program(self, driver, precision.decode(), graph, layout)


class Program:
    def __init__(
        self, library: Library, driver: RecordingDriver, precision: str, graph: bytes, layout: FrameLayout
    ) -> None:
        self.library, self.driver, self.precision, self.layout = library, driver, precision, layout
        self.model = onnx.load_from_string(graph)
        self.evaluator = ReferenceEvaluator(self.model)
        self.previous: Any = None
        self.flow: Any = None

    def prepare(self, ring: Sequence[tuple[Any, Any]], stream: Any) -> None:
        self.ring = ring
        if any(one.name == PREVIOUS for one in self.model.graph.input):
            width, height = self.layout.output
            self.previous = self.driver.device_memory(width * height)
            self.flow = self.driver.device_memory(flow_bytes((self.layout.height, self.layout.width)))

    def launch(self, index: int, stream: Any) -> None:
        source, target = self.ring[index]
        reads = [source] if self.previous is None else [source, self.previous, self.flow]
        self.driver.put(stream, Work("compute", reads, [target], lambda: self._compute(source, target)))

    def _compute(self, source: Any, target: Any) -> None:
        names = {one.name for one in self.model.graph.input}
        ports = tensors(self.layout)
        feeds = {
            name: source[at : at + int(np.prod(shape))].reshape(shape)
            for name, (at, shape) in ports.items()
            if name in names
        }
        outputs = [one.name for one in self.model.graph.output]
        if self.previous is not None:
            width, height = self.layout.output
            feeds[PREVIOUS] = self.previous.reshape(1, 1, height, width)
            size = flow_size((self.layout.height, self.layout.width))
            feeds[FLOW] = self.flow.view(np.float32).reshape(1, 2, *size)
        values = dict(zip(outputs, self.evaluator.run(None, feeds), strict=True))
        for name, value in values.items():
            if name in ports:
                at = ports[name][0]
                target[at : at + value.size] = value.ravel()
        if self.precision in self.library.spoil:
            self.library.spoil[self.precision](target)

    def close(self) -> None:
        self.library.closed += 1


class TimedDriver(RecordingDriver):
    """A slow head takes twice as long."""

    slow = False

    def milliseconds(self, work: Callable[[], None], stream: Any) -> float:
        return super().milliseconds(work, stream) * (2 if self.slow else 1)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Library:
    double = Library()
    monkeypatch.setenv("STREAM_SR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(schedule, "TIMING_RUNS", 1)  # the evaluator is slow, and the double's time is not measured
    monkeypatch.setattr(checked_engine, "build_engine", double.build_engine)
    monkeypatch.setattr(checked_engine, "TensorRTProgram", double.program)
    monkeypatch.setattr(checked_engine, "PycudaDriver", lambda device: TimedDriver(device))
    monkeypatch.setattr(checked_engine, "open_device", lambda device: type("Gpu", (), {"name": "a double"}))
    return double


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    return small_model(tmp_path_factory.mktemp("plain"), PLAIN, 2)


def build_request(model: ModelSpec, precision: str = "auto", **options: Any) -> BuildRequest:
    return BuildRequest(
        model, layout_of(model, INFO), EngineOptions(backend="tensorrt", precision=precision, **options)
    )


def opened(asked: BuildRequest) -> OverlappedEngine:
    engine = open_checked(asked)
    engine.close()
    return engine


@pytest.mark.parametrize("slow", HEADS)
def test_both_heads_are_measured_and_the_faster_is_kept(slow: str, library: Library, model: ModelSpec) -> None:
    library.slow = slow
    (faster,) = set(HEADS) - {slow}
    asked = build_request(model, fidelity=40.0)
    assert not can_open_without_build(asked)
    engine = opened(asked)
    assert (engine.spec.precision, engine.spec.head, engine.spec.notes) == ("fp16", faster, ())
    assert engine.spec.device == "GPU 0: a double"
    assert library.built == [("fp16", head) for head in HEADS]
    assert library.closed == 2
    (entry,) = cache.engine_entries()
    assert entry.key is not None
    assert (entry.key.head, entry.key.precision) == (faster, "fp16")
    assert set(entry.measured["head_ms"]) == set(HEADS)
    assert entry.measured["psnr"] > 50
    assert faster in format_engines([entry])
    assert f"{slow} 2 ms" in format_engines([entry])
    assert can_open_without_build(asked)
    assert opened(asked).spec == engine.spec
    assert len(library.built) == 2, "the second time it comes from the cache"


SPOILS: dict[str, Callable[[np.ndarray[Any, Any]], None]] = {
    "black": lambda frame: frame.fill(0),
    "NaN as zero in a part": lambda frame: frame[: 4 * 24 * 8].fill(0),
    "noise": lambda frame: np.add(frame, np.random.default_rng(1).integers(0, 60, frame.size, np.uint8), out=frame),
    "chroma": lambda frame: frame[-40:].fill(3),
}


@pytest.mark.parametrize("name", SPOILS)
def test_a_wrong_engine_falls_back_to_the_next_precision(name: str, library: Library, model: ModelSpec) -> None:
    library.spoil = dict.fromkeys(("fp16", "bf16"), SPOILS[name])
    asked = build_request(model)
    engine = opened(asked)
    assert engine.spec.precision == "fp32"
    assert [note.partition(" is not used: ")[0] for note in engine.spec.notes] == [
        "TensorRT in fp16",
        "TensorRT in bf16",
    ]
    assert all("is wrong" in note for note in engine.spec.notes)
    assert len(library.built) == 6
    assert can_open_without_build(asked)
    again = opened(asked)
    assert again.spec.notes == engine.spec.notes, "said again, from the cache"
    assert len(library.built) == 6, "and not built again"
    refused = [entry for entry in cache.engine_entries() if entry.refused]
    assert {(entry.key.precision, entry.key.head) for entry in refused if entry.key} == {
        (precision, head) for precision in ("fp16", "bf16") for head in HEADS
    }
    assert "REFUSED: " in format_engines(refused)


@pytest.fixture
def elsewhere(library: Library, model: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Engines that were built without a GPU; from now on there is one."""
    monkeypatch.setattr(tensorrt, "build_engine", library.build_engine)
    monkeypatch.setattr(machine, "cuda", lambda: machine.Cuda(problem="no NVIDIA driver"))
    paths = [cache.entry_path(key) for key in tensorrt._build_without_gpu(build_request(model))]
    assert library.built == [("fp16", head) for head in HEADS]
    library.built.clear()
    monkeypatch.setattr(machine, "cuda", lambda: machine.Cuda((machine.CudaDevice("X", "8.9", 24.0),), "13.0"))
    monkeypatch.setattr(machine, "nvidia_driver", lambda: "580.1")
    return paths


@pytest.mark.parametrize(
    "options", [{"fidelity": 40.0, "depth": 1}, {"fidelity": 45.0, "depth": 2}], ids=["live", "file"]
)
def test_what_was_built_without_a_gpu_is_taken_where_there_is_one(
    options: dict[str, Any], library: Library, model: ModelSpec, elsewhere: list[Path]
) -> None:
    library.slow = HEADS[0]
    asked = build_request(model, **options)
    assert can_open_without_build(asked)
    engine = opened(asked)
    assert (engine.spec.precision, engine.spec.head) == ("fp16", HEADS[1])
    assert library.built == []
    assert all(path.is_file() for path in elsewhere), "they serve other GPUs too"
    (own,) = [entry for entry in cache.engine_entries() if entry.path not in elsewhere]
    assert own.key is not None
    assert (own.key.device, own.key.compute_capability, own.key.driver) == ("X", "8.9", "580.1")
    assert set(own.measured["head_ms"]) == set(HEADS)
    for path in elsewhere:
        path.unlink()
    assert can_open_without_build(asked)
    assert opened(asked).spec == engine.spec
    assert library.built == []


def test_what_was_built_without_a_gpu_and_does_not_run_here_is_built_again(
    library: Library, model: ModelSpec, elsewhere: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    for head in HEADS:
        cache.store(build_request(model).portable_key("fp16", head), b"for another GPU", {})
    with caplog.at_level("WARNING"):
        engine = opened(build_request(model, fidelity=40.0))
    assert engine.spec.precision == "fp16"
    assert library.built == [("fp16", head) for head in HEADS]
    assert "built without a GPU cannot be used here: the double does not know this engine" in caplog.text
    assert all(path.is_file() for path in elsewhere)
    assert not any(entry.refused for entry in cache.engine_entries())


def test_another_precision_than_was_built_without_a_gpu_is_built(
    library: Library, model: ModelSpec, elsewhere: list[Path]
) -> None:
    asked = build_request(model, "fp32")
    assert not can_open_without_build(asked)
    opened(asked)
    assert library.built == [("fp32", head) for head in HEADS]


def test_too_far_for_auto_but_not_for_who_asks(library: Library, model: ModelSpec) -> None:
    high = build_request(model, fidelity=95.0)
    engine = opened(high)
    assert engine.spec.precision == "fp32"
    assert "under the 95 that auto asks for" in engine.spec.notes[0]
    built = len(library.built)
    assert opened(high).spec == engine.spec
    assert len(library.built) == built, "the distance is remembered"
    asked = opened(build_request(model, "fp16", fidelity=95.0))
    assert asked.spec.precision == "fp16"
    assert "under the 95" in asked.spec.notes[0]
    library.spoil = {"fp32": SPOILS["black"]}
    cache.prune(everything=True)
    with pytest.raises(EngineBuildError, match=r"no TensorRT engine of model 'plainsr' can be used: fp32: .*is wrong"):
        open_checked(build_request(model, "fp32"))


def test_without_graphs_the_head_is_chosen_all_the_same(
    library: Library, model: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.slow = LOWERED
    monkeypatch.setattr(checked_engine, "PycudaDriver", lambda device: TimedDriver(device, graphs=False))
    engine = opened(build_request(model))
    assert engine.spec.head == DECONVOLUTION
    assert any("no CUDA graph" in note for note in engine.spec.notes)


def test_an_engine_that_cannot_be_checked_is_closed(
    library: Library, model: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(*_: object) -> float:
        raise EngineRunError("the device is gone")

    monkeypatch.setattr(checked_engine, "check", check)
    with pytest.raises(EngineRunError, match="the device is gone"):
        open_checked(build_request(model))
    assert library.closed == len(library.built) == 1


def test_a_form_that_cannot_be_built_leaves_the_other(library: Library, model: ModelSpec) -> None:
    library.unbuildable = {("bf16", DECONVOLUTION)}
    engine = opened(build_request(model, "bf16", fidelity=30.0))
    assert (engine.spec.precision, engine.spec.head) == ("bf16", LOWERED)
    library.unbuildable = {("fp16", head) for head in HEADS}
    engine = opened(build_request(model, fidelity=30.0))
    assert engine.spec.precision == "bf16"
    assert "the double has no fp16" in engine.spec.notes[0]


@pytest.mark.parametrize("damage", ["flipped", "refused by the library", "gone wrong since"])
def test_a_kept_engine_that_is_no_good_is_built_again(
    damage: str, library: Library, model: ModelSpec, caplog: pytest.LogCaptureFixture
) -> None:
    asked = build_request(model, fidelity=40.0)
    opened(asked)
    (entry,) = cache.engine_entries()
    assert entry.key is not None
    data = entry.path.read_bytes()
    blob = cache.load(entry.key)
    assert blob is not None
    if damage == "flipped":
        entry.path.write_bytes(data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])
    elif damage == "refused by the library":
        cache.store(entry.key, b"nonsense", entry.measured)
    else:
        other = small_model(asked.model.onnx.parent / "other", PLAIN | {"width": 4}, 2)
        wrong = frame_graph(other.onnx.read_bytes(), asked.layout, "fp32", LOWERED)
        cache.store(entry.key, b"fp32|x|" + wrong.replace(b"x", b"x"), entry.measured)
        library.spoil = {"fp32": SPOILS["black"]}
    engine = opened(asked)
    assert (engine.spec.precision, len(library.built)) == ("fp16", 4)
    assert "built again" in caplog.text
    assert cache.load(entry.key) == blob


def test_a_recurrent_model_is_held_to_its_second_picture_too(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small_model(tmp_path, RECURRENT, 2)
    engine = open_checked(build_request(model, "fp32"))
    driver = engine._driver
    monkeypatch.setattr(driver, "copy_within", lambda target, *_: target.fill(255))
    with pytest.raises(WrongResult):
        check(engine, model, Siting.LEFT)
    engine.close()


def test_only_recurrent_models_need_opencv(model: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)  # as where it is missing
    assert len(reference.compute(model).results) == 1
    with pytest.raises(EngineUnavailable, match="a recurrent network needs OpenCV"):
        reference.compute(small_model(tmp_path / "recurrent", RECURRENT, 2))


def test_the_stored_reference_is_used_only_for_its_own_model(model: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    computed = reference.load(model)
    reference.write(model)
    with monkeypatch.context() as none:
        none.setattr(reference, "compute", lambda model: pytest.fail("it is stored"))
        stored = reference.load(model)
    np.testing.assert_array_equal(stored.results, computed.results)
    assert (stored.margin, stored.scale) == (reference.MARGIN, 2)
    with monkeypatch.context() as other:
        other.setattr(ModelSpec, "sha256", lambda self: "of another file")
        other.setattr(reference, "compute", lambda model: computed)
        assert reference.load(model) is computed
    reference.path_of(model).write_bytes(b"damaged")
    np.testing.assert_array_equal(reference.load(model).results, computed.results)
    reference.path_of(model).unlink()
