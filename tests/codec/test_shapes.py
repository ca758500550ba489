"""Every size through every output: each decoded plane is the engine's plane, sample by sample where nothing is lost.

The engine's result lies in a slot, as in a run, so that outputs take it where it lies.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from media_files import test_picture
from PIL import Image

from stream_sr.cli.main import main
from stream_sr.codec.encoder import Encoder
from stream_sr.codec.picture import check_picture, expect, fill, picture_in_place, picture_planes
from stream_sr.codec.rgb import to_rgb
from stream_sr.codec.side_by_side import SideBySide
from stream_sr.codec.swscale import Scaler
from stream_sr.errors import EngineRunError, PictureShapeError, SinkWriteError, SourceLost
from stream_sr.inference.backends.bicubic import open_scale
from stream_sr.inference.resize import ResizeEngine, fit_into
from stream_sr.pipeline.engine import EngineOptions
from stream_sr.pipeline.interfaces import EncoderOptions, SinkOptions, SourceOptions
from stream_sr.pipeline.packets import Packet
from stream_sr.sinks.file import FileSink
from stream_sr.sinks.record import RecordSink
from stream_sr.sinks.rtsp_server import RtspServerSink
from stream_sr.sinks.web.sink import _JpegEncoder
from stream_sr.sinks.window import to_bgr
from stream_sr.sinks.y4m import Y4mSink
from stream_sr.sources import open_source, rtsp
from stream_sr.sources.rtsp import open_rtsp
from stream_sr.video.color import ColorInfo, Matrix, Range, Siting
from stream_sr.video.frame import Frame, StreamInfo
from stream_sr.video.frame_pool import FramePool
from stream_sr.video.orientation import Orientation
from stream_sr.video.planes import Plane, empty_planes, read_only
from stream_sr.video.quality import psnr

pytestmark = pytest.mark.long

BASE = Fraction(1, 25)
FULL = ColorInfo(Matrix.SMPTE170M, Range.FULL, 6, 6, Siting.CENTER)  # nothing is stretched on the way to the page
LOSSLESS = EncoderOptions(crf=0, preset="ultrafast")
COUNT = 2


@dataclass(frozen=True)
class Size:
    """The size of an input, and how it is enlarged: by a factor, or into a box."""

    width: int
    height: int
    scale: int = 1
    box: tuple[int, int] | None = None

    def __str__(self) -> str:
        return f"{self.width}x{self.height}" + (f"-{self.box[0]}x{self.box[1]}" if self.box else f"x{self.scale}")


def results(size: Size) -> tuple[StreamInfo, list[Frame]]:
    """What the engine makes of a few pictures, each in its slot and with its source; and the stream of them."""
    info = StreamInfo(size.width, size.height, BASE, Fraction(25), color=FULL)
    engine = open_scale(size.scale, info, EngineOptions())
    if size.box is not None:
        engine = ResizeEngine(engine, fit_into(info, size.box), info)
    width, height = engine.spec.output_size
    pool, made = FramePool(width, height, COUNT), []
    for number in range(COUNT):
        planes = read_only(test_picture(number, size.width, size.height))
        frame = Frame(planes, pts=number, time_base=BASE, duration=1, number=number, color=FULL)
        made.append(replace(engine.submit(frame, pool.lease()).wait(), source=frame))
    engine.close()
    return info.scaled(width, height), made


def even(planes: Sequence[Plane]) -> list[Plane]:
    """What H.264 keeps of the planes: an odd last column and row are cut."""
    height, width = (side // 2 for side in planes[0].shape)
    return [planes[0][: 2 * height, : 2 * width], *(plane[:height, :width] for plane in planes[1:])]


def assert_same(got: Sequence[Plane], wanted: Sequence[Plane], least: float = 99.0) -> None:
    for name, one, two in zip("YUV", got, wanted, strict=True):
        assert one.shape == two.shape, name
        assert psnr(one, two) >= least, f"{name}: {psnr(one, two):.1f} dB"


def read(path: Path) -> Iterator[list[Plane]]:
    with av.open(str(path), "r") as container:
        for picture in container.decode(video=0):
            yield [plane.copy() for plane in picture_planes(picture)]


def decode(packets: Sequence[Packet]) -> Iterator[list[Plane]]:
    decoder = av.CodecContext.create("h264", "r")
    for packet in [*(av.Packet(one.data) for one in packets), None]:
        for picture in decoder.decode(packet):
            yield list(picture_planes(picture))


def assert_pictures(pictures: Iterator[list[Plane]], frames: Sequence[Frame]) -> None:
    for planes, frame in zip(pictures, frames, strict=True):
        assert_same(planes, even(frame.planes))


# -- the outputs -------------------------------------------------------------------------------------------------


def through_a_file(ending: str) -> Callable[[Size, Path], None]:
    def check(size: Size, folder: Path) -> None:
        info, frames = results(size)
        encoder, sink = Encoder(info, LOSSLESS, live=False), FileSink(str(folder / f"{size}{ending}"), SinkOptions())
        sink.open(encoder.stream)
        for packet in [*itertools.chain.from_iterable(map(encoder.encode, frames)), *encoder.flush()]:
            sink.write(packet)
        sink.complete()
        sink.close()
        assert_pictures(read(folder / f"{size}{ending}"), frames)

    return check


def through_a_recording(size: Size, folder: Path) -> None:
    info, frames = results(size)
    folder = folder / str(size)
    folder.mkdir()
    sink = RecordSink(folder, LOSSLESS)
    sink.open(info)
    sink.switch(True)
    for frame in frames:
        sink.write(frame)
    sink.close()
    assert_pictures(read(next(folder.iterdir())), frames)


def through_the_live_encoder(size: Size, folder: Path) -> None:
    info, frames = results(size)
    with closing(Encoder(info, LOSSLESS, live=True)) as encoder:
        packets = list(itertools.chain.from_iterable(map(encoder.encode, frames)))
    assert_pictures(decode(packets), frames)


def through_the_page(size: Size, folder: Path) -> None:
    """Both sides in one picture, as the page's encoder gets it: ours where the layout says, the source's beside it."""
    info, frames = results(size)
    stack = SideBySide(frames[0], info)
    with closing(Encoder(stack.stream, LOSSLESS, live=True)) as encoder:
        packets = []
        for frame in frames:
            both = Frame(read_only(stack.compose(frame)), frame.pts, BASE, 1, frame.number, color=stack.stream.color)
            packets += encoder.encode(both)
    with closing(_JpegEncoder(*stack.layout.size)) as jpeg:
        (picture,) = av.CodecContext.create("mjpeg", "r").decode(av.Packet(jpeg.encode(both)))
    assert_same(picture_planes(picture), both.planes, least=28)
    place, plain = stack.layout, Scaler((size.width, size.height), (info.width, info.height), FULL.siting)
    for planes, frame in zip(decode(packets), frames, strict=True):
        part = [
            plane[place.y // n : (place.y + place.height) // n, place.x // n : (place.x + place.width) // n]
            for plane, n in zip(planes, (1, 2, 2), strict=True)
        ]
        assert_same(part, even(frame.planes))
        bicubic = empty_planes(info.width, info.height)
        assert frame.source is not None
        plain(frame.source.planes, bicubic)
        other = [plane[: place.height // n, : place.width // n] for plane, n in zip(planes, (1, 2, 2), strict=True)]
        assert_same(other, even(bicubic), least=35 if info.width % 2 or info.height % 2 else 99)


def through_a_png(size: Size, folder: Path) -> None:
    """RGB as the window and the sheets write it, back to 4:2:0 by the formulas of BT.601 and the mean of each four."""
    _, frames = results(size)
    for number, pixels in enumerate(
        (to_rgb(frames[0]), to_bgr(frames[0], Orientation.UPRIGHT, av.video.reformatter.VideoReformatter()))
    ):
        path = folder / f"{size}-{number}.png"
        Image.fromarray(pixels if number == 0 else pixels[:, :, ::-1]).save(path)
        red, green, blue = (np.asarray(Image.open(path), np.float64)[:, :, n] for n in range(3))
        luma = 0.299 * red + 0.587 * green + 0.114 * blue
        chroma = [128 + (blue - luma) / 1.772, 128 + (red - luma) / 1.402]
        height, width = (side // 2 * 2 for side in luma.shape)
        cells = [c[:height, :width].reshape(height // 2, 2, width // 2, 2) for c in chroma]
        small = [np.rint(c.mean(axis=(1, 3))).astype(np.uint8) for c in cells]
        wanted = even(frames[0].planes)
        assert psnr(np.rint(luma[:height, :width]).astype(np.uint8), wanted[0]) > 35
        assert all(psnr(one, two) > 30 for one, two in zip(small, wanted[1:], strict=True))


OUTPUTS: dict[str, Callable[[Size, Path], None]] = {
    "mp4": through_a_file(".mp4"),
    "mkv": through_a_file(".mkv"),
    "recording": through_a_recording,
    "live encoder": through_the_live_encoder,
    "page": through_the_page,
    "PNG": through_a_png,
}
RESIDUES = list(itertools.product(range(32, 40), range(24, 32)))


@pytest.mark.parametrize(
    "output", [pytest.param(name, marks=[pytest.mark.slow] if name == "mkv" else []) for name in OUTPUTS]
)
def test_every_residue_of_both_sides_modulo_8(output: str, tmp_path: Path) -> None:
    for number, (width, height) in enumerate(RESIDUES):
        OUTPUTS[output](Size(width, height, number % 4 + 1 if height % 2 == 0 else 1), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("output", OUTPUTS)
def test_every_residue_at_every_scale(output: str, scale: int, tmp_path: Path) -> None:
    for width, height in RESIDUES:
        OUTPUTS[output](Size(width, height, scale), tmp_path)


@pytest.mark.parametrize("output", OUTPUTS)
def test_sizes_that_are_fitted(output: str, tmp_path: Path) -> None:
    for width, height in itertools.product((66, 70), (38, 42, 46)):
        OUTPUTS[output](Size(54, 40, 2, (width, height)), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("output", OUTPUTS)
def test_every_residue_that_is_fitted(output: str, tmp_path: Path) -> None:
    for number, (width, height) in enumerate(itertools.product(range(64, 80, 2), range(48, 64, 2))):
        OUTPUTS[output](Size(46 + number % 8, 38 + number % 6, 2, (width, height)), tmp_path)


@pytest.mark.parametrize("size", [Size(66, 34), Size(70, 38), Size(34, 26, 3), Size(35, 23, 2), Size(37, 31)], ids=str)
def test_over_rtsp(size: Size, monkeypatch: pytest.MonkeyPatch) -> None:
    """Served by us and read back by us. A busy machine may take its time without frames being left out."""
    monkeypatch.setattr(rtsp, "STALE_NS", 60 * 10**9)
    monkeypatch.setattr(rtsp, "LAG_NS", 60 * 10**9)
    info, frames = results(size)
    encoder = Encoder(replace(info, live=True), LOSSLESS, live=True)
    packets = list(itertools.chain.from_iterable(map(encoder.encode, frames)))
    with closing(RtspServerSink("rtsp://@:0/live", SinkOptions())) as sink:
        sink.open(encoder.stream)
        with closing(open_rtsp(sink.url, SourceOptions())) as source:
            reading, got = source.frames(), list[Frame]()  # pictures are kept from this call on
            for packet in packets:
                sink.write(packet)
            sink.close()
            with pytest.raises(SourceLost):
                got.extend(reading)
    assert_pictures(iter([list(frame.planes) for frame in got]), frames)


@pytest.mark.parametrize(
    ("size", "options"),
    [
        ((640, 362), ["--scale", "3"]),
        ((853, 479), ["--scale", "2"]),
        ((322, 182), ["--size", "500x282"]),
        ((321, 179), ["--scale", "1"]),
    ],
    ids=str,
)
def test_a_run_writes_what_the_engine_made(size: tuple[int, int], options: list[str], tmp_path: Path) -> None:
    """Lossless mp4 and mkv of a whole run against its y4m, which goes through no library."""
    source, plain = tmp_path / "in.y4m", tmp_path / "out.y4m"
    picture = test_picture(3, *size)
    source.write_bytes(
        f"YUV4MPEG2 W{size[0]} H{size[1]} F25:1 Ip C420mpeg2\nFRAME\n".encode() + b"".join(p.tobytes() for p in picture)
    )
    for out in ("out.mp4", "out.mkv"):
        arguments = ["run", str(source), str(tmp_path / out), "--backend", "bicubic", "--crf", "0", *options]
        assert main([*arguments, "--encoder-preset", "ultrafast"]) == 0
    with closing(open_source(str(source))) as opened:
        info = opened.info
        frame = next(iter(opened.frames()))
    fitted = None if options[0] == "--scale" else fit_into(info, (500, 282))
    engine = open_scale(int(options[1]) if fitted is None else 2, info, EngineOptions())
    if fitted is not None:
        engine = ResizeEngine(engine, fitted, info)
    made = engine.submit(frame).wait()
    with plain.open("wb") as file:
        sink = Y4mSink(file.fileno())
        sink.open(info.scaled(made.width, made.height))
        sink.write(made)
    raw = np.frombuffer(plain.read_bytes().partition(b"FRAME\n")[2], np.uint8)
    assert np.array_equal(raw, np.concatenate([plane.ravel() for plane in made.planes]))
    for out in ("out.mp4", "out.mkv"):
        (planes,) = read(tmp_path / out)
        assert_same(planes, even(made.planes))


# -- the guards --------------------------------------------------------------------------------------------------


def test_a_picture_whose_height_was_inferred_wrongly_is_refused() -> None:
    """PyAV takes a buffer of 1629 rows for 1084 luma rows, not 1086."""
    slot = FramePool(64, 1086, 1).lease()
    inferred = av.VideoFrame.from_numpy_buffer(slot.buffer.reshape(1629, 64), format="yuv420p")
    with pytest.raises(PictureShapeError, match="1084"):
        check_picture(inferred, slot.planes)
    with pytest.raises(PictureShapeError, match="64x1084 yuv420p where 64x1086 yuv420p was expected"):
        expect(inferred, 64, 1086, "yuv420p")
    frame = Frame(slot.planes, 0, BASE, slot=slot)
    picture = picture_in_place(frame)
    assert picture is not None
    check_picture(picture, slot.planes, in_place=True)
    with pytest.raises(PictureShapeError, match="same address"):
        check_picture(fill(av.VideoFrame(64, 1086, "yuv420p"), slot.planes), slot.planes, in_place=True)


def test_planes_of_another_size_are_refused() -> None:
    planes = read_only(test_picture(0, 64, 48))
    for size in ((62, 48), (64, 46), (66, 48)):
        with pytest.raises(PictureShapeError, match="64x48"):
            fill(av.VideoFrame(*size, "yuv420p"), planes)
    with pytest.raises(PictureShapeError, match="4:2:0"):
        Frame((planes[0], planes[1][:-1], planes[2]), 0, BASE)
    scaler = Scaler((64, 48), (128, 96), Siting.LEFT)
    with pytest.raises(EngineRunError, match="62x48 picture"):
        scaler(read_only(test_picture(0, 62, 48)), empty_planes(128, 96))
    with pytest.raises(EngineRunError, match="planes for 128x94"):
        scaler(planes, empty_planes(128, 94))
    sink = Y4mSink(1)
    sink._descriptor = 1
    with pytest.raises(SinkWriteError, match="64x48"):
        sink.write(Frame(planes, 0, BASE))
