"""Cores and memory that a container leaves, from trees of files and in a real control group; every user of threads."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from stream_sr.system import limits, machine

pytestmark = pytest.mark.long

V2_MOUNT = "31 23 0:28 {top} /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
V1_MOUNT = (
    "32 31 0:29 {top} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "33 31 0:30 {top} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
)
HYBRID = "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"


def tree(root: Path, group: str, mounts: str, files: Mapping[str, str]) -> Path:
    """The files of /proc/self and of control groups under ``root``."""
    for name, text in {"proc/self/cgroup": group, "proc/self/mountinfo": mounts, **files}.items():
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


V1 = "/sys/fs/cgroup/cpu,cpuacct"
V2 = {"/sys/fs/cgroup/cpu.max": "max 100000\n"}
CASES = {
    "no control groups": ("", "", {}, None),
    "unlimited": ("0::/\n", V2_MOUNT, V2, None),
    "at the root": ("0::/\n", V2_MOUNT, {"/sys/fs/cgroup/cpu.max": "200000 100000"}, 2),
    "own group": ("0::/a/b\n", V2_MOUNT, V2 | {"/sys/fs/cgroup/a/b/cpu.max": "150000 100000"}, 2),
    "a group around it": (
        "0::/a/b/c\n", V2_MOUNT, {"/sys/fs/cgroup/a/cpu.max": "300000 100000", "/sys/fs/cgroup/a/b/c/cpu.max": "max 1"},
        3,
    ),
    "the smallest": (
        "0::/a/b\n", V2_MOUNT,
        {"/sys/fs/cgroup/a/cpu.max": "100000 100000", "/sys/fs/cgroup/a/b/cpu.max": "400000 100000"}, 1,
    ),
    "part of a core": ("0::/\n", V2_MOUNT, {"/sys/fs/cgroup/cpu.max": "20000 100000"}, 1),
    "another period": ("0::/\n", V2_MOUNT, {"/sys/fs/cgroup/cpu.max": "25000 10000"}, 3),
    "damaged": ("0::/\n", V2_MOUNT, {"/sys/fs/cgroup/cpu.max": "\x00 -5"}, None),
    "period 0": ("0::/\n", V2_MOUNT, {"/sys/fs/cgroup/cpu.max": "5 0"}, None),
    "another namespace": ("0::/../../x\n", V2_MOUNT, {"/sys/fs/cgroup/cpu.max": "200000 100000"}, 2),
    "a mount of the group": (
        "0::/docker/1/sub\n", V2_MOUNT.replace("{top}", "/docker/1"),
        {"/sys/fs/cgroup/sub/cpu.max": "200000 100000"}, 2,
    ),
    "a mount of another group": (
        "0::/docker/2\n", V2_MOUNT.replace("{top}", "/docker/1"), {"/sys/fs/cgroup/cpu.max": "200000 100000"}, 2,
    ),
    "version 1": (
        "4:memory:/m\n3:cpu,cpuacct:/a/b\n", V1_MOUNT,
        {
            f"{V1}/a/cpu.cfs_quota_us": "150000", f"{V1}/a/cpu.cfs_period_us": "100000",
            f"{V1}/a/b/cpu.cfs_quota_us": "-1", f"{V1}/a/b/cpu.cfs_period_us": "100000",
        },
        2,
    ),
    "both versions": (
        "3:cpu,cpuacct:/\n0::/\n", V1_MOUNT + HYBRID,
        {f"{V1}/cpu.cfs_quota_us": "90000", f"{V1}/cpu.cfs_period_us": "100000"}, 1,
    ),
    "a blank in the path": (
        "0::/\n", V2_MOUNT.replace("/sys/fs/cgroup", "/my\\040groups"), {"/my groups/cpu.max": "200000 100000"}, 2,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_quota_of_a_container(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group, mounts, files, expected = CASES[name]
    monkeypatch.setattr(limits, "ROOT", tree(tmp_path, group, mounts.replace("{top}", "/"), files))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    assert limits.cores() == machine.cores() == (expected or 64)
    assert limits.codec_threads() == (expected or 16)


def test_the_affinity_counts_where_it_is_smaller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"/sys/fs/cgroup/cpu.max": "800000 100000"}
    monkeypatch.setattr(limits, "ROOT", tree(tmp_path, "0::/\n", V2_MOUNT.replace("{top}", "/"), files))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5})
    assert limits.cores() == 2


def test_the_memory_of_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"/sys/fs/cgroup/a/memory.max": str(3 * 2**29), "/sys/fs/cgroup/a/b/memory.max": "max"}
    monkeypatch.setattr(limits, "ROOT", tree(tmp_path, "0::/a/b\n", V2_MOUNT.replace("{top}", "/"), files))
    assert limits.memory_limit() == 3 * 2**29
    assert machine.memory_gib() == 1.5


USERS = """
import json, os, sys, time
from pathlib import Path
from stream_sr.system import limits
if sys.argv[1]:
    limits.ROOT = Path(sys.argv[1])
    limits.limit_libraries()
folder = Path(sys.argv[2])

