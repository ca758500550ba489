"""An audio format as a session description states it, and FFmpeg's stream object made from that description."""

import io
from dataclasses import dataclass

import av

from stream_sr.pipeline.packets import Track

AAC_SAMPLES = 1024  # of a frame, where the description does not say otherwise
CODECS = {"MPEG4-GENERIC": "aac", "OPUS": "opus", "PCMU": "pcm_mulaw", "PCMA": "pcm_alaw"}
ENCODINGS = {codec: name for name, codec in CODECS.items()}
PAYLOAD_TYPE = 97  # ours, where there is no static one


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """What a description says of its sound, in a form that we carry."""

    codec: str  # FFmpeg's name
    clock: int  # RTP ticks per second
    channels: int
    payload_type: int
    config: bytes = b""  # AAC: AudioSpecificConfig
    size_bits: int = 13  # of the AU headers of AAC
    index_bits: int = 3
    frame_ticks: int = AAC_SAMPLES

    def lines(self, control: str) -> list[str]:
        """The ``m=`` section of a description, without line ends."""
        encoding = "opus" if self.codec == "opus" else ENCODINGS[self.codec]
        channels = f"/{self.channels}" if self.channels > 1 else ""
        lines = [
            f"m=audio 0 RTP/AVP {self.payload_type}",
            f"a=rtpmap:{self.payload_type} {encoding}/{self.clock}{channels}",
        ]
        if self.codec == "aac":
            lines.append(
                f"a=fmtp:{self.payload_type} streamtype=5;profile-level-id=1;mode=AAC-hbr;sizelength=13;indexlength=3;"
                f"indexdeltalength=3;config={self.config.hex()}"
            )
        elif self.codec == "opus" and self.channels == 2:
            lines.append(f"a=fmtp:{self.payload_type} sprop-stereo=1")
        return [*lines, f"a=control:{control}"]


def make_track(form: AudioFormat) -> Track:
    """A track of the passthrough with FFmpeg's own description of it, for the muxers.

    FFmpeg reads it from a session description: the only way to a stream without a file that PyAV offers.
    """
    head = ["v=0", "o=- 0 0 IN IP4 127.0.0.1", "s=-", "c=IN IP4 127.0.0.1", "t=0 0"]
    text = "\r\n".join([*head, *form.lines("track"), ""])
    settings = {"sdp_flags": "custom_io", "probesize": "32", "analyzeduration": "0"}
    stream = av.open(io.BytesIO(text.encode()), format="sdp", options=settings).streams.audio[0]
    return Track(0, "audio", form.codec, stream, form.clock, form.channels, form.config)
