"""One conformance suite over every source, and how `open_source` chooses among them."""

from __future__ import annotations

import itertools
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from media_files import test_picture, video_frame, write_video, write_y4m
from PIL import Image

from stream_sr.errors import ConfigError, DecodeError, SourceOpenError
from stream_sr.pipeline.interfaces import Source, SourceOptions
from stream_sr.pipeline.packets import Passthrough
from stream_sr.pipeline.threads import Worker
from stream_sr.sources import ADDRESSES, kind_of, open_source
from stream_sr.sources.file import FileSource
from stream_sr.sources.images import ImageSource
from stream_sr.sources.synthetic import Scene, SyntheticSource
from stream_sr.sources.webcam import CameraSource
from stream_sr.sources.y4m import Y4mSource
from stream_sr.video import barcode
from stream_sr.video.frame import Frame, StreamInfo
from stream_sr.video.frame_pool import FramePool
from stream_sr.video.planes import chroma_shape
from stream_sr.video.timing import ManualClock

pytestmark = pytest.mark.long


@dataclass(frozen=True)
class Case:
    """A source to examine: how it is opened, and how many frames it has (None: it does not end)."""

    open: Callable[[Path], Source]
    count: int | None
    size: tuple[int, int] = (64, 48)
    burnt: bool = False  # the top of the picture differs from run to run


def file(name: str, **how: object) -> Callable[[Path], Source]:
    def make(folder: Path) -> Source:
        write_video(folder / name, **how)  # type: ignore[arg-type]
        return open_source(str(folder / name))

    return make


def y4m(header: str = "F25:1 Ip A1:1 C420jpeg", size: tuple[int, int] = (64, 48)) -> Callable[[Path], Source]:
    def make(folder: Path) -> Source:
        path = folder / "x.y4m"
        write_y4m(path, width=size[0], height=size[1], header=header)
        if "C444" in header:
            planes = [np.full(size[::-1], value, np.uint8) for value in (90, 110, 140)]
            picture = b"FRAME\n" + b"".join(plane.tobytes() for plane in planes)
            path.write_bytes(path.read_bytes().partition(b"\n")[0] + b"\n" + 5 * picture)
        return Y4mSource(descriptor=os.open(path, os.O_RDONLY))

    return make


def pictures(folder: Path) -> Source:
    for number in (10, 9, 1):
        image = video_frame(test_picture(number, 64, 48)).to_image()  # type: ignore[no-untyped-call]
        image.save(folder / f"frame{number}.png")
    (folder / "notes.txt").write_text("not a picture")
    return open_source(str(folder))


def still(folder: Path) -> Source:
    Image.new("RGB", (65, 47), (200, 30, 60)).save(folder / "100%d.jpg")
    return open_source(str(folder / "100%d.jpg"))


def camera(folder: Path) -> Source:
    cv2 = load_cv2()
    write_video(folder / "cam.avi", codec="mjpeg", pix_fmt="yuvj420p", time_base=Fraction(1, 25), count=8)
    return CameraSource("0", open_capture=lambda _: cv2.VideoCapture(str(folder / "cam.avi")))


def load_cv2() -> Any:
    try:
        import cv2
    except ImportError as error:
        pytest.skip(f"OpenCV cannot be loaded: {error}")
    return cv2


def synthetic(photos: bool, **how: int) -> Callable[[Path], Source]:
    def make(_: Path) -> Source:
        if photos:
            pytest.importorskip("skimage")
        return SyntheticSource(Scene(photos=photos, **how), clock=ManualClock(10**12))  # type: ignore[arg-type]

    return make


CASES = {
    "mp4": Case(file("x.mp4"), 10),
    "mkv of odd size": Case(file("x.mkv", width=853, height=479, codec="ffv1", count=3), 3, (853, 479)),
    "4:4:4 of odd size": Case(file("x.mp4", width=65, height=47, pix_fmt="yuv444p"), 10, (65, 47)),
    "rgb": Case(file("x.mkv", codec="ffv1", pix_fmt="bgr0"), 10),
    "grey": Case(file("x.mkv", codec="ffv1", pix_fmt="gray"), 10),
    "mjpeg": Case(file("x.avi", codec="mjpeg", pix_fmt="yuvj422p", time_base=Fraction(1, 25)), 10),
    "interlaced": Case(file("x.mp4", interlaced=True, options={"flags": "+ildct+ilme"}), 10),
    "no timestamps": Case(file("x.h264"), 10),
    "transport stream": Case(file("x.ts"), 10),
    "folder": Case(pictures, 3),
    "still": Case(still, 1, (65, 47)),
    "y4m": Case(y4m(), 5),
    "y4m of odd size": Case(y4m(size=(853, 479)), 5, (853, 479)),
    "y4m 4:4:4": Case(y4m("F25:1 Ip A1:1 C444"), 5),
    "webcam": Case(camera, None),
    "synthetic": Case(synthetic(False), None, (640, 360), burnt=True),
    "synthetic of odd size": Case(synthetic(False, width=853, height=479), None, (853, 479), burnt=True),
    "synthetic photos": Case(synthetic(True, width=320, height=180), None, (320, 180), burnt=True),
}
TAKEN = 5  # frames taken of a source without an end


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def taken(source: Source, case: Case, pool: FramePool | None = None) -> list[Frame]:
    return list(itertools.islice(source.frames(pool), case.count or TAKEN))


