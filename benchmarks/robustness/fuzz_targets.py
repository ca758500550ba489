"""Hostile input for everything that reads the network: what is thrown at it, and what must hold whatever comes.

Each target takes a list of byte strings made by `inputs`: sound messages of its protocol, broken in all the ways that
hypothesis finds, or plain rubbish. `tests/test_fuzz.py` runs them for seconds, the benchmark `fuzz` for minutes.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from typing import Any

from hypothesis import strategies as st

from stream_sr.codec import h264
from stream_sr.codec.audio_format import AudioFormat
from stream_sr.pipeline.packets import EncodedStream
from stream_sr.rtsp import rtcp, rtp, rtp_audio, rtp_video, sdp, server_request
from stream_sr.rtsp.address import RtspAddress, parse_address
from stream_sr.rtsp.auth import AccessPolicy, ClientAuth, ServerAuth
from stream_sr.rtsp.client_connection import MESSAGE_BYTES, ClientConnection
from stream_sr.rtsp.server_session import ServerSession
from stream_sr.rtsp.server_stream import ServerStream
from stream_sr.system.printable import redact
from stream_sr.video.frame import StreamInfo

SETS = h264.join_annexb([bytes.fromhex("6742c01eda0280bfe5c0"), bytes.fromhex("68ce3c80")])
ADDRESS = "192.0.2.1"  # whence the viewer comes
PATH = "live/cam"
URL = f"rtsp://h:1/{PATH}"

REQUESTS = [
    f"OPTIONS {URL} RTSP/1.0\r\nCSeq: 1\r\n\r\n",
    f"DESCRIBE {URL} RTSP/1.0\r\nCSeq: 2\r\nAccept: application/sdp\r\n\r\n",
    f"SETUP {URL}/track1 RTSP/1.0\r\nCSeq: 3\r\nTransport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n\r\n",
    f"SETUP {URL}/track2 RTSP/1.0\r\nCSeq: 4\r\nTransport: RTP/AVP;unicast;client_port=5000-5001\r\n\r\n",
    f"SETUP {URL} RTSP/1.0\r\nCSeq: 4\r\nTransport: RTP/AVP;unicast;destination=10.0.0.1;client_port=4000-4001\r\n\r\n",
    f"PLAY {URL} RTSP/1.0\r\nCSeq: 5\r\nSession: SESSION\r\nRange: npt=0-\r\n\r\n",
    f"TEARDOWN {URL} RTSP/1.0\r\nCSeq: 6\r\nSession: SESSION\r\n\r\n",
    f"GET_PARAMETER {URL} RTSP/1.0\r\nCSeq: 7\r\nContent-Length: 4\r\n\r\nabcd",
    "DESCRIBE rtsp://h/../../etc/passwd RTSP/1.0\r\nCSeq: 8\r\n\r\n",
    f"ANNOUNCE {URL} RTSP/1.0\r\nCSeq: 9\r\nContent-Length: 3\r\n\r\nv=0",
    f'DESCRIBE {URL} RTSP/1.0\r\nCSeq: 1\r\nAuthorization: Digest username="u", uri="{URL}", response="0"\r\n\r\n',
]
ANSWERS = [
    "RTSP/1.0 200 OK\r\nCSeq: 1\r\nContent-Length: 4\r\n\r\nv=0\n",
    'RTSP/1.0 401 Unauthorized\r\nCSeq: 2\r\nWWW-Authenticate: Digest realm="r", nonce="n"\r\n\r\n',
    "RTSP/1.0 200 OK\r\nCSeq: 3\r\nSession: abc;timeout=60\r\nTransport: RTP/AVP/TCP;interleaved=0-1\r\n\r\n",
    "OPTIONS rtsp://x RTSP/1.0\r\nCSeq: 7\r\n\r\n",
]
FORMS = [AudioFormat("aac", 48000, 2, 97, b"\x11\x90"), AudioFormat("pcm_mulaw", 8000, 1, 0)]
DESCRIPTIONS = [
    sdp.build_sdp(
        host="h",
        name="n",
        parameter_sets=h264.split_annexb(SETS),
        fps=Fraction(30),
        extra_lines=FORMS[0].lines("track2"),
    ),
    "m=video 0 RTP/AVP 96\na=rtpmap:96 H265/90000\na=fmtp:96 sprop-vps=QAE=;sprop-sps=QgE=;sprop-pps=RAE=\n"
    "m=audio 0 RTP/AVP 97\na=rtpmap:97 opus/48000/2\na=control:rtsp://elsewhere/x\n",
]


@lru_cache(maxsize=1)
def _packets() -> list[bytes]:
    """RTP of both video codecs and of sound, and RTCP."""
    found: list[bytes] = []
    for payload_format, units in ((rtp_video.H264, _h264_units()), (rtp_video.HEVC, _hevc_units())):
        packetiser = rtp_video.VideoPacketiser(payload_format=payload_format, mtu=120)
        for number, unit in enumerate(units):
            found += packetiser.packetise(unit, 3000 * number)
    for form in FORMS:
        found += rtp_audio.AudioPacketiser(form, mtu=132).packetise(b"s" * 300, 0)
    found.append(rtcp.sender_report(1, unix_seconds=1e9, timestamp=1, packets=1, octets=1))
    found.append(rtcp.bye(1))
    return found


def _h264_units() -> list[bytes]:
    key = h264.join_annexb([*h264.split_annexb(SETS), b"\x65\x88" + b"k" * 300])
    return [key, *(h264.join_annexb([b"\x41\x9a" + bytes([n]) * 150]) for n in range(1, 5))]


def _hevc_units() -> list[bytes]:
    sets = [b"\x40\x01\x0c", b"\x42\x01\x01", b"\x44\x01\xc1"]
    return [h264.join_annexb([*sets, b"\x26\x01\xaf" + b"k" * 300]), h264.join_annexb([b"\x02\x01\xd0" + b"p" * 200])]


@st.composite
def broken(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """One of the seeds with bytes changed, cut, repeated or put in; or rubbish."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        what = draw(st.integers(0, 4))
        if what == 0 and data:
            data[at] = draw(st.integers(0, 255))
        elif what == 1:
            del data[at : at + draw(st.integers(1, 40))]
        elif what == 2:
            data[at:at] = draw(st.binary(max_size=12))
        elif what == 3:
            data[at:at] = data[at : at + draw(st.integers(1, 60))] * draw(st.integers(1, 3))
        elif data:
            data[at] ^= 1 << draw(st.integers(0, 7))
    return bytes(data)


