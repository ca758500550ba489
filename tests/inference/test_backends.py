"""The conformance suite of the backends: each against the torch fp32 reference, or, for bicubic, against Pillow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from onnx import TensorProto, helper
from PIL import Image
from small_models import FSRCNN, small_model

from stream_sr.errors import ConfigError, EngineRunError, EngineUnavailable, ModelError
from stream_sr.inference import cache
from stream_sr.inference.availability import cpu_threads
from stream_sr.inference.backends import load_adapter
from stream_sr.inference.backends.openvino import engine as openvino
from stream_sr.inference.backends.openvino import graph as openvino_graph
from stream_sr.inference.backends.openvino import precision as openvino_precision
from stream_sr.inference.backends.openvino.precision import choose_precision
from stream_sr.inference.backends.openvino.tuning import Parallelism, Runner
from stream_sr.inference.engines import BACKENDS, backends, choose_backend, open_engine
from stream_sr.inference.model import ModelSpec, find_model
from stream_sr.networks import deconvolution
from stream_sr.pipeline.engine import Engine, EngineOptions
from stream_sr.system import machine
from stream_sr.video.color import ColorInfo, Siting, chroma_kernel
from stream_sr.video.frame import Frame, StreamInfo
from stream_sr.video.frame_pool import FramePool
from stream_sr.video.planes import Plane, chroma_shape, read_only
from stream_sr.video.quality import psnr, texture

TIME_BASE = Fraction(1, 90000)


@dataclass(frozen=True)
class Case:
    """A backend as it is opened, and how far from the reference its luma may be."""

    backend: str
    precision: str
    levels: int | None  # largest difference; None where a PSNR is stated instead
    decibels: float = 0.0

    @property
    def threads(self) -> int | None:
        return None if self.backend == "bicubic" else 1


CASES = [
    Case("torch", "fp32", 0),
    Case("openvino", "fp32", 1),
    Case("openvino", "bf16", None, 45.0),
    Case("bicubic", "auto", None, 45.0),
]
NETWORKS = [case for case in CASES if case.backend != "bicubic"]


def named(case: Case) -> str:
    return f"{case.backend}-{case.precision}"


pytestmark = [pytest.mark.long, pytest.mark.usefixtures("own_cache")]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[int, ModelSpec]:
    """A small network per scale, not trained but not trivial either."""
    return {scale: small_model(tmp_path_factory.mktemp(f"x{scale}"), FSRCNN, scale) for scale in (2, 3, 4)}


def picture(width: int, height: int, *, number: int = 0, siting: int = Siting.LEFT) -> Frame:
    """A textured frame that owns its memory."""
    rows, columns = chroma_shape(width, height)
    material = texture(96, 160)
    luma = material[number : height + number, :width]
    u, v = (material[20 + number : 20 + rows + number, x : x + columns] for x in (50, 80))
    color = ColorInfo(matrix=6, range=1, primaries=6, transfer=6, siting=siting)
    planes = read_only((luma, u, v))
    return Frame(planes, 3000 * number + 7, TIME_BASE, 3000, number, 12345 + number, color, Fraction(4, 3))


def info_of(frame: Frame) -> StreamInfo:
    return StreamInfo(frame.width, frame.height, TIME_BASE, color=frame.color)


def opened(case: Case, model: ModelSpec, frame: Frame, *, depth: int = 1) -> Engine:
    if case.precision == "bf16" and not openvino_precision.cpu().bf16:
        pytest.skip("this CPU has no bf16")
    options = EngineOptions(backend=case.backend, precision=case.precision, threads=case.threads, depth=depth)
    return open_engine(model, info_of(frame), options, scale=model.scale)


def upscaled(case: Case, model: ModelSpec, frame: Frame) -> list[Plane]:
    engine = opened(case, model, frame)
    try:
        return [plane.copy() for plane in engine.submit(frame).wait().planes]
    finally:
        engine.close()


def distance(a: Plane, b: Plane) -> int:
    assert a.shape == b.shape
    return int(np.abs(a.astype(int) - b.astype(int)).max())


def pillow_bicubic(plane: Plane, scale: int) -> npt.NDArray[np.uint8]:
    """Keys' cubic with a = -0.5 over replicated borders; centred, as luma is."""
    padded = np.pad(plane, 4, mode="edge").astype(np.float32)
    size = (padded.shape[1] * scale, padded.shape[0] * scale)
    larger = np.asarray(Image.fromarray(padded).resize(size, Image.Resampling.BICUBIC))
    return np.clip(np.rint(larger[4 * scale : -4 * scale, 4 * scale : -4 * scale]), 0, 255).astype(np.uint8)


