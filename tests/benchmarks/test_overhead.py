"""The benchmarks overhead, overlap and memory on tiny films: what they account for, and how they judge. No speed."""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.robustness import memory
from benchmarks.speed import overhead, overlap
from stream_sr.bench.clip import make_clip
from stream_sr.codec.encoder import Encoder
from stream_sr.config import Config
from stream_sr.errors import ConfigError
from stream_sr.evaluation.codec_roundtrip import read_luma
from stream_sr.pipeline.threads import Worker
from stream_sr.sinks.file import FileSink
from stream_sr.sources.file import FileSource

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip("synthetic:128x96@30", 0.5, tmp_path_factory.mktemp("clip") / "clip.mp4")


def test_every_thread_and_every_call_into_a_library_is_entered(clip: Path, tmp_path: Path) -> None:
    before = Worker._run, Encoder.__init__, FileSource._open, FileSink.open
    found = overhead.measure_run(clip, tmp_path / "out.mp4", Config(model="tiny", backend="openvino"))
    cpu = found["cpu_ms_per_frame"]
    assert found["frames"] == len(list(read_luma(tmp_path / "out.mp4"))) == 15
    assert set(found["threads_ms_per_frame"]) == {"capture", "inference", "encode", "write", "main"}
    inside = sum(cpu[f"{what}, in our threads"] for what in ("decode", "network", "encode"))
    assert 0 < cpu["container, in our threads"] < cpu["ours"]
    assert found["python_share"] < found["share"]
    assert sum(found["threads_ms_per_frame"].values()) == pytest.approx(inside + cpu["ours"], abs=0.01)
    assert cpu["all"] == pytest.approx(cpu["ours"] + inside + cpu["libraries' threads"], abs=0.01)
    assert found["share"] == pytest.approx(cpu["ours"] / cpu["all"], abs=0.01)
    assert before == (Worker._run, Encoder.__init__, FileSource._open, FileSink.open)


def test_a_run_that_cannot_be_entered_is_refused(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="files and OpenVINO"):
        overhead.measure_run(clip, tmp_path / "out.mp4", Config(backend="bicubic"))


def test_time_inside_a_call_is_that_of_its_thread() -> None:
    account = overhead.Account()
    account.into("sleep", lambda: time.sleep(0.05))()
    account.into("work", lambda: sum(n * n for n in range(100_000)))()
    assert account.inside["work"] > account.inside["sleep"]
    assert account.calls == {"sleep": 1, "work": 1}


def test_stages_alone_and_together(clip: Path, tmp_path: Path) -> None:
    words = argparse.Namespace(
        model="tiny", scale=2, backend="openvino", precision="fp32", preset="ultrafast", frames=8, rounds=1
    )
    found = overlap.measure_file(clip, tmp_path, words)
    assert (found["frames"], found["size"], found["precision"]) == (15, "128x96", "fp32")
    assert all(ms > 0 for ms in found["cpu_ms_per_frame"].values())
    assert found["ratios"] == [found["ratio"]]
    assert found["reached"] == (found["ratio"] >= found["mark"])


def test_memory_is_judged_by_its_peak_and_its_growth() -> None:
    flat = [50.0] + [500.0] * 98 + [20.0]
    assert memory.judge(flat, 600.0)["reached"]
    assert not memory.judge(flat, 1450.0)["reached"]
    growing = memory.judge([500.0 + n for n in range(100)], 600.0)
    assert growing["growth"] > 0.08
    assert not growing["reached"]


def test_a_film_is_repeated_picture_for_picture(clip: Path, tmp_path: Path) -> None:
    long = memory.repeat_film(clip, 3, tmp_path / "long.mp4")
    once, thrice = list(read_luma(clip)), list(read_luma(long))
    assert len(thrice) == 3 * len(once)
    assert all((thrice[n] == once[n % len(once)]).all() for n in range(len(thrice)))


def test_a_process_is_watched_and_told_to_stop(tmp_path: Path) -> None:
    code = "import signal, sys; signal.signal(signal.SIGINT, lambda *_: sys.exit(7)); print('ready', flush=True)\n"
    process = subprocess.Popen([sys.executable, "-c", code + "signal.pause()"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process, process.stdout:
        assert process.stdout.readline() == b"ready\n"
        samples = memory.Samples(0, tmp_path / "begun")
        samples.look(process.pid)
        assert process.poll() is None
        (tmp_path / "begun").touch()
        samples.look(process.pid)
        samples.look(process.pid)
        assert process.wait(20) == 7
    assert samples.mib[0] > 1


def test_a_run_is_stopped_after_its_time(clip: Path, tmp_path: Path) -> None:
    film = memory.repeat_film(clip, 400, tmp_path / "long.mp4")
    samples, peak, report = memory.run_for(film, tmp_path / "out.mp4", 0.5, "tiny")
    assert report["frames_out"] == report["frames_in"] <= 6000
    assert peak >= max(samples.mib) > 20
