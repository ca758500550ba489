"""The times of received audio on the clock of the video."""

from dataclasses import replace
from fractions import Fraction

from stream_sr.codec.audio_format import AudioFormat
from stream_sr.rtsp.incoming_audio import FrameInstant, IncomingAudio
from stream_sr.rtsp.rtcp import parse_sender_reports, sender_report
from stream_sr.rtsp.rtp import RtpStream

ULAW = AudioFormat("pcm_mulaw", 8000, 1, 0)


def rtp(timestamp: int, number: int = 0) -> bytes:
    return RtpStream(payload_type=0).packet(b"s" * 160, timestamp & 0xFFFFFFFF, marker=True)


def times(audio: IncomingAudio) -> list[int]:
    return [packet.pts for _, packet in audio.passthrough.take()]


def test_without_reports_the_arrival_times_count() -> None:
    audio = IncomingAudio(ULAW)
    start = 2**32 - 160
    for index in range(3):
        audio.receive(rtp(start + 160 * index), 10**9 + 20_000_000 * index)
    audio.pass_on(FrameInstant(Fraction(1), None, 900_000_000))
    assert times(audio) == [8800, 8960, 9120]  # 0.1 s after the frame at 1 s


def test_with_reports_the_clock_of_the_camera_counts() -> None:
    audio = IncomingAudio(ULAW)
    (report,) = parse_sender_reports(sender_report(1, unix_seconds=1000.0, timestamp=8000, packets=0, octets=0))
    audio.receive(rtp(8000), 0)
    audio.pass_on(FrameInstant(Fraction(5), None, 0))
    audio.wall.learn(report)
    audio.receive(rtp(8160), 0)
    audio.pass_on(FrameInstant(Fraction(5), 999_500_000_000, 0))
    assert times(audio) == [40_000, 44_160]  # the frame of 999.5 s is at 5 s: audio of 1000.02 s is at 5.52 s


def test_times_grow_and_audio_from_before_the_first_frame_is_dropped() -> None:
    audio = IncomingAudio(ULAW)
    for timestamp, arrived in ((0, 0), (160, 0), (160, 0), (80, 0), (320, 0)):
        audio.receive(rtp(timestamp), arrived)
    audio.pass_on(FrameInstant(Fraction(0), None, 20_000_000))  # audio arrived 20 ms before the frame
    assert times(audio) == [0, 160]
    assert audio.dropped == 1


def test_what_is_no_rtp_is_counted() -> None:
    audio = IncomingAudio(replace(ULAW, payload_type=3))
    audio.receive(b"x", 0)
    audio.receive(rtp(0), 0)
    assert audio.bad_packets == 2