def visible(frame: Frame, case: Case) -> list[bytes]:
    """The pixels, without a barcode."""
    top = barcode.rows_used(frame.height) if case.burnt else 0
    return [frame.planes[0][top:].tobytes(), frame.planes[1].tobytes(), frame.planes[2].tobytes()]


def test_describes_itself(case: Case, tmp_path: Path) -> None:
    source = case.open(tmp_path)
    info = source.info
    assert isinstance(info, StreamInfo)
    assert (info.width, info.height) == case.size
    assert info.time_base > 0
    assert info.fps is None or 0 < info.fps <= 1000
    assert info.live is (case.count is None)
    assert info.name
    assert source.passthrough is None or isinstance(source.passthrough, Passthrough)
    assert all(isinstance(value, int) for value in source.counters().values())
    source.close()


def test_frames_are_numbered_timed_and_read_only(case: Case, tmp_path: Path) -> None:
    before = time.monotonic_ns()
    source = case.open(tmp_path)
    frames = taken(source, case)
    source.close()
    assert [frame.number for frame in frames] == list(range(case.count or TAKEN))
    assert all(a.pts < b.pts for a, b in itertools.pairwise(frames))
    assert all(frame.time_base == source.info.time_base for frame in frames)
    assert all(frame.duration >= 0 for frame in frames)
    if not case.burnt:  # those have a clock of their own
        stamps = [frame.captured_ns for frame in frames]
        assert before <= min(stamps) <= max(stamps) <= time.monotonic_ns()
    for frame in frames:
        assert (frame.width, frame.height) == case.size
        assert frame.planes[1].shape == frame.planes[2].shape == chroma_shape(*case.size)
        assert frame.color == source.info.color
        assert frame.slot is None
        for plane in frame.planes:
            assert plane.dtype == np.uint8
            with pytest.raises(ValueError, match="read-only"):
                plane[0, 0] = 1


@pytest.mark.parametrize("case", [name for name, case in CASES.items() if case.count], indirect=True)
def test_ends_after_its_last_frame(case: Case, tmp_path: Path) -> None:
    source = case.open(tmp_path)
    assert len(list(source.frames())) == case.count
    assert list(source.frames()) == []
    source.close()


def test_frames_without_a_pool_own_their_memory(case: Case, tmp_path: Path) -> None:
    source = case.open(tmp_path)
    kept = [(frame, visible(frame, case)) for frame in taken(source, case)]
    source.close()
    assert all(visible(frame, case) == pixels for frame, pixels in kept)


def test_the_same_pixels_with_a_pool_and_every_slot_given_back(case: Case, tmp_path: Path) -> None:
    source = case.open(tmp_path)
    expected = [visible(frame, case) for frame in taken(source, case)]
    source.close()
    (tmp_path / "again").mkdir()
    source = case.open(tmp_path / "again")
    pool = FramePool(*case.size, 2, poison=True)
    got = []
    for frame in itertools.islice(source.frames(pool), case.count or TAKEN):
        assert frame.slot is not None
        assert pool.held == 1
        got.append(visible(frame, case))
        frame.release()
    source.close()
    assert got == expected
    assert pool.held == 0


def test_an_abandoned_iteration_holds_no_slot(case: Case, tmp_path: Path) -> None:
    source = case.open(tmp_path)
    pool = FramePool(*case.size, 1)
    frames = source.frames(pool)
    next(frames).release()
    del frames
    assert pool.held == 0
    source.close()


def test_stop_ends_the_frames(case: Case, tmp_path: Path) -> None:
    source = case.open(tmp_path)
    frames = source.frames()
    next(frames)
    source.stop()
    assert list(frames) == []
    assert list(source.frames()) == []
    source.close()


def test_close_twice_also_unread(case: Case, tmp_path: Path) -> None:
    source = case.open(tmp_path)
    source.close()
    source.close()


# stop() from another thread, while frames() waits


def stopped_while_waiting(source: Source, *, skip: int = 0, more: int = 0) -> None:
    """``more`` frames may still come between the skipped ones and the wait."""
    waiting = threading.Event()
    left: list[Frame] = []

    def read() -> None:
        frames = source.frames()
        for _ in range(skip):
            next(frames)
        waiting.set()
        left.extend(frames)

    worker = Worker("reader", read)
    assert waiting.wait(10)
    started = time.monotonic()
    source.stop()
    assert worker.join(5)
    assert time.monotonic() - started < 1.5
    assert worker.error is None
    assert len(left) <= more
    source.close()


