"""Live RTSP over real sockets: our server and our reader, each also against peers that are not ours or misbehave."""

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from typing import Any

import av
import numpy as np
import pytest
from av.video.codeccontext import VideoCodecContext

from stream_sr.codec import h264
from stream_sr.codec.audio_format import AudioFormat, make_track
from stream_sr.errors import DecodeError, SinkOpenError, SinkWriteError, SourceLost, SourceOpenError, SourceRefused
from stream_sr.pipeline.interfaces import SinkOptions, SourceOptions
from stream_sr.pipeline.packets import EncodedStream, Packet, Passthrough
from stream_sr.pipeline.threads import Worker
from stream_sr.rtsp import client, rtcp, rtp, server_session, server_stream
from stream_sr.rtsp.rtp_video import VideoPacketiser
from stream_sr.rtsp.sdp import build_sdp
from stream_sr.rtsp.server import shared_server
from stream_sr.sinks import rtsp_server
from stream_sr.sinks.rtsp_server import RtspServerSink
from stream_sr.sources import rtsp
from stream_sr.sources.rtsp import LowDelayUnsupported, open_rtsp
from stream_sr.video.frame import Frame, StreamInfo
from stream_sr.video.frame_pool import FramePool

WIDTH, HEIGHT, GOP, COUNT = 160, 90, 8, 24
BASE = Fraction(1, 30)
OPTIONS = SourceOptions(read_timeout=5.0)
SOON = SourceOptions(read_timeout=0.4)


pytestmark = [pytest.mark.network, pytest.mark.usefixtures("no_threads_left")]


@pytest.fixture(autouse=True)
def patient_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may take its time without frames being left out."""
    monkeypatch.setattr(rtsp, "STALE_NS", 60 * 10**9)
    monkeypatch.setattr(rtsp, "LAG_NS", 60 * 10**9)


def encode(*, count: int = COUNT, gop: int = GOP, noise: bool = False, params: str = "", **size: Any) -> list[Packet]:
    """A moving texture through libx264, live."""
    width, height = size.get("width", WIDTH), size.get("height", HEIGHT)
    context = VideoCodecContext.create("libx264", "w")
    assert isinstance(context, VideoCodecContext)
    context.width, context.height, context.pix_fmt = width, height, size.get("pix_fmt", "yuv420p")
    context.time_base, context.framerate, context.gop_size = BASE, Fraction(30), gop
    context.options = {"preset": "ultrafast", "tune": "zerolatency", "crf": "1" if noise else "20"}
    context.options["x264-params"] = f"repeat-headers=1:{params}"
    texture = np.random.default_rng(5).integers(0, 255, (height + 64, width + 64), np.uint8)
    if not noise:
        texture = np.minimum.accumulate(texture // 8 * 8, axis=1)
    packets = []
    for index in range(count):
        luma = np.ascontiguousarray(texture[index % 64 : index % 64 + height, :width])
        frame = av.VideoFrame.from_ndarray(luma, format="gray").reformat(format=context.pix_fmt)
        frame.pts = index
        packets += context.encode(frame)
    packets += context.encode(None)
    return [
        Packet(bytes(one), one.pts or 0, one.dts or 0, 1, BASE, one.is_keyframe, 0, index)
        for index, one in enumerate(packets)
    ]


@pytest.fixture(scope="module")
def packets() -> list[Packet]:
    return encode()


def decode(packets: list[Packet]) -> list[np.ndarray[Any, np.dtype[np.uint8]]]:
    """Luma planes, by FFmpeg's decoder alone."""
    context = VideoCodecContext.create("h264", "r")
    assert isinstance(context, VideoCodecContext)
    pictures = [picture for packet in packets for picture in context.decode(av.Packet(packet.data))]
    pictures += context.decode(None)
    return [picture.to_ndarray(format="yuv420p").astype(np.uint8, copy=False) for picture in pictures]


def sets_of(packets: list[Packet]) -> bytes:
    sps, pps = h264.parameter_sets(h264.split_annexb(packets[0].data))
    return h264.join_annexb(sps + pps)


@contextmanager
def serving(
    packets: list[Packet],
    *,
    extradata: bytes | None = None,
    fps: int | None = 30,
    passthrough: Passthrough | None = None,
    **options: Any,
) -> Iterator[RtspServerSink]:
    info = StreamInfo(WIDTH, HEIGHT, BASE, fps=Fraction(fps) if fps else None, live=True)
    with closing(RtspServerSink("rtsp://@:0/live/cam", SinkOptions(**options))) as sink:
        sink.open(EncodedStream("h264", sets_of(packets) if extradata is None else extradata, info, passthrough))
        yield sink


def send(sink: RtspServerSink, packets: list[Packet]) -> None:
    for packet in packets:
        sink.write(packet)


