"""The virtual camera: what is refused, and the pictures as they would go into the device."""

from __future__ import annotations

import os
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from media_files import upright

from stream_sr.errors import ConfigError, SinkOpenError, SinkWriteError
from stream_sr.pipeline.interfaces import SinkOptions
from stream_sr.sinks import open_sink
from stream_sr.sinks.v4l2 import V4l2Sink, upright_size
from stream_sr.video.color import ColorInfo, Matrix, Range, Siting
from stream_sr.video.frame import Frame, StreamInfo
from stream_sr.video.orientation import Orientation
from stream_sr.video.planes import chroma_shape, read_only

LIMITED = ColorInfo(Matrix.BT709, Range.LIMITED, siting=Siting.LEFT)
INFO = StreamInfo(64, 48, Fraction(1, 25), Fraction(25), color=LIMITED)


class IntoFile(V4l2Sink):
    """The same with FFmpeg's muxer that writes into any file."""

    muxer = "rawvideo"


def noise(width: int, height: int, seed: int = 1) -> Frame:
    random = np.random.default_rng(seed)
    rows, columns = chroma_shape(width, height)
    y, u, v = (random.integers(20, 230, shape).astype(np.uint8) for shape in ((height, width), *2 * [(rows, columns)]))
    return Frame(read_only((y, u, v)), pts=0, time_base=INFO.time_base, color=LIMITED)


def written(path: Path, info: StreamInfo, *frames: Frame) -> list[list[np.ndarray]]:
    """The planes of each picture that came out."""
    sink = IntoFile(f"v4l2:{path}")
    sink.open(info)
    for frame in frames:
        assert sink.write(frame)
    sink.close()
    sink.close()
    with pytest.raises(SinkWriteError, match="not open"):
        sink.write(frames[0])
    width, height = upright_size(info)
    data = np.frombuffer(path.read_bytes(), np.uint8).reshape(len(frames), -1)
    luma, chroma = width * height, width * height // 4
    return [
        [
            one[:luma].reshape(height, width),
            one[luma : luma + chroma].reshape(height // 2, width // 2),
            one[luma + chroma :].reshape(height // 2, width // 2),
        ]
        for one in data
    ]


def test_pictures_go_in_as_they_are(tmp_path: Path) -> None:
    frames = [noise(64, 48, seed) for seed in range(3)]
    for frame, planes in zip(frames, written(tmp_path / "out", INFO, *frames), strict=True):
        assert all((got == want).all() for got, want in zip(planes, frame.planes, strict=True))


@pytest.mark.parametrize("orientation", Orientation)
@pytest.mark.parametrize("size", [(64, 48), (65, 49)], ids=str)
def test_pictures_are_upright(tmp_path: Path, orientation: Orientation, size: tuple[int, int]) -> None:
    frame = noise(*size)
    ((y, u, _),) = written(tmp_path / "out", replace(INFO.scaled(*size), orientation=orientation), frame)
    assert (y == upright(frame.planes[0][:48, :64], orientation)).all()
    assert (u == upright(frame.planes[1][:24, :32], orientation)).all()


def test_pixels_are_square_and_the_range_is_limited(tmp_path: Path) -> None:
    full = replace(LIMITED, range=Range.FULL)
    frame = noise(64, 48)
    for plane in frame.planes:
        plane.flags.writeable = True
    frame.planes[0][:] = 255
    frame = replace(frame, color=full, sample_aspect=Fraction(3, 2))
    ((y, _, _),) = written(tmp_path / "out", replace(INFO, sample_aspect=Fraction(3, 2), color=full), frame)
    assert y.shape == (48, 96)
    assert np.abs(y.astype(int) - 235).max() <= 1


def test_what_is_no_device_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for address, words in (
        ("v4l2:/dev/video987", "no such device; make a virtual camera: sudo modprobe v4l2loopback"),
        (f"v4l2:{tmp_path / 'file'}", "is no device"),
        (f"v4l2:{os.devnull}", "is no video device"),
        ("v4l2:video0", "names no device"),
        ("v4l2:", "names no device"),
    ):
        with pytest.raises((SinkOpenError, ConfigError), match=words) as caught:
            open_sink(address, SinkOptions())
        assert "\n" not in str(caught.value)
