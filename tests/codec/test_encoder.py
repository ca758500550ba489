"""The encoder: times, keyframes, colours and pixels of its packets."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest
from media_files import test_picture as moving_picture

from stream_sr.codec.encoder import Encoder, check_options, default_bitrate
from stream_sr.codec.h264 import nal_type, split_annexb
from stream_sr.codec.picture import picture_in_place, picture_planes
from stream_sr.errors import ConfigError, SinkOpenError, SinkWriteError
from stream_sr.pipeline.interfaces import EncoderOptions
from stream_sr.pipeline.packets import EncodedStream, Packet
from stream_sr.video.color import ColorInfo
from stream_sr.video.frame import Frame, StreamInfo
from stream_sr.video.frame_pool import FramePool
from stream_sr.video.orientation import Orientation
from stream_sr.video.quality import psnr

BASE = Fraction(1, 90_000)
INFO = StreamInfo(
    64,
    48,
    BASE,
    fps=Fraction(30),
    color=ColorInfo(6, 2, 6, 6, 2),
    sample_aspect=Fraction(4, 3),
    orientation=Orientation.TRANSVERSED,
)
BOTH = pytest.mark.parametrize("live", [False, True], ids=["file", "live"])


def frames(info: StreamInfo, times: Sequence[int]) -> Iterator[Frame]:
    for number, pts in enumerate(times):
        planes = moving_picture(number, info.width, info.height)
        yield Frame(planes, pts, info.time_base, number=2 * number, captured_ns=1000 + number)


def encode(
    info: StreamInfo, times: Sequence[int], *, live: bool, options: EncoderOptions | None = None
) -> tuple[EncodedStream, list[Packet]]:
    encoder = Encoder(info, options or EncoderOptions(), live=live)
    packets = [packet for frame in frames(info, times) for packet in encoder.encode(frame)]
    packets += encoder.flush()
    encoder.close()
    return encoder.stream, packets


def decode(packets: Sequence[Packet]) -> list[av.VideoFrame]:
    decoder = av.CodecContext.create("h264", "r")
    pictures = [p for packet in packets for p in decoder.decode(av.Packet(packet.data))]
    return pictures + decoder.decode(None)


def planes_of(picture: av.VideoFrame) -> list[np.ndarray]:
    return [plane.copy() for plane in picture_planes(picture)]


@BOTH
@pytest.mark.parametrize("base", [Fraction(1, 90_000), Fraction(1001, 30_000), Fraction(1, 1000), Fraction(1, 10**9)])
def test_each_packet_has_the_times_and_numbers_of_its_frame(live: bool, base: Fraction) -> None:
    step = max(2, round(Fraction(1, 30) / base))
    times = [5 * step + i * step + (i * i) % step for i in range(40)]  # varying distances, not from zero
    _, packets = encode(replace(INFO, time_base=base), times, live=live)
    assert sorted(packet.pts for packet in packets) == times
    for packet in packets:
        index = times.index(packet.pts)
        assert (packet.number, packet.captured_ns, packet.time_base) == (2 * index, 1000 + index, base)
    dts = [packet.dts for packet in packets]
    assert dts == sorted(set(dts))
    assert all(packet.dts <= packet.pts for packet in packets)
    assert {packet.duration for packet in packets} == {round(1 / (30 * base))}


def test_a_live_packet_comes_with_its_frame() -> None:
    encoder = Encoder(INFO, EncoderOptions(), live=True)
    for frame in frames(INFO, range(0, 60_000, 3000)):
        packets = encoder.encode(frame)
        assert [packet.pts for packet in packets] == [frame.pts]
    assert encoder.flush() == []
    encoder.close()


@BOTH
def test_key_packets_are_idr_pictures_with_their_parameter_sets(live: bool) -> None:
    encoder = Encoder(INFO, EncoderOptions(gop=10), live=live)
    sets = encoder.stream.extradata
    assert [nal_type(nal) for nal in split_annexb(sets)] == [7, 8]
    packets = []
    for frame in frames(INFO, range(0, 25 * 3000, 3000)):
        packets += encoder.encode(frame, keyframe=frame.number == 8)
    packets += encoder.flush()
    encoder.close()
    keys = [packet.number // 2 for packet in packets if packet.is_keyframe]
    assert keys[:2] == [0, 4]
    assert keys == [0, 4, 14, 24] or not live  # a file's look-ahead may put one earlier
    assert max(b - a for a, b in pairwise(keys)) <= 10
    for packet in packets:
        kinds = [nal_type(nal) for nal in split_annexb(packet.data)]
        assert packet.data.startswith(sets) == packet.is_keyframe
        assert (5 in kinds) == packet.is_keyframe
        assert 9 not in kinds
    # Every keyframe can be decoded without what came before.
    start = next(i for i, packet in enumerate(packets) if packet.number == 2 * keys[2])
    assert len(decode(packets[start:])) == sum(packet.pts >= packets[start].pts for packet in packets)


@BOTH
def test_colour_aspect_and_siting_are_in_the_bitstream(live: bool) -> None:
    for color in (ColorInfo(6, 2, 6, 6, 2), ColorInfo(1, 1, 1, 1, 1), ColorInfo()):
        _, packets = encode(replace(INFO, color=color), [0, 3000], live=live)
        decoder = av.CodecContext.create("h264", "r")
        picture = (decoder.decode(av.Packet(packets[0].data)) + decoder.decode(None))[0]
        said = (picture.colorspace, picture.color_range, picture.color_primaries, picture.color_trc)
        expected_range = color.range if color.range else (1 if color.matrix != 2 else picture.color_range)
        assert said == (color.matrix, expected_range, color.primaries, color.transfer)
        assert decoder.sample_aspect_ratio == Fraction(4, 3)


def test_lossless_encoding_gives_the_same_pixels() -> None:
    times = list(range(0, 36_000, 3000))
    _, packets = encode(INFO, times, live=False, options=EncoderOptions(crf=0))
    pictures = decode(packets)
    assert len(pictures) == len(times)
    for picture, frame in zip(pictures, frames(INFO, times), strict=True):
        for got, given in zip(planes_of(picture), frame.planes, strict=True):
            np.testing.assert_array_equal(got, given)


@BOTH
def test_a_frame_is_not_kept(live: bool) -> None:
    """Slots are poisoned when they are given back right after `encode`; look-ahead must not see that."""
    pool = FramePool(64, 48, 1, poison=True)
    encoder = Encoder(INFO, EncoderOptions(crf=1, preset="ultrafast"), live=live)
    packets: list[Packet] = []
    for frame in frames(INFO, range(0, 45_000, 3000)):
        slot = pool.lease()
        for target, plane in zip(slot.planes, frame.planes, strict=True):
            target[...] = plane
        packets += encoder.encode(replace(frame, planes=slot.planes, slot=slot))
        slot.release()
    packets += encoder.flush()
    encoder.close()
    for picture, frame in zip(decode(packets), frames(INFO, range(0, 45_000, 3000)), strict=True):
        assert psnr(planes_of(picture)[0], frame.planes[0]) > 30  # poison: 10


def test_an_odd_last_column_and_row_are_cut_and_that_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    info = StreamInfo(65, 49, BASE, fps=Fraction(30))
    with caplog.at_level(logging.WARNING, "stream_sr"):
        stream, packets = encode(info, [0, 3000, 6000], live=False, options=EncoderOptions(crf=0))
    assert (stream.info.width, stream.info.height) == (64, 48)
    assert len(caplog.records) == 1
    assert "65x49" in caplog.text
    for picture, frame in zip(decode(packets), frames(info, [0, 3000, 6000]), strict=True):
        np.testing.assert_array_equal(planes_of(picture)[0], frame.planes[0][:48, :64])
        np.testing.assert_array_equal(planes_of(picture)[2], frame.planes[2][:24, :32])


def test_a_live_stream_stays_below_its_rate() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (144 + 40, 256), np.uint8)
    info = StreamInfo(256, 144, BASE, fps=Fraction(30))
    encoder = Encoder(info, EncoderOptions(bitrate=1_000_000), live=True)
    grey = np.full((72, 128), 128, np.uint8)
    packets = []
    for i in range(60):
        packets += encoder.encode(Frame((noise[i % 40 :][:144], grey, grey), i * 3000, BASE, number=i))
    encoder.close()
    second = 8 * sum(len(packet.data) for packet in packets[30:])
    assert second < 1_500_000
    assert max(len(packet.data) for packet in packets) * 8 <= 600_000  # the VBV holds half a second


def test_the_default_rate_grows_with_size() -> None:
    assert default_bitrate(1280, 720, Fraction(30)) == 8_000_000
    assert default_bitrate(1920, 1080, Fraction(30)) < 8_000_000 * 1.5**2


def test_frames_that_do_not_belong_are_refused() -> None:
    encoder = Encoder(INFO, EncoderOptions(), live=True)
    first, second = frames(INFO, [3000, 6000])
    encoder.encode(first)
    with pytest.raises(SinkWriteError, match="presentation order"):
        encoder.encode(first)
    with pytest.raises(SinkWriteError, match="time base"):
        encoder.encode(replace(second, time_base=Fraction(1, 1000)))
    with pytest.raises(SinkWriteError, match="64x48"):
        encoder.encode(replace(second, planes=moving_picture(0, 32, 48)))
    assert len(encoder.encode(second)) == 1
    encoder.close()
    encoder.close()
    assert encoder.flush() == []
    with pytest.raises(SinkWriteError, match="closed"):
        encoder.encode(second)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (EncoderOptions(encoder="h264_nvenc", preset="veryfast"), "p1, p2"),
        (EncoderOptions(encoder="mpeg2"), "unknown"),
        (EncoderOptions(crf=20, bitrate=1_000_000), "give one"),
        (EncoderOptions(crf=60), "51"),
        (EncoderOptions(crf=float("nan")), "51"),
        (EncoderOptions(bitrate=10), "bitrate"),
        (EncoderOptions(preset="fastest"), "ultrafast"),
        (EncoderOptions(gop=0), "gop"),
    ],
)
def test_settings_that_cannot_be_are_refused(options: EncoderOptions, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_options(options)
    with pytest.raises(ConfigError):
        Encoder(INFO, options, live=False)


def test_a_size_that_h264_cannot_hold_is_refused() -> None:
    with pytest.raises(SinkOpenError, match="1x48"):
        Encoder(replace(INFO, width=1), EncoderOptions(), live=False)
    with pytest.raises(SinkOpenError, match="up to 16384 pixels a side; give"):
        Encoder(replace(INFO, width=20_000, height=20_000), EncoderOptions(), live=True)


def test_a_slot_is_encoded_where_it_lies_and_may_be_reused_at_once() -> None:
    """Bit by bit as from a copy; live, on one thread: with more, x264 itself does not always give the same bits."""
    live = True
    times = [3000 * number for number in range(12)]
    wanted = [packet.data for packet in encode(INFO, times, live=live)[1]]
    pool, encoder = FramePool(INFO.width, INFO.height, 1, poison=True), Encoder(INFO, EncoderOptions(), live=live)
    packets = []
    for frame in frames(INFO, times):
        slot = pool.lease()
        for plane, source in zip(slot.planes, frame.planes, strict=True):
            plane[:] = source
        lent = frame.with_planes(slot.planes, slot)
        picture = picture_in_place(lent)
        assert picture is not None
        assert all(np.shares_memory(*pair) for pair in zip(picture_planes(picture), slot.planes, strict=True))
        packets += encoder.encode(lent)
        lent.release()  # and poisoned
    packets += encoder.flush()
    encoder.close()
    assert [packet.data for packet in packets] == wanted


def test_only_whole_slots_of_even_size_are_seen_in_place() -> None:
    frame = next(frames(INFO, [0]))
    assert picture_in_place(frame) is None  # memory of its own, in three parts
    slot = FramePool(INFO.width, INFO.height, 1).lease()
    assert picture_in_place(frame.with_planes(frame.planes, slot)) is None  # other planes than the slot's
    odd = FramePool(63, 47, 1).lease()
    assert picture_in_place(frame.with_planes(odd.planes, odd)) is None
