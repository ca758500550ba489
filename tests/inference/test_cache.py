"""The cache of compiled engines: whole or nothing, never damaged, never another key's."""

import logging
import multiprocessing
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from stream_sr.inference import cache
from stream_sr.inference.model import BuildKey, ModelSpec

KEY = BuildKey(
    onnx_sha256="ab" * 32,
    backend="openvino",
    backend_version="1",
    device="a CPU",
    compute_capability="BF16",
    driver="",
    precision="fp32",
    profile="64x48",
)
BLOB = bytes(range(256)) * 40 + b"\n{}\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STREAM_SR_CACHE", str(tmp_path))
    return tmp_path / "engines"


def test_what_is_stored_is_loaded(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert cache.load(KEY) is None
    path = cache.store(KEY, BLOB)
    assert path == folder / f"{KEY.digest()}.engine"
    assert cache.load(KEY) == BLOB
    assert [(entry.path, entry.key) for entry in cache.engine_entries()] == [(path, KEY)]
    assert os.listdir(folder) == [path.name]  # nothing partial is left
    assert not caplog.records


@pytest.mark.parametrize("name", BuildKey.__dataclass_fields__)
def test_any_other_key_is_another_engine(name: str) -> None:
    cache.store(KEY, BLOB)
    other = replace(KEY, **{name: "other"})
    assert cache.load(other) is None
    cache.store(other, b"other")
    assert (cache.load(KEY), cache.load(other)) == (BLOB, b"other")


@pytest.mark.parametrize("damage", ["flip", "cut", "header", "empty", "swapped"])
def test_damage_is_never_loaded_and_said_once(damage: str, caplog: pytest.LogCaptureFixture) -> None:
    path = cache.store(KEY, BLOB)
    assert path is not None
    data = path.read_bytes()
    spoiled = {
        "flip": data[:-5] + bytes([data[-5] ^ 1]) + data[-4:],
        "cut": data[: len(data) // 2],
        "header": b"{" + data,
        "empty": b"",
        "swapped": data.replace(b'"fp32"', b'"bf16"', 1),  # whole, but of another key
    }
    path.write_bytes(spoiled[damage])
    with caplog.at_level(logging.INFO, "stream_sr"):
        assert cache.load(KEY) is None
        assert cache.load(KEY) is None
    assert len(caplog.records) == 1
    assert "damaged" in caplog.text
    assert not path.exists()
    cache.store(KEY, BLOB)
    assert cache.load(KEY) == BLOB


def test_a_folder_that_cannot_be_written_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    occupied = tmp_path / "file"
    occupied.write_text("not a folder")
    monkeypatch.setenv("STREAM_SR_CACHE", str(occupied))
    assert cache.store(KEY, BLOB) is None
    assert "could not be kept" in caplog.text


def test_prune_keeps_what_can_still_be_used(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    from stream_sr.inference.backends.openvino import engine

    onnx = folder.parent / "model.onnx"
    onnx.write_bytes(b"the shipped one")
    shipped = ModelSpec("shipped", 2, onnx)
    monkeypatch.setattr(cache, "list_models", lambda: [shipped])
    current = replace(KEY, onnx_sha256=shipped.sha256(), backend_version=engine.cache_version())
    stale = [KEY, replace(current, backend_version="0"), replace(current, backend="gone")]
    for key in (current, *stale):
        cache.store(key, BLOB)
    damaged = replace(current, profile="1x1")
    path = cache.store(damaged, BLOB)
    assert path is not None
    path.write_bytes(b"?")
    old, fresh, figures = folder / "old.partial", folder / "fresh.partial", folder.parent / "speed.partial"
    for partial in (old, fresh, figures):
        partial.write_bytes(b"")
    os.utime(old, (0, 0))
    os.utime(figures, (0, 0))

    timings, lost = (cache.companion(cache.shared(key), ".timing") for key in (current, stale[1]))
    for beside in (timings, lost):
        beside.write_bytes(b"")

    removed = {entry.path.stem for entry in cache.prune()}
    assert removed == {key.digest() for key in (*stale, damaged)}
    assert timings.exists(), "they are of every engine of this device"
    assert not lost.exists()
    assert cache.load(current) == BLOB
    assert (old.exists(), fresh.exists(), figures.exists()) == (False, True, False)
    assert [entry.key for entry in cache.prune(everything=True)] == [current]
    assert cache.engine_entries() == []


def _store_and_load(folder: str, blob: bytes) -> int:
    """How often another content than the two that are written was seen."""
    os.environ["STREAM_SR_CACHE"] = folder
    wrong = 0
    for _ in range(40):
        cache.store(KEY, blob)
        wrong += cache.load(KEY) not in (b"a" * 300_000, b"b" * 300_000)
    return wrong


def test_two_processes_at_once(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        arguments = [(str(tmp_path), letter * 300_000) for letter in (b"a", b"b")]
        assert pool.starmap(_store_and_load, arguments) == [0, 0]
    assert len(cache.engine_entries()) == 1
    assert cache.load(KEY) is not None


def test_entries_describe_themselves() -> None:
    cache.store(KEY, BLOB)
    (entry,) = cache.engine_entries()
    assert entry.record()["key"]["device"] == "a CPU"
    assert "openvino fp32 [64x48] for a CPU" in str(entry)


def test_without_the_variable_it_is_the_users_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STREAM_SR_CACHE")
    assert cache.cache_folder().name == "engines"
    assert "stream_sr" in cache.cache_folder().parts


def test_who_writes_takes_away_what_others_left_that_were_killed(folder: Path) -> None:
    folder.mkdir()
    left, being_written = folder / "left.partial", folder / "now.partial"
    for partial in (left, being_written):
        partial.write_bytes(b"half")
    os.utime(left, (0, 0))
    path = cache.store(KEY, BLOB)
    assert path is not None
    assert sorted(os.listdir(folder)) == sorted([path.name, being_written.name])


def test_a_signal_in_the_middle_of_writing_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cache.store(KEY, BLOB)
    assert os.listdir(folder) == []


BUILD_ONCE = """
import sys
from stream_sr.inference import cache
from stream_sr.inference.model import BuildKey

key = BuildKey("a", "tensorrt", "1", "a GPU", "9.0", "1", "fp16", "64x48")
print("ready", flush=True)
sys.stdin.read()
with cache.building(key):
    found = cache.load(key)
    if found is None:
        cache.store(key, b"built")
print("loaded" if found else "built")
"""


def test_of_several_builders_one_builds_and_the_others_wait(folder: Path) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", BUILD_ONCE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:  # all at once, as far as that is possible
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None  # communicate would close it again
    answers = sorted(process.communicate(timeout=60)[0] for process in processes)
    assert answers == ["built\n", "loaded\n", "loaded\n"]


def test_pruning_leaves_an_engine_that_is_being_built_its_lock(folder: Path) -> None:
    """Else a second process would build it at the same time."""
    lock = folder / f"{KEY.digest()}.lock"
    with cache.building(KEY):
        cache.prune()
        assert lock.is_file()
    cache.prune()
    assert not lock.exists()
