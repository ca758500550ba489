"""One conformance suite over every sink that runs here, and what is particular to each."""

from __future__ import annotations

import hashlib
import io
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from media_files import test_picture as moving_picture
from media_files import write_video

from stream_sr.codec.audio_format import AudioFormat, make_track
from stream_sr.codec.encoder import Encoder
from stream_sr.codec.h264 import split_annexb
from stream_sr.codec.mp4 import lengthen_video
from stream_sr.codec.picture import orientation_of, picture_planes
from stream_sr.errors import ConfigError, SinkOpenError, SinkWriteError
from stream_sr.pipeline.interfaces import EncoderOptions, SinkOptions
from stream_sr.pipeline.packets import EncodedStream, Packet, Passthrough, Track
from stream_sr.pipeline.threads import Worker
from stream_sr.rtsp.rtp_video import VideoDepacketiser
from stream_sr.sinks import ADDRESSES, open_sink
from stream_sr.sinks.file import CONTAINERS, FileSink
from stream_sr.sinks.null import NullSink
from stream_sr.sinks.rtsp_publish import RtspPublishSink
from stream_sr.sinks.tracks import copied
from stream_sr.sinks.web.sink import WebSink
from stream_sr.sinks.y4m import Y4mSink
from stream_sr.video.color import ColorInfo
from stream_sr.video.frame import Frame, StreamInfo
from stream_sr.video.frame_pool import FramePool
from stream_sr.video.orientation import Orientation

pytestmark = pytest.mark.long

INFO = StreamInfo(
    64, 48, Fraction(1, 12_800), fps=Fraction(25), color=ColorInfo(6, 2, 6, 6, 1), sample_aspect=Fraction(4, 3)
)
STEP = 512


def frames(info: StreamInfo, times: Sequence[int]) -> Iterator[Frame]:
    for number, pts in enumerate(times):
        planes = moving_picture(number, info.width, info.height)
        yield Frame(planes, pts, info.time_base, number=number, color=info.color, sample_aspect=info.sample_aspect)


def encoded(
    info: StreamInfo, times: Sequence[int], *, live: bool = False, crf: float | None = 0, gop: int | None = None
) -> tuple[EncodedStream, list[Packet]]:
    encoder = Encoder(info, EncoderOptions(crf=crf, preset="ultrafast", gop=gop), live=live)
    packets = [packet for frame in frames(info, times) for packet in encoder.encode(frame)]
    packets += encoder.flush()
    encoder.close()
    return encoder.stream, packets


def write_file(path: Path, stream: EncodedStream, packets: Sequence[Packet], **options: Any) -> FileSink:
    sink = FileSink(str(path), SinkOptions(**options))
    sink.open(stream)
    for packet in packets:
        sink.write(packet)
    sink.complete()
    sink.close()
    return sink


def record(path: Path, stream: EncodedStream, packets: Sequence[Packet]) -> None:
    write_file(path, stream, packets)


def read_pictures(path: Path) -> list[av.VideoFrame]:
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def moments(pictures: Sequence[av.VideoFrame]) -> list[Fraction]:
    return [Fraction(picture.pts or 0) * Fraction(picture.time_base or 0) for picture in pictures]


def same_pixels(picture: av.VideoFrame, planes: Sequence[np.ndarray]) -> bool:
    return all(np.array_equal(one, two) for one, two in zip(picture_planes(picture), planes, strict=True))


# --- the suite -------------------------------------------------------------------------------------------------------


@dataclass
class Case:
    """A sink under test: how to make one, and how many pictures arrived at its other end after closing."""

    make: Callable[[], Any]
    packets: bool
    arrived: Callable[[], int]


def file_case(path: Path) -> Case:
    return Case(lambda: FileSink(str(path), SinkOptions()), True, lambda: len(read_pictures(path)))


def null_case() -> Case:
    made: list[NullSink] = []

    def make() -> NullSink:
        made.append(NullSink())
        return made[-1]

    return Case(make, False, lambda: made[-1].frames)


@pytest.fixture
def y4m_case(tmp_path: Path) -> Iterator[Case]:
    path = tmp_path / "out.y4m"
    with open(path, "wb") as file:
        yield Case(lambda: Y4mSink(file.fileno()), False, lambda: len(read_pictures(path)))


@pytest.fixture
def publish_case() -> Iterator[Case]:
    with RecordingServer() as server:
        yield Case(lambda: RtspPublishSink(server.url, SinkOptions()), True, lambda: len(server.finish()))


@pytest.fixture(params=["mp4", "m4v", "mov", "mkv", "ts", "null", "y4m", "publish"])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    if request.param == "null":
        return null_case()
    if request.param in ("y4m", "publish"):
        found: Case = request.getfixturevalue(f"{request.param}_case")
        return found
    return file_case(tmp_path / f"out.{request.param}")


def deliver(case: Case, sink: Any, info: StreamInfo, count: int) -> None:
    """Open the sink and hand it ``count`` frames whose memory is poisoned as soon as `write` is back."""
    times = [i * STEP for i in range(count)]
    if case.packets:
        stream, packets = encoded(info, times, live=True, crf=None)
        sink.open(stream)
        for packet in packets:
            sink.write(packet)
            assert sink.wants_keyframe() is False
        return
    pool = FramePool(info.width, info.height, 1, poison=True)
    sink.open(info)
    for frame in frames(info, times):
        slot = pool.lease()
        for target, plane in zip(slot.planes, frame.planes, strict=True):
            target[...] = plane
        assert sink.write(replace(frame, planes=slot.planes, slot=slot)) is True
        slot.release()
    assert pool.held == 0


