"""Whole files through the filter: clocks, audio, subtitles and metadata of the input are those of the output."""

from __future__ import annotations

import itertools
import logging
import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition
from media_files import test_picture as moving_picture
from media_files import video_frame, write_video

from stream_sr.app.session import RunHooks, run
from stream_sr.codec.encoder import Encoder
from stream_sr.config import Config
from stream_sr.pipeline.interfaces import EncoderOptions, SinkOptions
from stream_sr.sinks.file import FileSink
from stream_sr.sources.file import FileSource
from stream_sr.video.frame import StreamInfo

pytestmark = pytest.mark.long

TICKS = Fraction(1, 90_000)
COPY_TIMES = {"mpegts_copyts": "1"}
AAC_FRAME = Fraction(1024, 48_000)


def upscale(source: Path, target: Path, **options: Any) -> dict[str, Any]:
    """Run the program on files; its report."""
    config = Config(backend="bicubic", encoder_preset="ultrafast", **options)
    outcome = run(str(source), [str(target)], config, RunHooks(show_status=False))
    assert outcome.error is None, outcome.error
    return outcome.report


def times(path: Path, kind: str) -> list[Fraction]:
    """When the packets of the first track of a kind are shown, in order."""
    with av.open(str(path)) as container:
        stream = next(s for s in container.streams if s.type == kind)
        found: Any = container.demux(stream)
        return sorted(p.pts * p.time_base for p in found if p.size and p.pts is not None)


def kinds(path: Path) -> list[str]:
    with av.open(str(path)) as container:
        return [f"{s.type} {s.codec_context.name}" for s in container.streams if s.codec_context is not None]


def tone(path: Path, rate: int = 48_000) -> np.ndarray:
    """The first audio track as mono samples on the file's clock: silence up to its beginning."""
    resampler = av.AudioResampler("flt", "mono", rate)
    pieces, first = [], None
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            if first is None:
                assert frame.pts is not None
                assert frame.time_base is not None
                first = round(frame.pts * frame.time_base * rate)
            pieces += [piece.to_ndarray().ravel() for piece in resampler.resample(frame)]
    assert first is not None
    return np.concatenate([np.zeros(max(0, first), np.float32), *pieces])


# --- clocks ----------------------------------------------------------------------------------------------------------


def move_fragments(path: Path, seconds: int) -> None:
    """Add seconds to the decode times of all fragments, as a live server's clock has them (14496-12, 8.8.12)."""
    with av.open(str(path)) as container:
        rates = {number: round(1 / (s.time_base or Fraction(1))) for number, s in enumerate(container.streams, 1)}
    data = bytearray(path.read_bytes())
    place = 0
    while (place := data.find(b"tfdt", place + 1)) > 0:
        head = data.rindex(b"tfhd", 0, place)
        (track,) = struct.unpack_from(">I", data, head + 8)
        form = ">Q" if data[place + 4] else ">I"
        (value,) = struct.unpack_from(form, data, place + 8)
        struct.pack_into(form, data, place + 8, value + seconds * rates[track])
    path.write_bytes(data)