def joined(frame: Frame) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The planes as `to_ndarray` lays them out."""
    return np.concatenate([plane.reshape(-1) for plane in frame.planes]).reshape(-1, frame.width)


def until_lost(source: Iterator[Frame], frames: list[Frame]) -> str:
    with pytest.raises(SourceLost) as lost:
        frames.extend(source)
    return str(lost.value)


# --- the reader and the server together


def test_the_pixels_arrive(packets: list[Packet]) -> None:
    frames: list[Frame] = []
    with serving(packets) as sink, closing(open_rtsp(sink.url, OPTIONS)) as source:
        assert (source.info.width, source.info.height, source.info.fps) == (WIDTH, HEIGHT, Fraction(30))
        assert source.info.live
        assert source.info.name == sink.url
        before_ns = time.monotonic_ns()
        reading = source.frames()
        send(sink, packets)
        sink.close()
        assert "ended the stream" in until_lost(reading, frames)
        assert set(source.counters().values()) == {0}
    assert all(np.array_equal(joined(a), b) for a, b in zip(frames, decode(packets), strict=True))
    assert [frame.pts for frame in frames] == [3000 * index for index in range(COUNT)]
    assert [frame.number for frame in frames] == list(range(COUNT))
    captured = [frame.captured_ns for frame in frames]
    assert before_ns < captured[0] <= captured[-1] < time.monotonic_ns()
    assert captured == sorted(captured)


def test_frames_come_while_the_stream_runs(packets: list[Packet]) -> None:
    """Each frame is there before the next one was sent: nothing is held back, but the first for one more."""
    pool = FramePool(WIDTH, HEIGHT, 1, poison=True)
    with serving(packets) as sink, closing(open_rtsp(sink.url, OPTIONS)) as source:
        frames = source.frames(pool)
        sink.write(packets[0])
        for packet, expected in zip(packets[1:], decode(packets), strict=False):
            if packet is packets[1]:
                sink.write(packet)
            frame = next(frames)
            assert np.array_equal(joined(frame), expected)
            frame.release()
            if packet is not packets[-1]:
                sink.write(packets[packet.number + 1])
        assert pool.held == 0


def test_a_viewer_begins_with_a_key_that_it_asks_for(packets: list[Packet]) -> None:
    frames: list[Frame] = []
    with serving(packets) as sink:
        assert not sink.wants_keyframe()
        send(sink, packets[:3])
        with closing(open_rtsp(sink.url, OPTIONS)) as source:
            assert sink.wants_keyframe()
            assert not sink.wants_keyframe()
            assert sink.viewers == 1
            reading = source.frames()
            send(sink, packets[3:])
            sink.close()
            until_lost(reading, frames)
    assert all(np.array_equal(joined(a), b) for a, b in zip(frames, decode(packets)[GOP:], strict=True))
    assert frames[0].pts == 0


def test_two_viewers_see_the_same(packets: list[Packet]) -> None:
    one: list[Frame] = []
    two: list[Frame] = []
    with serving(packets) as sink, closing(open_rtsp(sink.url, OPTIONS)) as first:
        with closing(open_rtsp(sink.url, OPTIONS)) as second:
            assert sink.viewers == 2
            readings = first.frames(), second.frames()
            send(sink, packets)
            sink.close()
            until_lost(readings[0], one)
            until_lost(readings[1], two)
        assert sink.viewers == 0
    assert len(one) == len(two) == COUNT
    assert all(np.array_equal(joined(a), joined(b)) for a, b in zip(one, two, strict=True))


def test_a_stalled_viewer_harms_only_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_session, "BACKLOG_BYTES", 1 << 20)
    monkeypatch.setattr(server_stream, "CLOSE_SECONDS", 0.1)
    big = encode(count=2, gop=1, noise=True, width=640, height=360)
    with serving(big) as sink, raw_viewer(sink, receive_bytes=4096), closing(open_rtsp(sink.url, OPTIONS)) as source:
        assert sink.viewers == 2
        frames = source.frames()
        count = 1 + (24 << 20) // len(big[0].data)
        for index in range(count):
            sink.write(Packet(big[0].data, index, index, 1, BASE, True, 0, index))
            if index:
                assert next(frames).pts == 3000 * (index - 1)
        assert sink._server is not None
        skipped = sorted(session.skipped_packets for session in sink._server.sessions)
        assert skipped[0] == 0
        assert skipped[1] > 0
        assert set(source.counters().values()) == {0}


def test_without_parameter_sets_in_the_description(packets: list[Packet]) -> None:
    """The description waits for the first keyframe."""
    frames: list[Frame] = []
    with serving(packets, extradata=b"") as sink:
        opened: list[rtsp.RtspSource] = []
        worker = Worker("opener", lambda: opened.append(open_rtsp(sink.url, OPTIONS)))
        assert sink._keyframe_requested.wait(5)
        sink.write(packets[0])
        assert worker.join(5)
        with closing(opened[0]) as source:
            reading = source.frames()
            send(sink, packets[GOP:])
            sink.close()
            until_lost(reading, frames)
    assert len(frames) == COUNT - GOP


def test_nobody_reads_for_a_while(packets: list[Packet]) -> None:
    """A source that was opened long before it is read starts with the newest picture, and nothing counts as lost."""
    frames: list[Frame] = []
    with serving(packets) as sink, closing(open_rtsp(sink.url, OPTIONS)) as source:
        send(sink, packets)
        sink.close()
        assert source._client._connection is not None
        source._loop.call(source._client._connection._closed.wait(), 5)
        until_lost(source.frames(), frames)
        assert not any(source.counters().values())
    assert len(frames) == 1
    assert np.array_equal(joined(frames[0]), decode(packets)[-1])


def test_an_old_frame_is_not_handed_out_while_newer_ones_wait(
    packets: list[Packet], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rtsp, "STALE_NS", 0)
    with serving(packets) as sink, closing(open_rtsp(sink.url, OPTIONS)) as source:
        frames = source.frames()
        send(sink, packets[:3])
        first = next(frames)
        send(sink, packets[3:])
        sink.close()
        rest: list[Frame] = []
        with pytest.raises(SourceLost):
            rest.extend(frames)
        numbers = [frame.number for frame in (first, *rest)]
        assert numbers[-1] == COUNT - 1
        assert source.counters()["late_frames"] == COUNT - len(numbers)
        assert np.array_equal(joined(rest[-1]), decode(packets)[-1])


def test_duration_ends_it(packets: list[Packet]) -> None:
    options = SourceOptions(read_timeout=5, duration=0.2)
    with serving(packets) as sink, closing(open_rtsp(sink.url, options)) as source:
        reading = source.frames()
        send(sink, packets)
        assert len(list(reading)) == 6


def test_stop_while_it_waits(packets: list[Packet]) -> None:
    with serving(packets) as sink, closing(open_rtsp(sink.url, OPTIONS)) as source:
        send(sink, packets[:2])
        came = threading.Event()

        def read() -> None:
            for _ in source.frames():
                came.set()

        worker = Worker("reader", read)
        assert came.wait(5)
        source.stop()
        assert worker.join(1)
        assert worker.error is None


def test_a_server_that_dies(packets: list[Packet]) -> None:
    frames: list[Frame] = []
    with serving(packets) as sink, closing(open_rtsp(sink.url, OPTIONS)) as source:
        it = source.frames()
        send(sink, packets[:3])
        frames += [next(it), next(it)]
        assert sink._stream is not None
        assert sink._stream._loop is not None
        for viewer in tuple(sink._stream.viewers):
            sink._stream._loop.call_soon_threadsafe(viewer.abort)
        with pytest.raises(SourceLost, match="closed the connection"):
            frames += it
        assert sink.viewers == 0
    assert 2 <= len(frames) <= 3


def test_a_server_that_falls_silent(packets: list[Packet]) -> None:
    frames: list[Frame] = []
    with serving(packets) as sink, closing(open_rtsp(sink.url, SOON)) as source:
        reading = source.frames()
        send(sink, packets[:3])
        assert "no picture for 0.4 s" in until_lost(reading, frames)
    assert len(frames) >= 2


def test_close_twice_and_unread(packets: list[Packet]) -> None:
    with serving(packets) as sink:
        source = open_rtsp(sink.url, OPTIONS)
        source.close()
        source.close()
        assert list(source.frames()) == []


def test_pyavs_demuxer_reads_our_server(packets: list[Packet]) -> None:
    pictures: list[Any] = []
    with serving(packets) as sink:

        def feed() -> None:
            assert sink._keyframe_requested.wait(10)
            send(sink, packets)
            sink.close()

        worker = Worker("feeder", feed)
        try:
            options = {"rtsp_transport": "tcp", "analyzeduration": "0", "probesize": "32"}
            with av.open(sink.url, options=options, timeout=10) as container:
                pictures = [frame.to_ndarray(format="yuv420p") for frame in container.decode(video=0)]
        finally:
            assert worker.join(10)
        assert worker.error is None
    expected = decode(packets)
    assert len(pictures) >= COUNT - 1
    assert all(np.array_equal(a, b) for a, b in zip(pictures, expected, strict=False))


# --- the reader against others


@contextmanager
def scripted(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server of one connection that does what the script says; yields its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection, suppress(OSError):
                connection.settimeout(5)
                answer(connection)

        worker = Worker("scripted server", serve)
        try:
            yield f"rtsp://127.0.0.1:{listener.getsockname()[1]}/cam"
        finally:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            assert worker.join(6)


def request(connection: socket.socket) -> tuple[str, str]:
    """Method and CSeq of the next request."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        if not byte:
            raise ConnectionError
        head += byte
    lines = head.decode().split("\r\n")
    number = next(line for line in lines if line.lower().startswith("cseq")).split(":")[1].strip()
    return lines[0].split()[0], number


