"""Runs in the guest of run.sh, where /dev/video0 is a real device: the webcam source as users meet it."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from itertools import islice, pairwise
from pathlib import Path

import av

from stream_sr.errors import SourceOpenError
from stream_sr.pipeline.interfaces import SourceOptions
from stream_sr.sources import open_source

DEVICE = "/dev/video0"
FILTER = [sys.executable, "-m", "stream_sr", "run", "0"]
SMALL = ["--capture-size", "320x180", "--backend", "bicubic"]
QUERY, SET = 0xC0445624, 0xC008561C  # VIDIOC_QUERYCTRL, VIDIOC_S_CTRL
NEXT = 0x80000000  # V4L2_CTRL_FLAG_NEXT_CTRL


class Query(ctypes.Structure):
    _fields_ = (
        ("id", ctypes.c_uint32),
        ("type", ctypes.c_uint32),
        ("name", ctypes.c_char * 32),
        ("numbers", ctypes.c_int32 * 4),
        ("flags", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32 * 2),
    )


def pull_out() -> None:
    """What vivid offers in place of a hand that pulls the plug."""
    descriptor = os.open(DEVICE, os.O_RDWR)
    query = Query(id=NEXT)
    while b"Disconnect" not in query.name:
        fcntl.ioctl(descriptor, QUERY, query)
        found = query.id
        query.id |= NEXT
    fcntl.ioctl(descriptor, SET, found.to_bytes(4, sys.byteorder) + (1).to_bytes(4, sys.byteorder))
    os.close(descriptor)


def pictures_come() -> str:
    with closing(open_source("0", SourceOptions(capture_size=(320, 180)))) as source:
        frames = list(islice(source.frames(), 15))
    assert all((frame.width, frame.height) == (320, 180) for frame in frames)
    assert all(a.pts < b.pts for a, b in pairwise(frames))
    assert any((a.planes[0] != b.planes[0]).any() for a, b in pairwise(frames)), "the picture does not move"
    return f"{len(frames)} pictures of {source.info.name}, {float(source.info.fps or 0):g} fps"


def a_size_that_it_has_not_is_refused() -> str:
    try:
        open_source("0", SourceOptions(capture_size=(123, 45))).close()
    except SourceOpenError as error:
        return str(error)
    raise AssertionError("123x45 was taken")


def the_program_records_it() -> str:
    out = Path("/run/out.mkv")
    done = subprocess.run([*FILTER, str(out), *SMALL, "--duration", "2"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with av.open(str(out)) as container:
        pictures = [(picture.width, picture.height) for picture in container.decode(video=0)]
    assert len(pictures) > 5
    assert set(pictures) == {(640, 360)}
    return done.stderr.strip().splitlines()[-1]


def ctrl_c_ends_it() -> str:
    process = subprocess.Popen([*FILTER, "/run/stopped.mkv", *SMALL], stderr=subprocess.PIPE, text=True)
    until_it_grows(Path("/run/stopped.mkv"))
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    return said.strip().splitlines()[-1]


def a_camera_that_is_pulled_out_is_said() -> str:
    out = Path("/run/pulled.mkv")
    words = [*FILTER, str(out), *SMALL, "--reconnect", "0"]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    until_it_grows(out)
    pull_out()
    began = time.monotonic()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 3, said
    assert "camera 0 was unplugged" in said, said
    with av.open(str(out)) as container:
        assert sum(1 for _ in container.decode(video=0)) > 0
    return f"after {time.monotonic() - began:.1f} s: {said.strip().splitlines()[-1]}"


def until_it_grows(path: Path) -> None:
    deadline = time.monotonic() + 90
    while not (path.exists() and path.stat().st_size > 5000):
        assert time.monotonic() < deadline, f"nothing came into {path}"
        time.sleep(0.05)


def main() -> int:
    failed = 0
    for check in (
        pictures_come,
        a_size_that_it_has_not_is_refused,
        the_program_records_it,
        ctrl_c_ends_it,
        a_camera_that_is_pulled_out_is_said,
    ):
        try:
            said, verdict = check(), "ok"
        except Exception as error:
            said, verdict, failed = repr(error), "FAILED", failed + 1
        print(f"{verdict}  {check.__name__.replace('_', ' ')}: {said}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
