"""Audio transcoded to AAC, and AAC's two framings."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_sr.codec.aac import AacTranscoder, AdtsFilter, adts_config
from stream_sr.pipeline.packets import Passthrough, Track
from stream_sr.rtsp.outgoing_audio import OutgoingAudio
from stream_sr.rtsp.rtp_audio import format_of_track


def pcm(rate: int, layout: str, pieces: list[tuple[int, np.ndarray]]) -> tuple[Track, list[Any]]:
    """A track of 16-bit samples in Matroska and its packets: (start in samples, mono samples) each."""
    memory = io.BytesIO()
    channels = av.AudioLayout(layout).nb_channels
    with av.open(memory, "w", format="matroska") as container:
        stream: Any = container.add_stream("pcm_s16le", rate=rate, layout=layout)
        for start, samples in pieces:
            data = np.repeat((samples * 32_000).astype(np.int16), channels)[None]
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(data), format="s16", layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
            container.mux(stream.encode(frame))
    memory.seek(0)
    source: Any = av.open(memory)
    sound = source.streams.audio[0]
    return Track(0, "audio", "pcm_s16le", sound, rate, channels), [p for p in source.demux(sound) if p.size]


def decoded(track: Track, packets: list[Any]) -> tuple[np.ndarray, list[int]]:
    """Samples of the first channel on one clock from 0, and where the packets begin, in samples."""
    decoder: Any = av.CodecContext.create("aac", "r")
    decoder.extradata = track.config
    out = np.zeros(max(packet.pts for packet in packets) + 2048, np.float32)
    for packet in packets:
        for frame in decoder.decode(packet):
            begin = packet.pts
            samples = frame.to_ndarray()[0]
            out[max(0, begin) : begin + len(samples)] = samples[max(0, -begin) :]
    return out, [packet.pts for packet in packets]


def sine(rate: int, count: int) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * 440 * np.arange(count) / rate)


@pytest.mark.parametrize(("rate", "expected"), [(8_000, 48_000), (44_100, 44_100), (48_000, 48_000), (96_000, 48_000)])
@pytest.mark.parametrize("layout", ["mono", "stereo", "5.1"])
def test_what_is_heard_stays_where_it_was(rate: int, expected: int, layout: str) -> None:
    track, packets = pcm(rate, layout, [(i * rate // 10, sine(rate, rate)[: rate // 10]) for i in range(10)])
    transcoder = AacTranscoder(track)
    made = [one for packet in packets for one in transcoder.convert(packet)] + transcoder.flush()
    assert (transcoder.track.sample_rate, transcoder.track.channels) == (expected, track.channels)
    assert {packet.time_base for packet in made} == {Fraction(1, expected)}
    sound, begins = decoded(transcoder.track, made)
    assert begins == list(range(0, 1024 * len(begins), 1024))
    assert abs(sound.size - 2048 - expected) < 2048
    middle = sound[expected // 4 : expected // 2]
    assert 0.25 < float(np.sqrt(np.mean(middle**2))) < 0.45
    assert transcoder.damaged == 0


def test_a_gap_and_an_overlap_keep_the_clock() -> None:
    rate, piece = 48_000, sine(48_000, 9_600)
    starts = [0, 9_600, 96_000, 96_000 + 1_000, 105_600]  # a gap of 1.6 s; then one piece that repeats the time
    track, packets = pcm(rate, "mono", [(start, piece) for start in starts])
    transcoder = AacTranscoder(track)
    made = [one for packet in packets for one in transcoder.convert(packet)] + transcoder.flush()
    sound, begins = decoded(transcoder.track, made)
    assert all(b - a >= 1024 for a, b in itertools.pairwise(begins))
    assert 96_000 in begins
    assert np.abs(sound[24_000:94_000]).max() < 0.01
    assert np.sqrt(np.mean(sound[98_000:112_000] ** 2)) > 0.25
    assert begins[-1] < 117_000  # the overlap is not there twice


def test_the_encoders_delay_is_there_where_it_is_hidden() -> None:
    track, packets = pcm(48_000, "mono", [(4_800, sine(48_000, 9_600))])
    for hidden, first in ((True, 4_800 - 1_024), (False, 4_800)):
        transcoder = AacTranscoder(track, hidden_delay=hidden)
        made = [one for packet in packets for one in transcoder.convert(packet)] + transcoder.flush()
        assert made[0].pts == first


def test_damaged_packets_are_counted_and_skipped() -> None:
    memory = io.BytesIO()
    with av.open(memory, "w", format="matroska") as container:
        stream: Any = container.add_stream("flac", rate=48_000, layout="mono")
        data = (sine(48_000, 48_000) * 32_000).astype(np.int16)[None]
        for start in range(0, 48_000 - 4_608, 4_608):
            piece = np.ascontiguousarray(data[:, start : start + 4_608])
            frame = av.AudioFrame.from_ndarray(piece, format="s16", layout="mono")
            frame.sample_rate, frame.pts = 48_000, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    memory.seek(0)
    source: Any = av.open(memory)
    sound = source.streams.audio[0]
    transcoder = AacTranscoder(Track(0, "audio", "flac", sound, 48_000, 1))
    made = []
    for number, packet in enumerate(p for p in source.demux(sound) if p.size):
        if number == 3:
            bad: Any = av.Packet(b"\x00" * 40)
            bad.pts, bad.dts, bad.time_base = packet.pts, packet.dts, packet.time_base
            packet = bad
        made += transcoder.convert(packet)
    made += transcoder.flush()
    assert transcoder.damaged == 1
    assert 30 < len(made) < 45


def adts_frames() -> Iterator[Any]:
    memory = io.BytesIO()
    with av.open(memory, "w", format="adts") as container:
        stream: Any = container.add_stream("aac", rate=44_100, layout="stereo")
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 8_192), np.float32), format="fltp", layout="stereo")
        frame.sample_rate = 44_100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    memory.seek(0)
    source: Any = av.open(memory)
    yield Track(0, "audio", "aac", source.streams.audio[0], 44_100, 2)
    yield from (p for p in source.demux() if p.size)


def test_adts_headers_come_off() -> None:
    track, *packets = adts_frames()
    headers = AdtsFilter(track)
    for packet in packets:
        (made,) = headers.convert(packet)
        assert bytes(made) == bytes(packet)[7:]
        assert (made.pts, made.dts, made.time_base) == (packet.pts, packet.dts, packet.time_base)
    assert adts_config(bytes(packets[0])) == bytes.fromhex("1210")  # LC, 44.1 kHz, stereo (14496-3, 1.6.2.1)
    broken: Any = av.Packet(b"\xff\xf1\x7c" + bytes(packets[0])[3:])  # a sampling rate that does not exist
    assert headers.convert(broken) == []
    assert headers.damaged == 1


@given(st.binary(max_size=64))
def test_any_bytes_have_a_configuration_or_none(data: bytes) -> None:
    config = adts_config(data)
    assert config is None or (len(config) == 2 and data[:1] == b"\xff")


def test_rtp_takes_transcoded_audio_where_it_carries_no_other(caplog: pytest.LogCaptureFixture) -> None:
    track, packets = pcm(48_000, "stereo", [(i * 4_800, sine(48_000, 4_800)) for i in range(10)])
    passthrough = Passthrough((track,))
    audio = OutgoingAudio("rtsp://x", passthrough)
    assert "RTSP carries no pcm_s16le audio as it is, so it is transcoded to AAC" in caplog.text
    assert audio.format is not None
    assert (audio.format.codec, audio.format.clock, audio.format.channels) == ("aac", 48_000, 2)
    for packet in packets:
        passthrough.put(0, packet, packet.size)
    due = audio.due(Fraction(1, 2))
    assert [one.seconds for one in due] == [Fraction(1024 * i, 48_000) for i in range(len(due))]
    assert 20 < len(due) <= 24


def test_audio_aac_transcodes_what_rtp_would_carry() -> None:
    memory = io.BytesIO()
    with av.open(memory, "w", format="matroska") as container:
        stream: Any = container.add_stream("libopus", rate=48_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4_800), np.float32), format="flt", layout="mono")
        frame.sample_rate = 48_000
        container.mux([*stream.encode(frame), *stream.encode(None)])
    memory.seek(0)
    with av.open(memory) as source:
        template = source.streams.audio[0]
        track = Track(0, "audio", "opus", template, 48_000, 1)
        assert format_of_track(track) is not None
        formats = [OutgoingAudio("x", Passthrough((track,)), audio).format for audio in ("copy", "aac")]
    assert [one.codec for one in formats if one is not None] == ["opus", "aac"]