def answering(status: str, **replies: str) -> Callable[[socket.socket], None]:
    """Answer each request with the reply of its method (head lines, then body after a blank line), else ``status``."""

    def serve(connection: socket.socket) -> None:
        while True:
            method, number = request(connection)
            head, _, body = replies.get(method, "").partition("\n\n")
            first, *rest = head.split("\n") if head else [status]
            lines = [f"RTSP/1.0 {first}", f"CSeq: {number}", *rest, f"Content-Length: {len(body)}"]
            connection.sendall(("\r\n".join(lines) + "\r\n\r\n" + body).encode())

    return serve


def saying(data: bytes) -> Callable[[socket.socket], None]:
    """Say this, whatever is asked, and wait for the end."""

    def serve(connection: socket.socket) -> None:
        connection.sendall(data)
        while connection.recv(4096):
            pass

    return serve


SDP = "m=video 0 RTP/AVP 96\r\na=rtpmap:96 {codec}/90000\r\n"


def described(codec: str) -> str:
    return "200 OK\n\n" + SDP.format(codec=codec)


@pytest.mark.parametrize(
    ("server", "message"),
    [
        (answering("404 Not Found"), "no such stream"),
        (answering("401 Unauthorized"), "wants a password"),
        (answering("500 Oh\tno"), "500 Oh"),
        (answering("404 x", DESCRIBE="200 OK\n\nm=audio 0 RTP/AVP 0\r\n"), "no video"),
        (answering("404 x", DESCRIBE="200 OK\n\n"), "no video"),
        (saying(b"SSH-2.0-OpenSSH_9.9\r\n" * 3), "does not speak RTSP"),
        (saying(b"HTTP/1.0 400 Bad\r\n\r\n"), "does not speak RTSP"),
        (saying(b"RTSP/1.0 200 " + b"x" * 400_000), "does not speak RTSP"),
        (saying(b"RTSP/1.0 200 OK\r\nContent-Length: nan\r\n\r\n"), "not speak RTSP"),
        (answering("461 Unsupported", DESCRIBE=described("H264")), "--rtsp-transport udp"),
        (lambda connection: None, "closed the connection while"),
        (lambda connection: connection.recv(9), "closed the connection while"),
    ],
)
def test_what_cannot_be_opened(server: Callable[[socket.socket], None], message: str) -> None:
    with scripted(server) as url, pytest.raises(SourceOpenError, match=message) as refused:
        open_rtsp(url, OPTIONS)
    assert not isinstance(refused.value, LowDelayUnsupported)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("server", "message"),
    [
        (answering("404 x", DESCRIBE=described("VP8")), "codec VP8"),
        (answering("404 x", DESCRIBE=described("H264"), SETUP="200 OK\nTransport: RTP/AVP;unicast"), "interleaved"),
        (answering("404 x", DESCRIBE=described("H264"), SETUP="200 OK\nSession: 1"), "interleaved"),
        (answering("302 Moved"), "redirection"),
    ],
)
def test_what_another_reader_may_open(server: Callable[[socket.socket], None], message: str) -> None:
    with scripted(server) as url, pytest.raises(LowDelayUnsupported, match=message):
        open_rtsp(url, OPTIONS)


