"""Session descriptions (SDP, RFC 8866) of a video stream and its audio, as RTSP servers send them: read and written."""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from stream_sr.codec.h264 import SPS, nal_type, profile_level_id


@dataclass(slots=True)
class MediaDescription:
    """One ``m=`` section. Values that cannot be read are treated as missing."""

    kind: str  # "video", "audio"
    payload_type: int | None
    codec: str = ""  # upper case, as in rtpmap: "H264", "H265"
    clock: int = 0  # ticks per second
    channels: int = 1  # of audio
    control: str = ""
    parameters: dict[str, str] = field(default_factory=dict)  # of fmtp, names in lower case
    fps: Fraction | None = None

    def parameter_sets(self) -> list[bytes]:
        """Return the NAL units of ``sprop-parameter-sets`` (H.264) or ``sprop-vps``, ``-sps`` and ``-pps`` (HEVC).

        Those that are not base64 are left out.
        """
        nals = []
        given = ("sprop-parameter-sets", "sprop-vps", "sprop-sps", "sprop-pps")
        for text in ",".join(self.parameters.get(name, "") for name in given).split(","):
            try:
                nal = base64.b64decode(text, validate=True)
            except (binascii.Error, ValueError):
                continue
            if nal:
                nals.append(nal)
        return nals


@dataclass(slots=True)
class SessionDescription:
    """A whole description."""

    control: str = ""
    media: list[MediaDescription] = field(default_factory=list)


def parse_sdp(text: str) -> SessionDescription:
    """Read a description; unknown and broken lines are ignored."""
    session = SessionDescription()
    for line in text.splitlines():
        kind, mark, value = line.strip().partition("=")
        if not mark:
            continue
        if kind == "m":
            words = value.split()
            payload = words[3] if len(words) > 3 and words[3].isdecimal() else None
            session.media.append(MediaDescription(words[0].lower() if words else "", int(payload) if payload else None))
        elif kind == "a" and session.media:
            _read_attribute(session.media[-1], value)
        elif kind == "a" and value.startswith("control:"):
            session.control = value[8:].strip()
    return session


def _read_attribute(media: MediaDescription, line: str) -> None:
    name, _, value = line.partition(":")
    value = value.strip()
    number, _, rest = value.partition(" ")
    if name == "control":
        media.control = value
    elif name == "framerate":
        media.fps = _rate(value)
    elif name == "rtpmap" and number == str(media.payload_type):
        codec, _, clock = rest.strip().partition("/")
        clock, _, channels = clock.partition("/")
        media.channels = int(channels) if channels.isdecimal() and len(channels) < 3 else 1
        media.codec, media.clock = codec.upper(), int(clock) if clock.isdecimal() and len(clock) < 10 else 0
    elif name == "fmtp" and number == str(media.payload_type):
        for parameter in rest.split(";"):
            key, _, text = parameter.partition("=")
            media.parameters[key.strip().lower()] = text.strip()


def _rate(text: str) -> Fraction | None:
    try:
        rate = Fraction(text) if len(text) < 20 else None
    except (ValueError, ZeroDivisionError):
        return None
    if rate is None or not 1 <= rate <= 480:
        return None
    # 29.97 stands for 30000/1001: nobody writes the fraction
    whole = Fraction(round(rate * 1001 / 1000) * 1000, 1001)
    return whole if rate.denominator != 1 and abs(whole - rate) < Fraction(1, 100) else rate


def build_sdp(
    *,
    host: str,
    name: str,
    parameter_sets: Sequence[bytes],
    payload_type: int = 96,
    fps: Fraction | None = None,
    extra_lines: Sequence[str] = (),
) -> str:
    """Return the description of one H.264 stream with its parameter sets; the control of its track is ``track1``.

    ``extra_lines`` are those of further sections (`audio_format.AudioFormat.lines`).
    """
    sps = next(nal for nal in parameter_sets if nal_type(nal) == SPS)
    sprop = ",".join(base64.b64encode(nal).decode() for nal in parameter_sets)
    network = "IP6" if ":" in host else "IP4"
    lines = [
        "v=0",
        f"o=- 0 0 IN {network} {host}",
        f"s={name}",
        f"c=IN {network} {'::' if network == 'IP6' else '0.0.0.0'}",
        "t=0 0",
        "a=control:*",
        "a=range:npt=now-",
        f"m=video 0 RTP/AVP {payload_type}",
        f"a=rtpmap:{payload_type} H264/90000",
        f"a=fmtp:{payload_type} packetization-mode=1;profile-level-id={profile_level_id(sps)};"
        f"sprop-parameter-sets={sprop}",
        "a=control:track1",
    ]
    if fps is not None:
        lines.insert(-1, f"a=framerate:{float(fps):.3f}".rstrip("0").rstrip("."))
    return "\r\n".join([*lines, *extra_lines]) + "\r\n"