def chroma_by_definition(plane: Plane, scale: int, siting: int) -> npt.NDArray[np.float64]:
    """`chroma_kernel` applied in numpy, unrounded."""
    kernel = chroma_kernel(scale, siting).astype(np.float64)
    padded = np.pad(plane, 2, mode="edge").astype(np.float64)
    height, width = plane.shape
    result = np.empty((height * scale, width * scale))
    for phase in range(scale * scale):
        total = sum(kernel[phase, 0, y, x] * padded[y : y + height, x : x + width] for y in range(5) for x in range(5))
        result[phase // scale :: scale, phase % scale :: scale] = total
    return np.clip(result, 0, 255)


def conforms(case: Case, planes: list[Plane], reference: list[Plane], frame: Frame, scale: int) -> bool:
    """Whether a result is what the contract says: luma by the reference, chroma by the definition, sizes exact."""
    width, height = frame.width * scale, frame.height * scale
    rows, columns = chroma_shape(width, height)
    if [plane.shape for plane in planes] != [(height, width), (rows, columns), (rows, columns)]:
        return False
    for plane, source in zip(planes[1:], frame.planes[1:], strict=True):
        exact = chroma_by_definition(source, scale, frame.color.siting)[:rows, :columns]
        if case.levels is not None or case.precision == "bf16":  # chroma is fp32 always
            if np.abs(plane - exact).max() > 1.01:
                return False
        elif psnr(plane, np.rint(exact).astype(np.uint8)) < case.decibels:
            return False
    if case.levels is not None:
        return distance(planes[0], reference[0]) <= case.levels
    return psnr(planes[0], reference[0]) >= case.decibels


def reference_for(case: Case, model: ModelSpec, frame: Frame) -> list[Plane]:
    if case.backend == "bicubic":
        return [pillow_bicubic(plane, model.scale) for plane in frame.planes]
    return upscaled(CASES[0], model, frame)


@pytest.mark.parametrize("case", CASES, ids=named)
@pytest.mark.parametrize(
    ("scale", "width", "height"), [(2, 64, 48), (2, 53, 37), (3, 53, 37), (4, 31, 20), (3, 40, 33)]
)
def test_the_result_is_that_of_the_reference(
    case: Case, scale: int, width: int, height: int, models: dict[int, ModelSpec]
) -> None:
    frame = picture(width, height)
    reference = reference_for(case, models[scale], frame)
    assert conforms(case, upscaled(case, models[scale], frame), reference, frame, scale)


@pytest.mark.parametrize("case", CASES, ids=named)
@pytest.mark.parametrize("siting", [Siting.UNKNOWN, Siting.LEFT, Siting.CENTER, Siting.TOPLEFT])
def test_chroma_keeps_its_siting(case: Case, siting: Siting, models: dict[int, ModelSpec]) -> None:
    """A ramp stays the same ramp, seen where the samples lie: off by half a sample it would be off by 3 levels."""
    rows, columns = 12, 24
    across = np.tile((np.arange(columns) * 8 + 20).astype(np.uint8), (rows, 1))
    down = np.tile((np.arange(rows) * 12 + 20).astype(np.uint8)[:, None], (1, columns))
    frame = picture(2 * columns, 2 * rows, siting=siting).with_planes(
        (np.full((2 * rows, 2 * columns), 128, np.uint8), across, down)
    )
    _, u, v = upscaled(case, models[2], frame)
    left = -0.25 if siting != Siting.CENTER else 0.0
    top = -0.25 if siting == Siting.TOPLEFT else 0.0
    q = np.arange(8, 32)
    np.testing.assert_allclose(u[10, q], 20 + 8 * ((q + 0.5 + left) / 2 - 0.5 - left), atol=0.75)
    q = np.arange(8, 16)
    np.testing.assert_allclose(v[q, 20], 20 + 12 * ((q + 0.5 + top) / 2 - 0.5 - top), atol=0.75)


def test_the_suite_notices_wrong_siting(models: dict[int, ModelSpec], monkeypatch: pytest.MonkeyPatch) -> None:
    case, frame = CASES[1], picture(53, 37)
    reference = reference_for(case, models[2], frame)
    monkeypatch.setattr(openvino_graph, "chroma_kernel", lambda scale, _: chroma_kernel(scale, Siting.CENTER))
    assert not conforms(case, upscaled(case, models[2], frame), reference, frame, 2)


def test_the_suite_notices_a_broken_head(models: dict[int, ModelSpec], monkeypatch: pytest.MonkeyPatch) -> None:
    case, frame = CASES[1], picture(53, 37)
    reference = reference_for(case, models[2], frame)
    right = deconvolution.lower_deconvolution
    monkeypatch.setattr(deconvolution, "lower_deconvolution", lambda w, s, p: right(w, s, p)[[1, 0, 2, 3]])
    assert not conforms(case, upscaled(case, models[2], frame), reference, frame, 2)


def test_openvino_runs_the_lowered_head(models: dict[int, ModelSpec]) -> None:
    graph, head = openvino_graph.rewrite(openvino_graph.read_graph(models[3]))
    kinds = [node.get_type_name() for node in graph.model.get_ordered_ops()]
    assert head == openvino_graph.LOWERED
    assert "ConvolutionBackpropData" not in kinds
    assert "Multiply" not in kinds  # both scalings are in the biases
    assert kinds.index("DepthToSpace") > len(kinds) - 1 - kinds[::-1].index("Convert")  # bytes are shuffled, not floats


@pytest.mark.parametrize("case", CASES, ids=named)
@pytest.mark.parametrize(("width", "height"), [(1, 1), (2, 1), (1, 5), (7, 3)])
def test_tiny_frames(case: Case, width: int, height: int, models: dict[int, ModelSpec]) -> None:
    frame = picture(width, height)
    planes = upscaled(case, models[2], frame)
    rows, columns = chroma_shape(2 * width, 2 * height)
    assert [plane.shape for plane in planes] == [(2 * height, 2 * width), (rows, columns), (rows, columns)]
    if case.levels is not None:
        assert distance(planes[0], upscaled(CASES[0], models[2], frame)[0]) <= case.levels


@pytest.mark.parametrize("case", CASES, ids=named)
def test_moments_keep_their_names(case: Case, models: dict[int, ModelSpec]) -> None:
    frame = picture(16, 10, number=5, siting=Siting.CENTER)
    engine = opened(case, models[2], frame)
    result = engine.submit(frame).wait()
    engine.close()
    for name in ("pts", "time_base", "duration", "number", "captured_ns", "color", "sample_aspect"):
        assert getattr(result, name) == getattr(frame, name)
    assert not any(plane.flags.writeable for plane in result.planes)
    assert (engine.spec.backend, engine.spec.scale) == (case.backend, 2)


@pytest.mark.parametrize("case", CASES, ids=named)
def test_results_come_in_order_into_leased_slots(case: Case, models: dict[int, ModelSpec]) -> None:
    """Two in flight, slots that are poisoned when they come back: every result is the one it would be alone."""
    frames = [picture(37, 22, number=number) for number in range(6)]
    alone = [upscaled(case, models[2], frame) for frame in frames]
    assert distance(alone[0][0], alone[1][0]) > 0
    engine = opened(case, models[2], frames[0], depth=2)
    pool = FramePool(74, 44, 3, poison=True)

    def results() -> Iterator[Frame]:
        pending = []
        for frame in frames:
            pending.append(engine.submit(frame, pool.lease()))
            if len(pending) == 2:
                yield pending.pop(0).wait()
        yield pending.pop().wait()

    for frame, expected, result in zip(frames, alone, results(), strict=True):
        assert (result.number, result.pts) == (frame.number, frame.pts)
        assert result.slot is not None
        assert np.shares_memory(result.planes[0], result.slot.planes[0])
        for plane, right in zip(result.planes, expected, strict=True):
            np.testing.assert_array_equal(plane, right)
        result.release()
    engine.close()
    assert pool.held == 0


@pytest.mark.parametrize("case", CASES, ids=named)
def test_strided_planes_are_taken_and_left_alone(case: Case, models: dict[int, ModelSpec]) -> None:
    frame = picture(33, 22)
    wide = tuple(np.full((plane.shape[0], plane.shape[1] + 31), 255, np.uint8) for plane in frame.planes)
    for memory, plane in zip(wide, frame.planes, strict=True):
        memory[:, : plane.shape[1]] = plane
    views = tuple(memory[:, : plane.shape[1]] for memory, plane in zip(wide, frame.planes, strict=True))
    strided = frame.with_planes((views[0], views[1], views[2]))
    assert not strided.planes[0].flags.contiguous
    before = [memory.copy() for memory in wide]
    for plane, right in zip(upscaled(case, models[2], strided), upscaled(case, models[2], frame), strict=True):
        np.testing.assert_array_equal(plane, right)
    for memory, old in zip(wide, before, strict=True):
        np.testing.assert_array_equal(memory, old)


@pytest.mark.parametrize("case", CASES, ids=named)
def test_the_input_may_be_reused_after_the_wait(case: Case, models: dict[int, ModelSpec]) -> None:
    """No result and no later one depends on what an input's memory holds afterwards."""
    frame, other = picture(32, 20), picture(32, 20, number=3)
    expected = upscaled(case, models[2], other)
    buffers = [plane.copy() for plane in frame.planes]
    engine = opened(case, models[2], frame)
    reused = frame.with_planes((buffers[0], buffers[1], buffers[2]))
    first = engine.submit(reused).wait()
    kept = [plane.copy() for plane in first.planes]
    for buffer, plane in zip(buffers, other.planes, strict=True):
        buffer[:] = plane
    second = engine.submit(reused).wait()
    engine.close()
    for plane, right in zip(second.planes, expected, strict=True):
        np.testing.assert_array_equal(plane, right)
    for plane, right in zip(first.planes, kept, strict=True):
        np.testing.assert_array_equal(plane, right)


@pytest.mark.parametrize("case", CASES, ids=named)
def test_misuse_is_refused(case: Case, models: dict[int, ModelSpec]) -> None:
    frame = picture(16, 10)
    engine = opened(case, models[2], frame)
    with pytest.raises(EngineRunError, match="18x10 came to an engine made for 16x10"):
        engine.submit(picture(18, 10))
    with pytest.raises(EngineRunError, match="slot for the result is 16x10; it must be 32x20"):
        engine.submit(frame, FramePool(16, 10, 1).lease())
    pending = engine.submit(frame)
    with pytest.raises(EngineRunError, match="in flight"):
        engine.submit(frame)
    pending.wait()
    with pytest.raises(EngineRunError, match="twice"):
        pending.wait()
    engine.close()
    engine.close()
    with pytest.raises(EngineRunError, match="closed"):
        engine.submit(frame)


def test_closing_with_a_frame_in_flight(models: dict[int, ModelSpec]) -> None:
    frame = picture(64, 48)
    engine = opened(CASES[1], models[2], frame)
    pending = engine.submit(frame)
    engine.close()
    np.testing.assert_array_equal(pending.wait().planes[0], upscaled(CASES[1], models[2], frame)[0])


@pytest.mark.parametrize("case", NETWORKS, ids=named)
def test_the_same_frame_gives_the_same_bits(case: Case, models: dict[int, ModelSpec]) -> None:
    frame = picture(64, 48)
    results = []
    for threads, depth in ((1, 1), (2, 1), (2, 2)):
        if case.precision == "bf16" and not openvino_precision.cpu().bf16:
            pytest.skip("this CPU has no bf16")
        options = EngineOptions(backend=case.backend, precision=case.precision, threads=threads, depth=depth)
        engine = open_engine(models[2], info_of(frame), options)
        results += [engine.submit(frame).wait().planes[0] for _ in range(2)]
        engine.close()
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_bicubic_needs_a_scale_and_no_model() -> None:
    frame = picture(20, 12)
    options = EngineOptions(backend="bicubic")
    same = open_engine(None, info_of(frame), options, scale=1).submit(frame).wait()
    for plane, source in zip(same.planes, frame.planes, strict=True):
        np.testing.assert_array_equal(plane, source)
    with pytest.raises(ConfigError, match="scale None"):
        open_engine(None, info_of(frame), options)
    with pytest.raises(ConfigError, match=r"scale 5 .* 1, 2, 3, 4"):
        open_engine(None, info_of(frame), options, scale=5)
    with pytest.raises(ConfigError, match="needs a model"):
        open_engine(None, info_of(frame), EngineOptions(backend="openvino"), scale=2)


def test_unknown_choices_list_what_there_is(models: dict[int, ModelSpec]) -> None:
    info = info_of(picture(16, 10))
    with pytest.raises(ConfigError, match="no backend 'cuda'; there are auto, openvino"):
        open_engine(models[2], info, EngineOptions(backend="cuda"))
    with pytest.raises(ConfigError, match="openvino has no precision 'fp16'; it has auto, fp32, bf16, int8"):
        open_engine(models[2], info, EngineOptions(backend="openvino", precision="fp16"))
    with pytest.raises(ConfigError, match="torch has no precision 'int8'; it has auto, fp32; int8 is for openvino"):
        open_engine(models[2], info, EngineOptions(backend="torch", precision="int8"))
    with pytest.raises(ModelError, match="trained for x2, x3"):
        open_engine(models[2], info, EngineOptions(), scale=3)
    with pytest.raises(ConfigError, match="threads is 0"):
        open_engine(models[2], info, EngineOptions(threads=0))
    with pytest.raises(ConfigError, match="depth is 0"):
        open_engine(models[2], info, EngineOptions(depth=0))


def test_auto_takes_openvino_and_says_why() -> None:
    found = backends()
    assert tuple(found) == BACKENDS
    assert not found["tensorrt"].usable
    assert found["tensorrt"].reason
    assert choose_backend().name == "openvino"
    assert choose_backend().reason


@pytest.mark.parametrize("name", ["openvino", "torch", "bicubic", "tensorrt"])
def test_an_absent_library_is_named(name: str, models: dict[int, ModelSpec], monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = load_adapter(name)
    finder = adapter.library if name == "tensorrt" else adapter
    monkeypatch.setattr(finder, "find_spec", lambda _: None)
    assert not adapter.availability().usable
    with pytest.raises(EngineUnavailable, match="pip install"):
        open_engine(models[2], info_of(picture(16, 10)), EngineOptions(backend=name))


# the model files


def save_graph(path: Path, *, dtype: int = TensorProto.UINT8, channels: int = 1, factor: float = 2.0) -> ModelSpec:
    """A bare ONNX file: nearest-neighbour enlargement, with something wrong where asked for."""
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Resize", ["f", "", "scales"], ["g"], mode="nearest"),
        helper.make_node("Cast", ["g"], ["y"], to=dtype),
    ]
    scales = helper.make_tensor("scales", TensorProto.FLOAT, [4], [1, 1, factor, factor])
    sides = [1, channels, "h", "w"]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", dtype, sides)],
        [helper.make_tensor_value_info("y", dtype, [1, channels, "H", "W"])],
        [scales],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    path.write_bytes(model.SerializeToString())
    return ModelSpec(name=path.stem, scale=0, onnx=path)


def test_a_bare_file_tells_its_scale(tmp_path: Path) -> None:
    frame = picture(18, 11)
    model = save_graph(tmp_path / "nearest.onnx", factor=3)
    engine = open_engine(model, info_of(frame), EngineOptions(backend="openvino", precision="fp32"))
    assert engine.spec.scale == 3
    result = engine.submit(frame).wait()
    engine.close()
    np.testing.assert_array_equal(result.planes[0], frame.planes[0].repeat(3, axis=0).repeat(3, axis=1))
    with pytest.raises(ModelError, match="enlarges by 3, x2 was expected"):
        open_engine(model, info_of(frame), EngineOptions(backend="openvino"), scale=2)
    with pytest.raises(ModelError, match=r"needs a model\.toml"):
        open_engine(model, info_of(frame), EngineOptions(backend="torch"), scale=3)


def test_graphs_of_another_form_are_refused_by_what_was_found(tmp_path: Path) -> None:
    info = info_of(picture(16, 10))
    options = EngineOptions(backend="openvino")
    for name, arguments, message in (
        ("float", {"dtype": TensorProto.FLOAT}, r"inputs f32 .*it must have one input and one output, uint8"),
        ("rgb", {"channels": 3}, r"u8 \[1,3"),
        ("fraction", {"factor": 1.5}, "larger by an integer"),
        ("smaller", {"factor": 0.5}, "larger by an integer"),
    ):
        with pytest.raises(ModelError, match=message):
            open_engine(save_graph(tmp_path / f"{name}.onnx", **arguments), info, options)
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"\x08no ONNX")
    with pytest.raises(ModelError, match="cannot be read as ONNX"):
        open_engine(ModelSpec("broken", 0, broken), info, options)