def test_a_password_is_tried_and_never_printed() -> None:
    challenge = '401 Unauthorized\nWWW-Authenticate: Digest realm="cam", nonce="abc"'
    with scripted(answering("404", DESCRIBE=challenge)) as url:
        secret = url.replace("rtsp://", "rtsp://me:s%40crit@")
        with pytest.raises(SourceOpenError, match="refused the user or the password") as refused:
            open_rtsp(secret, OPTIONS)
    assert "crit" not in str(refused.value)


@pytest.mark.parametrize(("user", "words"), [("me:s%40crit", "response="), ("me:", "response="), ("", "")])
def test_the_password_answers_the_challenge(user: str, words: str) -> None:
    """Also an empty one, which cameras do have; and to Digest, where Basic is offered first."""
    heads: list[str] = []

    def serve(connection: socket.socket) -> None:
        for number in (1, 2):
            heads.append(connection.recv(4096).decode())
            head = "RTSP/1.0 404 x" if "Authorization" in heads[-1] else "RTSP/1.0 401 Unauthorized"
            offers = 'WWW-Authenticate: Basic realm="r"\r\nWWW-Authenticate: Digest realm="r", nonce="n", qop="auth"'
            connection.sendall(f"{head}\r\nCSeq: {number}\r\n{offers}\r\n\r\n".encode())
            if not user:
                return

    with scripted(serve) as url, pytest.raises(SourceOpenError, match="no such stream" if user else "wants a password"):
        open_rtsp(url.replace("rtsp://", f"rtsp://{user}@" if user else "rtsp://"), OPTIONS)
    assert words in heads[-1]
    assert "Basic" not in heads[-1]


def test_a_server_that_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"rtsp://127.0.0.1:{listener.getsockname()[1]}/cam"
        before = time.monotonic()
        with pytest.raises(SourceOpenError, match=r"does not answer within 0\.4 s"):
            open_rtsp(url, SOON)
        assert time.monotonic() - before < 3


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(SourceOpenError, match="connection refused"):
        open_rtsp(f"rtsp://127.0.0.1:{port}/cam", OPTIONS)


@pytest.mark.parametrize("url", ["rtsp:///cam", "rtsp://h:99999/cam", "rtsp://h/a b", "rtsp://[::1/x", "rtsp://h:x/"])
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(SourceOpenError, match="rtsp://HOST:PORT/PATH"):
        open_rtsp(url, OPTIONS)


def test_what_is_not_asked_of_this_reader() -> None:
    with pytest.raises(LowDelayUnsupported, match="TLS"):
        open_rtsp("rtsps://127.0.0.1/cam", OPTIONS)


def test_interlaced_is_for_another_reader_and_ten_bits_for_none() -> None:
    with (
        serving(encode(count=1, params="interlaced=1", height=64)) as sink,
        pytest.raises(LowDelayUnsupported, match="interlaced"),
    ):
        open_rtsp(sink.url, OPTIONS)
    with (
        serving(encode(count=1, pix_fmt="yuv420p10le")) as sink,
        pytest.raises(SourceOpenError, match="10-bit") as refused,
    ):
        open_rtsp(sink.url, OPTIONS)
    assert not isinstance(refused.value, LowDelayUnsupported)


def playing(
    packets: list[Packet], then: Callable[[socket.socket, VideoPacketiser], None], *, sprop: bool = True
) -> Callable[[socket.socket], None]:
    """A server up to PLAY, and then the script. Its channels are 4 and 5."""
    sets = h264.split_annexb(sets_of(packets))
    text = build_sdp(host="127.0.0.1", name="x", parameter_sets=sets, fps=None)
    if not sprop:
        text = "".join(line for line in text.splitlines(True) if "sprop" not in line)
    replies = {
        "DESCRIBE": "Content-Base: rtsp://127.0.0.1/\r\n",
        "SETUP": "Transport: RTP/AVP/TCP;unicast;interleaved=4-5\r\nSession: abc;timeout=2\r\n",
    }

    def serve(connection: socket.socket) -> None:
        method = ""
        while method != "PLAY":
            method, number = request(connection)
            body = text if method == "DESCRIBE" else ""
            head = f"RTSP/1.0 200 OK\r\nCSeq: {number}\r\n{replies.get(method, '')}Content-Length: {len(body)}\r\n\r\n"
            connection.sendall((head + body).encode())
        then(connection, VideoPacketiser())

    return serve


