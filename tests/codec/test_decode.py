from typing import Any

import av
import numpy as np
import pytest
from media_files import test_picture, video_frame

from stream_sr.codec.decode import FrameReader, check_format, color_of
from stream_sr.errors import DecodeError
from stream_sr.video.color import Matrix, Range, Siting
from stream_sr.video.frame_pool import FramePool
from stream_sr.video.planes import Plane, chroma_shape

WIDTH, HEIGHT = 65, 47
EIGHT_BITS = [
    *("yuv420p", "yuvj420p", "yuva420p", "nv12", "nv21", "gray", "ya8"),
    *(
        "yuv422p",
        "yuvj422p",
        "yuv444p",
        "yuvj444p",
        "yuyv422",
        "uyvy422",
        "nv16",
        "nv24",
        "yuv411p",
        "yuv410p",
        "yuv440p",
    ),
    *("rgb24", "bgr24", "rgba", "bgra", "bgr0", "gbrp", "rgb565le", "pal8", "monow", "monob"),
]


def noise(fmt: str, seed: int = 0, width: int = WIDTH, height: int = HEIGHT) -> av.VideoFrame:
    frame = av.VideoFrame(width, height, fmt)
    rng = np.random.default_rng(seed)
    for plane in frame.planes:
        plane.update(rng.integers(0, 256, plane.buffer_size, dtype=np.uint8).tobytes())
    return frame


def flat(fmt: str, values: tuple[int, ...], width: int = 64, height: int = 48) -> av.VideoFrame:
    frame = av.VideoFrame(width, height, fmt)
    for plane, value in zip(frame.planes, values, strict=True):
        plane.update(bytes([value]) * plane.buffer_size)
    return frame


def samples(frame: av.VideoFrame, index: int) -> Plane:
    plane = frame.planes[index]
    rows: Plane = np.frombuffer(plane, np.uint8)  # type: ignore[call-overload]
    return rows.reshape(-1, plane.line_size)[: plane.height, : plane.width]


@pytest.mark.parametrize("fmt", EIGHT_BITS)
def test_every_8_bit_format_gives_420_planes_of_the_right_shape(fmt: str) -> None:
    planes, slot = FrameReader().read(noise(fmt))
    assert slot is None
    assert [plane.shape for plane in planes] == [
        (HEIGHT, WIDTH),
        chroma_shape(WIDTH, HEIGHT),
        chroma_shape(WIDTH, HEIGHT),
    ]
    assert all(plane.dtype == np.uint8 and not plane.flags.writeable for plane in planes)


@pytest.mark.parametrize("fmt", ["yuv420p", "yuvj420p", "yuva420p"])
def test_planar_420_is_copied_as_it_is(fmt: str) -> None:
    frame = noise(fmt)
    planes, _ = FrameReader().read(frame)
    assert all(np.array_equal(plane, samples(frame, i)) for i, plane in enumerate(planes))


@pytest.mark.parametrize(("fmt", "u_at"), [("nv12", 0), ("nv21", 1)])
def test_semiplanar_is_taken_apart(fmt: str, u_at: int) -> None:
    frame = noise(fmt, width=64, height=48)
    planes, _ = FrameReader().read(frame)
    pairs: Plane = np.frombuffer(frame.planes[1], np.uint8).reshape(24, -1)[:, :64]  # type: ignore[call-overload]
    assert np.array_equal(planes[1], pairs[:, u_at::2])
    assert np.array_equal(planes[2], pairs[:, 1 - u_at :: 2])


@pytest.mark.parametrize("fmt", ["gray", "ya8"])
def test_grey_keeps_its_values(fmt: str) -> None:
    frame = noise(fmt, width=64)
    luma, u, v = FrameReader().read(frame)[0]
    step = 2 if fmt == "ya8" else 1
    rows: Plane = np.frombuffer(frame.planes[0], np.uint8)  # type: ignore[call-overload]
    assert np.array_equal(luma, rows.reshape(HEIGHT, -1)[:, : 64 * step : step])
    assert (u == 128).all()
    assert (v == 128).all()


@pytest.mark.parametrize("color_range", [Range.LIMITED, Range.FULL])
@pytest.mark.parametrize("matrix", [1, 2, 5, 8, 9])
@pytest.mark.parametrize("fmt", ["yuv422p", "yuv444p", "yuv411p"])
def test_other_yuv_keeps_its_values_whatever_matrix_and_range(fmt: str, matrix: int, color_range: int) -> None:
    frame = flat(fmt, (250, 7, 240))
    frame.colorspace, frame.color_range = matrix, color_range
    planes, _ = FrameReader().read(frame)
    assert [set(np.unique(plane).tolist()) for plane in planes] == [{250}, {7}, {240}]
    assert (color_of(frame).matrix, color_of(frame).range) == (matrix, color_range)