def test_torch_refuses_weights_that_do_not_fit(models: dict[int, ModelSpec]) -> None:
    info = info_of(picture(16, 10))
    wrong = ModelSpec("small", 2, models[2].onnx, FSRCNN | {"d": 20})
    with pytest.raises(ModelError, match="does not hold the FSRCNN"):
        open_engine(wrong, info, EngineOptions(backend="torch"))
    with pytest.raises(ModelError, match="kind 'VGG'"):
        open_engine(ModelSpec("small", 2, models[2].onnx, {"kind": "VGG"}), info, EngineOptions(backend="torch"))


# the cache, through the backends


def test_a_damaged_blob_is_built_again_and_said_once(
    models: dict[int, ModelSpec], caplog: pytest.LogCaptureFixture
) -> None:
    frame, case = picture(24, 16), CASES[1]
    first = upscaled(case, models[2], frame)
    (entry,) = cache.engine_entries()
    again = upscaled(case, models[2], frame)  # from the cache
    assert not caplog.records
    data = bytearray(entry.path.read_bytes())
    data[-10] ^= 1
    entry.path.write_bytes(data)
    assert [one.key for one in cache.engine_entries()] == [None]
    rebuilt = upscaled(case, models[2], frame)
    assert len(caplog.records) == 1
    assert "built again" in caplog.text
    upscaled(case, models[2], frame)
    assert len(caplog.records) == 1
    assert [one.key for one in cache.engine_entries()] == [entry.key]
    for plane, right in zip(again + rebuilt, first + first, strict=True):
        np.testing.assert_array_equal(plane, right)