def framed(packetiser: VideoPacketiser, packets: list[Packet]) -> bytes:
    return b"".join(rtp.interleave(4, one) for p in packets for one in packetiser.packetise(p.data, 3000 * p.number))


@pytest.mark.parametrize("sprop", [True, False])
def test_a_stream_that_is_partly_garbage(packets: list[Packet], sprop: bool) -> None:
    """Unknown RTCP, foreign packets and corrupt pictures between good ones; the number of channels is the server's."""

    def then(connection: socket.socket, packetiser: VideoPacketiser) -> None:
        connection.sendall(framed(packetiser, packets[:4]))
        connection.sendall(rtp.interleave(5, b"\x81\xcd\x00\x01oddx") + rtp.interleave(5, b"junk"))
        connection.sendall(rtp.interleave(4, b"") + rtp.interleave(4, b"\xff" * 40) + rtp.interleave(9, b"else"))
        connection.sendall(b"OPTIONS rtsp://x RTSP/1.0\r\nCSeq: 7\r\n\r\n")
        packetiser.packetise(packets[4].data, 12000)  # lost
        connection.sendall(framed(packetiser, packets[5:]) + rtp.interleave(5, rtcp.bye(1)))
        with suppress(ConnectionError):
            request(connection)

    frames: list[Frame] = []
    with scripted(playing(packets, then, sprop=sprop)) as url, closing(open_rtsp(url, OPTIONS)) as source:
        assert source.info.fps == 30  # from the timing in the parameter set
        assert "ended the stream" in until_lost(source.frames(), frames)
        counters = source.counters()
    expected = decode(packets)
    # Reading may have begun at any of them; what came before is not handed out.
    assert 1 <= len(frames) <= 4 + COUNT - GOP
    kept = (expected[:4] + expected[GOP:])[-len(frames) :]
    assert all(np.array_equal(joined(a), b) for a, b in zip(frames, kept, strict=True))
    assert counters["corrupt_packets"] == 2
    assert counters["lost_packets"] >= 1
    assert counters["dropped_packets"] >= GOP - 5


def test_pictures_that_do_not_decode_are_an_error_in_the_end(packets: list[Packet]) -> None:
    bad = h264.join_annexb([b"\x65\x88" + b"\xff" * 30])
    many = [packets[0], *(Packet(bad, n, n, 1, BASE, True, 0, n) for n in range(1, rtsp.MAX_UNITS_WITHOUT_FRAME + 5))]

    def then(connection: socket.socket, packetiser: VideoPacketiser) -> None:
        connection.sendall(framed(packetiser, many))
        with suppress(ConnectionError):
            request(connection)

    with scripted(playing(packets, then)) as url, closing(open_rtsp(url, OPTIONS)) as source:
        source._client.begin_reading()
        with pytest.raises(DecodeError, match="in a row"):
            list(source.frames())
        assert source.counters()["corrupt_packets"] >= rtsp.MAX_UNITS_WITHOUT_FRAME


def test_a_stream_without_a_keyframe(packets: list[Packet], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "KEYFRAME_SECONDS", 0.0)

    def then(connection: socket.socket, packetiser: VideoPacketiser) -> None:
        connection.sendall(framed(packetiser, packets[1:GOP]))
        with suppress(ConnectionError):
            request(connection)

    with (
        scripted(playing(packets, then)) as url,
        closing(open_rtsp(url, OPTIONS)) as source,
        pytest.raises(DecodeError, match="no keyframe"),
    ):
        list(source.frames())


# --- the server against others


def ask(connection: socket.socket, text: str) -> str:
    """Send a request, give the answer's head (and what came with it)."""
    connection.sendall(text.replace("\n", "\r\n").encode() + b"\r\n\r\n")
    return connection.recv(65536).decode("latin-1")


@contextmanager
def raw_viewer(sink: RtspServerSink, *, receive_bytes: int | None = None) -> Iterator[socket.socket]:
    """A player of bare sockets, up to PLAY."""
    with socket.socket() as connection:
        if receive_bytes is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        connection.settimeout(5)
        connection.connect(("127.0.0.1", sink.port))
        setup = ask(connection, f"SETUP {sink.url}/track1 RTSP/1.0\nCSeq: 1\nTransport: RTP/AVP/TCP;interleaved=6-7")
        assert "interleaved=6-7" in setup
        session = setup.split("Session: ")[1].split(";")[0]
        played = ask(connection, f"PLAY {sink.url} RTSP/1.0\nCSeq: 2\nSession: {session}")
        assert played.startswith("RTSP/1.0 200 OK\r\nCSeq: 2")
        yield connection


