"""Fixtures that several test modules use, and the environment that every test runs in.

The environment: compiled engines and measured figures go to a cache folder of this session, not to the user's. Under
pytest-xdist each worker has a folder of its own.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from stream_sr.system import machine

CACHE_VARIABLE = "STREAM_SR_CACHE"
SWITCH_SECONDS = 1e-6  # between threads; Python's own value is 0.005


@pytest.fixture(autouse=True, scope="session")
def session_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The cache folder of this session, for the tests and for the programs that they start."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE_VARIABLE, str(folder))
        yield folder


@pytest.fixture(autouse=True)
def own_log() -> Iterator[None]:
    """Undo what the command line does to the log when it runs in this process: its handler, and the level."""
    root, ours = logging.getLogger(), logging.getLogger("stream_sr")
    handlers, level = list(root.handlers), ours.level
    yield
    root.handlers[:] = [handler for handler in root.handlers if handler in handlers]
    ours.setLevel(level)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder for one test; it does not exist yet."""
    folder = tmp_path / "cache"
    monkeypatch.setenv(CACHE_VARIABLE, str(folder))
    return folder


@pytest.fixture
def no_threads_left() -> Iterator[None]:
    """The test fails if a thread that it started still runs at its end."""
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before, "a thread was left behind"


@pytest.fixture
def frequent_switches() -> Iterator[None]:
    """Threads take turns 5,000 times more often than usual, so that a missing lock shows."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine seems to have one NVIDIA GPU. Nothing can be computed on it."""
    gpu = machine.CudaDevice("NVIDIA X", "9.0", 141.0)
    monkeypatch.setattr(machine, "cuda", lambda: machine.Cuda((gpu,), "13.0"))


@pytest.fixture
def no_gpu() -> None:
    """Skip a test that is about machines without an NVIDIA GPU."""
    if machine.cuda().devices:
        pytest.skip("about machines without a GPU")