def test_stop_frees_a_waiting_y4m_reader() -> None:
    readable, writable = os.pipe()
    os.write(writable, b"YUV4MPEG2 W64 H48 F25:1\nFRAME\n" + bytes(100))
    stopped_while_waiting(Y4mSource(descriptor=readable))
    os.close(writable)
    os.close(readable)


def test_stop_frees_a_waiting_synthetic_camera() -> None:
    stopped_while_waiting(SyntheticSource(Scene(width=128, height=96, fps=Fraction(1))), skip=1)


def test_stop_frees_a_silent_network_stream(tmp_path: Path) -> None:
    with silent_server(tmp_path) as address:
        source = FileSource(address, SourceOptions(read_timeout=20))
        stopped_while_waiting(source, skip=30, more=30)


class silent_server:
    """A peer that sends a transport stream of 60 pictures and then neither a byte nor an end."""

    def __init__(self, folder: Path, *, close: bool = False) -> None:
        write_video(folder / "x.ts", count=60)
        self._data, self._close = (folder / "x.ts").read_bytes(), close

    def __enter__(self) -> str:
        self._server = socket.create_server(("127.0.0.1", 0))
        self._done = threading.Event()
        self._worker = Worker("peer", self._serve)
        return f"tcp://127.0.0.1:{self._server.getsockname()[1]}"

    def _serve(self) -> None:
        peer, _ = self._server.accept()
        with peer:
            peer.sendall(self._data)
            if not self._close:
                self._done.wait(30)

    def __exit__(self, *_: object) -> None:
        self._done.set()
        assert self._worker.join(10)
        self._server.close()


# open_source


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("0", "webcam"),
        ("/dev/video3", "webcam"),
        ("rtsp://u:p@h/x", "rtsp"),
        ("http://h/x.m3u8", "url"),
        ("-", "standard input"),
        ("synthetic:", "synthetic"),
        ("clip.mp4", "file"),
        ("a.PNG", "pictures"),
        (".", "pictures"),
        ("no-such-thing", "file"),
    ],
)
def test_kind_of_address(address: str, kind: str) -> None:
    assert kind_of(address) == kind


def test_every_form_of_address_has_a_description() -> None:
    assert all(form and text for form, text in ADDRESSES)


