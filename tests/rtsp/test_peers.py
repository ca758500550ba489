"""Against real peers not ours: GstRtspServer as camera and server; ffmpeg, GStreamer, OpenCV, aiortsp as viewers."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import peers
import pytest
from aiortsp.rtsp.reader import RTSPReader

from stream_sr.pipeline.interfaces import SourceOptions
from stream_sr.rtsp.rtp_video import VideoDepacketiser
from stream_sr.sources import open_source
from stream_sr.sources.rtsp import RtspSource

pytestmark = [pytest.mark.network, pytest.mark.serial]

VIDEO = "videotestsrc is-live=true ! video/x-raw,format=I420,width=320,height=180,framerate=30/1 ! {} name=pay0 pt=96"
H264 = VIDEO.format("x264enc tune=zerolatency speed-preset=ultrafast key-int-max=15 ! rtph264pay config-interval=0")
HEVC = VIDEO.format("x265enc tune=zerolatency speed-preset=ultrafast key-int-max=15 ! rtph265pay config-interval=0")
AAC = "audiotestsrc is-live=true ! audio/x-raw,rate=48000,channels=2 ! voaacenc ! rtpmp4gpay name=pay1 pt=97"
OPUS = "audiotestsrc is-live=true ! audio/x-raw,rate=48000,channels=2 ! opusenc ! rtpopuspay name=pay1 pt=97"
ULAW = "audiotestsrc is-live=true ! audio/x-raw,rate=8000,channels=1 ! mulawenc ! rtppcmupay name=pay1 pt=0"
TAKE = (
    "( rtph264depay name=depay0 ! h264parse ! avdec_h264 ! fakesink async=false "
    "rtpmp4gdepay name=depay1 ! fakesink async=false )"
)


@pytest.fixture(scope="module")
def gst() -> Iterator[str]:
    with peers.gst_server(
        aac=f"( {H264} {AAC} )", opus=f"( {HEVC} {OPUS} )", ulaw=f"( {H264} {ULAW} )", record=TAKE
    ) as url:
        yield url


@pytest.mark.parametrize("transport", ["tcp", "udp"])
@pytest.mark.parametrize(
    ("mount", "codec", "sound"),
    [
        ("aac", "h264", ("aac", 48000, 2)),
        ("opus", "hevc", ("opus", 48000, 2)),
        ("ulaw", "h264", ("pcm_mulaw", 8000, 1)),
    ],
)
def test_cameras_of_gstreamer(gst: str, transport: str, mount: str, codec: str, sound: tuple[str, int, int]) -> None:
    options = SourceOptions(rtsp_transport=transport, duration=1.0)
    with closing(open_source(f"{gst}/{mount}", options)) as source:
        assert isinstance(source, RtspSource)
        assert (source.info.width, source.info.height, source.info.codec) == (320, 180, codec)
        assert source.passthrough is not None
        assert source.passthrough.tracks[0].signature[1:4] == sound
        frames = list(source.frames())
        packets = [packet for _, packet in source.passthrough.take()]
        assert source.counters()["lost_packets"] == 0
    assert len(frames) >= 20
    assert all(a.pts < b.pts for a, b in pairwise(frames))
    assert all(a.pts < b.pts for a, b in pairwise(packets))
    decoder: Any = av.CodecContext.create(sound[0], "r")
    decoder.extradata = source.passthrough.tracks[0].config or None
    decoder.sample_rate, decoder.layout = sound[1], "stereo" if sound[2] == 2 else "mono"
    assert sum(len(decoder.decode(av.Packet(bytes(packet)))) for packet in packets) >= len(packets) - 2
    assert abs(float(packets[-1].pts * packets[-1].time_base) - frames[-1].seconds) < 0.5


@contextmanager
def filtering(source: str, *sinks: str | Path, port: int | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """The program, until the block ends; its output port is open when the block begins."""
    words = peers.stream_sr("run", source, *sinks, "--backend", "bicubic", "--scale", "2", "--read-timeout", "10")
    with peers.process(words, stderr=subprocess.PIPE) as running:
        if port is not None:
            peers.wait_for_port(port)
        yield running


@pytest.fixture(scope="module")
def served(gst: str) -> Iterator[str]:
    """Our server, behind the filter, behind a camera with sound."""
    port = peers.free_port()
    with filtering(f"{gst}/aac", f"rtsp://@:{port}/sr", port=port):
        yield f"rtsp://127.0.0.1:{port}/sr"


@pytest.fixture(scope="module")
def mute(gst: str) -> Iterator[str]:
    """Without the sound: rtspsrc gives up over UDP when the first packet is of a stream that nobody takes."""
    port = peers.free_port()
    with filtering(f"{gst}/aac", f"rtsp://@:{port}/mute", "--audio", "none", port=port):
        yield f"rtsp://127.0.0.1:{port}/mute"


def run(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_viewed_by_ffmpeg(served: str, transport: str) -> None:
    peers.need_ffmpeg()
    told = json.loads(
        run("ffprobe", "-v", "error", "-rtsp_transport", transport, "-of", "json", "-show_streams", served)
    )
    kinds = {stream["codec_type"]: stream for stream in told["streams"]}
    assert (kinds["video"]["width"], kinds["video"]["height"]) == (640, 360)
    assert (kinds["audio"]["codec_name"], kinds["audio"]["sample_rate"]) == ("aac", "48000")
    words = ["-xerror", "-rtsp_transport", transport, "-i", served, "-t", "1", "-f", "null", "-"]
    run("ffmpeg", "-v", "error", *words)


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_viewed_by_gstreamer(mute: str, transport: str) -> None:
    peers.need_gst()
    chain = f"rtspsrc location={mute} latency=0 protocols={transport} ! rtph264depay ! h264parse ! avdec_h264"
    run("gst-launch-1.0", "-q", *f"{chain} ! fakesink num-buffers=20".split())


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_viewed_by_pyav(served: str, transport: str) -> None:
    with av.open(served, options={"rtsp_transport": transport}, timeout=20) as container:
        pictures = [picture for _, picture in zip(range(10), container.decode(video=0), strict=False)]
    assert [(picture.width, picture.height) for picture in pictures] == [(640, 360)] * 10


def test_viewed_by_opencv(served: str) -> None:
    """In a process of its own: OpenCV and PyAV do not go together in one."""
    code = (
        "import cv2, sys\n"
        "capture = cv2.VideoCapture(sys.argv[1], cv2.CAP_FFMPEG)\n"
        "print([capture.read()[1].shape for _ in range(5)])"
    )
    assert run(sys.executable, "-c", code, served).count("(360, 640, 3)") == 5


@pytest.mark.parametrize("scheme", ["rtspt", "rtsp"])
def test_viewed_by_aiortsp(served: str, scheme: str) -> None:
    """aiortsp's own reader (our source has its own), over TCP and UDP: the packets make pictures, none missing."""
    wanted = 15

    async def read() -> list[bytes]:
        units: list[bytes] = []
        depacketiser = VideoDepacketiser()
        async with asyncio.timeout(30), RTSPReader(served.replace("rtsp", scheme, 1), timeout=10) as reader:
            async for packet in reader.iter_packets():
                units += [unit.data for unit in depacketiser.push(bytes(packet), 0)]
                if len(units) >= wanted:
                    break
            runner = reader._runner
        await asyncio.wait([runner])
        assert depacketiser.lost_packets == depacketiser.skipped_units == 0
        return units

    units = asyncio.run(read())
    decoder: Any = av.CodecContext.create("h264", "r")
    pictures = [picture for unit in units for picture in decoder.decode(av.Packet(unit))] + decoder.decode(None)
    assert [(picture.width, picture.height) for picture in pictures] == [(640, 360)] * len(units)


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_viewed_by_ourselves(served: str, transport: str) -> None:
    with closing(open_source(served, SourceOptions(rtsp_transport=transport, duration=0.5))) as source:
        assert source.passthrough is not None
        assert len(list(source.frames())) >= 8


