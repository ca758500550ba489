"""Files and streams through PyAV: nothing lost, nothing moved, and every break said in one line."""

from __future__ import annotations

import itertools
import logging
import os
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from media_files import TIME_BASE, test_picture, write_video
from test_sources import silent_server, stopped_while_waiting

from stream_sr.codec.extent import is_truncated
from stream_sr.errors import DecodeError, SourceError, SourceLost, SourceOpenError
from stream_sr.pipeline.interfaces import SourceOptions
from stream_sr.pipeline.threads import Worker, abandoned
from stream_sr.sources import open_source
from stream_sr.sources.file import FileSource
from stream_sr.video.color import ColorInfo
from stream_sr.video.frame import Frame
from stream_sr.video.orientation import Orientation

pytestmark = pytest.mark.long


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """60 pictures with sound, index in front."""
    path = tmp_path / "clip.mp4"
    write_video(path, count=60, audio_seconds=2.4, container_options={"movflags": "faststart"})
    return path


def packets(path: Path, kind: str) -> list[tuple[int | None, int | None, bytes]]:
    with av.open(str(path)) as container:
        found: Iterator[Any] = container.demux(next(s for s in container.streams if s.type == kind))
        return [(packet.pts, packet.dts, bytes(packet)) for packet in found if packet.size]


def test_variable_frame_rate_keeps_every_pts(tmp_path: Path) -> None:
    times = [0, 100, 700, 5000, 5001, 9000, 9001, 9002, 64000, 64512, 70000, 70001]
    write_video(tmp_path / "x.mp4", pts=times)
    source = FileSource(str(tmp_path / "x.mp4"))
    assert source.info.time_base == TIME_BASE
    assert source.info.frame_count == 12
    frames = list(source.frames())
    assert [frame.pts for frame in frames] == times
    assert [frame.duration for frame in frames][:-1] == [b - a for a, b in itertools.pairwise(times)]


@pytest.mark.parametrize("name", ["x.mp4", "x.mkv", "x.ts", "x.avi"])
def test_every_picture_is_there_in_order(tmp_path: Path, name: str) -> None:
    how: dict[str, Any] = {"codec": "mpeg4", "time_base": Fraction(1, 25)} if name == "x.avi" else {}
    write_video(tmp_path / name, count=40, **how)
    source = FileSource(str(tmp_path / name))
    frames = list(source.frames())
    source.close()
    assert len(frames) == 40
    for frame in frames:
        luma = frame.planes[0].astype(int)
        distance = [np.abs(luma - test_picture(frame.number + i, 64, 48)[0]).mean() for i in (-1, 0, 1)]
        assert distance[1] < min(distance[0], distance[2])
    assert source.info.fps == 25


def test_pictures_without_timestamps_are_counted_up(tmp_path: Path) -> None:
    write_video(tmp_path / "x.h264", count=12)
    source = FileSource(str(tmp_path / "x.h264"))
    seconds = [frame.pts * frame.time_base for frame in source.frames()]
    assert seconds == [Fraction(i, 25) for i in range(12)]


@pytest.mark.parametrize(
    ("ending", "interlaced"), [("mp4", False), ("mov", False), ("mkv", False), ("mp4", True)], ids=str
)
@pytest.mark.parametrize("orientation", Orientation)
def test_every_orientation_is_read_and_the_pixels_stay(
    tmp_path: Path, orientation: Orientation, ending: str, interlaced: bool
) -> None:
    path = tmp_path / f"x.{ending}"
    write_video(path, orientation=orientation, interlaced=interlaced, count=3)
    source = FileSource(str(path))
    assert source.info.orientation == orientation
    assert (source.info.width, source.info.height) == (64, 48)


