"""Orientations against EXIF's words and FFmpeg's own matrices."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter
from media_files import display_matrix, test_picture, upright, write_video
from PIL import Image, ImageOps

from stream_sr.cli.main import main
from stream_sr.codec.picture import orientation_of, shown_size
from stream_sr.inference.resize import fit_into
from stream_sr.sinks.window import to_bgr
from stream_sr.video.color import ColorInfo
from stream_sr.video.frame import Frame, StreamInfo
from stream_sr.video.orientation import Orientation, from_matrix
from stream_sr.video.planes import read_only


@pytest.mark.parametrize("orientation", Orientation)
def test_pixels_and_matrix_are_those_of_exif(orientation: Orientation) -> None:
    pixels = np.arange(6 * 4 * 3, dtype=np.uint8).reshape(4, 6, 3)
    image = Image.fromarray(pixels)
    image.getexif()[0x0112] = int(orientation)
    assert np.array_equal(orientation.upright(pixels), np.asarray(ImageOps.exif_transpose(image)))
    assert np.array_equal(orientation.upright(pixels[:, :, 0]), upright(pixels[:, :, 0], orientation))
    assert orientation.upright(pixels).shape == ((6, 4, 3) if orientation.swaps_sides else (4, 6, 3))
    assert list(orientation.matrix) == display_matrix(orientation)


@pytest.mark.parametrize("orientation", Orientation)
def test_a_matrix_with_scale_translation_and_rounding_is_read(orientation: Orientation) -> None:
    cells = [2 * cell for cell in orientation.matrix[:8]]
    for index in (0, 1, 3, 4):
        cells[index] += 3 if cells[index] == 0 else -7
    cells[6], cells[7] = 640 << 16, 480 << 16
    assert from_matrix([*cells, 1 << 30]) == orientation


@pytest.mark.parametrize("cells", [(0, 0, 0, 0), (46341, 46341, -46341, 46341), (65536, 20000, 0, 65536), (1, 0, 1, 0)])
def test_a_matrix_that_is_no_quarter_turn_is_none(cells: tuple[int, int, int, int]) -> None:
    a, b, c, d = cells
    assert from_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30]) is None


def test_words() -> None:
    assert [str(orientation) for orientation in (Orientation(1), Orientation(2), Orientation(6), Orientation(7))] == [
        "upright",
        "mirrored",
        "turned by 90 degrees",
        "mirrored and turned by 90 degrees",
    ]


@pytest.mark.parametrize("ending", ["mp4", "mov", "mkv"])
@pytest.mark.parametrize("orientation", Orientation)
def test_a_run_keeps_every_orientation(tmp_path: Path, orientation: Orientation, ending: str) -> None:
    before, after = tmp_path / f"in.{ending}", tmp_path / f"out.{ending}"
    write_video(before, orientation=orientation, count=3)
    assert main(["run", str(before), str(after), "--backend", "bicubic", "--encoder-preset", "ultrafast"]) == 0
    with av.open(str(after)) as container:
        picture = next(container.decode(video=0))
    assert orientation_of(picture) == orientation
    assert (picture.width, picture.height) == (128, 96)
    data: Any = picture.side_data.get("DISPLAYMATRIX")
    assert orientation == Orientation.UPRIGHT or np.frombuffer(data, np.int32).tolist() == display_matrix(orientation)


@pytest.mark.parametrize("size", [(32, 24), (33, 23)], ids=str)
@pytest.mark.parametrize("orientation", Orientation)
def test_the_window_shows_the_picture_upright(orientation: Orientation, size: tuple[int, int]) -> None:
    frame = Frame(read_only(test_picture(0, *size)), 0, Fraction(1, 25), color=ColorInfo(6, 1, 6, 6))
    plain = to_bgr(frame, Orientation.UPRIGHT, VideoReformatter())
    shown = to_bgr(frame, orientation, VideoReformatter())
    assert np.array_equal(shown, upright(plain, orientation))
    assert shown.flags.c_contiguous
    assert shown.shape[1::-1] == shown_size(StreamInfo(*size, Fraction(1, 25), orientation=orientation))


@pytest.mark.parametrize("orientation", Orientation)
def test_a_size_is_that_of_the_upright_picture(orientation: Orientation) -> None:
    info = StreamInfo(64, 48, Fraction(1, 25), orientation=orientation)
    assert fit_into(info, (96, 128)) == ((128, 96) if orientation.swaps_sides else (96, 72))
