import itertools
from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from media_files import video_frame

from stream_sr.video import barcode
from stream_sr.video.planes import Plane


def picture(width: int = 640, height: int = 360, seed: int = 1) -> Plane:
    return np.random.default_rng(seed).integers(16, 236, (height, width), dtype=np.uint8)


def enlarged(luma: Plane, scale: int) -> Plane:
    grey = av.VideoFrame.from_ndarray(luma, "gray")
    large = grey.reformat(luma.shape[1] * scale, luma.shape[0] * scale, "gray", interpolation="BICUBIC")
    result: Plane = np.asarray(large.to_ndarray(), np.uint8)
    return result


def through_x264(luma: Plane, crf: int) -> Plane:
    """The picture after a lossy intra encode."""
    height, width = luma.shape
    grey = np.full(((height + 1) // 2, (width + 1) // 2), 128, np.uint8)
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
    encoder.time_base, encoder.options = Fraction(1, 25), {"crf": str(crf), "preset": "ultrafast"}
    packets = [*encoder.encode(video_frame((luma, grey, grey))), *encoder.encode(None)]
    decoder = av.CodecContext.create("h264", "r")
    frames = list(itertools.chain.from_iterable(decoder.decode(packet) for packet in [*packets, None]))
    luma = np.frombuffer(frames[0].planes[0], np.uint8)  # type: ignore[call-overload]
    result: Plane = luma.reshape(-1, frames[0].planes[0].line_size)[:height, :width]
    return result


@given(
    sequence=st.integers(0, 2**20),
    clock_ns=st.integers(0, 2**62),
    width=st.integers(64, 900),
    height=st.integers(90, 500),
)
@settings(max_examples=60, deadline=None)
def test_reads_what_was_burnt_at_any_size(sequence: int, clock_ns: int, width: int, height: int) -> None:
    luma = picture(width, height)
    barcode.burn(luma, sequence, clock_ns)
    assert barcode.read(luma) == barcode.Reading(sequence % 65536, clock_ns // 100_000 % 2**32)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("size", [(640, 360), (128, 96), (322, 182), (854, 480)])
def test_survives_enlarging_and_x264(scale: int, size: tuple[int, int]) -> None:
    luma = picture(*size)
    barcode.burn(luma, 4711, 123_456_789_000_000)
    large = through_x264(enlarged(through_x264(luma, 28), scale), 28)
    assert barcode.read(large) == barcode.Reading(4711, 1_234_567_890)


def test_a_picture_without_barcode_gives_none() -> None:
    assert all(barcode.read(picture(seed=seed)) is None for seed in range(50))
    assert barcode.read(np.full((360, 640), 80, np.uint8)) is None
    assert barcode.read(np.zeros((8, 8), np.uint8)) is None


def test_a_damaged_cell_is_noticed() -> None:
    luma = picture()
    barcode.burn(luma, 5, 0)
    rows = barcode.rows_used(360) // 2
    for column in range(32):
        damaged = luma.copy()
        cell = damaged[:rows, column * 20 : (column + 1) * 20]
        cell[:] = 251 - cell
        assert barcode.read(damaged) is None


def test_only_the_top_is_covered() -> None:
    before = picture()
    luma = before.copy()
    barcode.burn(luma, 1, 1)
    assert barcode.rows_used(360) == 16
    assert np.array_equal(luma[16:], before[16:])


def test_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="64x90 at least"):
        barcode.burn(np.zeros((89, 64), np.uint8), 0, 0)


def test_age_counts_across_the_wrap_of_the_clock() -> None:
    luma = picture()
    wrap_ns = (1 << 32) * barcode.UNIT_NS
    barcode.burn(luma, 0, wrap_ns - 3 * barcode.UNIT_NS)
    reading = barcode.read(luma)
    assert reading is not None
    assert reading.age_ns(wrap_ns + 5 * barcode.UNIT_NS) == 8 * barcode.UNIT_NS
    assert reading.age_ns(wrap_ns - 5 * barcode.UNIT_NS) == -2 * barcode.UNIT_NS
