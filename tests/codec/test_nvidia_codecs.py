"""NVIDIA's encoder and decoder are chosen where there is a GPU, and what cannot be is said."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from media_files import write_video

from stream_sr.codec import encoder
from stream_sr.codec.encoder import Encoder, check_options, choose_encoder
from stream_sr.codec.h264 import split_annexb
from stream_sr.codec.nvenc import nvenc_context
from stream_sr.errors import ConfigError, SinkOpenError, SourceOpenError
from stream_sr.pipeline.interfaces import EncoderOptions, SinkOptions, SourceOptions
from stream_sr.pipeline.packets import EncodedStream
from stream_sr.sinks.rtsp_publish import RtspPublishSink
from stream_sr.sinks.rtsp_server import RtspServerSink
from stream_sr.sources.file import FileSource
from stream_sr.video.frame import Frame, StreamInfo
from stream_sr.video.planes import empty_planes, read_only

pytestmark = pytest.mark.gpu

INFO = StreamInfo(64, 48, Fraction(1, 1000), Fraction(25))


@pytest.mark.usefixtures("no_gpu")
def test_auto_falls_back_and_says_so(one_gpu: None, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "stream_sr")
    assert choose_encoder(INFO, EncoderOptions(), live=True) == "libx264"
    assert "h264_nvenc cannot be used here (" in caplog.text
    assert choose_encoder(INFO, EncoderOptions(), live=False) == "libx264"
    assert choose_encoder(INFO, EncoderOptions(preset="fast"), live=True) == "libx264"
    assert len(caplog.records) == 1


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("name", ["h264_nvenc", "hevc_nvenc"])
def test_an_encoder_that_was_asked_for_and_fails_is_an_error(name: str) -> None:
    with pytest.raises(SinkOpenError, match=f"the encoder {name} refused 64x48 .*--encoder auto"):
        Encoder(INFO, EncoderOptions(encoder=name), live=True)


def test_presets_are_each_encoders_own() -> None:
    check_options(EncoderOptions(encoder="h264_nvenc", preset="p3"))
    with pytest.raises(ConfigError, match="p3 is unknown; use one of ultrafast"):
        check_options(EncoderOptions(preset="p3"))


def test_nvencs_settings() -> None:
    live = nvenc_context("h264_nvenc", INFO, EncoderOptions(), live=True, gop=50, most=1_000_000)
    assert (live.options["zerolatency"], live.options["bf"], live.options["maxrate"]) == ("1", "0", "1000000")
    assert live.gop_size == 50
    file = nvenc_context("hevc_nvenc", INFO, EncoderOptions(crf=17, preset="p7"), live=False, gop=125, most=1)
    assert (file.options["cq"], file.options["preset"], "maxrate" in file.options) == ("17", "p7", False)


@pytest.mark.usefixtures("no_gpu")
def test_decoders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    film = tmp_path / "film.mp4"
    write_video(film)
    for wanted in ("auto", "cpu"):
        source = FileSource(str(film), SourceOptions(decoder=wanted))
        assert source.decoder == "cpu"
        source.close()
    with pytest.raises(SourceOpenError, match="--decoder cuda cannot be: no NVIDIA driver"):
        FileSource(str(film), replace(SourceOptions(), decoder="cuda"))


@pytest.mark.usefixtures("no_gpu")
def test_a_decoder_that_fails_falls_back_only_for_auto(
    one_gpu: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "stream_sr")
    film = tmp_path / "film.mp4"
    write_video(film)
    source = FileSource(str(film), SourceOptions())
    assert len(list(source.frames())) > 1
    source.close()
    assert "decoding on the processor" in caplog.text
    with pytest.raises(SourceOpenError, match="--decoder cuda cannot be: "):
        FileSource(str(film), SourceOptions(decoder="cuda"))
    with pytest.raises(SourceOpenError, match="no such file"):
        FileSource(str(tmp_path / "gone.mp4"), SourceOptions())


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("name", ["h264_nvenc", "hevc_nvenc"])
def test_an_rtsp_output_is_encoded_as_asked_or_not_at_all(tmp_path: Path, name: str) -> None:
    """In a real process: the choice reaches served pictures as it reaches files, and fails in one line."""
    words = ["run", "synthetic:128x96@30", "rtsp://@:0/x", "--backend", "bicubic", "--encoder", name]
    done = subprocess.run(
        [sys.executable, "-m", "stream_sr", *words], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 5
    said = (
        rf"stream-sr: error: the encoder {name} refused 256x192 with the defaults: [\w ]+; --encoder auto takes one.*"
    )
    assert re.fullmatch(said, done.stderr.splitlines()[-1])


def test_what_rtsp_does_not_carry_is_refused() -> None:
    stream = EncodedStream("hevc", b"", INFO)
    for sink in (RtspServerSink("rtsp://@:0/x"), RtspPublishSink("rtsp://127.0.0.1/x", SinkOptions())):
        with pytest.raises(SinkOpenError, match="not hevc; choose --encoder libx264 or h264_nvenc"):
            sink.open(stream)
        sink.close()


def test_parameter_sets_stand_before_every_keyframe_that_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """As NVENC gives them with a global header: in the extradata alone, where no viewer of RTSP would see them."""
    make = encoder._context

    def without_sets(*words: Any) -> Any:
        context = make(*words)
        context.options = context.options | {"x264-params": "repeat-headers=0"}
        return context

    monkeypatch.setattr(encoder, "_context", without_sets)
    coder = Encoder(INFO, EncoderOptions(encoder="libx264"), live=True)
    planes = read_only(empty_planes(INFO.width, INFO.height))
    frames = [Frame(planes, pts=40 * number, time_base=INFO.time_base, number=number) for number in range(3)]
    packets = [packet for frame in frames for packet in coder.encode(frame, keyframe=frame.number == 2)]
    coder.close()
    assert [packet.is_keyframe for packet in packets] == [True, False, True]
    for packet in packets:
        kinds = [nal[0] & 31 for nal in split_annexb(packet.data)]
        assert [kind for kind in kinds if kind != 6] == (
            [7, 8, 5] if packet.is_keyframe else [1]
        )  # 6: x264's text on itself