@pytest.mark.parametrize("count", [1, 7])
@pytest.mark.parametrize("size", [(64, 48), (65, 49)], ids=["even", "odd"])
def test_every_picture_arrives(case: Case, count: int, size: tuple[int, int]) -> None:
    sink = case.make()
    deliver(case, sink, INFO.scaled(*size), count)
    sink.close()
    sink.close()
    assert case.arrived() == count


def test_closing_without_opening_is_nothing(case: Case) -> None:
    sink = case.make()
    sink.close()
    sink.close()


def test_opening_and_closing_without_a_picture(case: Case) -> None:
    sink = case.make()
    sink.open(encoded(INFO, [0])[0] if case.packets else INFO)
    sink.close()


def test_writing_to_a_closed_sink_is_refused(case: Case) -> None:
    item: Any = encoded(INFO, [0])[1][0] if case.packets else next(frames(INFO, [0]))
    sink = case.make()
    with pytest.raises(SinkWriteError):
        sink.write(item)
    deliver(case, sink, INFO, 1)
    sink.close()
    with pytest.raises(SinkWriteError):
        sink.write(item)


def test_every_sink_says_what_the_pipeline_asks(case: Case) -> None:
    sink = case.make()
    assert isinstance(sink.name, str)
    assert isinstance(sink.paced, bool)
    if case.packets:
        assert isinstance(sink.takes_passthrough, bool)
        assert all(isinstance(value, int) for value in sink.counters().values())


def test_the_end_of_the_run_is_told_before_closing(case: Case) -> None:
    sink = case.make()
    deliver(case, sink, INFO, 3)
    if case.packets:
        sink.complete()
        assert not any(sink.counters().values())
    sink.close()
    assert case.arrived() == 3


# --- addresses -------------------------------------------------------------------------------------------------------


def test_addresses_find_their_sinks(tmp_path: Path) -> None:
    assert isinstance(open_sink("null:", SinkOptions()), NullSink)
    assert isinstance(open_sink(str(tmp_path / "a.mkv"), SinkOptions()), FileSink)
    assert isinstance(open_sink("rtsp://user:secret@host.example/live", SinkOptions()), RtspPublishSink)
    with closing(open_sink("web:0", SinkOptions())) as page:  # it has taken a port
        assert isinstance(page, WebSink)
    assert len(ADDRESSES) == 8


@pytest.mark.parametrize("address", ["http://user:secret@host/x", "udp://1.2.3.4:5", "null", "", "window", "out.avi"])
def test_other_addresses_are_refused_with_what_is_allowed(address: str) -> None:
    with pytest.raises((ConfigError, SinkOpenError), match=r"one of|is not a container") as caught:
        open_sink(address, SinkOptions())
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


# --- files -----------------------------------------------------------------------------------------------------------

BASES = [Fraction(1, 90_000), Fraction(1001, 30_000), Fraction(1, 1000), Fraction(1, 12_800), Fraction(1, 25)]


@pytest.mark.parametrize("ending", ["mp4", "mov", "mkv"])
@pytest.mark.parametrize("base", BASES, ids=str)
def test_variable_frame_rates_keep_every_time_exactly(tmp_path: Path, ending: str, base: Fraction) -> None:
    step = max(1, round(Fraction(1, 25) / base))
    generator = np.random.default_rng(1)
    times = [int(t) for t in 3 * step + np.cumsum(generator.integers(1, step + 2, 30))]
    stream, packets = encoded(replace(INFO, time_base=base), times)
    write_file(tmp_path / f"out.{ending}", stream, packets)
    got = moments(read_pictures(tmp_path / f"out.{ending}"))
    if ending == "mkv":  # counts milliseconds
        assert max(abs(one - pts * base) for one, pts in zip(got, times, strict=True)) <= Fraction(1, 2000)
    else:
        assert got == [pts * base for pts in times]


