"""The webcam without a webcam: a double of OpenCV's capture, and a real one that reads a file."""

from __future__ import annotations

import importlib.abc
import itertools
import sys
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from stream_sr.errors import SourceLost, SourceOpenError
from stream_sr.pipeline.interfaces import SourceOptions
from stream_sr.sources import open_source, webcam
from stream_sr.sources.webcam import CameraClock, CameraSource, device_of

NS = 1_000_000_000
PROPERTIES = ("FOURCC", "FRAME_WIDTH", "FRAME_HEIGHT", "FPS", "POS_MSEC")
CV2 = SimpleNamespace(
    **{f"CAP_PROP_{name}": name for name in PROPERTIES},
    VideoWriter_fourcc=lambda *letters: sum(ord(letter) << 8 * i for i, letter in enumerate(letters)),
)


class Capture:
    """Gives ``count`` red pictures, then nothing; takes only 640x480 and 320x240, YUYV."""

    def __init__(self, count: int, opened: bool = True) -> None:
        self.count, self.opened, self.released = count, opened, 0
        self.values: dict[Any, float] = {
            "FOURCC": CV2.VideoWriter_fourcc(*"YUYV"),
            "FRAME_WIDTH": 640,
            "FRAME_HEIGHT": 480,
            "FPS": 30,
            "POS_MSEC": 0,
        }

    def isOpened(self) -> bool:
        return self.opened

    def get(self, name: str) -> float:
        return self.values[name]

    def set(self, name: str, value: float) -> bool:
        if name == "FRAME_WIDTH" and value == 320:
            self.values["FRAME_WIDTH"], self.values["FRAME_HEIGHT"] = 320, 240
        return True

    def grab(self) -> bool:
        self.count -= 1
        return self.count >= 0

    def retrieve(self) -> tuple[bool, Any]:
        picture = np.zeros((int(self.values["FRAME_HEIGHT"]), int(self.values["FRAME_WIDTH"]), 3), np.uint8)
        picture[..., 2] = 255
        return True, picture

    def release(self) -> None:
        self.released += 1


@pytest.fixture(autouse=True)
def cv2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webcam, "load_opencv", lambda *_: CV2)
    monkeypatch.setattr(webcam, "is_present", lambda number: True)


def opened(capture: Capture, **options: Any) -> CameraSource:
    return CameraSource("0", SourceOptions(**({"read_timeout": 0.2} | options)), open_capture=lambda device: capture)


def test_bgr_becomes_limited_yuv_of_bt601() -> None:
    source = opened(Capture(2))
    frame = next(source.frames())
    assert (source.info.width, source.info.height, source.info.fps) == (640, 480, 30)  # type: ignore[comparison-overlap]
    assert source.info.live
    got = [int(plane[10, 10]) for plane in frame.planes]
    assert np.allclose(got, (81.5, 90.2, 240), atol=1)  # red in BT.601-7, limited range
    source.close()


def test_a_camera_that_gives_nothing_any_more_is_lost() -> None:
    source = opened(Capture(3))
    numbers = []
    with pytest.raises(SourceLost, match=r"gave nothing for 0.2 s"):
        for frame in source.frames():
            numbers.append(frame.number)
    assert numbers == [0, 1, 2]
    assert source.counters()["empty_reads"] > 0


def test_a_camera_that_is_pulled_out_is_lost_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    source = opened(Capture(1), read_timeout=60)
    monkeypatch.setattr(webcam, "is_present", lambda number: False)
    with pytest.raises(SourceLost, match="was unplugged"):
        list(source.frames())


def test_a_camera_in_use() -> None:
    capture = Capture(1, opened=False)
    with pytest.raises(SourceOpenError, match="is another program using it"):
        opened(capture)
    assert capture.released


def test_a_camera_without_a_picture() -> None:
    with pytest.raises(SourceOpenError, match="gives no picture"):
        opened(Capture(0))


def test_settings_that_the_camera_takes() -> None:
    source = opened(Capture(2), capture_size=(320, 240), capture_fps=30, fourcc="YUYV")
    assert (source.info.width, source.info.height) == (320, 240)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"capture_size": (1920, 1080)}, r"--capture-size 1920x1080: the camera gives 640x480 at 30 fps as YUYV"),
        ({"capture_fps": 60.0}, r"--capture-fps 60: the camera gives"),
        ({"fourcc": "MJPG"}, r"--fourcc MJPG: the camera gives"),
    ],
)
def test_settings_that_it_does_not_take_are_refused_with_what_it_gives(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SourceOpenError, match=message):
        opened(Capture(2), **options)


def test_no_such_camera() -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("device files are Linux's")
    with pytest.raises(SourceOpenError, match=r"^no such camera: /dev/video77 "):
        open_source("77")
    with pytest.raises(SourceOpenError, match=r"^no such camera: /dev/video-x "):
        open_source("/dev/video-x")


@pytest.mark.parametrize(
    ("reason", "message"),
    [
        ("libGL.so.1: cannot open shared object file", r"needs libGL.so.1: apt-get install libgl1"),
        ("No module named 'cv2'", r"pip install opencv-python"),
    ],
)
def test_opencv_that_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch, reason: str, message: str) -> None:
    class Refusing(importlib.abc.MetaPathFinder):
        def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> None:
            if name == "cv2":
                raise ImportError(reason)

    monkeypatch.undo()
    monkeypatch.delitem(sys.modules, "cv2", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Refusing(), *sys.meta_path])
    with pytest.raises(SourceOpenError, match=message):
        CameraSource("0", open_capture=lambda device: Capture(1))


def test_devices() -> None:
    assert device_of("0") == device_of("/dev/video0") == 0
    assert device_of("/dev/video-front") == "/dev/video-front"


# Time stamps


def test_the_drivers_stamps_are_taken_while_they_are_sane() -> None:
    clock = CameraClock()
    captured = [1000 * NS + i * NS // 30 for i in range(5)]
    jitter = (1, 9, 2, 7, 3)  # ms until we fetch it
    stamps = [clock.stamp(at, at + late * 1_000_000) for at, late in zip(captured, jitter, strict=True)]
    assert [pts for pts, _ in stamps] == [i * NS // 30 // 1000 for i in range(5)]
    assert [at for _, at in stamps] == captured


@pytest.mark.parametrize("driver", [lambda i: 0, lambda i: i * 40_000_000_000, lambda i: -1])
def test_insane_stamps_give_way_to_the_clock(driver: Any) -> None:
    clock = CameraClock()
    stamps = [clock.stamp(driver(i), 5 * NS + i * NS // 10) for i in range(20)]
    assert all(a < b for (a, _), (b, _) in itertools.pairwise(stamps))
    assert not clock.trusted
    assert stamps[-1] == (1_900_000, 5 * NS + 19 * NS // 10)