@pytest.mark.parametrize("orientation", Orientation)
def test_an_orientation_in_the_bitstream_is_read(tmp_path: Path, orientation: Orientation) -> None:
    """H.264's display orientation message (D.2.26), as phones write it into MPEG-TS: flips and a turn to the left."""
    write_video(tmp_path / "x.h264", count=3)
    turns = f"rotate={-orientation.degrees % 360}" if orientation.degrees else ""
    # FFmpeg's filter and the standard mirror before the turn
    flips = "flip=horizontal" if orientation.mirrored else ""
    words = ":".join(["display_orientation=insert", *filter(None, (flips, turns))])
    if orientation == Orientation.UPRIGHT:
        words = "display_orientation=remove"
    command = ["ffmpeg", "-v", "error", "-i", "x.h264", "-c", "copy", "-bsf:v", f"h264_metadata={words}", "y.h264"]
    subprocess.run(command, check=True, cwd=tmp_path)
    assert FileSource(str(tmp_path / "y.h264")).info.orientation == orientation


def test_an_angle_between_quarter_turns_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_video(tmp_path / "x.mp4", count=3, matrix=(46341, 46341, 0, -46341, 46341, 0, 0, 0, 1 << 30))
    assert FileSource(str(tmp_path / "x.mp4")).info.orientation == Orientation.UPRIGHT
    assert "asks to be turned by 45 degrees; only quarter turns are kept" in caplog.text


def test_sample_aspect_ratio(tmp_path: Path) -> None:
    write_video(tmp_path / "x.mp4", sample_aspect=Fraction(64, 45))
    source = FileSource(str(tmp_path / "x.mp4"))
    assert source.info.sample_aspect == Fraction(64, 45)
    assert next(source.frames()).sample_aspect == Fraction(64, 45)


@pytest.mark.parametrize("color", [(1, 1, 1, 1), (6, 1, 6, 6), (9, 2, 9, 14)])
def test_colours_are_read(tmp_path: Path, color: tuple[int, int, int, int]) -> None:
    write_video(tmp_path / "x.mp4", color=color)
    source = FileSource(str(tmp_path / "x.mp4"))
    matrix, color_range, primaries, transfer = color
    assert source.info.color == ColorInfo(matrix, color_range, primaries, transfer)


def test_interlaced_is_deinterlaced_said_once_and_keeps_count_and_pts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def combed(index: int, width: int, height: int) -> tuple[Any, Any, Any]:
        luma, u, v = test_picture(0, width, height)
        luma[:] = 60
        for field in (0, 1):  # a bar that moves by 6 pixels a field
            left = 4 + 12 * index % 40 + 6 * field
            luma[field::2, left : left + 12] = 200
        u[:], v[:] = 128, 128
        return luma, u, v

    flags = {"flags": "+ildct+ilme", "crf": "5"}
    write_video(tmp_path / "x.mp4", interlaced=True, options=flags, pts=[0, 512, 1024, 3000, 3512], picture=combed)
    with caplog.at_level(logging.INFO):
        source = FileSource(str(tmp_path / "x.mp4"))
        frames = list(source.frames())
    assert [frame.pts for frame in frames] == [0, 512, 1024, 3000, 3512]
    assert caplog.text.count("bwdif") == 1

    def combing(luma: Any) -> float:
        return float(np.abs(np.diff(luma.astype(int), axis=0)).mean())

    assert max(combing(frame.planes[0]) for frame in frames) < 0.2 * combing(combed(1, 64, 48)[0])