def test_published_to_gstreamer(gst: str, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    words = peers.stream_sr("run", f"{gst}/aac", f"{gst}/record", "--backend", "bicubic", "--duration", "2")
    run(*words, "--json", str(report))
    told = json.loads(report.read_text())
    (output,) = told["outputs"].values()
    assert output["frames"] >= 30
    assert output["reconnects"] == output["dropped_packets"] == 0


def test_published_to_ffmpeg_that_listens(gst: str, tmp_path: Path) -> None:
    peers.need_ffmpeg()
    port, file = peers.free_port(), tmp_path / "taken.mkv"
    address = f"rtsp://127.0.0.1:{port}/in"
    words = ["ffmpeg", "-v", "error", "-rtsp_flags", "listen", "-i", address, "-c", "copy", str(file)]
    with peers.process(words) as ffmpeg:
        peers.wait_until_listening(port)  # it takes one connection only
        run(*peers.stream_sr("run", f"{gst}/aac", address, "--backend", "bicubic", "--duration", "3"))
        assert ffmpeg.wait(20) == 0
    with av.open(str(file)) as container:
        times: dict[str, list[Fraction]] = {"video": [], "audio": []}
        for packet in container.demux():
            if packet.pts is not None:
                times[packet.stream.type].append(packet.pts * Fraction(packet.time_base))
    assert len(times["video"]) >= 60
    assert len(times["audio"]) >= 90
    assert all(a < b for of_track in times.values() for a, b in pairwise(of_track))


def test_a_recording_with_sound_beside_it(gst: str, tmp_path: Path) -> None:
    file = tmp_path / "x.mp4"
    run(*peers.stream_sr("run", f"{gst}/aac", str(file), "--backend", "bicubic", "--duration", "2"))
    with av.open(str(file)) as container:
        ends = {stream.type: float((stream.duration or 0) * (stream.time_base or 0)) for stream in container.streams}
    assert abs(ends["video"] - 2) < 0.3
    assert abs(ends["audio"] - ends["video"]) < 0.3