def test_the_conversation(packets: list[Packet]) -> None:
    with serving(packets) as sink, socket.create_connection(("127.0.0.1", sink.port), timeout=5) as peer:
        url = sink.url
        assert "Public: OPTIONS, DESCRIBE" in ask(peer, "OPTIONS * RTSP/1.0\nCSeq: 1")
        described = ask(peer, f"DESCRIBE {url} RTSP/1.0\nCSeq: 2\nAccept: application/sdp")
        assert f"Content-Base: {url}/" in described
        assert "sprop-parameter-sets=" in described
        assert "a=framerate:30\r\n" in described
        assert ask(peer, f"DESCRIBE {url}x RTSP/1.0\nCSeq: 3").startswith("RTSP/1.0 404")
        assert ask(peer, f"PLAY {url} RTSP/1.0\nCSeq: 4").startswith("RTSP/1.0 454")
        assert ask(peer, f"RECORD {url} RTSP/1.0\nCSeq: 5").startswith("RTSP/1.0 405")
        for none in ("RTP/AVP;unicast;client_port=4-5", "RTP/AVP;multicast;client_port=5000-5001", "RTP/SAVP", ""):
            answer = ask(peer, f"SETUP {url} RTSP/1.0\nCSeq: 6\nTransport: {none}")
            assert answer.startswith("RTSP/1.0 461")
        both = "RTP/AVP;unicast;client_port=4-5,RTP/AVP/TCP;unicast;interleaved=2-3"
        setup = ask(peer, f"SETUP {url}/track1 RTSP/1.0\nCSeq: 7\nTransport: {both}")
        assert "interleaved=2-3" in setup
        session = setup.split("Session: ")[1].split(";")[0]
        assert ask(peer, f"PLAY {url} RTSP/1.0\nCSeq: 8\nSession: other").startswith("RTSP/1.0 454")
        assert ask(peer, f"PAUSE {url} RTSP/1.0\nCSeq: 9\nSession: {session}").startswith("RTSP/1.0 455")
        assert sink.viewers == 0
        played = ask(peer, f"PLAY {url} RTSP/1.0\nCSeq: 10\nSession: {session}")
        assert f"RTP-Info: url={url}/track1;seq=" in played
        assert sink.viewers == 1
        peer.sendall(rtp.interleave(3, b"\x80\xc9\x00\x01abcd"))  # a receiver report
        assert ask(peer, f"GET_PARAMETER {url} RTSP/1.0\nCSeq: 11\nContent-Length: 0").startswith("RTSP/1.0 200")
        assert ask(peer, f"OPTIONS {url} RTSP/2.0\nCSeq: 12").startswith("RTSP/1.0 505")
        assert ask(peer, f"TEARDOWN {url} RTSP/1.0\nCSeq: 13\nSession: {session}").startswith("RTSP/1.0 200")
        assert peer.recv(10) == b""
        assert sink.viewers == 0


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"\r\n\r\n\r\n\r\n", b"RTSP/1.0 400"),
        (b"GET / HTTP/1.1\r\n\r\n", b"RTSP/1.0 400"),
        (b"DESCRIBE rtsp://[/ RTSP/1.0\r\nCSeq: 1\r\n\r\n", b"RTSP/1.0 400"),
        (b"OPTIONS * RTSP/1.0\r\nCSeq: x\r\n\r\n", b"RTSP/1.0 400"),
        (b"OPTIONS * RTSP/1.0\r\nContent-Length: -4\r\n\r\n", b"RTSP/1.0 400"),
        (b"OPTIONS * RTSP/1.0\r\nContent-Length: 99999999999\r\n\r\n", b"RTSP/1.0 413"),
        (b"OPTIONS * RTSP/1.0\r\n" + b"a" * 40_000, b"RTSP/1.0 413"),
        (b"\xff\x00" * 20 + b"\r\n\r\n", b"RTSP/1.0 400"),
        (b"SETUP rtsp://h/live/cam RTSP/1.0\r\nTransport: RTP/AVP/TCP;interleaved=256-x\r\n\r\n", b"RTSP/1.0 461"),
        (b"$\x00\x00\x02xyOPTIONS * RTSP/1.0\r\nCSeq: 1\r\n\r\n", b"RTSP/1.0 200"),
    ],
)
def test_requests_that_are_none(packets: list[Packet], sent: bytes, answer: bytes) -> None:
    with serving(packets) as sink:
        with socket.create_connection(("127.0.0.1", sink.port), timeout=5) as peer:
            peer.sendall(sent)
            assert peer.recv(100).startswith(answer)
        with socket.create_connection(("127.0.0.1", sink.port), timeout=5) as peer:
            assert "200 OK" in ask(peer, "OPTIONS * RTSP/1.0\nCSeq: 1")


def test_more_viewers_than_there_may_be(packets: list[Packet]) -> None:
    with serving(packets, max_viewers=1) as sink, raw_viewer(sink), pytest.raises(SourceOpenError, match="453"):
        open_rtsp(sink.url, OPTIONS)
        assert sink.viewers == 1


def test_sender_reports_and_goodbye(packets: list[Packet], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_stream, "REPORT_SECONDS", 0.05)
    with serving(packets) as sink, raw_viewer(sink) as peer:
        send(sink, packets[:2])
        stream = peer.makefile("rb")
        seen: list[tuple[int, list[int]]] = []
        while not any(channel == 7 for channel, _ in seen):
            channel, size = struct.unpack("!xBH", stream.read(4))
            data = stream.read(size)
            seen.append((channel, rtcp.rtcp_types(data) if channel == 7 else []))
        assert seen[-1][1] == [rtcp.SENDER_REPORT, rtcp.DESCRIPTION]
        sink.close()
        rest = stream.read()
        assert rtp.interleave(7, rtcp.bye(0))[:5] in rest
        stream.close()


def test_a_caller_that_is_faster_than_the_loop_loses_up_to_a_key(
    packets: list[Packet], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rtsp_server, "PENDING_PACKETS", 2)
    with serving(packets) as sink:
        assert sink._stream is not None
        assert sink._stream._loop is not None
        hold, held = threading.Event(), threading.Event()

        def stick() -> None:
            held.set()
            hold.wait(5)

        sink._stream._loop.call_soon_threadsafe(stick)
        assert held.wait(5)
        send(sink, packets[:5])  # returns though the loop is stuck
        assert sink.dropped_packets == 3
        assert sink.wants_keyframe()
        hold.set()


