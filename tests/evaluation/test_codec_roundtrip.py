"""A codec's losses are real, orderly and repeatable."""

from pathlib import Path

import numpy as np
import pytest
from media_files import test_picture as picture
from media_files import write_video

from stream_sr.errors import SourceOpenError
from stream_sr.evaluation.codec_roundtrip import h264_roundtrip, read_luma
from stream_sr.video.quality import psnr


def moving(count: int = 4) -> list[np.ndarray]:
    return [picture(n, 96, 64)[0] for n in range(count)]


def test_the_lower_the_quality_the_farther_from_the_truth() -> None:
    truth = moving()
    found = [
        np.mean([psnr(a, b) for a, b in zip(h264_roundtrip(truth, crf=crf), truth, strict=True)])
        for crf in (18, 28, 38)
    ]
    assert found == sorted(found, reverse=True)
    assert found[0] > 35


def test_frames_keep_their_number_order_and_bits() -> None:
    truth = moving(7)
    once, again = h264_roundtrip(truth, crf=20), h264_roundtrip(truth, crf=20)
    assert len(once) == 7
    assert all((a == b).all() for a, b in zip(once, again, strict=True))
    for n, decoded in enumerate(once):
        nearest = max(range(7), key=lambda other: psnr(decoded, truth[other]))
        assert psnr(decoded, truth[nearest]) == psnr(decoded, truth[n])
    with pytest.raises(ValueError, match="97x64 is odd"):
        h264_roundtrip([np.zeros((64, 97), np.uint8)], crf=20)


def test_films_are_read_as_they_are_coded(tmp_path: Path) -> None:
    path = tmp_path / "film.mkv"
    write_video(path, width=96, height=64, count=3, options={"qp": "0"})
    read = list(read_luma(path))
    assert all((a == b).all() for a, b in zip(read, moving(3), strict=True))
    write_video(tmp_path / "rgb.mkv", width=96, height=64, count=1, codec="ffv1", pix_fmt="yuv420p10le")
    with pytest.raises(SourceOpenError, match="yuv420p10le; convert it to 8-bit"):
        list(read_luma(tmp_path / "rgb.mkv"))
    with pytest.raises(SourceOpenError, match="cannot be read as a film"):
        list(read_luma(tmp_path / "none.mkv"))
