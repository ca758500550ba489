"""Audio in RTP: round trips, descriptions, any bytes; and as a track of a muxer."""

import io
from fractions import Fraction

import av
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_sr.codec.audio_format import AudioFormat, make_track
from stream_sr.pipeline.packets import Track
from stream_sr.rtsp.rtp import HEADER_BYTES, RtpPacket, parse_rtp
from stream_sr.rtsp.rtp_audio import (
    AudioDepacketiser,
    AudioPacketiser,
    RtpAudioFrame,
    format_of_media,
    format_of_track,
)
from stream_sr.rtsp.sdp import parse_sdp

AAC = AudioFormat("aac", 48000, 2, 97, b"\x11\x90")
OPUS = AudioFormat("opus", 48000, 2, 97)
ULAW, ALAW = AudioFormat("pcm_mulaw", 8000, 1, 0), AudioFormat("pcm_alaw", 8000, 1, 8)
FORMATS = [pytest.param(form, id=form.codec) for form in (AAC, OPUS, ULAW, ALAW)]


def received(form: AudioFormat, frames: list[bytes], room: int = 200) -> list[RtpAudioFrame]:
    packetiser, depacketiser = AudioPacketiser(form, mtu=room + HEADER_BYTES), AudioDepacketiser(form)
    found = []
    for number, frame in enumerate(frames):
        for packet in packetiser.packetise(frame, 1024 * number):
            assert len(packet) <= room + HEADER_BYTES
            found += depacketiser.push(parse_rtp(packet))
    assert depacketiser.bad_packets == 0
    return found


@pytest.mark.parametrize("form", FORMATS)
def test_frames_there_and_back(form: AudioFormat) -> None:
    frames = [bytes([number]) * size for number, size in enumerate((1, 90, 190), 1)]
    found = received(form, frames)
    assert [sound.data for sound in found] == frames
    assert [sound.timestamp for sound in found] == [0, 1024, 2048]


@given(st.lists(st.binary(min_size=1, max_size=3000), min_size=1, max_size=5))
@settings(max_examples=50)
def test_long_frames_of_aac_and_g711(frames: list[bytes]) -> None:
    assert [sound.data for sound in received(AAC, frames)] == frames
    assert b"".join(sound.data for sound in received(ULAW, frames)) == b"".join(frames)


def test_several_frames_in_one_packet() -> None:
    heads = (32).to_bytes(2, "big") + (3 << 3).to_bytes(2, "big") + (2 << 3).to_bytes(2, "big")
    packet = RtpPacket(97, True, 1, 5000, 1, heads + b"abcde")
    found = AudioDepacketiser(AAC).push(packet)
    assert found == [RtpAudioFrame(b"abc", 5000, 1024), RtpAudioFrame(b"de", 6024, 1024)]


@pytest.mark.parametrize("form", FORMATS)
@given(data=st.binary(max_size=60), marker=st.booleans())
@settings(max_examples=200)
def test_any_payload(form: AudioFormat, data: bytes, marker: bool) -> None:
    depacketiser = AudioDepacketiser(form)
    for _ in range(3):
        for sound in depacketiser.push(RtpPacket(form.payload_type, marker, 1, 2, 3, data)):
            assert sound.data


@pytest.mark.parametrize("form", FORMATS)
def test_the_description_is_read_as_written(form: AudioFormat) -> None:
    (media,) = parse_sdp("\n".join(form.lines("track2"))).media
    assert media.control == "track2"
    assert format_of_media(media) == form


def test_g711_needs_no_rtpmap() -> None:
    assert format_of_media(parse_sdp("m=audio 0 RTP/AVP 8").media[0]) == ALAW


@pytest.mark.parametrize(
    "lines",
    [
        "m=audio 0 RTP/AVP 96\na=rtpmap:96 MP4A-LATM/48000/2",
        "m=audio 0 RTP/AVP 96\na=rtpmap:96 MPEG4-GENERIC/48000/2\na=fmtp:96 mode=AAC-hbr;config=zz",
        "m=audio 0 RTP/AVP 96\na=rtpmap:96 MPEG4-GENERIC/48000/2\na=fmtp:96 mode=AAC-lbr;config=1190",
        "m=audio 0 RTP/AVP 96\na=rtpmap:96 MPEG4-GENERIC/48000/2\na=fmtp:96 mode=AAC-hbr;config=1190;sizelength=99",
        "m=audio 0 RTP/AVP 96\na=rtpmap:96 PCMU/7/1",
        "m=video 0 RTP/AVP 0",
        "m=audio 0 RTP/AVP x",
    ],
)
def test_what_is_not_carried(lines: str) -> None:
    assert format_of_media(parse_sdp(lines).media[0]) is None


def test_tracks_of_files_and_their_form() -> None:
    assert format_of_track(make_track(AAC)) == AAC
    assert format_of_track(make_track(OPUS)) == OPUS
    assert format_of_track(make_track(ULAW)) == ULAW
    assert format_of_track(Track(0, "audio", "mp3", None, 48000, 2)) is None
    assert format_of_track(Track(0, "audio", "aac", None, 48000, 2)) is None  # ADTS: no config
    assert format_of_track(Track(0, "subtitle", "subrip", None)) is None


@pytest.mark.parametrize("form", [AAC, OPUS])
def test_ffmpeg_muxes_the_track(form: AudioFormat) -> None:
    track, memory = make_track(form), io.BytesIO()
    with av.open(memory, "w", format="mp4") as out:
        stream = out.add_stream_from_template(track.template, opaque=True)
        out.start_encoding()
        packet = av.Packet(b"sound")
        packet.pts = packet.dts = 0
        packet.time_base, packet.stream = Fraction(1, form.clock), stream
        out.mux_one(packet)
    memory.seek(0)
    with av.open(memory) as container:
        codec = container.streams.audio[0].codec_context
        assert (codec.name, codec.sample_rate, codec.layout.nb_channels) == (form.codec, form.clock, form.channels)