def test_progressive_is_not_filtered(clip: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        list(FileSource(str(clip)).frames())
    assert "bwdif" not in caplog.text


@pytest.mark.parametrize("name", ["x.mp4", "x.mkv"])
def test_audio_and_subtitles_pass_bit_for_bit(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    texts = [(0, 200, "one"), (300, 100, "two")] if name == "x.mkv" else []
    write_video(path, count=20, audio_seconds=0.8, subtitles=texts)
    source = FileSource(str(path))
    assert source.passthrough is not None
    assert [track.kind for track in source.passthrough.tracks] == (["audio", "subtitle"] if texts else ["audio"])
    assert source.passthrough.tracks[0].codec == "aac"
    list(source.frames())
    got = list(source.passthrough.take())
    for number, track in enumerate(source.passthrough.tracks):
        taken = [(packet.pts, packet.dts, bytes(packet)) for index, packet in got if index == number]
        assert taken == packets(path, track.kind)


def test_a_full_lane_is_an_error_that_names_the_way_out(clip: Path) -> None:
    source = FileSource(str(clip))
    assert source.passthrough is not None
    source.passthrough.limit_bytes = source.passthrough.bytes_held + 100
    with pytest.raises(SourceError, match="--audio none"):
        list(source.frames())


@pytest.mark.parametrize("name", ["x.mp4", "x.mkv", "x.ts", "x.h264"])
@pytest.mark.parametrize(("start", "duration"), [(0.4, 0.2), (1.0, None), (0.5, 0.1), (0.0, 0.2), (1.234, 0.3)])
def test_start_and_duration_are_exact(tmp_path: Path, name: str, start: float, duration: float | None) -> None:
    path = tmp_path / name
    write_video(path, count=40, options={"crf": "10"})
    whole = list(FileSource(str(path)).frames())
    first = whole[0].pts
    base = whole[0].time_base
    begin = Fraction(str(start))
    end = None if duration is None else begin + Fraction(str(duration))
    wanted = [f for f in whole if begin <= (f.pts - first) * base and (end is None or (f.pts - first) * base < end)]
    source = FileSource(str(path), SourceOptions(start=start, duration=duration))
    got = list(source.frames())
    assert [frame.planes[0].tobytes() for frame in got] == [frame.planes[0].tobytes() for frame in wanted]
    shift = wanted[0].pts - got[0].pts
    assert [frame.pts + shift for frame in got] == [frame.pts for frame in wanted]
    assert 0 <= got[0].pts * base < Fraction(1, 25)
    assert [frame.number for frame in got] == list(range(len(got)))


def test_sound_is_cut_with_the_pictures(clip: Path) -> None:
    source = FileSource(str(clip), SourceOptions(start=1.0, duration=0.5))
    list(source.frames())
    assert source.passthrough is not None
    sound = [(packet.pts * packet.time_base, bytes(packet)) for _, packet in source.passthrough.take()]
    original = [(pts, data) for pts, _, data in packets(clip, "audio") if pts is not None]
    expected = [data for pts, data in original if 48000 <= pts < 72000]
    assert [data for _, data in sound] == expected
    assert 0 <= sound[0][0] < Fraction(1024, 48000)


def test_start_behind_the_end(clip: Path) -> None:
    with pytest.raises(SourceOpenError, match=r"no picture at or after the start, 99 s"):
        FileSource(str(clip), SourceOptions(start=99))


# What a user can get wrong, and what a disk can


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("text.mp4", b"hello\n" * 100, "is not a video that can be read"),
        ("text.txt", b"hello\n" * 100, "is a text file"),
        ("empty.mp4", b"", "is empty"),
    ],
)
def test_what_is_no_video(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceOpenError, match=message) as caught:
        open_source(str(tmp_path / name))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_missing_file() -> None:
    with pytest.raises(SourceOpenError, match=r"^no such file: nowhere/x.mp4$"):
        open_source("nowhere/x.mp4")


def test_a_colon_in_a_name_is_no_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_video("take.mp4")
    Path("take.mp4").rename("concat:a.mp4")
    assert len(list(open_source("concat:a.mp4").frames())) == 10


def test_sound_alone_is_refused(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "x.m4a"), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=48000)
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp", layout="stereo")
        frame.sample_rate = 48000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(SourceOpenError, match=r"no video stream \(it holds: audio\)"):
        open_source(str(tmp_path / "x.m4a"))


def test_ten_bits_are_refused(tmp_path: Path) -> None:
    write_video(tmp_path / "x.mkv", pix_fmt="yuv420p10le")
    with pytest.raises(SourceOpenError, match=r"10-bit video \(yuv420p10le\) is not supported yet"):
        open_source(str(tmp_path / "x.mkv"))