def threads():
    return len(os.listdir("/proc/self/task"))

found = {"cores": limits.cores()}
import numpy as np
found["OpenBLAS"] = threads() - 1
from fractions import Fraction
import av
from stream_sr.codec.deinterlace import Deinterlacer
from stream_sr.codec.encoder import Encoder
from stream_sr.codec.picture import picture_of
from stream_sr.codec.rgb import to_rgb
from stream_sr.codec.swscale import Scaler
from stream_sr.pipeline.engine import EngineOptions
from stream_sr.video.frame import Frame, StreamInfo
from stream_sr.video.planes import empty_planes
from stream_sr.pipeline.interfaces import EncoderOptions, SourceOptions
from stream_sr.inference.model import find_model
from stream_sr.sinks.web.sink import _JpegEncoder
from stream_sr.sources import open_source
from stream_sr.inference.backends.openvino.engine import open_model

held = []

def settled():
    # threads that last: the one that opened a file may still be ending
    numbers = [threads()]
    while len(numbers) < 20 or len(set(numbers[-20:])) > 1:
        time.sleep(0.005)
        numbers.append(threads())
    return numbers[-1]

def count(name, work):
    before = settled()
    held.append(work())
    found[name] = settled() - before

info = StreamInfo(1280, 720, Fraction(1, 25), Fraction(25))
planes = empty_planes(1280, 720)
for plane in planes:
    plane[...] = 100
frames = [Frame(planes, n, info.time_base, duration=1, number=n) for n in range(3)]

def encoder(live):
    made = Encoder(info, EncoderOptions(), live=live)
    for frame in frames:
        list(made.encode(frame))
    return made

def write():
    with av.open(str(folder / "film.mp4"), "w") as container:
        stream = container.add_stream("libx264", 25, width=1280, height=720)
        for frame in frames:
            container.mux(stream.encode(picture_of(frame.planes)))
        container.mux(stream.encode(None))

def read(name):
    source = open_source(str(folder / name), SourceOptions())
    list(source.frames())
    return source

count("encoder of a file", lambda: encoder(False))
count("encoder of a live picture", lambda: encoder(True))
write()
count("decoder", lambda: read("film.mp4"))
picture = picture_of(planes)
picture.pts = 0
def deinterlace():
    made = Deinterlacer(picture, info.time_base)
    list(made.put(picture, 0, None))
    return made
count("deinterlacer", deinterlace)
def scale():
    made = Scaler((1280, 720), (640, 360), 1)
    made(planes, empty_planes(640, 360))
    return made
count("scaler", scale)
from av.video.reformatter import VideoReformatter
keep = VideoReformatter()
count("RGB", lambda: to_rgb(frames[0], size=(640, 360), reformatter=keep))
def jpeg():
    made = _JpegEncoder(1280, 720)
    made.encode(frames[0])
    return made
count("JPEG", jpeg)
from stream_sr.sources.rtsp import _low_delay_decoder
found["RTSP decoder"] = _low_delay_decoder("h264").thread_count - 1
options = EngineOptions(backend="openvino", precision="fp32")
engine = open_model(find_model("tiny", 2), StreamInfo(64, 48, Fraction(1, 25)), options)
found["engine"] = int(engine.spec.device.split()[-2]) - 1
found["engine's library"] = int(engine._compiled[0].get_property("INFERENCE_NUM_THREADS")) - 1
from stream_sr.errors import ConfigError
from stream_sr.video.opencv import load_opencv
found["OpenCV"] = load_opencv("this", ConfigError).getNumThreads() - 1
print(json.dumps(found))
"""


@contextlib.contextmanager
def one_core(folder: Path) -> Iterator[tuple[str, Path | None]]:
    """A quota of one core: a real control group where one can be made, else files that say so.

    The root that `limits` is to read ("": the real one), and the file that takes the id of a process into the group.
    """
    for parent, files in (
        (Path("/sys/fs/cgroup/cpu"), {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "90000"}),
        (Path("/sys/fs/cgroup"), {"cpu.max": "90000 100000"}),
    ):
        group = parent / f"stream_sr_test_{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            for name, text in files.items():
                (group / name).write_text(text)
            yield "", group / "cgroup.procs"
            return
        except OSError:
            continue
        finally:
            group.rmdir()
    mounts = V2_MOUNT.replace("{top}", "/")
    yield str(tree(folder, "0::/\n", mounts, {"/sys/fs/cgroup/cpu.max": "90000 100000"})), None


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core: there is nothing to limit")
def test_everything_that_starts_threads_keeps_to_the_quota(tmp_path: Path) -> None:
    with one_core(tmp_path) as (root, procs):
        command = [sys.executable, "-c", USERS, root, str(tmp_path)]
        if procs is not None:
            command = ["sh", "-c", f'echo $$ > {procs}; exec "$@"', "sh", *command]
        environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
            env=environment | {"STREAM_SR_CACHE": str(tmp_path / "cache")},
        )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.pop("cores") == 1
    assert found == dict.fromkeys(found, 0), "threads besides the one that asks"