def inputs(seeds: list[bytes], most: int = 8) -> st.SearchStrategy[list[bytes]]:
    return st.lists(st.one_of(broken(seeds), st.binary(max_size=60)), min_size=1, max_size=most)


# --- targets


def video(data: list[bytes]) -> None:
    """The depacketisers of H.264 and HEVC, with the packets in their order and out of it."""
    for payload_format in (rtp_video.H264, rtp_video.HEVC):
        depacketiser = rtp_video.VideoDepacketiser(payload_format=payload_format, limit_bytes=5000, limit_nals=20)
        buffer = rtp.ReorderBuffer(max_packets=4)
        for number, one in enumerate(data):
            for packet in buffer.push(one, number * 10**7):
                for unit in depacketiser.push(packet, number):
                    assert len(unit.data) <= 5000 + 1500 + 4 * 21
                    payload_format.parameter_sets(unit.nals)
                    for nal in unit.nals:
                        _sps(nal)
        depacketiser.flush(0)
        assert len(buffer._waiting) <= 5


def _sps(nal: bytes) -> None:
    try:
        h264.parse_sps(nal)
    except ValueError:
        return


def sound(data: list[bytes]) -> None:
    """The depacketiser of sound."""
    for form in FORMS:
        depacketiser = rtp_audio.AudioDepacketiser(form)
        for one in data:
            try:
                packet = rtp.parse_rtp(one)
            except ValueError:
                continue
            depacketiser.push(packet)
            depacketiser.push(packet._replace(payload_type=form.payload_type))
        assert len(depacketiser._parts) <= rtp_audio.FRAME_BYTES + 1500


def reports(data: list[bytes]) -> None:
    """RTCP."""
    clock = rtcp.WallClock(90_000)
    for one in data:
        rtcp.rtcp_types(one)
        for report in rtcp.parse_sender_reports(one):
            clock.learn(report)
    clock.at(5)