def cut(path: Path, part: float) -> Path:
    data = path.read_bytes()
    short = path.with_name("short" + path.suffix)
    short.write_bytes(data[: int(len(data) * part)])
    return short


@pytest.mark.parametrize("name", ["x.mp4", "x.mkv", "x.avi"])
def test_truncated_file_gives_what_it_has_and_then_says_so(tmp_path: Path, name: str) -> None:
    how: dict[str, Any] = {"codec": "mpeg4", "time_base": Fraction(1, 25)} if name == "x.avi" else {}
    if name == "x.mp4":
        how = {"container_options": {"movflags": "faststart"}}
    write_video(tmp_path / name, count=60, **how)
    whole = [frame.planes[0].tobytes() for frame in FileSource(str(tmp_path / name)).frames()]
    assert len(whole) == 60
    got: list[bytes] = []
    with pytest.raises(DecodeError, match=r"is truncated: it breaks off after \d\.\d\d s") as caught:
        for frame in FileSource(str(cut(tmp_path / name, 0.6))).frames():
            got.append(frame.planes[0].tobytes())
    assert "\n" not in str(caught.value)
    assert 10 <= len(got) < 60
    assert got[:10] == whole[:10]


def test_a_part_before_the_break_is_no_error(clip: Path) -> None:
    short = cut(clip, 0.7)
    assert len(list(FileSource(str(short), SourceOptions(duration=0.4)).frames())) == 10


@pytest.mark.parametrize("name", ["x.mp4", "x.mkv", "x.avi", "x.ts"])
def test_a_whole_file_is_not_called_truncated(tmp_path: Path, name: str) -> None:
    how: dict[str, Any] = (
        {"codec": "mpeg4", "time_base": Fraction(1, 25)} if name == "x.avi" else {"audio_seconds": 0.4}
    )
    write_video(tmp_path / name, **how)
    with av.open(str(tmp_path / name)) as container:
        assert not is_truncated(tmp_path / name, container)


def test_truncated_before_its_index(tmp_path: Path) -> None:
    write_video(tmp_path / "x.mp4", count=60)
    with pytest.raises(SourceOpenError, match=r"no index \(moov\): it is truncated"):
        FileSource(str(cut(tmp_path / "x.mp4", 0.6)))


def test_corrupt_packets_are_counted_and_skipped(tmp_path: Path) -> None:
    write_video(tmp_path / "x.mkv", codec="ffv1", count=10)
    source = FileSource(str(tmp_path / "x.mkv"))
    decode, calls = source._decode, itertools.count()

    def failing(packet: Any) -> list[av.VideoFrame]:
        if next(calls) in (3, 4):
            raise av.error.InvalidDataError(1, "damaged")
        return decode(packet)

    source._decode = failing  # type: ignore[method-assign]
    frames = list(source.frames())
    assert source.counters()["corrupt_packets"] == 2
    assert len(frames) in (7, 8)
    assert all(a.pts < b.pts for a, b in itertools.pairwise(frames))


def test_fifty_corrupt_packets_in_a_row_are_an_error(tmp_path: Path) -> None:
    write_video(tmp_path / "x.mkv", count=70)
    source = FileSource(str(tmp_path / "x.mkv"))

    def failing(packet: Any) -> list[av.VideoFrame]:
        raise av.error.InvalidDataError(1, "damaged")

    source._decode = failing  # type: ignore[method-assign]
    with pytest.raises(DecodeError, match="50 packets in a row cannot be decoded"):
        list(source.frames())


def test_a_change_of_size_names_both(tmp_path: Path) -> None:
    write_video(tmp_path / "a.h264", width=64, height=48)
    write_video(tmp_path / "b.h264", width=96, height=48)
    joined = tmp_path / "x.h264"
    joined.write_bytes((tmp_path / "a.h264").read_bytes() + (tmp_path / "b.h264").read_bytes())
    source = FileSource(str(joined))
    got: list[int] = []
    with pytest.raises(DecodeError, match="from 64x48 to 96x48"):
        for frame in source.frames():
            got.append(frame.number)
    assert got == list(range(10))