@pytest.mark.parametrize("fmt", ["rgb24", "bgr24"])
@pytest.mark.parametrize(
    ("size", "matrix", "kr", "kb"),
    [((640, 480), Matrix.SMPTE170M, 0.299, 0.114), ((1280, 720), Matrix.BT709, 0.2126, 0.0722)],
)
def test_rgb_becomes_limited_yuv_with_the_matrix_of_its_size(
    fmt: str, size: tuple[int, int], matrix: int, kr: float, kb: float
) -> None:
    """BT.601-7 and BT.709-6: Y' = 16 + 219 E'Y, C' = 128 + 224 E'C."""
    for rgb in ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (10, 200, 90)):
        array = np.empty((size[1], size[0], 3), np.uint8)
        array[:] = rgb if fmt == "rgb24" else rgb[::-1]
        frame = av.VideoFrame.from_ndarray(array, fmt)
        planes, _ = FrameReader().read(frame)
        r, g, b = (value / 255 for value in rgb)
        y = kr * r + (1 - kr - kb) * g + kb * b
        expected = (16 + 219 * y, 128 + 112 * (b - y) / (1 - kb), 128 + 112 * (r - y) / (1 - kr))
        got = [int(plane[5, 5]) for plane in planes]
        assert np.allclose(got, expected, atol=1.01)
        assert color_of(frame).matrix == matrix
        assert color_of(frame).range == Range.LIMITED


def test_chroma_of_rgb_is_centred_and_says_so() -> None:
    ramp = np.full((16, 64, 3), 128, np.uint8)
    ramp[..., 0] = np.arange(64) * 4
    frame = av.VideoFrame.from_ndarray(ramp, "rgb24")
    v = FrameReader().read(frame)[0][2]
    r = ramp[0, :, 0] / 255
    full = 128 + 112 * (r - (0.299 * r + 0.701 * 128 / 255)) / 0.701
    centred = (full[0::2] + full[1::2]) / 2
    assert np.abs(v[4, 4:-4] - centred[4:-4]).max() < np.abs(v[4, 4:-4] - full[0::2][4:-4]).max()
    assert np.abs(v[4, 4:-4] - centred[4:-4]).max() <= 1
    assert color_of(frame).siting == Siting.CENTER


@pytest.mark.parametrize(
    ("fmt", "codec", "siting"),
    [
        ("yuv420p", "h264", Siting.UNKNOWN),
        ("yuvj420p", "h264", Siting.UNKNOWN),
        ("yuvj420p", "mjpeg", Siting.CENTER),
        ("yuvj422p", "mjpeg", Siting.CENTER),
        ("yuv422p", "h264", Siting.UNKNOWN),
        ("yuv444p", "h264", Siting.CENTER),
    ],
)
def test_siting(fmt: str, codec: str, siting: Siting) -> None:
    assert FrameReader(codec=codec).color(noise(fmt)).siting == siting


def test_color_says_what_the_frame_says_and_unknown_stays_unknown() -> None:
    frame = noise("yuv420p")
    assert color_of(frame).matrix == Matrix.UNKNOWN
    assert color_of(frame).range == Range.UNKNOWN
    assert color_of(noise("yuvj420p")).range == Range.FULL
    frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc = 9, 2, 9, 14
    color = color_of(frame)
    assert (color.matrix, color.range, color.primaries, color.transfer) == (9, 2, 9, 14)


def test_color_of_a_decoder() -> None:
    context: Any = av.CodecContext.create("h264", "r")
    context.colorspace, context.color_range = 1, 1
    assert (color_of(context).matrix, color_of(context).range) == (1, 1)


@pytest.mark.parametrize("fmt", ["yuv420p10le", "p010le", "gray16le", "rgb48le", "yuv422p12le"])
def test_more_than_8_bits_is_refused_with_the_way_out(fmt: str) -> None:
    with pytest.raises(DecodeError, match=rf"bit video \({fmt}\) is not supported yet; convert .* -pix_fmt yuv420p"):
        check_format(av.VideoFormat(fmt))


def test_device_memory_is_refused() -> None:
    with pytest.raises(DecodeError, match="cuda"):
        check_format(av.VideoFormat("cuda"))


def test_a_leased_slot_is_filled_and_held_once() -> None:
    pool = FramePool(WIDTH, HEIGHT, 1, poison=True)
    frame = video_frame(test_picture(0, WIDTH, HEIGHT))
    planes, slot = FrameReader().read(frame, pool)
    assert slot is not None
    assert pool.held == 1
    assert all(np.shares_memory(plane, slot.buffer) for plane in planes)
    assert all(np.array_equal(*pair) for pair in zip(planes, test_picture(0, WIDTH, HEIGHT), strict=True))
    slot.release()
    assert pool.held == 0


def test_planes_do_not_follow_the_picture() -> None:
    frame = flat("yuv420p", (10, 20, 30))
    planes, _ = FrameReader().read(frame)
    frame.planes[0].update(bytes([99]) * frame.planes[0].buffer_size)
    assert planes[0][0, 0] == 10


def test_a_failure_gives_the_slot_back(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = FramePool(WIDTH, HEIGHT, 1)
    reader = FrameReader()
    monkeypatch.setattr(reader, "_fill", lambda planes, picture: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        reader.read(noise("yuv420p"), pool)
    assert pool.held == 0


def test_another_size_names_both() -> None:
    reader = FrameReader()
    reader.read(noise("yuv420p", width=64, height=48))
    with pytest.raises(DecodeError, match=r"from 64x48 to 32x48"):
        reader.read(noise("yuv420p", width=32, height=48))


def test_a_pool_of_another_size_is_refused() -> None:
    with pytest.raises(DecodeError, match="pool holds 32x32"):
        FrameReader().read(noise("yuv420p"), FramePool(32, 32, 1))
