"""Device files of cameras: whether one is still there."""

import errno
import os
import sys

import pytest

from stream_sr.system.video_devices import is_present


@pytest.mark.skipif(sys.platform != "linux", reason="device files are Linux's")
@pytest.mark.parametrize(
    ("code", "there"), [(errno.ENOENT, False), (errno.ENODEV, False), (errno.EBUSY, True), (errno.EACCES, True)]
)
def test_whether_a_camera_is_still_there(monkeypatch: pytest.MonkeyPatch, code: int, there: bool) -> None:
    def refuse(path: str, flags: int) -> int:
        raise OSError(code, os.strerror(code), path)

    monkeypatch.setattr("os.open", refuse)
    assert is_present(0) is there