@pytest.mark.parametrize(
    "ending", ["mp4", "mkv", pytest.param("mov", marks=pytest.mark.slow), pytest.param("ts", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("far.ts", {"offset": 40_000, "container_options": COPY_TIMES}),
        ("wrap.ts", {"offset": 95_443, "container_options": COPY_TIMES}),  # 2**33 ticks are 95443.7 s
        ("far.mpg", {"offset": 40_000, "format": "vob", "codec": "mpeg2video", "time_base": Fraction(1, 25),
                     "audio": ("mp2", 48_000, "stereo")}),
        ("far.mkv", {"offset": 40_000}),
        ("live.mp4", {"container_options": {"movflags": "empty_moov+frag_keyframe+default_base_moof"}}),
    ],
)  # fmt: skip
def test_an_arbitrary_clock_begins_at_zero_and_the_tracks_stay_together(
    tmp_path: Path, name: str, options: dict[str, Any], ending: str
) -> None:
    source, target = tmp_path / name, tmp_path / f"out.{ending}"
    write_video(source, count=40, audio_seconds=1.6, **({"time_base": TICKS} | options))
    if name == "live.mp4":
        move_fragments(source, 40_000)
    assert times(source, "video")[0] > 390 or name == "wrap.ts"
    upscale(source, target)
    before, after, tick = times(source, "video"), times(target, "video"), Fraction(1, 500)
    assert len(after) == 40
    assert 0 <= after[0] <= Fraction(1, 10)
    assert min(after[0], times(target, "audio")[0]) <= tick
    assert all(abs((a - before[0]) - (b - after[0])) < tick for a, b in zip(before, after, strict=True))
    sound = [times(path, "audio")[0] - video[0] for path, video in ((source, before), (target, after))]
    assert abs(sound[0] - sound[1]) < tick


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_a_pause_of_the_edit_list_is_kept(tmp_path: Path, ending: str) -> None:
    source, target = tmp_path / "in.mp4", tmp_path / f"out.{ending}"
    write_video(source, pts=[10_240 + 512 * i for i in range(20)], audio_seconds=1.6)  # 0.8 s
    upscale(source, target)
    assert abs(times(target, "video")[0] - Fraction(8, 10)) < Fraction(1, 500)
    assert times(target, "audio")[0] <= AAC_FRAME


@pytest.mark.parametrize("later", [0, 40_000, 7])
def test_parts_with_clocks_of_their_own_follow_each_other(tmp_path: Path, later: int) -> None:
    """A recording of two parts: the second one's clock goes back, or far ahead; a short gap is kept."""
    for name, offset in (("first.ts", 20_000), ("second.ts", 20_000 + later if later else 100)):
        write_video(
            tmp_path / name, count=25, audio_seconds=1.0, time_base=TICKS, offset=offset, container_options=COPY_TIMES
        )
    joined, target = tmp_path / "both.ts", tmp_path / "out.mp4"
    joined.write_bytes((tmp_path / "first.ts").read_bytes() + (tmp_path / "second.ts").read_bytes())
    upscale(joined, target)
    video, sound = times(target, "video"), times(target, "audio")
    assert len(video) == 50
    gap = Fraction(6) if later == 7 else Fraction(0)
    assert abs((video[25] - video[24]) - gap - Fraction(1, 25)) < Fraction(1, 10)
    assert all(abs(b - a - Fraction(1, 25)) < Fraction(1, 500) for a, b in itertools.pairwise(video[25:]))
    second = next(moment for moment in sound if moment > video[24] + gap)
    assert abs(second - video[25]) < Fraction(1, 10)


# --- audio -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["mp4", "mov", "mkv"])
def test_aac_of_a_transport_stream_loses_its_headers_and_nothing_else(tmp_path: Path, ending: str) -> None:
    source, target = tmp_path / "in.ts", tmp_path / f"out.{ending}"
    write_video(source, count=60, audio_seconds=2.4, time_base=TICKS)
    upscale(source, target)
    with av.open(str(source)) as one, av.open(str(target)) as two:
        packets: list[Any] = [list(c.demux(c.streams.audio[0])) for c in (one, two)]
        adts, raw = ([bytes(p) for p in found if p.size] for found in packets)
        assert [frame[7:] for frame in adts] == raw
        assert two.streams.audio[0].codec_context.extradata
        assert [s.type for s in two.streams] == ["video", "audio"]
        assert two.streams.audio[0].profile == "LC"
        assert len(list(av.open(str(target)).decode(audio=0))) == len(raw)


@pytest.mark.parametrize("ending", ["mp4", "mkv", "ts"])
def test_damaged_audio_never_stops_the_video(tmp_path: Path, ending: str) -> None:
    source = tmp_path / "in.ts"
    write_video(source, count=100, audio_seconds=4.0, time_base=TICKS)
    data, random = bytearray(source.read_bytes()), np.random.default_rng(1)
    with av.open(str(source)) as container:
        number = container.streams.audio[0].id
    for start in range(0, len(data), 188):
        if (data[start + 1] & 31) << 8 | data[start + 2] != number:
            continue
        if random.random() < 0.3:
            data[start + 30 : start + 188] = random.bytes(158)
    source.write_bytes(data)
    report = upscale(source, tmp_path / f"out.{ending}")
    assert report["frames_out"] == 100
    assert len(times(tmp_path / f"out.{ending}", "video")) == 100
    assert times(tmp_path / f"out.{ending}", "audio")


@pytest.mark.parametrize("ending", ["mp4", "ts"])
@pytest.mark.parametrize(
    ("name", "audio"),
    [
        ("camera.mov", ("pcm_mulaw", 8_000, "mono")),
        ("camera.mov", ("pcm_alaw", 8_000, "mono")),
        ("old.avi", ("adpcm_ms", 44_100, "stereo")),
        ("cd.mkv", ("flac", 44_100, "stereo")),
    ],
)
def test_audio_that_the_container_cannot_hold_becomes_aac(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, audio: tuple[str, int, str], ending: str
) -> None:
    source, target = tmp_path / name, tmp_path / f"out.{ending}"
    how: dict[str, Any] = {"codec": "mpeg4", "time_base": Fraction(1, 25)} if name == "old.avi" else {}
    write_video(source, count=50, audio_seconds=2.0, audio=audio, **how)
    upscale(source, target)
    if audio[0] == "flac" and ending == "mp4":  # MP4 holds it
        assert kinds(target)[1] == "audio flac"
        return
    assert kinds(target)[1] == "audio aac"
    assert f"cannot hold {audio[0]} audio, which is transcoded to AAC" in caplog.text
    before, after = tone(source), tone(target)
    assert abs(len(before) - len(after)) < 4096
    length = min(len(before), len(after)) - 9000
    shifts = range(-2000, 2001, 8)
    heard = [float(before[4000 : 4000 + length] @ after[4000 + s : 4000 + s + length]) for s in shifts]
    peak = shifts[int(np.argmax(heard))]
    offset = [float(times(path, "video")[0]) for path in (source, target)]
    assert abs(peak / 48_000 - (offset[1] - offset[0])) < 0.005
    power = float(np.sqrt(np.mean(before**2) * np.mean(after**2)))
    assert max(heard) / length > 0.9 * power


def test_audio_aac_transcodes_other_codecs_and_copies_aac(tmp_path: Path) -> None:
    write_video(tmp_path / "ac3.mkv", count=25, audio_seconds=1.0, audio=("ac3", 48_000, "stereo"))
    write_video(tmp_path / "aac.mkv", count=25, audio_seconds=1.0)
    for name in ("ac3", "aac"):
        upscale(tmp_path / f"{name}.mkv", tmp_path / f"{name}.mp4", audio="aac")
        assert kinds(tmp_path / f"{name}.mp4")[1] == "audio aac"
    with av.open(str(tmp_path / "aac.mkv")) as one, av.open(str(tmp_path / "aac.mp4")) as two:
        packets: list[Any] = [list(c.demux(c.streams.audio[0])) for c in (one, two)]
        assert [bytes(p) for p in packets[0] if p.size] == [bytes(p) for p in packets[1] if p.size]
    upscale(tmp_path / "ac3.mkv", tmp_path / "copy.mp4")
    assert kinds(tmp_path / "copy.mp4")[1] == "audio ac3"


def test_tracks_outlive_the_container_that_they_came_from(tmp_path: Path) -> None:
    """An output that begins another file describes its tracks after a live input was closed and opened again."""
    write_film(tmp_path / "in.mkv")
    source = FileSource(str(tmp_path / "in.mkv"))
    frames = list(source.frames())
    passthrough = source.passthrough
    assert passthrough is not None
    source.close()
    del source
    encoder = Encoder(StreamInfo(64, 48, frames[0].time_base), EncoderOptions(), live=False)
    sink = FileSink(str(tmp_path / "later.mkv"), SinkOptions())
    sink.open(encoder.stream.with_passthrough(passthrough))
    for packet in [packet for frame in frames for packet in encoder.encode(frame)] + encoder.flush():
        sink.write(packet)
    sink.complete()
    sink.close()
    assert kinds(tmp_path / "later.mkv") == kinds(tmp_path / "in.mkv")
    with av.open(str(tmp_path / "later.mkv")) as container:
        assert [lower(s.metadata).get("language") for s in container.streams][1:] == ["eng", "deu", "fra"]


# --- subtitles -------------------------------------------------------------------------------------------------------

CUES = [(200, 600, "one"), (500, 700, "two"), (1400, 200, "three")]  # ms, length, text; the first two overlap


def write_subtitled(path: Path, codec: str) -> None:
    """A Matroska file with `CUES` as a text track of FFmpeg's codec."""
    write_video(path.with_suffix(".srt.mkv"), count=50, subtitles=CUES)
    if codec == "subrip":
        path.with_suffix(".srt.mkv").rename(path)
        return
    with av.open(str(path.with_suffix(".srt.mkv"))) as source, av.open(str(path), "w") as target:
        text: Any = source.streams.subtitles[0]
        video: Any = target.add_stream_from_template(source.streams.video[0])
        track: Any = target.add_stream(codec)
        text.codec_context.open(strict=False)
        track.codec_context.subtitle_header = text.codec_context.subtitle_header
        track.time_base = track.codec_context.time_base = Fraction(1, 1000)
        packets: Any = source.demux()
        for packet in packets:
            if packet.size and packet.stream.type == "video":
                packet.stream = video
                target.mux_one(packet)
            elif packet.size:
                found = text.codec_context.decode2(packet)
                sent = track.codec_context.encode_subtitle(
                    av.subtitles.subtitle.SubtitleSet.create(found[0].ass, 0, packet.duration)
                )
                sent.pts = sent.dts = packet.pts
                sent.duration, sent.time_base, sent.stream = packet.duration, packet.time_base, track
                target.mux_one(sent)


def shown(path: Path) -> list[tuple[int, int, str]]:
    """Start and end in ms, and text, of all that the first subtitle track shows."""
    found = []
    with av.open(str(path)) as container:
        stream: Any = container.streams.subtitles[0]
        packets: Any = container.demux(stream)
        for packet in packets:
            texts = [] if not packet.size else list(stream.codec_context.decode2(packet) or [])
            if texts:
                start, end = (round(1000 * t * packet.time_base) for t in (packet.pts, packet.pts + packet.duration))
                found.append((start, end, texts[0].dialogue.decode().replace("\n", "/")))
    return found


@pytest.mark.parametrize("codec", ["subrip", "ass", "webvtt"])
@pytest.mark.parametrize("ending", ["mp4", "mov"])
def test_text_subtitles_become_timed_text(tmp_path: Path, codec: str, ending: str) -> None:
    write_subtitled(tmp_path / "in.mkv", codec)
    upscale(tmp_path / "in.mkv", tmp_path / f"out.{ending}")
    assert kinds(tmp_path / f"out.{ending}") == ["video h264", "subtitle mov_text"]
    assert shown(tmp_path / f"out.{ending}") == [
        (200, 500, "one"),
        (500, 800, "one/two"),
        (800, 1200, "two"),
        (1400, 1600, "three"),
    ]


@pytest.mark.parametrize("codec", ["subrip", "ass", "webvtt"])
def test_matroska_keeps_text_subtitles_as_they_are(tmp_path: Path, codec: str) -> None:
    write_subtitled(tmp_path / "in.mkv", codec)
    upscale(tmp_path / "in.mkv", tmp_path / "out.mkv")
    assert kinds(tmp_path / "out.mkv") == kinds(tmp_path / "in.mkv")
    assert shown(tmp_path / "out.mkv") == [(at, at + length, text) for at, length, text in CUES]


def test_timed_text_becomes_subrip_in_matroska(tmp_path: Path) -> None:
    write_subtitled(tmp_path / "in.mkv", "subrip")
    upscale(tmp_path / "in.mkv", tmp_path / "middle.mp4")
    upscale(tmp_path / "middle.mp4", tmp_path / "out.mkv")
    assert kinds(tmp_path / "out.mkv") == ["video h264", "subtitle srt"]
    assert shown(tmp_path / "out.mkv") == shown(tmp_path / "middle.mp4")


def pgs(path: Path) -> None:
    """A Blu-ray subtitle stream (PGS) of one 8x2 picture at 0.2 s, removed at 1 s."""

    def segment(moment: float, kind: int, content: bytes) -> bytes:
        return b"PG" + struct.pack(">IIBH", round(moment * 90_000), 0, kind, len(content)) + content

    rows = b"\x00\x88\x01\x00\x00" * 2  # 8 pixels of colour 1, end of line
    picture = struct.pack(">HBB", 0, 0, 0xC0) + (len(rows) + 4).to_bytes(3, "big") + struct.pack(">HH", 8, 2) + rows
    there = struct.pack(">HHBHBBBB", 128, 96, 0x10, 0, 0x80, 0, 0, 1) + struct.pack(">HBBHH", 0, 0, 0, 10, 10)
    gone = struct.pack(">HHBHBBBB", 128, 96, 0x10, 1, 0x00, 0, 0, 0)
    window = struct.pack(">BBHHHH", 1, 0, 10, 10, 8, 2)
    palette = bytes([0, 0, 1, 235, 128, 128, 255])
    path.write_bytes(
        segment(0.2, 0x16, there)
        + segment(0.2, 0x17, window)
        + segment(0.2, 0x14, palette)
        + segment(0.2, 0x15, picture)
        + segment(0.2, 0x80, b"")
        + segment(1.0, 0x16, gone)
        + segment(1.0, 0x17, window)
        + segment(1.0, 0x80, b"")
    )


def test_bitmap_subtitles_stay_in_matroska_and_are_left_out_of_mp4(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pgs(tmp_path / "in.sup")
    write_video(tmp_path / "plain.mkv", count=40)
    with (
        av.open(str(tmp_path / "plain.mkv")) as film,
        av.open(str(tmp_path / "in.sup")) as text,
        av.open(str(tmp_path / "in.mkv"), "w") as target,
    ):
        waiting: list[Any] = []
        for source in (film, text):
            stream: Any = target.add_stream_from_template(source.streams[0])
            packets: Any = source.demux()
            for packet in packets:
                if packet.size:
                    waiting.append(packet)
                    packet.stream = stream
        for packet in waiting:
            packet.dts = packet.pts if packet.dts is None else packet.dts
        for packet in sorted(waiting, key=lambda p: p.dts * p.time_base):
            target.mux(packet)
    upscale(tmp_path / "in.mkv", tmp_path / "out.mkv")
    assert kinds(tmp_path / "out.mkv") == ["video h264", "subtitle pgssub"]
    caplog.clear()
    upscale(tmp_path / "in.mkv", tmp_path / "out.mp4")
    assert kinds(tmp_path / "out.mp4") == ["video h264"]
    assert caplog.text.count("cannot hold the pgssub subtitle, which is left out; write .mkv to keep it") == 1


def test_cues_far_beyond_the_film_and_long_ones_end_nothing(tmp_path: Path) -> None:
    """FFmpeg's muxer ends the process at a sample longer than 2**31 ticks."""
    write_video(tmp_path / "in.mkv", count=25, subtitles=[(200, 600, "one"), (2_400_000, 5_000_000, "late")])
    upscale(tmp_path / "in.mkv", tmp_path / "out.mp4")
    found = shown(tmp_path / "out.mp4")
    assert found[0] == (200, 800, "one")
    assert (found[1][0], found[-1][1]) == (2_400_000, 7_400_000)
    assert {text for _, _, text in found[1:]} == {"late"}


def test_a_cue_that_is_too_long_for_timed_text_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_video(
        tmp_path / "in.mkv", count=50, subtitles=[(200, 300, "one"), (600, 300, "x" * 70_000), (1200, 300, "two")]
    )
    report = upscale(tmp_path / "in.mkv", tmp_path / "out.mp4")
    assert report["frames_out"] == 50
    assert shown(tmp_path / "out.mp4") == [(200, 500, "one"), (1200, 1500, "two")]
    assert "1 damaged audio or subtitle packets were left out" in caplog.text


def test_a_cue_that_is_shown_at_the_start_is_cut_there(tmp_path: Path) -> None:
    write_video(tmp_path / "in.mkv", count=50, subtitles=[(200, 800, "one")])
    upscale(tmp_path / "in.mkv", tmp_path / "out.mkv", start=0.32)
    assert shown(tmp_path / "out.mkv") == [(0, 680, "one")]


# --- metadata --------------------------------------------------------------------------------------------------------

CHAPTERS = [(0, 800, "Eins"), (800, 2000, "Zwei äö")]  # ms


def write_film(path: Path, *, title: str = "Film") -> None:
    """A film with tags, chapters, two languages of which the second is the default, and a forced subtitle."""
    write_video(path.with_suffix(".plain.mkv"), count=50, audio_seconds=2.0, subtitles=[(100, 300, "hello")])
    with av.open(str(path.with_suffix(".plain.mkv"))) as source, av.open(str(path), "w") as target:
        streams: list[Any] = list(source.streams)
        video, sound, text = (next(s for s in streams if s.type == kind) for kind in ("video", "audio", "subtitle"))
        added: list[Any] = [target.add_stream_from_template(s) for s in (video, sound, sound)]
        added += [target.add_stream_from_template(text)] if path.suffix == ".mkv" else []
        added[1].metadata.update({"language": "eng", "title": "English"})
        added[2].metadata.update({"language": "deu", "title": "Deutsch"})
        added[1].disposition, added[2].disposition = Disposition(0), Disposition.default
        if path.suffix == ".mkv":
            added[3].metadata["language"] = "fra"
            added[3].disposition = Disposition.forced
        target.metadata.update({"title": title, "date": "2020", "comment": "A comment"})
        target.set_chapters(
            [
                {"id": i, "start": a, "end": b, "time_base": Fraction(1, 1000), "metadata": {"title": text}}
                for i, (a, b, text) in enumerate(CHAPTERS, 1)
            ]
        )
        packets: Any = source.demux()
        for packet in packets:
            places = {video.index: [0], sound.index: [1, 2], text.index: [3]}[packet.stream.index]
            for place in places if packet.size else ():
                if place < len(added):
                    copy: Any = av.Packet(bytes(packet))
                    copy.pts, copy.dts, copy.time_base = packet.pts, packet.dts, packet.time_base
                    copy.duration, copy.is_keyframe = packet.duration, packet.is_keyframe
                    copy.stream = added[place]
                    target.mux_one(copy)


def chapters_of(path: Path) -> list[tuple[int, int, str]]:
    with av.open(str(path)) as container:
        return [
            (
                round(1000 * c["start"] * (c["time_base"] or 0)),
                round(1000 * c["end"] * (c["time_base"] or 0)),
                c["metadata"]["title"],
            )
            for c in container.chapters()
        ]


def lower(tags: dict[str, str]) -> dict[str, str]:
    return {key.lower(): value for key, value in tags.items()}


@pytest.mark.parametrize("name", ["in.mkv", "in.mp4"])
@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_tags_chapters_languages_and_dispositions_are_kept(tmp_path: Path, name: str, ending: str) -> None:
    write_film(tmp_path / name)
    target = tmp_path / f"out.{ending}"
    upscale(tmp_path / name, target)
    assert chapters_of(target) == CHAPTERS
    with av.open(str(target)) as container:
        assert lower(container.metadata).items() >= {"title": "Film", "date": "2020", "comment": "A comment"}.items()
        sound = container.streams.audio
        assert [lower(s.metadata)["language"] for s in sound] == ["eng", "deu"]
        assert [bool(s.disposition & Disposition.default) for s in sound] == [False, True]
        if ending == "mkv" and name == "in.mkv":
            assert [lower(s.metadata)["title"] for s in sound] == ["English", "Deutsch"]
        if name == "in.mkv":
            text = container.streams.subtitles[0]
            assert lower(text.metadata)["language"] == "fra"
            assert text.disposition & Disposition.forced
        known = lower(container.metadata).keys() | lower(container.streams.video[0].metadata).keys()
        assert not known & {"bps", "number_of_frames"}


def test_chapters_without_a_title_are_kept(tmp_path: Path) -> None:
    write_video(tmp_path / "plain.mkv", count=50)
    with av.open(str(tmp_path / "plain.mkv")) as source, av.open(str(tmp_path / "in.mkv"), "w") as target:
        video: Any = target.add_stream_from_template(source.streams.video[0])
        target.set_chapters(
            [
                {"id": i, "start": 500 * i, "end": 500 * i + 500, "time_base": Fraction(1, 1000), "metadata": title}
                for i, title in enumerate([{}, {"title": "Two"}, {}])
            ]
        )
        packets: Any = source.demux()
        for packet in packets:
            if packet.size:
                packet.stream = video
                target.mux_one(packet)
    upscale(tmp_path / "in.mkv", tmp_path / "out.mp4")
    assert chapters_of(tmp_path / "out.mp4") == [(0, 500, "Chapter 1"), (500, 1000, "Two"), (1000, 1500, "Chapter 3")]


def test_chapters_follow_start_and_duration(tmp_path: Path) -> None:
    write_film(tmp_path / "in.mkv")
    upscale(tmp_path / "in.mkv", tmp_path / "out.mkv", start=0.4, duration=1.0)
    origin = FileSource(str(tmp_path / "in.mkv"))._origin  # the encoder's delay of the audio
    origin_ms = round(1000 * origin)
    found = chapters_of(tmp_path / "out.mkv")
    assert [text for _, _, text in found] == ["Eins", "Zwei äö"]
    assert [(a, b) for a, b, _ in found] == [(0, 400 - origin_ms), (400 - origin_ms, 1000)]


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
@pytest.mark.parametrize("codec", ["png", "mjpeg"])
def test_a_cover_image_is_kept(tmp_path: Path, codec: str, ending: str) -> None:
    image = still(codec)
    write_video(tmp_path / "plain.mp4", count=10, audio_seconds=0.4)
    write_with_cover(tmp_path / "plain.mp4", tmp_path / "in.mkv", codec, image)
    target = tmp_path / f"out.{ending}"
    upscale(tmp_path / "in.mkv", target)
    with av.open(str(target)) as container:
        covers: list[Any] = [s for s in container.streams.video if s.disposition & Disposition.attached_pic]
        assert len(container.streams.video) == 2
        packets: Any = container.demux(covers[0])
        assert bytes(next(iter(packets))) == image
    assert len(times(target, "video")) == 10
    upscale(target, tmp_path / "again.mp4")  # from where the cover now is
    with av.open(str(tmp_path / "again.mp4")) as container:
        assert len(container.streams.video) == 2


def still(codec: str) -> bytes:
    encoder: Any = av.CodecContext.create(codec, "w")
    encoder.width, encoder.height, encoder.time_base = 32, 32, Fraction(1)
    encoder.pix_fmt = "rgb24" if codec == "png" else "yuvj420p"
    picture = video_frame(moving_picture(0, 32, 32)).reformat(format=encoder.pix_fmt)
    return b"".join(bytes(packet) for packet in [*encoder.encode(picture), *encoder.encode(None)])


def write_with_cover(source: Path, target: Path, codec: str, image: bytes) -> None:
    with av.open(str(source)) as film, av.open(str(target), "w") as container:
        added: Any = {s.index: container.add_stream_from_template(s) for s in film.streams}
        container.add_attachment(f"cover.{codec}", {"png": "image/png", "mjpeg": "image/jpeg"}[codec], image)
        packets: Any = film.demux()
        for packet in packets:
            if packet.size:
                packet.stream = added[packet.stream.index]
                container.mux_one(packet)


@pytest.mark.parametrize("name", ["in.mkv", "in.mp4"])
def test_tags_that_are_not_utf8_are_read(tmp_path: Path, name: str) -> None:
    write_film(tmp_path / name, title="Cafe with a long name")
    data = (tmp_path / name).read_bytes()
    assert data.count(b"Cafe with") >= 1
    (tmp_path / name).write_bytes(data.replace(b"Cafe with", b"Caf\xe9 with"))
    upscale(tmp_path / name, tmp_path / "out.mkv")
    with av.open(str(tmp_path / "out.mkv")) as container:
        assert lower(container.metadata)["title"] == "Café with a long name"


def test_what_no_output_holds_is_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with av.open(str(tmp_path / "in.mov"), "w", options={"write_tmcd": "1"}) as container:
        stream: Any = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.metadata["timecode"] = "10:00:00:00"
        for number in range(10):
            container.mux(stream.encode(video_frame(moving_picture(number, 64, 48))))
        container.mux(stream.encode(None))
    with caplog.at_level(logging.WARNING):
        upscale(tmp_path / "in.mov", tmp_path / "out.mp4")
    assert caplog.text.count("left out: timecode track") == 1


# --- pictures --------------------------------------------------------------------------------------------------------


def write_sizes(path: Path, sizes: Sequence[tuple[int, int]]) -> None:
    """A transport stream that changes its size: 10 frames of each."""
    data = b""
    for number, (width, height) in enumerate(sizes):
        part = path.with_suffix(f".{number}.ts")
        write_video(part, count=10, width=width, height=height, time_base=TICKS, offset=number, options={"crf": "1"},
                    container_options=COPY_TIMES)  # fmt: skip
        data += part.read_bytes()
    path.write_bytes(data)


def test_a_file_that_changes_its_size_goes_on_in_the_size_of_the_output(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_sizes(tmp_path / "in.ts", [(64, 48), (128, 48), (64, 48), (96, 80)])
    with caplog.at_level(logging.WARNING):
        report = upscale(tmp_path / "in.ts", tmp_path / "out.mkv", crf=0)
    assert caplog.text.count("changes its size from 64x48 to 128x48") == 1
    assert caplog.text.count("changes its size") == 1
    assert report["lost_in_source"]["size_changes"] == 3
    with av.open(str(tmp_path / "out.mkv")) as container:
        pictures = [picture.to_ndarray()[:96] for picture in container.decode(video=0)]
    assert len(pictures) == 40
    assert {picture.shape for picture in pictures} == {(96, 128)}
    assert pictures[15][:20].max() == 16  # twice as wide: black above and below
    assert pictures[15][30:60].mean() > 60
    for number in (5, 25):  # as if there were no other size
        alone = tmp_path / "alone.mkv"
        upscale(tmp_path / f"in.{number // 10}.ts", alone, crf=0, overwrite=True)
        with av.open(str(alone)) as container:
            expected = [picture.to_ndarray()[:96] for picture in container.decode(video=0)][number % 10]
        assert np.array_equal(pictures[number], expected)