def descriptions(data: list[bytes]) -> None:
    """Session descriptions, addresses and challenges."""
    auth = ClientAuth("user", "secret")
    for one in data:
        text = one.decode("utf-8", "replace")
        for media in sdp.parse_sdp(text).media:
            media.parameter_sets()
            rtp_audio.format_of_media(media)
        auth.take_challenge([text])
        auth.accepted()
        auth.authorization("PLAY", URL)
        ServerAuth("u", "p").is_authorized("PLAY", URL, text)
        redact(text)
        try:
            parse_address(text)
        except ValueError:
            continue


class Wire(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.data = bytearray()
        self.closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.data += data

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = True

    def is_closing(self) -> bool:
        return self.closing

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": (ADDRESS, 4000), "sockname": ("127.0.0.1", 8554)}.get(name, _Socket())


class _Socket:
    def setsockopt(self, *_: int) -> None:
        pass


class Host:
    """A `server_session.SessionHost` that remembers where datagrams went."""

    max_connections = 10

    def __init__(self, stream: ServerStream) -> None:
        self.streams = {stream.path: stream}
        self.sessions: set[ServerSession] = set()
        self.sent_to: set[str] = set()

    def log_refusal(self, address: str, now: float) -> None:
        pass

    def udp_ports(self) -> tuple[int, int]:
        return 6970, 6971

    def send_datagram(self, data: bytes, to: tuple[str, int], *, rtcp: bool = False) -> None:
        self.sent_to.add(to[0])
        assert to[1] >= 1024


def server(data: list[bytes]) -> None:
    """Our RTSP server: requests of a viewer, in any pieces, with pictures in between."""
    asyncio.run(_server(data))


async def _server(data: list[bytes]) -> None:
    encoded = EncodedStream("h264", SETS, StreamInfo(64, 64, Fraction(1, 30)))
    for policy in (AccessPolicy(), AccessPolicy(user="u", password="p")):
        stream = ServerStream(encoded, PATH, threading.Event(), audio=FORMS[0], policy=policy)
        host = Host(stream)
        session, wire = ServerSession(host), Wire()
        session.connection_made(wire)
        for one in data:
            if wire.closing:
                break
            session.data_received(one.replace(b"SESSION", session._session_id.encode()))
            assert len(session._buffer) <= server_request.BUFFER_BYTES + len(one)
            for track in stream.tracks:
                if session.accepts(keyframe=True):
                    session.send(track, [b"\x80" + bytes(20)], 9, {})
                session.send_report(track, 1, 1e9, 5)
        if policy.user is not None:
            assert not session.playing, "played without the password"
            assert b"sprop-parameter-sets" not in wire.data, "described without the password"
        assert b"root:" not in wire.data
        assert host.sent_to <= {ADDRESS}
        session.end_stream()
        session.connection_lost(None)
        assert not stream.viewers
        assert stream.playing == 0


def client(data: list[bytes]) -> None:
    """The connection of our RTSP reader: what a server sends, in any pieces."""
    asyncio.run(_client(data))


async def _client(data: list[bytes]) -> None:
    connection = ClientConnection(RtspAddress("rtsp", "h", 554, "rtsp://h/x", "u", "p"), 1.0)
    wire: Any = Wire()
    connection.connection_made(wire)
    taken: list[bytes] = []
    connection.channels = {0: taken.append, 1: lambda one: reports([one])}
    for one in data:
        if wire.closing:
            break
        connection.data_received(one)
        assert len(connection._rest) <= MESSAGE_BYTES
    if connection.result.done():
        connection.result.exception()


def _framed() -> list[bytes]:
    return [rtp.interleave(number % 2, one) for number, one in enumerate(_packets())]


def targets() -> dict[str, tuple[Callable[[list[bytes]], None], list[bytes]]]:
    """Name: what is tried, and the sound messages that its input is made of."""
    requests = [text.encode() for text in REQUESTS]
    answers = [text.encode() for text in ANSWERS]
    texts = [*(text.encode() for text in DESCRIPTIONS), b'Digest realm="r", nonce="n", qop="auth"', URL.encode()]
    whole = [b"".join(requests[:4]), *(b"".join(pair) for pair in itertools.pairwise(requests))]
    return {
        "video": (video, _packets()),
        "sound": (sound, _packets()),
        "reports": (reports, _packets()[-2:]),
        "descriptions": (descriptions, texts),
        "server": (server, [*requests, *whole, *_framed()[-3:]]),
        "client": (client, [*answers, *_framed()]),
    }
