"""AAC (ISO/IEC 14496-3): audio of other codecs transcoded to it, and its two forms of framing."""

from __future__ import annotations

import contextlib
from fractions import Fraction
from typing import Any

import av
import av.filter
import numpy as np
import numpy.typing as npt
from av.bitstream import BitStreamFilterContext
from av.codec.context import Flags

from stream_sr.codec.audio_format import PAYLOAD_TYPE, AudioFormat, make_track
from stream_sr.codec.decoder import TrackDecoder
from stream_sr.pipeline.packets import Track

RATES = (32_000, 44_100, 48_000)  # kept; others become 48 kHz, which every player takes
RATE = 48_000
LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0", 6: "5.1", 8: "7.1"}  # by channels; FFmpeg's encoder
CHANNEL_BITRATE = 64_000  # bit/s
DRIFT_SECONDS = Fraction(1, 20)  # a larger difference between clock and samples is a gap or an overlap
ADTS_RATES = (96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350)


class AacTranscoder:
    """Decodes the packets of an audio track and encodes them as AAC-LC. One thread.

    The result has 32, 44.1 or 48 kHz, the channels of the source (a layout that the encoder does not know becomes
    stereo) and 64 kbit/s a channel. Times follow the source: after a gap of more than 50 ms the next frame begins where
    the source does, and an overlap of more than that is left out. Damaged packets are skipped and counted in
    ``damaged``. The encoder's first packet begins one frame (1024 samples) before the source: its delay, which an MP4's
    edit list hides. Where nothing hides it (``hidden_delay`` is False) that packet is left out.
    """

    def __init__(self, track: Track, *, hidden_delay: bool = False) -> None:
        """Raises ValueError or FFmpegError where FFmpeg cannot decode the track."""
        self.damaged = 0
        self._decoder = TrackDecoder(track.template)
        source = self._decoder.context
        channels = track.channels or 1
        rate = track.sample_rate if track.sample_rate in RATES else RATE
        layout = LAYOUTS.get(channels, "stereo")
        self._encoder: Any = av.CodecContext.create("aac", "w")
        self._encoder.sample_rate, self._encoder.layout, self._encoder.format = rate, layout, "fltp"
        self._encoder.bit_rate = CHANNEL_BITRATE * (channels if channels in LAYOUTS else 2)
        self._encoder.time_base = Fraction(1, rate)
        self._encoder.flags |= Flags.global_header
        self._encoder.open()
        self._rate = rate
        self._resampler: Resampler | None = None
        self._samples: list[npt.NDArray[Any]] = []  # float32 [channels, n], not encoded yet
        self._held = 0  # their number
        self._next = 0  # the time of the first of them, in samples
        self._begun = False
        self._hidden_delay = hidden_delay
        self._first = 0  # the time of the first sample of the source
        self._source = source
        form = AudioFormat(
            "aac", rate, self._encoder.layout.nb_channels, PAYLOAD_TYPE, bytes(self._encoder.extradata or b"")
        )
        self.track = make_track(form)

    def convert(self, packet: Any) -> list[Any]:
        """The packets that are complete with this one; their time base is one sample."""
        moment = packet.pts if packet.pts is not None else packet.dts
        try:
            frames = self._source.decode(packet)
        except (av.FFmpegError, ValueError):
            self.damaged += 1
            return []
        out = []
        for frame in frames:
            if frame.pts is None and moment is not None:
                frame.pts, frame.time_base = moment, packet.time_base
            out += self._take(frame)
        return out

    def advance(self, until: Fraction) -> list[Any]:
        """Nothing: a frame is complete with its last sample."""
        return []

    def flush(self) -> list[Any]:
        """The packets still inside; the last frame is filled up with silence."""
        out = self._fill_up()
        with contextlib.suppress(av.EOFError):
            out += self._kept(self._encoder.encode(None))
        return out

    def _take(self, frame: Any) -> list[Any]:
        begins = None if frame.pts is None else round(frame.pts * frame.time_base * self._rate)
        try:
            if self._resampler is None or not self._resampler.takes(frame):
                self._resampler = Resampler(frame, self._encoder.layout.name, self._rate)
            pieces = self._resampler.resample(frame)
        except (av.FFmpegError, ValueError):
            self.damaged += 1
            return []
        out = []
        expected = self._next + self._held
        if begins is not None and (not self._begun or abs(begins - expected) > DRIFT_SECONDS * self._rate):
            if self._begun and begins < expected:
                return []
            out = self._fill_up()
            self._next = max(begins, self._next) if self._begun else begins
            if not self._begun:
                self._first = begins
        for piece in pieces:
            self._samples.append(piece)
            self._held += piece.shape[1]
            self._begun = True
        return out + self._encode(self._held // self._encoder.frame_size)

    def _fill_up(self) -> list[Any]:
        size = self._encoder.frame_size
        if not self._held:
            return []
        silence = np.zeros((self._samples[0].shape[0], -self._held % size), np.float32)
        self._samples.append(silence)
        self._held += silence.shape[1]
        return self._encode(self._held // size)

    def _encode(self, count: int) -> list[Any]:
        if not count:
            return []
        size, out = self._encoder.frame_size, []
        joined = np.concatenate(self._samples, axis=1)
        for number in range(count):
            piece = np.ascontiguousarray(joined[:, number * size : (number + 1) * size])
            frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout=self._encoder.layout.name)
            frame.sample_rate, frame.pts, frame.time_base = self._rate, self._next, Fraction(1, self._rate)
            self._next += size
            out += self._encoder.encode(frame)
        rest = joined[:, count * size :]
        self._samples, self._held = [rest], rest.shape[1]
        return self._kept(out)

    def _kept(self, packets: list[Any]) -> list[Any]:
        for packet in packets:
            packet.time_base = Fraction(1, self._rate)
        return [one for one in packets if self._hidden_delay or one.pts >= self._first]


class Resampler:
    """Converts audio of one format to planar floats of a layout and rate, in the calling thread.

    PyAV's own resampler starts a thread for every core; so does the one inside its encoder, which has no work for them.
    """

    def __init__(self, first: av.AudioFrame, layout: str, rate: int) -> None:
        self._audio_format = _audio_format(first)
        self._graph = av.filter.Graph()
        self._graph.threads = 1
        source = self._graph.add_abuffer(
            sample_rate=first.sample_rate,
            format=first.format.name,
            layout=first.layout.name,
            time_base=Fraction(1, first.sample_rate),
        )
        form = self._graph.add("aformat", f"sample_fmts=fltp:sample_rates={rate}:channel_layouts={layout}")
        sink = self._graph.add("abuffersink")
        source.link_to(form)
        form.link_to(sink)
        self._graph.configure()

    def takes(self, frame: av.AudioFrame) -> bool:
        """Whether the frame has the format, layout and rate of the first."""
        return _audio_format(frame) == self._audio_format

    def resample(self, frame: av.AudioFrame) -> list[npt.NDArray[Any]]:
        """What is complete with this frame, float32 ``[channels, n]`` each; its time is not looked at."""
        frame.pts = None
        self._graph.push(frame)
        pieces = []
        with contextlib.suppress(av.BlockingIOError, av.EOFError):
            while True:
                found: Any = self._graph.pull()
                pieces.append(found.to_ndarray())
        return pieces


def _audio_format(frame: av.AudioFrame) -> tuple[str, str, int]:
    return frame.format.name, frame.layout.name, frame.sample_rate


class AdtsFilter:
    """Takes the ADTS headers off AAC frames (FFmpeg's aac_adtstoasc). Damaged frames are counted in ``damaged``.

    The first packet carries the configuration as side data, for a muxer that has not got it yet. One that has got it
    (``configured``) must not get it again: Matroska's would write it over its header. One thread.
    """

    def __init__(self, track: Track, *, configured: bool = False) -> None:
        self.damaged = 0
        self._configured = configured
        self._filter = BitStreamFilterContext("aac_adtstoasc", in_stream=track.template)

    def convert(self, packet: Any) -> list[Any]:
        """The frame without its header; nothing for a damaged one."""
        try:
            found = self._filter.filter(_bare(packet))
        except (av.FFmpegError, ValueError):
            self.damaged += 1
            return []
        if self._configured:
            found = [_bare(one) for one in found]
        for one in found:
            one.time_base = packet.time_base
        return found

    def advance(self, until: Fraction) -> list[Any]:
        """Nothing: every packet is complete by itself."""
        return []

    def flush(self) -> list[Any]:
        """Nothing."""
        return []


def _bare(packet: Any) -> Any:
    """A copy of a packet without side data."""
    copy: Any = av.Packet(bytes(packet))
    copy.pts, copy.dts, copy.duration, copy.is_keyframe = packet.pts, packet.dts, packet.duration, packet.is_keyframe
    return copy


def adts_config(data: bytes) -> bytes | None:
    """The AudioSpecificConfig (14496-3, 1.6.2.1) of an AAC frame with an ADTS header (1.A.2.2).

    None for data without such a header, or whose header leaves the channels to the frame.
    """
    if len(data) < 7 or data[0] != 0xFF or data[1] & 0xF6 != 0xF0:
        return None
    kind, rate = (data[2] >> 6) + 1, data[2] >> 2 & 15
    channels = (data[2] & 1) << 2 | data[3] >> 6
    if rate >= len(ADTS_RATES) or not channels:
        return None
    return (kind << 11 | rate << 7 | channels << 3).to_bytes(2, "big")
