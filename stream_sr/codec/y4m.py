"""The header of YUV4MPEG2, read and written: what the y4m source and the y4m sink share.

A stream is one header line, then per picture the line ``FRAME`` and the planes, Y U V, without padding. The range
travels in FFmpeg's ``XCOLORRANGE``; matrix, primaries and transfer have no place in the format.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from stream_sr.errors import DecodeError
from stream_sr.video.color import ColorInfo, Range, Siting
from stream_sr.video.frame import StreamInfo

MAGIC = b"YUV4MPEG2"
FRAME = b"FRAME"
LONGEST_LINE = 1024  # bytes; a longer "header" is no header

# The chroma tag: the pixel format it means, and where its chroma is sited.
CHROMA = {
    "420": ("yuv420p", Siting.CENTER),  # mjpegtools: 420 alone is 420jpeg
    "420jpeg": ("yuv420p", Siting.CENTER),
    "420mpeg2": ("yuv420p", Siting.LEFT),
    "420paldv": ("yuv420p", Siting.TOPLEFT),
    "411": ("yuv411p", Siting.UNKNOWN),
    "422": ("yuv422p", Siting.LEFT),
    "444": ("yuv444p", Siting.CENTER),
    "mono": ("gray", Siting.UNKNOWN),
}
TAGS = {Siting.CENTER: "420jpeg", Siting.LEFT: "420mpeg2", Siting.TOPLEFT: "420paldv", Siting.UNKNOWN: "420mpeg2"}


@dataclass(frozen=True, slots=True)
class Y4mHeader:
    """What the first line says. ``pixels`` is FFmpeg's name of the format."""

    width: int
    height: int
    fps: Fraction
    sample_aspect: Fraction
    pixels: str
    color: ColorInfo

    @property
    def info(self) -> StreamInfo:
        """The stream: one tick of the time base a picture."""
        return StreamInfo(
            width=self.width,
            height=self.height,
            time_base=1 / self.fps,
            fps=self.fps,
            color=self.color,
            sample_aspect=self.sample_aspect,
            codec="rawvideo",
        )


def format_header(info: StreamInfo) -> bytes:
    """The header line, with its line feed, of a progressive 4:2:0 stream. An unknown rate is written as 25."""
    fps = info.fps or Fraction(25)
    aspect = info.sample_aspect
    full = "FULL" if info.color.full_range else "LIMITED"
    return (
        f"{MAGIC.decode()} W{info.width} H{info.height} F{fps.numerator}:{fps.denominator} Ip "
        f"A{aspect.numerator}:{aspect.denominator} C{TAGS[Siting(info.color.siting)]} XCOLORRANGE={full}\n"
    ).encode("ascii")


def parse_header(line: bytes) -> Y4mHeader:
    """Read the header line, with or without its line feed.

    Raises DecodeError for what is no y4m, more than 8 bits, alpha, interlaced pictures, and a missing size or rate.
    """
    words = line.rstrip(b"\r\n").split(b" ")
    if words[0] != MAGIC:
        raise DecodeError(
            f"the input is not y4m: it begins with {line[:12]!r}, not with {MAGIC.decode()}; "
            "make it with e.g. ffmpeg -i INPUT -f yuv4mpegpipe -"
        )
    fields = {word[:1]: word[1:].decode("ascii", "replace") for word in words[1:] if word and not word.startswith(b"X")}
    extras = {word.upper() for word in words[1:] if word.startswith(b"X")}
    if fields.get(b"I", "p") not in ("p", "?"):
        raise DecodeError(
            f"the y4m input is interlaced (I{fields[b'I']}), only progressive pictures are read; "
            "deinterlace it first, e.g. ffmpeg -i INPUT -vf bwdif -f yuv4mpegpipe -"
        )
    pixels, siting = _chroma(fields.get(b"C", "420"))
    full = b"XCOLORRANGE=FULL" in extras
    limited = b"XCOLORRANGE=LIMITED" in extras
    return Y4mHeader(
        width=_size(fields, b"W"),
        height=_size(fields, b"H"),
        fps=_rate(fields.get(b"F", "0:0")),
        sample_aspect=_ratio(fields.get(b"A", "0:0")) or Fraction(1),
        pixels=pixels,
        color=ColorInfo(range=Range.FULL if full else Range.LIMITED if limited else Range.UNKNOWN, siting=siting),
    )


def _chroma(tag: str) -> tuple[str, Siting]:
    if tag not in CHROMA:
        deep = "more than 8 bits are" if "p1" in tag or tag.startswith("mono") else "this chroma format is"
        raise DecodeError(
            f"y4m of the kind C{tag} cannot be read: {deep} not supported; allowed are "
            f"{', '.join(sorted(CHROMA))}; convert it first, e.g. ffmpeg -i INPUT -pix_fmt yuv420p -f yuv4mpegpipe -"
        )
    return CHROMA[tag]


def _size(fields: dict[bytes, str], key: bytes) -> int:
    text = fields.get(key, "")
    if not text.isdecimal() or not 0 < int(text) <= 16384:
        raise DecodeError(f"the y4m header has no usable {'width' if key == b'W' else 'height'}: {key.decode()}{text}")
    return int(text)


def _rate(text: str) -> Fraction:
    fps = _ratio(text)
    if fps is None:
        raise DecodeError(f"the y4m header has no frame rate (F{text}); give one, e.g. ffmpeg -r 25 -i INPUT ...")
    return fps


def _ratio(text: str) -> Fraction | None:
    """A positive ratio ``a:b``; None for 0:0 (unknown) and for what is none."""
    above, _, below = text.partition(":")
    if not (above.isdecimal() and below.isdecimal()) or int(above) == 0 or int(below) == 0:
        return None
    return Fraction(int(above), int(below))
