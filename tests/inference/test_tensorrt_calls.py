"""What runs on a GPU alone is at least called as the installed bindings have it; their words reach our errors."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stream_sr.inference.backends.tensorrt import library
from stream_sr.inference.backends.tensorrt.build import _attach_timing_cache

pytestmark = pytest.mark.gpu

needs_tensorrt = pytest.mark.skipif(
    library.library_name() is None, reason="no TensorRT: pip install tensorrt-rtx-cu13-bindings tensorrt-rtx-cu13-libs"
)
# class, method, and how many arguments we give it besides the object
CALLS = [
    ("Builder", "create_network", 1), ("Builder", "create_builder_config", 0),
    ("Builder", "build_serialized_network", 2), ("OnnxParser", "parse", 1), ("OnnxParser", "get_error", 1),
    ("IBuilderConfig", "clear_flag", 1), ("IBuilderConfig", "set_flag", 1),
    ("IBuilderConfig", "create_timing_cache", 1), ("IBuilderConfig", "set_timing_cache", 2),
    ("ITimingCache", "serialize", 0), ("Runtime", "__init__", 1), ("Runtime", "deserialize_cuda_engine", 1),
    ("ICudaEngine", "create_execution_context", 1), ("ICudaEngine", "get_tensor_name", 1),
    ("ICudaEngine", "get_tensor_mode", 1), ("IExecutionContext", "set_device_memory", 2),
    ("IExecutionContext", "set_tensor_address", 2), ("IExecutionContext", "execute_async_v3", 1),
]  # fmt: skip
RTX_CALLS = [
    ("ICudaEngine", "create_runtime_config", 0),
    ("IRuntimeConfig", "set_execution_context_allocation_strategy", 1),
    ("IRuntimeConfig", "create_runtime_cache", 0),
    ("IRuntimeConfig", "set_runtime_cache", 1),
    ("IRuntimeCache", "deserialize", 1),
    ("IRuntimeCache", "serialize", 0),
]
NAMES = (
    "TensorIOMode.INPUT", "ExecutionContextAllocationStrategy.USER_MANAGED",
    "NetworkDefinitionCreationFlag.STRONGLY_TYPED", "BuilderFlag.TF32", "ILogger.ERROR", "ILogger.INTERNAL_ERROR",
    "ICudaEngine.device_memory_size_v2", "ICudaEngine.num_io_tensors", "IBuilderConfig.progress_monitor",
    "OnnxParser.num_errors", "IProgressMonitor.phase_start", "IProgressMonitor.step_complete",
    "IProgressMonitor.phase_finish",
)  # fmt: skip


def takes(function: Any) -> set[int]:
    """The numbers of arguments, besides the object, that one of pybind11's signatures allows."""
    allowed: set[int] = set()
    for line in re.findall(r"\(self: [^\n]*\) -> ", function.__doc__):
        arguments = re.split(r", (?=\w+: )", line)[1:]
        optional = sum(" = " in one for one in arguments)
        allowed |= set(range(len(arguments) - optional, len(arguments) + 1))
    return allowed


@needs_tensorrt
@pytest.mark.parametrize(("owner", "name", "count"), CALLS, ids=lambda value: str(value))
def test_the_bindings_take_our_calls(owner: str, name: str, count: int) -> None:
    assert count in takes(getattr(getattr(library.library(), owner), name))


@pytest.mark.skipif(not library.is_rtx(), reason="TensorRT itself has no runtime cache")
@pytest.mark.parametrize(("owner", "name", "count"), RTX_CALLS, ids=lambda value: str(value))
def test_the_bindings_of_rtx_take_our_calls(owner: str, name: str, count: int) -> None:
    assert count in takes(getattr(getattr(library.library(), owner), name))


@needs_tensorrt
@pytest.mark.parametrize("name", NAMES)
def test_the_bindings_know_our_names(name: str) -> None:
    owner, member = name.split(".")
    assert hasattr(getattr(library.library(), owner), member)


@needs_tensorrt
def test_every_name_of_the_library_that_we_use_is_there() -> None:
    """Also those that are not in the lists above: `trt.Something` in the code."""
    folder = Path(library.__file__).parent
    used = {name for path in folder.glob("*.py") for name in re.findall(r"\b_?trt\.([A-Z]\w+)", path.read_text())}
    assert {"Builder", "ILogger", "Runtime"} <= used
    assert {name for name in used if not hasattr(library.library(), name)} == set()


@needs_tensorrt
def test_dimensions_multiply() -> None:
    dims = library.library().Dims([1, 2, 3])
    assert list(dims) == [1, 2, 3]


@needs_tensorrt
def test_there_is_one_logger_and_it_tells_whoever_listens() -> None:
    trt = library.library()
    assert library.logger() is library.logger()
    early, late = library.ErrorCollector(), library.ErrorCollector()
    library.logger().log(trt.ILogger.WARNING, "no error")
    library.logger().log(trt.ILogger.ERROR, "  the first\n  word ")
    early.close()
    library.logger().log(trt.ILogger.INTERNAL_ERROR, "the second")
    late.close()
    assert early.messages == ["the first\n  word"]
    assert early.take_first() == "the first word"
    assert early.take_first() == "it gave no reason"
    assert late.messages == ["the first\n  word", "the second"]


@needs_tensorrt
def test_a_runtime_tells_why_it_takes_no_engine() -> None:
    errors = library.ErrorCollector()
    runtime = library.library().Runtime(library.logger())
    assert runtime.deserialize_cuda_engine(b"none of its own") is None
    errors.close()
    assert errors.take_first() != "it gave no reason"


@pytest.mark.parametrize("damaged", [True, False])
def test_timings_that_do_not_fit_are_left_aside(damaged: bool, tmp_path: Path) -> None:
    """TensorRT says so in one of two ways; the build goes on with fresh ones."""
    path = tmp_path / "x.timing"
    path.write_bytes(b"of another device")
    config = SimpleNamespace(
        create_timing_cache=lambda content: None if damaged and content else SimpleNamespace(content=content),
        set_timing_cache=lambda timings, ignore_mismatch: not timings.content,
    )
    assert _attach_timing_cache(config, path).content == b""
    path.unlink()
    assert _attach_timing_cache(config, path).content == b""