# --- sound, UDP, passwords, several streams


SOUND = AudioFormat("aac", 48000, 2, 97, b"\x11\x90")


def sounding(count: int) -> Passthrough:
    """A passthrough with a frame of sound every 1024 samples, each of its own size."""
    passthrough = Passthrough((make_track(SOUND),))
    for number in range(count):
        packet: Any = av.Packet(bytes([number % 250]) * (50 + 30 * number))
        packet.pts = packet.dts = 1024 * number
        packet.time_base = Fraction(1, 48000)
        passthrough.put(0, packet, packet.size)
    return passthrough


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_sound_arrives_with_the_pictures(packets: list[Packet], transport: str) -> None:
    options = SourceOptions(read_timeout=5.0, rtsp_transport=transport)
    with serving(packets, passthrough=sounding(60)) as sink, closing(open_rtsp(sink.url, options)) as source:
        assert source.passthrough is not None
        assert source.passthrough.tracks[0].signature == make_track(SOUND).signature
        reading, frames = source.frames(), []
        for packet in packets:
            sink.write(packet)
            if packet.number:
                frames.append(next(reading))
        sink.close()
        until_lost(reading, frames)
        found = [(packet.pts, bytes(packet)) for _, packet in source.passthrough.take()]
    assert [frame.pts for frame in frames] == [3000 * index for index in range(COUNT)]
    assert 30 <= len(found) <= 38  # 24 pictures are 0.8 s: 37.5 frames of sound, less those before the first picture
    numbers = [data[0] for _, data in found]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert all(data == bytes([number]) * (50 + 30 * number) for number, (_, data) in zip(numbers, found, strict=True))
    assert {b[0] - a[0] for a, b in pairwise(found)} == {1024}


def test_without_sound_if_it_is_not_wanted(packets: list[Packet]) -> None:
    with closing(RtspServerSink("rtsp://@:0/x", SinkOptions(audio="none"))) as sink:
        assert not sink.takes_passthrough


def test_pictures_over_udp(packets: list[Packet]) -> None:
    options = SourceOptions(read_timeout=5.0, rtsp_transport="udp")
    frames: list[Frame] = []
    with serving(packets) as sink, closing(open_rtsp(sink.url, options)) as source:
        reading = source.frames()
        for packet in packets:
            sink.write(packet)
            if packet.number:
                frames.append(next(reading))
        sink.close()
        until_lost(reading, frames)
        assert sink.counters()["lost_datagrams"] == 0
    assert all(np.array_equal(joined(a), b) for a, b in zip(frames, decode(packets), strict=True))


def test_datagrams_go_to_nobody_but_the_viewer(packets: list[Packet]) -> None:
    with serving(packets) as sink, socket.create_connection(("127.0.0.1", sink.port), timeout=5) as peer:
        offer = "RTP/AVP;unicast;destination=192.0.2.7;client_port=5000-5001"
        answer = ask(peer, f"SETUP {sink.url} RTSP/1.0\nCSeq: 1\nTransport: {offer}")
        assert "client_port=5000-5001;server_port=" in answer
        assert "192.0.2.7" not in answer
        assert sink._server is not None
        (session,) = sink._server.sessions
        assert [transport.host for transport in session._transports.values()] == ["127.0.0.1"]


def test_a_password_is_asked_for_and_answered(packets: list[Packet]) -> None:
    with serving(packets, viewer_user="me", viewer_password="s@crit") as sink:
        with pytest.raises(SourceRefused, match="wants a password"):
            open_rtsp(sink.url, OPTIONS)
        with pytest.raises(SourceRefused, match="refused the user"):
            open_rtsp(sink.url.replace("rtsp://", "rtsp://me:wrong@"), OPTIONS)
        with closing(open_rtsp(sink.url.replace("rtsp://", "rtsp://me:s%40crit@"), OPTIONS)) as source:
            reading = source.frames()
            send(sink, packets[:2])
            assert next(reading).pts == 0


def test_who_guesses_passwords_is_disconnected(packets: list[Packet], caplog: pytest.LogCaptureFixture) -> None:
    with (
        serving(packets, viewer_user="me", viewer_password="x") as sink,
        socket.create_connection(("127.0.0.1", sink.port), timeout=5) as peer,
    ):
        for number in range(server_session.MAX_REFUSALS):
            wrong = 'Authorization: Digest username="me", uri="x", response="1"'
            answer = ask(peer, f"DESCRIBE {sink.url} RTSP/1.0\nCSeq: {number}\n{wrong}")
            assert answer.startswith("RTSP/1.0 401")
        assert peer.recv(10) == b""
    assert "a wrong password" in caplog.text


def test_who_asks_too_often_is_disconnected(packets: list[Packet]) -> None:
    with serving(packets) as sink, socket.create_connection(("127.0.0.1", sink.port), timeout=5) as peer:
        peer.sendall(b"OPTIONS * RTSP/1.0\r\nCSeq: 1\r\n\r\n" * 200)
        answers = b""
        with suppress(ConnectionError):
            while data := peer.recv(1 << 16):
                answers += data
        assert answers.count(b"200 OK") <= 2 * server_session.REQUEST_BURST


def test_who_guesses_passwords_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    server = shared_server("127.0.0.1", 0, "picture")
    try:
        for now in (0.0, 1.0, 2.0, 59.0, 61.0):
            server.log_refusal("192.0.2.1", now)
    finally:
        server.release("picture")
    assert [record.message for record in caplog.records] == [
        "a client at 192.0.2.1 gave a wrong password",
        "a client at 192.0.2.1 gave a wrong password, the last of 4 times",
    ]