@pytest.mark.parametrize(
    ("address", "options", "message"),
    [
        ("", SourceOptions(), "source is empty"),
        ("synthetic:", SourceOptions(start=1), "--start does not apply"),
        ("rtsp://u:secret@h/x", SourceOptions(start=1), "--start does not apply"),
        ("clip.mp4", SourceOptions(fourcc="MJPG"), "--fourcc does not apply"),
        ("clip.mp4", SourceOptions(rtsp_transport="udp"), "--rtsp-transport does not apply"),
        ("-", SourceOptions(capture_size=(640, 480)), "--capture-size does not apply"),
        ("0", SourceOptions(rtsp_transport="udp"), "--rtsp-transport does not apply"),
        ("clip.mp4", SourceOptions(start=-1), "--start is -1"),
        ("clip.mp4", SourceOptions(duration=0), "--duration is 0"),
        ("rtsp://h/x", SourceOptions(read_timeout=0), "--read-timeout is 0"),
        ("synthetic:640", SourceOptions(), "not of the form"),
        ("synthetic:64x48", SourceOptions(), "size must be"),
        ("synthetic:@0", SourceOptions(), "rate must be"),
    ],
)
def test_what_cannot_be_is_refused(address: str, options: SourceOptions, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        open_source(address, options)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_rtsp_falls_back_to_ffmpeg_and_says_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rtsp = pytest.importorskip("stream_sr.sources.rtsp")

    def refuse(url: str, options: SourceOptions, **_: object) -> Source:
        raise rtsp.LowDelayUnsupported("video of the codec VP8")

    monkeypatch.setattr(rtsp, "open_rtsp", refuse)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with caplog.at_level(logging.WARNING), pytest.raises(SourceOpenError, match=r"cannot open rtsp://127") as caught:
        open_source(f"rtsp://user:secret@127.0.0.1:{port}/x")
    assert "VP8" in caplog.text
    assert "secret" not in caplog.text + str(caught.value)
    said: set[str] = set()
    for _ in range(2):  # as a camera that comes back is opened
        with caplog.at_level(logging.WARNING), pytest.raises(SourceOpenError):
            open_source(f"rtsp://127.0.0.1:{port}/x", said=said)
    assert caplog.text.count("VP8") == 2


def test_a_source_can_be_iterated_with_a_duration(tmp_path: Path) -> None:
    """`duration` is in seconds of presentation time, for every kind: frames that begin before it."""
    limit = SourceOptions(duration=0.1)
    write_video(tmp_path / "x.mp4")
    write_y4m(tmp_path / "x.y4m")
    (tmp_path / "pictures").mkdir()
    for number in range(5):
        Image.new("RGB", (64, 48)).save(tmp_path / "pictures" / f"{number}.png")
    assert len(list(open_source(str(tmp_path / "x.mp4"), limit).frames())) == 3
    assert len(list(open_source(str(tmp_path / "pictures"), limit).frames())) == 3
    assert len(list(Y4mSource(limit, descriptor=os.open(tmp_path / "x.y4m", os.O_RDONLY)).frames())) == 3
    scene = Scene(width=128, height=96, fps=Fraction(25))
    assert len(list(SyntheticSource(scene, limit, clock=ManualClock()).frames())) == 3


def test_folder_is_read_in_natural_order(tmp_path: Path) -> None:
    source = pictures(tmp_path)
    assert isinstance(source, ImageSource)
    assert source.info.frame_count == 3
    assert source.info.fps == 25
    for frame, right, wrong in zip(source.frames(), (1, 9, 10), (9, 10, 1), strict=True):
        luma = frame.planes[0].astype(int)
        assert np.abs(luma - test_picture(right, 64, 48)[0]).mean() < 2
        assert np.abs(luma - test_picture(wrong, 64, 48)[0]).mean() > 5


def test_pictures_of_different_sizes_name_both(tmp_path: Path) -> None:
    for number, width in enumerate((64, 64, 96)):
        Image.new("RGB", (width, 48)).save(tmp_path / f"{number}.png")
    numbers = []
    with pytest.raises(DecodeError, match=r"^2.png: .* from 64x48 to 96x48"):
        for frame in open_source(str(tmp_path)).frames():
            numbers.append(frame.number)
    assert numbers == [0, 1]


def test_pictures_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SourceOpenError, match="holds no pictures"):
        open_source(str(tmp_path))
    with pytest.raises(SourceOpenError, match="no such file"):
        open_source(str(tmp_path / "x.png"))
    (tmp_path / "x.png").write_text("not a picture")
    with pytest.raises(SourceOpenError, match=r"x.png is not a picture that can be read"):
        open_source(str(tmp_path / "x.png"))
    Image.fromarray(np.zeros((48, 64), np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(SourceOpenError, match=r"deep.png: 16-bit video"):
        open_source(str(tmp_path / "deep.png"))


def test_a_grey_picture_keeps_its_values(tmp_path: Path) -> None:
    grey = np.arange(64 * 48, dtype=np.uint32).reshape(48, 64).astype(np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    source = open_source(str(tmp_path / "grey.png"))
    assert np.array_equal(next(source.frames()).planes[0], grey)
    assert source.info.color.full_range


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "nothing came"),
        (b"hello\n", "not y4m"),
        (b"YUV4MPEG2 W64 H48 F25:1 C420p10\n", "more than 8 bits"),
        (b"YUV4MPEG2 W64 H48 F25:1 It\n", "interlaced"),
    ],
)
def test_standard_input_that_is_no_y4m(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x").write_bytes(content)
    with open(tmp_path / "x", "rb") as stdin, pytest.raises(SourceOpenError, match=f"^standard input: .*{message}"):
        Y4mSource(descriptor=stdin.fileno())


def test_truncated_y4m_gives_its_whole_pictures_and_then_says_so(tmp_path: Path) -> None:
    expected = write_y4m(tmp_path / "x.y4m")
    (tmp_path / "x.y4m").write_bytes((tmp_path / "x.y4m").read_bytes()[:-1000])
    got: list[Frame] = []
    with (
        open(tmp_path / "x.y4m", "rb") as stdin,
        pytest.raises(DecodeError, match=r"ended inside picture 4, after 3608 of its 4608 bytes"),
    ):
        for frame in Y4mSource(descriptor=stdin.fileno()).frames():
            got.append(frame)
    assert len(got) == 4
    for frame, planes in zip(got, expected, strict=False):
        assert all(np.array_equal(*pair) for pair in zip(frame.planes, planes, strict=True))


def test_y4m_that_loses_its_rhythm(tmp_path: Path) -> None:
    write_y4m(tmp_path / "x.y4m", count=1)
    with open(tmp_path / "x.y4m", "ab") as file:
        file.write(b"XRAME\n")
    with (
        open(tmp_path / "x.y4m", "rb") as stdin,
        pytest.raises(DecodeError, match="picture 1 of the y4m input does not begin with FRAME"),
    ):
        list(Y4mSource(descriptor=stdin.fileno()).frames())
