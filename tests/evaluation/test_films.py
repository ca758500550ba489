"""Films are measured as pictures are, and after a codec too."""

import json
from pathlib import Path

import numpy as np
import pytest
from media_files import write_video

from stream_sr.errors import ConfigError, SourceOpenError
from stream_sr.evaluation.codec_roundtrip import read_luma
from stream_sr.evaluation.contact_sheet import Example
from stream_sr.evaluation.films import evaluate_clip, format_clips, is_film
from stream_sr.inference.model import find_model
from stream_sr.pipeline.engine import EngineOptions
from stream_sr.video.quality import psnr
from stream_sr.video.resample import bicubic, make_pair, to_uint8

BICUBIC = EngineOptions(backend="bicubic")


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("films") / "film.mp4"
    write_video(path, width=130, height=98, count=6)
    return path


def test_the_bicubic_row_is_the_protocol(film: Path) -> None:
    shown: list[Example] = []
    row = evaluate_clip(None, film, BICUBIC, scale=2, show=shown.append)
    expected = []
    for plane in read_luma(film):
        low, truth = make_pair(plane[:96, :128].astype(np.float32), 2)
        expected.append(psnr(to_uint8(bicubic(low.astype(np.float32), truth.shape)), truth, border=2))
    assert row["bicubic"]["psnr_y"] == pytest.approx(np.mean(expected), abs=1e-3)
    assert row["psnr_y"] == pytest.approx(row["bicubic"]["psnr_y"], abs=0.2)  # swscale's bicubic
    assert row["flicker"] == pytest.approx(1, abs=0.05)
    assert (row["film"], row["frames"], row["crf"]) == ("film.mp4", 6, None)
    assert [one.name for one in shown] == ["film.mp4"]
    assert shown[0].truth.shape == (96, 128)


def test_a_codec_costs_more_the_coarser_it_is(film: Path) -> None:
    model = find_model("fsrcnn-s", 2)
    rows = [evaluate_clip(model, film, EngineOptions(precision="fp32"), crf=crf, frames=3) for crf in (None, 18, 40)]
    quality = [row["psnr_y"] for row in rows]
    assert quality == sorted(quality, reverse=True)
    assert rows[0]["frames"] == 3
    text = format_clips(rows)
    assert "film.mp4 CRF 18" in text
    assert f"{quality[2]:.2f}" in text


def test_what_is_a_film(film: Path, tmp_path: Path) -> None:
    assert is_film(film)
    assert not is_film(tmp_path)
    bad = tmp_path / "bad.mkv"
    bad.write_bytes(b"no film")
    with pytest.raises(SourceOpenError, match="cannot be read as a film"):
        evaluate_clip(None, bad, BICUBIC, scale=2)
    assert is_film(tmp_path / "missing.mkv")
    with pytest.raises(SourceOpenError, match="No such file"):
        evaluate_clip(None, tmp_path / "missing.mkv", BICUBIC, scale=2)


def write_levels(path: Path, pictures: list[np.ndarray]) -> Path:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = *pictures[0].shape, "gray"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "gray")))
        container.mux(stream.encode(None))
    return path


def test_the_black_before_a_film_counts_for_nothing(tmp_path: Path) -> None:
    random, black = np.random.default_rng(1), np.full((40, 48), 16, np.uint8)
    pictures = [np.kron(random.integers(0, 256, (10, 12)), np.ones((4, 4))).astype(np.uint8) for _ in range(3)]
    rows = [
        evaluate_clip(None, write_levels(tmp_path / f"{len(before)}.mkv", before + pictures), BICUBIC, scale=2)
        for before in ([], [black, black])
    ]
    for key in ("psnr_y", "ssim_y", "gradient_energy"):
        assert rows[0][key] == rows[1][key]
        assert rows[0]["bicubic"][key] == rows[1]["bicubic"][key]
    with pytest.raises(SourceOpenError, match="shows nothing"):
        evaluate_clip(None, write_levels(tmp_path / "black.mkv", [black] * 3), BICUBIC, scale=2)


def test_an_exact_film_has_no_psnr(tmp_path: Path) -> None:
    pictures = [np.full((48, 64), 80, np.uint8) for _ in range(4)]
    for n, picture in enumerate(pictures):
        picture[8:40, 8:56] = 90 + n
    exact = write_levels(tmp_path / "exact.mkv", pictures)
    row = evaluate_clip(None, exact, BICUBIC, scale=1, crf=0)
    assert row["psnr_y"] is None
    assert row["bicubic"]["psnr_y"] is None
    assert json.loads(json.dumps(row, allow_nan=False))["ssim_y"] == 1
    text = format_clips([row, row])
    assert text.count("exact") >= 4
    assert "inf" not in text


def test_a_truncated_film_is_not_measured_as_if_it_were_whole(tmp_path: Path) -> None:
    part = tmp_path / "part.mkv"
    write_video(part, width=130, height=98, count=30)
    content = part.read_bytes()
    part.write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(SourceOpenError, match=r"breaks off after (\d+) pictures") as told:
        evaluate_clip(None, part, BICUBIC, scale=2)
    count = int(str(told.value).rpartition(" ")[2])
    assert evaluate_clip(None, part, BICUBIC, scale=2, frames=count)["frames"] == count


def test_what_cannot_be_measured_is_told(film: Path, tmp_path: Path) -> None:
    small = write_levels(tmp_path / "small.mkv", [np.arange(256, dtype=np.uint8).reshape(16, 16)] * 3)
    assert evaluate_clip(None, small, BICUBIC, scale=2)["frames"] == 3
    with pytest.raises(SourceOpenError, match="is 16x16; to measure x4 a side needs at least 24 pixels"):
        evaluate_clip(None, small, BICUBIC, scale=4)
    with pytest.raises(SourceOpenError, match="has 1 pictures"):
        evaluate_clip(None, film, BICUBIC, scale=2, frames=1)
    with pytest.raises(ConfigError, match="give --crf"):
        evaluate_clip(None, film, BICUBIC, scale=1)
    assert evaluate_clip(None, film, BICUBIC, scale=1, crf=40)["psnr_y"] < 50