def test_who_does_not_play_is_disconnected(packets: list[Packet], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_session, "SETUP_SECONDS", 0.05)
    with serving(packets) as sink:
        with socket.create_connection(("127.0.0.1", sink.port), timeout=5) as peer, suppress(ConnectionError):
            assert peer.recv(10) == b""
        with closing(open_rtsp(sink.url, OPTIONS)) as source:
            reading = source.frames()
            send(sink, packets[:2])
            assert next(reading).pts == 0


def test_more_connections_than_there_may_be(packets: list[Packet]) -> None:
    with serving(packets) as sink, raw_viewer(sink):
        assert sink._server is not None
        sink._server.max_connections = 1
        with socket.create_connection(("127.0.0.1", sink.port), timeout=5) as peer, suppress(ConnectionError):
            assert peer.recv(10) == b""
        assert sink.viewers == 1


def test_two_streams_at_one_port(packets: list[Packet]) -> None:
    other = encode(count=2, gop=1, width=96, height=64)
    with serving(packets) as first, closing(RtspServerSink(f"rtsp://@:{first.port}/other")) as second:
        second.open(EncodedStream("h264", sets_of(other), StreamInfo(96, 64, BASE)))
        with closing(open_rtsp(first.url, OPTIONS)) as one, closing(open_rtsp(second.url, OPTIONS)) as two:
            assert (one.info.width, two.info.width) == (WIDTH, 96)
            assert (first.viewers, second.viewers) == (1, 1)
            readings = one.frames(), two.frames()
            send(first, packets[:2])
            send(second, other)
            assert [next(reading).width for reading in readings] == [WIDTH, 96]
            second.close()
            assert "ended the stream" in until_lost(readings[1], [])
            send(first, packets[2:4])
            assert next(readings[0]).pts == 3000
        with pytest.raises(SourceOpenError, match="no such stream"):
            open_rtsp(second.url, OPTIONS)


def test_reports_tell_the_cameras_clock(packets: list[Packet], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_stream, "REPORT_SECONDS", 0.02)
    taken = [replace(packet, wall_ns=10**18 + packet.number * 10**9 // 30) for packet in packets]
    with serving(packets) as sink, closing(open_rtsp(sink.url, OPTIONS)) as source:
        reading = source.frames()
        send(sink, taken[:2])
        assert next(reading).number == 0
        deadline = time.monotonic() + 10
        while source._client.wall.at(0) is None:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        sink.write(taken[2])
        frame = next(frame for frame in reading if frame.number == 2)
        assert frame.wall_ns == pytest.approx(10**18 + frame.number * 10**9 // 30, abs=12_000)


# --- addresses and ports


def test_the_port_is_taken_and_given_back(packets: list[Packet]) -> None:
    with closing(RtspServerSink("rtsp://@:0/a")) as first:
        first.check()
        first.check()
        with (
            closing(RtspServerSink(f"rtsp://@:{first.port}/a")) as second,
            pytest.raises(SinkOpenError, match="/a is served there already"),
        ):
            second.check()
        port = first.port
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        with (
            closing(RtspServerSink(f"rtsp://@:{taken}/a")) as second,
            pytest.raises(SinkOpenError, match="is taken"),
        ):
            second.check()
    with closing(RtspServerSink(f"rtsp://@:{port}/a")) as third:
        third.check()
        assert third.host == "127.0.0.1"


def test_the_port_is_free_after_a_viewer(packets: list[Packet]) -> None:
    with serving(packets) as sink:
        port = sink.port
        with closing(open_rtsp(sink.url, OPTIONS)):
            sink.close()
            sink.close()
    with pytest.raises(SinkWriteError, match="not open"):
        sink.write(packets[0])
    with closing(RtspServerSink(f"rtsp://@:{port}/a")) as again:
        again.check()


@pytest.mark.parametrize(
    "url", ["rtsp://@:8554", "rtsp://@:8554/", "rtsp://host/x", "rtsp://@:99999/x", "rtsp://@/a?b", "rtsp://@:1/a b"]
)
def test_addresses_that_cannot_be_served(url: str) -> None:
    with pytest.raises(SinkOpenError, match="to serve at"):
        RtspServerSink(url)


def test_an_address_of_another_machine() -> None:
    with (
        closing(RtspServerSink("rtsp://@192.0.2.1:0/x")) as sink,
        pytest.raises(SinkOpenError, match="no address of this machine"),
    ):
        sink.check()


def test_another_codec_is_refused() -> None:
    with closing(RtspServerSink("rtsp://@:0/x")) as sink, pytest.raises(SinkOpenError, match="hevc"):
        sink.open(EncodedStream("hevc", b"", StreamInfo(2, 2, BASE)))


@pytest.mark.parametrize("host", ["[::1]", "0.0.0.0", "localhost"])
def test_other_addresses_of_this_machine(packets: list[Packet], host: str) -> None:
    if host == "[::1]":
        try:
            socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        except OSError:
            pytest.skip("this machine has no IPv6")
    with closing(RtspServerSink(f"rtsp://@{host}:0/x")) as sink:
        sink.open(EncodedStream("h264", sets_of(packets), StreamInfo(WIDTH, HEIGHT, BASE)))
        with closing(open_rtsp(sink.url, OPTIONS)) as source:
            reading = source.frames()
            send(sink, packets[:2])
            assert next(reading).pts == 0