# Streams from the network


def test_a_silent_peer_is_lost_within_the_read_timeout(tmp_path: Path) -> None:
    with silent_server(tmp_path) as address:
        source = FileSource(address, SourceOptions(read_timeout=1.0))
        assert source.info.live
        assert source.info.frame_count is None
        with pytest.raises(SourceLost, match="fell silent for 1 s"):
            list(source.frames())
        source.close()


def test_a_peer_that_goes_away_is_lost(tmp_path: Path) -> None:
    with silent_server(tmp_path, close=True) as address:
        source = FileSource(address, SourceOptions(read_timeout=5))
        with pytest.raises(SourceLost, match="closed the stream"):
            list(source.frames())
        source.close()


def test_closing_while_ffmpeg_waits_leaves_the_container_to_the_thread_that_waits() -> None:
    """`frames` ends and `close` returns at once; the connection is closed when the read has reached its timeout."""
    with socket.create_server(("127.0.0.1", 0)) as listener, tempfile.TemporaryDirectory() as folder:
        write_video(Path(folder) / "x.ts", count=60)
        opened: list[FileSource] = []
        options = SourceOptions(read_timeout=2)
        url = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        opening = Worker("opening", lambda: opened.append(FileSource(url, options)))
        peer, _ = listener.accept()
        with peer:
            peer.sendall((Path(folder) / "x.ts").read_bytes())
            assert opening.join(20)
            source = opened[0]
            frames: list[Frame] = []
            waiting = threading.Event()

            def read() -> None:
                for frame in source.frames():
                    frames.append(frame)
                    if len(frames) == 56:  # the rest is held back until more comes
                        waiting.set()

            reader = Worker("reader", read)
            assert waiting.wait(20)
            source.close()
            assert reader.join(1)
            assert reader.error is None
            assert abandoned() == ["demux"]
            peer.settimeout(20)
            assert peer.recv(1) == b""  # FFmpeg has closed its side
            while abandoned():
                time.sleep(0.01)
            source.close()


def test_frames_and_sound_through_a_fifo_are_those_of_the_file(tmp_path: Path) -> None:
    write_video(tmp_path / "x.mkv", count=60, audio_seconds=2.4)
    os.mkfifo(tmp_path / "fifo.mkv")

    def write() -> None:
        (tmp_path / "fifo.mkv").write_bytes((tmp_path / "x.mkv").read_bytes())

    writer = Worker("writer", write)
    found = []
    for name in ("x.mkv", "fifo.mkv"):
        source = open_source(str(tmp_path / name))
        assert source.passthrough is not None
        frames = [(frame.pts, [plane.tobytes() for plane in frame.planes]) for frame in source.frames()]
        found.append((frames, [(packet.pts, packet.dts, bytes(packet)) for _, packet in source.passthrough.take()]))
        source.close()
    assert writer.join(10)
    assert len(found[0][0]) == 60
    assert len(found[0][1]) > 40
    assert found[0] == found[1]


def test_stop_frees_a_reader_of_a_fifo(tmp_path: Path) -> None:
    write_video(tmp_path / "x.ts", count=60)
    os.mkfifo(tmp_path / "fifo.ts")
    holder: list[int] = []

    def write() -> None:
        holder.append(os.open(tmp_path / "fifo.ts", os.O_WRONLY))
        os.write(holder[0], (tmp_path / "x.ts").read_bytes())

    writer = Worker("writer", write)
    source = open_source(str(tmp_path / "fifo.ts"))
    stopped_while_waiting(source, skip=20, more=40)
    assert writer.join(10)
    os.close(holder[0])
    while abandoned():
        time.sleep(0.01)


def test_a_picture_is_not_read_from_a_fifo(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.png")
    with pytest.raises(SourceOpenError, match="is a pipe or a device"):
        open_source(str(tmp_path / "x.png"))