@pytest.mark.parametrize("ending", ["mp4", "mov", "mkv", "ts"])
def test_pixels_colours_aspect_and_orientation_are_kept(
    tmp_path: Path, ending: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / f"out.{ending}"
    times = [i * STEP for i in range(12)]
    stream, packets = encoded(replace(INFO, orientation=Orientation.TRANSPOSED), times)
    write_file(path, stream, packets)
    pictures = read_pictures(path)
    assert len(pictures) == 12
    for picture, frame in zip(pictures, frames(INFO, times), strict=True):
        assert same_pixels(picture, frame.planes)
    with av.open(str(path)) as container:
        codec = container.streams.video[0].codec_context
        said = (codec.colorspace, codec.color_range, codec.color_primaries, codec.color_trc)
        assert said == (6, 2, 6, 6)
        assert codec.sample_aspect_ratio == Fraction(4, 3)
    assert orientation_of(pictures[0]) == (Orientation.UPRIGHT if ending == "ts" else Orientation.TRANSPOSED)
    lost = "MPEG-TS has no place for the orientation: players will not show it mirrored and turned by 270 degrees"
    assert (lost in caplog.text) == (ending == "ts")


def test_a_live_recording_begins_at_zero(tmp_path: Path) -> None:
    times = [10**9 + i * STEP for i in range(5)]
    stream, packets = encoded(replace(INFO, live=True), times, live=True)
    write_file(tmp_path / "out.mp4", stream, packets)
    assert moments(read_pictures(tmp_path / "out.mp4")) == [i * STEP * INFO.time_base for i in range(5)]


@pytest.mark.parametrize(("first", "preset"), [(0, "medium"), (40 * STEP, "medium"), (0, "superfast")])
@pytest.mark.parametrize("ending", [".mp4", ".mov"])
def test_the_last_picture_is_shown_wherever_a_fragment_begins(
    tmp_path: Path, ending: str, first: int, preset: str
) -> None:
    """It comes before others in decoding order; a fragment that begins with one of those must not end the video."""
    reordered = 0
    for count in (*range(9, 34), 60, 61, 62, 63):
        encoder = Encoder(INFO, EncoderOptions(crf=30, preset=preset), live=False)
        times = [first + STEP * n for n in range(count)]
        packets = [packet for frame in frames(INFO, times) for packet in encoder.encode(frame)] + encoder.flush()
        encoder.close()
        reordered += packets[-1].pts != times[-1]
        path = tmp_path / f"{count}{ending}"
        record(path, encoder.stream, packets)
        assert moments(read_pictures(path)) == [pts * INFO.time_base for pts in times]
        with av.open(str(path)) as container:
            (video,) = container.streams.video
            assert video.duration == STEP * count
            assert container.duration == pytest.approx(40_000 * count, abs=2)
    assert reordered > 3


def test_a_video_that_says_its_length_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    record(path, *encoded(INFO, range(0, 8 * STEP, STEP)))
    before = path.read_bytes()
    assert not lengthen_video(path, Fraction(8, 25))
    assert path.read_bytes() == before
    assert lengthen_video(path, Fraction(9, 25))
    after = path.read_bytes()
    assert len(after) == len(before)
    assert 4 <= sum(one != other for one, other in zip(after, before, strict=True)) <= 16  # four lengths, no more
    for content in (b"", b"\0\0\0\x08free", before[: before.rindex(b"moov") + 300], b"\0\0\0\x01mdat\0\0"):
        path.write_bytes(content)
        assert not lengthen_video(path, Fraction(99))
        assert path.read_bytes() == content


def remux(source: Path, target: Path, **options: Any) -> None:
    """The pictures of a clip encoded again, its other tracks passed through, as the pipeline does it."""
    container: Any
    with av.open(str(source)) as container:
        video = container.streams.video[0]
        others = [stream for stream in container.streams if stream.type in ("audio", "subtitle")]
        numbers = {stream.index: number for number, stream in enumerate(others)}
        passthrough = Passthrough(tuple(Track(i, s.type, s.codec_context.name, s) for i, s in enumerate(others)))
        encoder = Encoder(replace(INFO, time_base=video.time_base), EncoderOptions(preset="ultrafast"), live=False)
        sink = FileSink(str(target), SinkOptions(**options))
        if not sink.takes_passthrough:
            passthrough.shut()
        sink.open(encoder.stream.with_passthrough(passthrough if sink.takes_passthrough else None))
        for packet in container.demux():
            if packet.stream_index in numbers and packet.size:
                assert passthrough.put(numbers[packet.stream_index], packet, packet.size)
                continue
            for picture in packet.decode() if packet.stream_index == video.index else ():
                planes: Any = tuple(plane.copy() for plane in picture_planes(picture))
                for out in encoder.encode(Frame(planes, picture.pts, video.time_base)):
                    sink.write(out)
        for out in encoder.flush():
            sink.write(out)
        sink.complete()
        sink.close()
        encoder.close()
        assert passthrough.bytes_held == 0


def other_packets(path: Path) -> dict[str, list[tuple[bytes, Fraction]]]:
    found: dict[str, list[tuple[bytes, Fraction]]] = {}
    with av.open(str(path)) as container:
        for packet in container.demux():
            if packet.stream.type != "video" and packet.size and packet.pts is not None:
                moment = packet.pts * packet.time_base
                found.setdefault(packet.stream.type, []).append((bytes(packet), moment))
    return found


@pytest.mark.parametrize("ending", ["mp4", "mov", "mkv"])
def test_audio_is_copied_bit_for_bit_with_its_times_beyond_the_end_of_the_pictures(tmp_path: Path, ending: str) -> None:
    source, target = tmp_path / "in.mp4", tmp_path / f"out.{ending}"
    times = write_video(source, count=25, audio_seconds=1.5)
    remux(source, target)
    before, after = other_packets(source)["audio"], other_packets(target)["audio"]
    assert len(before) > 65
    assert [data for data, _ in after] == [data for data, _ in before]
    slack = Fraction(1, 1000) if ending == "mkv" else Fraction(0)
    assert max(abs(one[1] - two[1]) for one, two in zip(before, after, strict=True)) <= slack
    assert moments(read_pictures(target)) == [pts * Fraction(1, 12_800) for pts in times]


def test_the_audio_of_a_part_ends_with_its_pictures(tmp_path: Path) -> None:
    """A stopped run: the source had read further."""
    source, target = tmp_path / "in.mp4", tmp_path / "out.mkv"
    write_video(source, count=50, audio_seconds=2.0)
    stream, packets = encoded(INFO, [i * STEP for i in range(25)])
    sink = FileSink(str(target), SinkOptions())
    with av.open(str(source)) as container:
        sound = container.streams.audio[0]
        passthrough = Passthrough((Track(0, "audio", "aac", sound),))
        for piece in container.demux(sound):
            assert passthrough.put(0, piece, piece.size)
        sink.open(stream.with_passthrough(passthrough))
        for packet in packets:
            sink.write(packet)
        sink.close()
    last = other_packets(target)["audio"][-1][1]
    assert Fraction(9, 10) < last < 1
    assert len(read_pictures(target)) == 25


def test_subtitles_are_copied_to_matroska(tmp_path: Path) -> None:
    source = tmp_path / "in.mkv"
    write_video(source, count=25, audio_seconds=1.0, subtitles=[(0, 300, "one"), (400, 500, "two")])
    remux(source, tmp_path / "out.mkv")
    assert other_packets(tmp_path / "out.mkv") == other_packets(source)
    assert len(other_packets(source)["subtitle"]) == 2


def test_subtitles_that_mpegts_cannot_hold_are_left_out_and_that_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = tmp_path / "in.mkv"
    write_video(source, count=10, audio_seconds=0.4, subtitles=[(0, 300, "one")])
    remux(source, tmp_path / "out.ts")
    assert list(other_packets(tmp_path / "out.ts")) == ["audio"]
    assert "subtitle, which is left out; write .mkv to keep it" in caplog.text


def test_without_audio_the_lane_is_not_taken(tmp_path: Path) -> None:
    source = tmp_path / "in.mp4"
    write_video(source, count=10, audio_seconds=0.4)
    assert FileSink("x.mp4", SinkOptions()).takes_passthrough is True
    assert FileSink("x.mp4", SinkOptions(audio="none")).takes_passthrough is False
    remux(source, tmp_path / "out.mp4", audio="none")
    assert other_packets(tmp_path / "out.mp4") == {}


def described(packet: Any) -> tuple[Any, ...]:
    """All that a packet says of itself."""
    sides = tuple((side.data_type, bytes(side)) for side in packet.iter_sidedata())
    marks = (packet.is_keyframe, packet.is_discard, packet.is_disposable, packet.is_trusted, packet.is_corrupt)
    return (bytes(packet), packet.pts, packet.dts, packet.duration, packet.time_base, packet.stream_index, marks, sides)


def test_two_files_take_the_same_packets_at_once_and_leave_them_as_they_are(tmp_path: Path) -> None:
    """Each in a thread of its own, with other time bases, and one of them with another beginning."""
    source = tmp_path / "in.mkv"
    write_video(source, count=50, audio_seconds=2.0)
    with av.open(str(source)) as container:
        stream = container.streams.audio[0]
        passthrough = Passthrough((Track(0, "audio", "aac", stream),))
        lanes = [passthrough, passthrough.branch()]
        packets = [packet for packet in container.demux(stream) if packet.size]
        before = [described(packet) for packet in packets]
        for packet in packets:
            assert passthrough.put(0, packet, packet.size)
        stored = [tmp_path / "one.mp4", tmp_path / "two.mkv"]
        coded, pictures = encoded(INFO, [i * STEP for i in range(50)])
        workers = [
            Worker(path.name, partial(record, path, coded.with_passthrough(passthrough), pictures))
            for path, passthrough in zip(stored, lanes, strict=True)
        ]
        for worker in workers:
            worker.join()
        assert [worker.error for worker in workers] == [None, None]
        assert [described(packet) for packet in packets] == before
    assert len(packets) > 80
    for path in stored:
        assert [data for data, _ in other_packets(path)["audio"]] == [bytes(packet) for packet in packets]


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_a_copied_packet_is_muxed_to_the_same_bytes(tmp_path: Path, ending: str) -> None:
    """With its side data: the priming of AAC, samples to be skipped, is that of the first packet."""
    source, made = tmp_path / f"in.{ending}", []
    write_video(source, audio_seconds=1.0)
    for copy in (False, True):
        target: Any = io.BytesIO()
        kind, bare = CONTAINERS[f".{ending}"], {"fflags": "+bitexact"}
        with av.open(str(source)) as container, av.open(target, "w", format=kind, container_options=bare) as output:
            stream = container.streams.audio[0]
            added = output.add_stream_from_template(stream, opaque=True)
            for number, packet in enumerate(packet for packet in container.demux(stream) if packet.size):
                assert packet.has_sidedata("skip_samples") == (number == 0)
                sent = copied(packet) if copy else packet
                assert described(sent)[3:5] == described(packet)[3:5]
                sent.pts, sent.dts, sent.stream = packet.pts, packet.dts, added
                output.mux_one(sent)
        made.append(target.getvalue())
    assert made[0] == made[1]


def test_audio_times_that_step_back_are_mended(tmp_path: Path) -> None:
    source = tmp_path / "in.mp4"
    write_video(source, count=25, audio_seconds=1.0)
    with av.open(str(source)) as container:
        stream = container.streams.audio[0]
        passthrough = Passthrough((Track(0, "audio", "aac", stream),))
        sent: list[bytes] = []
        for packet in container.demux(stream):
            if packet.size and packet.pts is not None and packet.dts is not None:
                if len(sent) == 20:
                    packet.pts -= 5000
                    packet.dts -= 5000
                sent.append(bytes(packet))
                passthrough.put(0, packet, packet.size)
        coded, packets = encoded(INFO, [i * STEP for i in range(25)])
        write_file(tmp_path / "out.mp4", replace(coded, passthrough=passthrough), packets)
    assert [data for data, _ in other_packets(tmp_path / "out.mp4")["audio"]] == sent


def test_bad_targets_are_refused_before_any_work(tmp_path: Path) -> None:
    existing = tmp_path / "there.mp4"
    existing.write_bytes(b"precious")
    (tmp_path / "folder.mp4").mkdir()
    os.mkfifo(tmp_path / "pipe.mp4")
    cases = {
        str(existing): "exists",
        str(tmp_path / "out.xyz"): "ending .xyz",
        str(tmp_path / "out"): r"\(none\)",
        str(tmp_path / "missing" / "out.mp4"): "does not exist",
        str(tmp_path / "folder.mp4"): "is a folder",
    }
    for path, words in cases.items():
        with pytest.raises(SinkOpenError, match=words) as caught:
            open_sink(path, SinkOptions())
        assert "\n" not in str(caught.value)
    with pytest.raises(SinkOpenError, match="ordinary file"):
        open_sink(str(tmp_path / "pipe.mp4"), SinkOptions(overwrite=True))
    assert existing.read_bytes() == b"precious"


def test_a_folder_without_the_right_to_write_is_refused(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    tmp_path.chmod(0o500)
    with pytest.raises(SinkOpenError, match="no right"):
        open_sink(str(tmp_path / "out.mp4"), SinkOptions())


@pytest.mark.parametrize("link", ["same", "symlink", "hardlink"])
def test_the_input_is_not_overwritten_by_accident(tmp_path: Path, link: str) -> None:
    source, target = tmp_path / "in.mp4", tmp_path / "out.mp4"
    write_video(source, count=3)
    if link == "same":
        target = source
    elif link == "symlink":
        target.symlink_to(source)
    else:
        target.hardlink_to(source)
    with pytest.raises(SinkOpenError, match="input itself"):
        open_sink(str(target), SinkOptions(source=str(source)))
    # When it is asked for, the input is whole until the output is.
    before = source.read_bytes()
    stream, packets = encoded(INFO, [i * STEP for i in range(9)])
    sink = FileSink(str(target), SinkOptions(source=str(source), overwrite=True))
    sink.open(stream)
    for packet in packets:
        sink.write(packet)
    sink.complete()
    assert source.read_bytes() == before
    sink.close()
    sink.close()
    assert len(read_pictures(target)) == 9
    assert {path.name for path in tmp_path.iterdir()} == {"in.mp4", target.name}


@pytest.mark.parametrize("ending", ["mp4", "mkv", "ts"])
def test_an_input_is_not_replaced_by_a_part_of_the_output(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, ending: str
) -> None:
    """A run that was stopped is closed without being complete: twice, so that no earlier part is lost either."""
    source = tmp_path / f"in.{ending}"
    write_video(source, count=30)
    before = source.read_bytes()
    stream, packets = encoded(INFO, [i * STEP for i in range(9)])
    for number, name in enumerate((f"in.part.{ending}", f"in.part2.{ending}")):
        sink = FileSink(str(source), SinkOptions(source=str(source), overwrite=True))
        sink.open(stream)
        for packet in packets[: 9 - number]:
            sink.write(packet)
        caplog.clear()
        sink.close()
        sink.close()
        assert source.read_bytes() == before
        assert len(read_pictures(tmp_path / name)) == 9 - number
        assert len(caplog.records) == 1
        assert caplog.records[0].levelname == "WARNING"
        assert name in caplog.text
        assert "input is left alone" in caplog.text
    assert {path.name for path in tmp_path.iterdir()} == {source.name, f"in.part.{ending}", f"in.part2.{ending}"}


def test_an_input_is_not_replaced_by_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = tmp_path / "in.mp4"
    write_video(source, count=3)
    before = source.read_bytes()
    sink = write_file(source, *encoded(INFO, [])[:1], [], source=str(source), overwrite=True)
    sink.close()
    assert source.read_bytes() == before
    assert "nothing was written" in caplog.text
    assert list(tmp_path.iterdir()) == [source]


def test_an_input_is_not_replaced_after_a_failed_write(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = tmp_path / "in.mp4"
    write_video(source, count=30)
    before = source.read_bytes()
    stream, packets = encoded(INFO, [i * STEP for i in range(250)], gop=25)
    sink = FileSink(str(source), SinkOptions(source=str(source), overwrite=True))
    sink.open(stream)
    for packet in packets[:90]:
        sink.write(packet)
    assert sink._disk is not None
    sink._disk.error = OSError(28, "No space left on device")
    with pytest.raises(SinkWriteError, match="No space left"):
        for packet in packets[90:]:
            sink.write(packet)
    sink.complete()
    sink.close()
    assert source.read_bytes() == before
    assert len(read_pictures(tmp_path / "in.part.mp4")) >= 50
    assert caplog.text.count("in.part.mp4") == 1


def test_an_input_is_not_replaced_when_the_end_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """By whatever goes wrong, also what nobody thought of."""
    source = tmp_path / "in.mp4"
    write_video(source, count=3)
    before = source.read_bytes()
    stream, packets = encoded(INFO, [i * STEP for i in range(60)], gop=25)
    for failure, seen in ((OSError(5, "Input/output error"), SinkWriteError), (RuntimeError("odd"), RuntimeError)):
        sink = FileSink(str(source), SinkOptions(source=str(source), overwrite=True))
        sink.open(stream)
        for packet in packets:
            sink.write(packet)
        sink.complete()

        def fail(disk: Any, failure: Exception = failure) -> None:
            raise failure

        with monkeypatch.context() as patch:
            patch.setattr("stream_sr.sinks.output_file.OutputFile.sync", fail)
            with pytest.raises(seen):
                sink.close()
        sink.close()
        assert source.read_bytes() == before
    assert len(read_pictures(tmp_path / "in.part.mp4")) == 60
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]


def test_overwriting_replaces_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "out.mkv"
    path.write_bytes(b"x" * 100_000)
    write_file(path, *encoded(INFO, [0, STEP]), overwrite=True)
    assert len(read_pictures(path)) == 2


def test_a_file_made_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    sink = open_sink(str(path), SinkOptions())
    path.write_bytes(b"precious")
    with pytest.raises(SinkOpenError, match="exists"):
        sink.open(encoded(INFO, [0])[0])  # type: ignore[arg-type]
    sink.close()
    assert path.read_bytes() == b"precious"


WRITER = """
import resource, sys
from pathlib import Path
sys.path[:0] = sys.argv[1].split(':')
from test_sinks import INFO, STEP, encoded
from stream_sr.errors import SinkWriteError
from stream_sr.pipeline.interfaces import SinkOptions
from stream_sr.sinks.file import CONTAINERS, FileSink
path, limit = sys.argv[2], int(sys.argv[3])
stream, packets = encoded(INFO, [i * STEP for i in range(250)], gop=25)
sink = FileSink(path, SinkOptions())
sink.open(stream)
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    for number, packet in enumerate(packets):
        sink.write(packet)
        if number == 200 and not limit:
            print("ready", flush=True)
            sys.stdin.read()
    sink.close()
except SinkWriteError as error:
    print(error)
    sink.close()
    sink.close()
"""


def start_writer(path: Path, limit: int) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-c",
        WRITER,
        f"{Path(__file__).parent}:{Path(__file__).parents[1] / 'support'}",
        str(path),
        str(limit),
    ]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("ending", ["mp4", "mov", "mkv", "ts"])
def test_a_killed_program_leaves_a_playable_file(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"out.{ending}"
    with start_writer(path, 0) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        writer.kill()
    pictures = read_pictures(path)
    assert len(pictures) >= 150  # of 201; up to two seconds may be missing
    assert moments(pictures) == [i * STEP * INFO.time_base for i in range(len(pictures))]


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_a_full_disk_is_one_clear_line_and_leaves_a_playable_file(tmp_path: Path, ending: str) -> None:
    """The limit on the size of files stands in for the size of the disk: writing fails in the same place."""
    whole = tmp_path / f"whole.{ending}"
    write_file(whole, *encoded(INFO, [i * STEP for i in range(250)], gop=25))
    path = tmp_path / f"out.{ending}"
    with start_writer(path, whole.stat().st_size // 2) as writer:
        said, _ = writer.communicate(timeout=60)
    assert writer.returncode == 0
    assert said.count("\n") == 1
    assert "File too large" in said
    assert 50 <= len(read_pictures(path)) <= 160


def test_a_disk_that_is_full_only_at_the_end_is_told_too(tmp_path: Path) -> None:
    whole = tmp_path / "whole.mp4"
    write_file(whole, *encoded(INFO, [i * STEP for i in range(250)], gop=25))
    path = tmp_path / "out.mp4"
    with start_writer(path, whole.stat().st_size - 100) as writer:
        said, _ = writer.communicate(timeout=60)
    assert "the end of the file cannot be written" in said
    assert len(read_pictures(path)) >= 200


# --- y4m -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(64, 48), (853, 479)], ids=["even", "odd"])
def test_y4m_is_read_back_by_ffmpeg_with_the_same_pixels(tmp_path: Path, size: tuple[int, int]) -> None:
    info = INFO.scaled(*size)
    path = tmp_path / "out.y4m"
    with open(path, "wb") as file:
        sink = Y4mSink(file.fileno())
        sink.open(info)
        for frame in frames(info, [0, STEP, 2 * STEP]):
            assert sink.write(frame)
        sink.close()
        file.write(b"")  # the descriptor is still ours
    pictures = read_pictures(path)
    for picture, frame in zip(pictures, frames(info, [0, STEP, 2 * STEP]), strict=True):
        assert same_pixels(picture, frame.planes)
        assert picture.color_range == 2
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == 25
        assert stream.sample_aspect_ratio == Fraction(4, 3)


def test_y4m_takes_rows_that_are_not_contiguous() -> None:
    reader, writer = os.pipe()
    big = [np.arange(32 * 64, dtype=np.uint8).reshape(32, 64) for _ in range(3)]
    sink = Y4mSink(writer)
    sink.open(StreamInfo(16, 8, Fraction(1, 25), fps=Fraction(25)))
    assert sink.write(Frame((big[0][:8, :16], big[1][:4, :8], big[2][:4, :8]), 0, Fraction(1, 25)))
    os.close(writer)
    with open(reader, "rb") as file:
        header, _, body = file.read().partition(b"\nFRAME\n")
    assert header.startswith(b"YUV4MPEG2 W16 H8 F25:1")
    assert body == b"".join(p.tobytes() for p in (big[0][:8, :16], big[1][:4, :8], big[2][:4, :8]))


def test_a_reader_that_leaves_closes_the_output() -> None:
    reader, writer = os.pipe()
    sink = Y4mSink(writer)
    sink.open(INFO)
    first, second = frames(INFO, [0, STEP])
    assert sink.write(first) is True
    os.close(reader)
    assert sink.write(second) is False
    sink.close()
    os.close(writer)


def test_y4m_to_a_full_device_is_one_clear_line() -> None:
    with open("/dev/full", "wb") as full:
        sink = Y4mSink(full.fileno())
        sink.open(INFO)
        with pytest.raises(SinkWriteError, match="No space left"):
            sink.write(next(frames(INFO, [0])))
        sink.close()


def test_y4m_is_not_written_to_a_terminal() -> None:
    controller, terminal = os.openpty()
    try:
        with pytest.raises(SinkOpenError, match="terminal"):
            Y4mSink(terminal).check()
    finally:
        os.close(controller)
        os.close(terminal)


# --- publishing ------------------------------------------------------------------------------------------------------


class RecordingServer:
    """As much of an RTSP server as takes one ANNOUNCE over TCP. It keeps the access units that it is sent.

    ``status`` answers all requests with another status; ``stall`` stops reading after RECORD; ``mute`` never answers.
    """

    def __init__(
        self, *, status: str = "200 OK", stall: bool = False, mute: bool = False, challenge: str = "", port: int = 0
    ) -> None:
        self._challenge = challenge
        self.authorizations: list[str] = []
        self._status, self._stall, self._mute = status, stall, mute
        self._listener = socket.create_server(("127.0.0.1", port))
        self._listener.settimeout(10)
        self._released = threading.Event()
        self._units: list[bytes] = []
        self.requests: list[str] = []
        self.sound: list[bytes] = []
        self.sdp = ""
        self._worker = Worker("recording server", self._serve)

    @property
    def url(self) -> str:
        return f"rtsp://user:secret@127.0.0.1:{self._listener.getsockname()[1]}/live"

    def __enter__(self) -> RecordingServer:
        return self

    def __exit__(self, *_: object) -> None:
        with self._listener:
            self.finish()

    def finish(self) -> list[bytes]:
        """Wait for the publisher to leave; what it sent."""
        self._released.set()
        with socket.socket() as knock:  # ends an accept that nobody came to
            knock.connect_ex(self._listener.getsockname())
        assert self._worker.join(10)
        if self._worker.error is not None:
            raise self._worker.error
        return self._units

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection, connection.makefile("rb") as stream:
            connection.settimeout(10)
            if self._mute:
                self._released.wait(30)
                return
            try:
                self._talk(connection, stream)
            except ConnectionError:
                return

    def _talk(self, connection: socket.socket, stream: io.BufferedReader) -> None:
        depacketiser = VideoDepacketiser()
        while first := stream.read(1):
            if first == b"$":
                channel, size = stream.read(1)[0], int.from_bytes(stream.read(2), "big")
                data = stream.read(size)
                if channel == 0:
                    self._units += [unit.data for unit in depacketiser.push(data, 0)]
                elif channel == 2:
                    self.sound.append(data)
                continue
            method = self._answer(connection, stream, first + stream.readline())
            if method == "RECORD" and self._stall:
                self._released.wait(30)
                return
            if method == "TEARDOWN":
                self._units += [unit.data for unit in depacketiser.flush(0)]

    def _answer(self, connection: socket.socket, stream: io.BufferedReader, line: bytes) -> str:
        fields = {}
        while (header := stream.readline().strip()) != b"":
            name, _, value = header.decode().partition(":")
            fields[name.lower()] = value.strip()
        body = stream.read(int(fields.get("content-length", 0)))
        method = line.split()[0].decode()
        self.requests.append(method)
        if method == "ANNOUNCE":
            self.sdp = body.decode()
        lines = [f"RTSP/1.0 {self._status}", f"CSeq: {fields['cseq']}", "Session: 1"]
        if self._challenge and "authorization" not in fields:
            lines[0] = "RTSP/1.0 401 Unauthorized"
            lines.append(f"WWW-Authenticate: {self._challenge}")
        elif self._challenge:
            self.authorizations.append(fields["authorization"])
        if method == "SETUP":
            lines.append("Transport: RTP/AVP/TCP;unicast;interleaved=0-1;mode=record")
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        return method


def test_what_is_published_arrives_bit_for_bit() -> None:
    stream, packets = encoded(INFO, [i * STEP for i in range(20)], live=True, crf=None)
    with RecordingServer() as server:
        sink = RtspPublishSink(server.url, SinkOptions())
        sink.open(stream)
        for packet in packets:
            sink.write(packet)
        sink.close()
        units = server.finish()
    assert server.requests == ["ANNOUNCE", "SETUP", "RECORD", "TEARDOWN"]
    assert "H264/90000" in server.sdp
    assert "sprop-parameter-sets" in server.sdp
    assert [split_annexb(unit) for unit in units] == [split_annexb(packet.data) for packet in packets]


def test_a_refused_connection_is_one_clear_line_without_the_password() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    sink = RtspPublishSink(f"rtsp://user:secret@127.0.0.1:{port}/live", SinkOptions())
    with pytest.raises(SinkOpenError, match="refused") as caught:
        sink.open(encoded(INFO, [0])[0])
    sink.close()
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("status", ["401 Unauthorized", "404 Not Found", "405 Method Not Allowed"])
def test_a_server_that_says_no_is_one_clear_line(status: str) -> None:
    with RecordingServer(status=status) as server:
        sink = RtspPublishSink(server.url, SinkOptions())
        with pytest.raises(SinkOpenError, match="did not take the stream") as caught:
            sink.open(encoded(INFO, [0])[0])
        sink.close()
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("challenge", "words"),
    [
        ('Basic realm="r"', "Basic dXNlcjpzZWNyZXQ="),
        ('Digest realm="r", nonce="n"', 'Digest username="user", realm="r", nonce="n", uri='),
    ],
)
def test_a_password_is_given_when_it_is_asked_for(challenge: str, words: str) -> None:
    stream, packets = encoded(INFO, [0], live=True, crf=None)
    with RecordingServer(challenge=challenge) as server:
        bare = server.url.replace("user:secret@", "")
        sink = RtspPublishSink(server.url, SinkOptions())
        sink.open(stream)
        sink.write(packets[0])
        sink.close()
        assert len(server.finish()) == 1
    assert server.requests == ["ANNOUNCE", "ANNOUNCE", "SETUP", "RECORD", "TEARDOWN"]
    assert len(server.authorizations) == 4
    assert all(given.startswith(words) for given in server.authorizations)
    if challenge.startswith("Digest"):  # RFC 2617, 3.2.2
        secret, request = (hashlib.md5(t.encode()).hexdigest() for t in ("user:r:secret", f"ANNOUNCE:{bare}"))
        response = hashlib.md5(f"{secret}:n:{request}".encode()).hexdigest()
        assert f'response="{response}"' in server.authorizations[0]


def test_a_server_that_never_answers_is_given_up() -> None:
    with RecordingServer(mute=True) as server:
        sink = RtspPublishSink(server.url, SinkOptions(), stall_seconds=0.5)
        with pytest.raises(SinkOpenError, match=r"within 0\.5 s"):
            sink.open(encoded(INFO, [0])[0])
        sink.close()


def test_a_server_that_stops_reading_is_given_up() -> None:
    """FFmpeg's `mux` would hang for ever: the socket's buffers are filled with one big picture after another."""
    stream, packets = encoded(INFO, [i * STEP for i in range(2)], live=True, crf=None)
    with RecordingServer(stall=True) as server:
        sink = RtspPublishSink(server.url, SinkOptions(reconnect=0), stall_seconds=0.5)
        sink.open(stream)
        big = replace(packets[0], data=packets[0].data + bytes([0, 0, 1, 12]) + b"\xff" * 4_000_000)
        with pytest.raises(SinkWriteError, match="took no data for"):
            for number in range(20):
                sink.write(replace(big, pts=number, dts=number))
        with pytest.raises(SinkWriteError):
            sink.write(packets[1])
        sink.close()


def test_a_server_that_goes_away_is_a_write_error() -> None:
    stream, packets = encoded(INFO, [i * STEP for i in range(2)], live=True, crf=None)
    with RecordingServer(stall=True) as server:
        sink = RtspPublishSink(server.url, SinkOptions(reconnect=0))
        sink.open(stream)
        server.finish()
        with pytest.raises(SinkWriteError, match="gone"):
            for number in range(1000):
                sink.write(replace(packets[0], pts=number, dts=number))
        sink.close()


def test_a_server_that_comes_back_goes_on_with_a_keyframe() -> None:
    stream, packets = encoded(INFO, [i * STEP for i in range(20)], live=True, crf=None)
    key, other = packets[0], packets[1]
    with RecordingServer() as server:
        port, url = int(server.url.split(":")[-1].split("/")[0]), server.url
        sink = RtspPublishSink(url, SinkOptions())
        sink.open(stream)
        sink.write(key)
        assert sink._connection is not None
        sink._connection.close()  # as if the line were cut
        number = 0
        while not sink.counters()["dropped_packets"]:
            number += 1
            sink.write(replace(other, pts=number, dts=number))
        server.finish()
    with RecordingServer(port=port) as server:
        while not sink.wants_keyframe():
            number += 1
            sink.write(replace(other, pts=number, dts=number))
            time.sleep(0.005)
        sink.write(replace(key, pts=number + 1, dts=number + 1))
        sink.write(replace(other, pts=number + 2, dts=number + 2))
        assert sink.counters()["reconnects"] == 1
        sink.close()
        units = server.finish()
    assert [split_annexb(unit) for unit in units] == [split_annexb(key.data), split_annexb(other.data)]


def test_a_server_that_does_not_come_back_in_time_is_a_write_error() -> None:
    stream, packets = encoded(INFO, [0], live=True, crf=None)
    with RecordingServer() as server:
        sink = RtspPublishSink(server.url, SinkOptions(reconnect=0.05))
        sink.open(stream)
        assert sink._connection is not None
        sink._connection.close()
        server.finish()
    with pytest.raises(SinkWriteError, match=r"did not come back within 0\.05 s"):
        while True:
            sink.write(packets[0])
            time.sleep(0.005)
    sink.close()


def test_sound_is_published_too() -> None:
    form = AudioFormat("pcm_mulaw", 8000, 1, 0)
    passthrough = Passthrough((make_track(form),))
    for number in range(5):
        packet: Any = av.Packet(bytes([number]) * 160)
        packet.pts = packet.dts = 160 * number
        packet.time_base = Fraction(1, 8000)
        passthrough.put(0, packet, 160)
    stream, packets = encoded(INFO, [i * STEP for i in range(5)], live=True, crf=None)
    with RecordingServer() as server:
        sink = RtspPublishSink(server.url, SinkOptions())
        sink.open(stream.with_passthrough(passthrough))
        for one in packets:
            sink.write(one)
        sink.close()
        assert len(server.finish()) == 5
    assert server.requests == ["ANNOUNCE", "SETUP", "SETUP", "RECORD", "TEARDOWN"]
    assert "PCMU/8000" in server.sdp
    assert [data[12:] for data in server.sound] == [bytes([number]) * 160 for number in range(5)]


@pytest.mark.parametrize("url", ["rtsp:///path", "rtsp://host:99999/x", "rtsp://host:0/x"])
def test_addresses_without_a_host_or_port_are_refused(url: str) -> None:
    with pytest.raises(SinkOpenError):
        RtspPublishSink(url, SinkOptions()).check()


def test_mpegts_gets_aac_for_sound_that_nothing_would_play(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """FFmpeg's muxer takes any codec and marks what it does not know as private data."""
    source = tmp_path / "sound.mkv"
    with av.open(str(source), "w") as container:
        track = container.add_stream("pcm_s16le", rate=48000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 4800), np.int16), format="s16", layout="mono")
        sound.sample_rate = 48000
        sound.pts = 0
        container.mux(track.encode(sound))
        container.mux(track.encode(None))
    stream, packets = encoded(INFO, [0, STEP])
    with av.open(str(source)) as container:
        template = container.streams.audio[0]
        for name, codec in (("out.ts", "aac"), ("out.mkv", "pcm_s16le")):
            passthrough = Passthrough((Track(0, "audio", "pcm_s16le", template, 48000, 1),))
            write_file(tmp_path / name, stream.with_passthrough(passthrough), packets)
            with av.open(str(tmp_path / name)) as made:
                assert made.streams.audio[0].codec_context.name == codec
    assert caplog.text.count("cannot hold pcm_s16le audio, which is transcoded to AAC; write .mkv") == 1