def test_a_whole_blob_that_openvino_refuses_is_built_again(
    models: dict[int, ModelSpec], caplog: pytest.LogCaptureFixture
) -> None:
    frame, case = picture(24, 16), CASES[1]
    first = upscaled(case, models[2], frame)
    (entry,) = cache.engine_entries()
    assert entry.key is not None
    cache.store(entry.key, b"not a model")
    np.testing.assert_array_equal(upscaled(case, models[2], frame)[0], first[0])
    assert "OpenVINO refuses it" in caplog.text


def test_a_cached_engine_is_loaded_and_not_compiled(
    models: dict[int, ModelSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    frame, case = picture(24, 16), CASES[1]
    first = upscaled(case, models[2], frame)
    monkeypatch.setattr(openvino_graph.OpenVINOGraph, "sized", _only_trials(openvino_graph.OpenVINOGraph.sized))
    np.testing.assert_array_equal(upscaled(case, models[2], frame)[0], first[0])


def _only_trials(sized: object) -> object:
    def guarded(graph: openvino_graph.OpenVINOGraph, height: int, width: int) -> object:
        assert (height, width) == openvino_graph.TRIAL, "compiled although it was cached"
        return sized(graph, height, width)  # type: ignore[operator]

    return guarded


def test_threads_are_those_this_process_may_use() -> None:
    assert cpu_threads(EngineOptions()) >= 1
    assert cpu_threads(EngineOptions(threads=3)) == 3


def test_an_engine_is_tuned_only_where_that_is_wanted(
    models: dict[int, ModelSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []

    def tuned(
        key: str, candidates: list[Parallelism], make: Callable[[Parallelism], Runner]
    ) -> tuple[Parallelism, str]:
        make(candidates[1]).start()()
        asked.append((len(key), len(candidates)))
        return candidates[1], "measured"

    monkeypatch.setattr(openvino, "tune", tuned)
    monkeypatch.setattr(openvino, "cpu_threads", lambda options: options.threads or 2)
    frame = picture(64, 48)
    results = []
    for tune, threads in ((False, None), (True, 2), (True, None)):
        options = EngineOptions(backend="openvino", precision="fp32", threads=threads, depth=2, tune=tune, keep=False)
        engine = open_engine(models[2], info_of(frame), options)
        assert engine.depth == 2
        results.append(engine.submit(frame).wait().planes[0])
        assert ("measured" in engine.spec.notes) == (tune and threads is None)
        engine.close()
    assert asked == [(32, 3)]
    assert all((result == results[0]).all() for result in results)


def test_what_was_measured_under_another_quota_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A choice of 64 threads must not run under a quota of 2."""
    found: list[tuple[str, Parallelism]] = []

    def tuned(key: str, candidates: list[Parallelism], make: object) -> tuple[Parallelism, str]:
        found.append((key, candidates[0]))
        return candidates[0], ""

    monkeypatch.setattr(openvino, "tune", tuned)
    chosen = choose_precision(find_model("tiny", 2), "fp32", 0.0)
    for cores in (64, 2, 64):
        monkeypatch.setattr(machine, "cores", lambda cores=cores: cores)
        openvino._choose_parallelism(
            chosen, (64, 48), EngineOptions(backend="openvino", precision="fp32", depth=2, tune=True)
        )
    assert [candidate.threads for _, candidate in found] == [64, 2, 64]
    assert found[0][0] == found[2][0] != found[1][0]


def test_streams_of_one_process_share_what_is_compiled() -> None:
    options = EngineOptions(backend="openvino", precision="fp32", keep=False)
    info = StreamInfo(66, 50, Fraction(1, 30))
    before = len(openvino._shared)
    engines = [open_engine(find_model("fsrcnn-s", 2), info, options) for _ in range(3)]
    assert len(openvino._shared) == before + 2  # luma and chroma
    for engine in engines:
        engine.close()
    del engine, engines
    assert len(openvino._shared) == before


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux' /proc to count threads")
def test_another_stream_of_the_same_size_and_engines_that_come_and_go_bring_no_threads() -> None:
    """OpenVINO never ends a thread: each that is started for nothing is there for weeks."""
    options = EngineOptions(backend="openvino", precision="fp32", keep=False, threads=2, cameras=2)

    def run(*widths: int) -> int:
        engines = []
        for width in widths:
            frame = picture(width, 48)
            engines.append(open_engine(find_model("fsrcnn-s", 2), info_of(frame), options))
            engines[-1].submit(frame).wait()
        for engine in engines:
            engine.close()
        return len(list(Path("/proc/self/task").iterdir()))

    there = run(64, 68)  # two of which nothing is shared
    assert run(64, 64, 68, 68) <= there
    for width in range(72, 96, 4):
        assert run(64, width) <= there


def test_cameras_of_one_process_get_the_same_picture_and_share_the_threads() -> None:
    frame = picture(66, 50)
    results = []
    for cameras in (1, 2):
        options = EngineOptions(backend="openvino", precision="fp32", keep=False, threads=2, cameras=cameras, tune=True)
        engine = open_engine(find_model("fsrcnn-s", 2), info_of(frame), options)
        results.append(engine.submit(frame).wait().planes)
        engine.close()
    for one, other in zip(*results, strict=True):
        assert (one == other).all()
