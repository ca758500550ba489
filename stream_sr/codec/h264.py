"""The byte stream of H.264 (ITU-T H.264, ISO/IEC 14496-10): NAL units, parameter sets and what a picture starts with.

Pure bytes, no decoder. The framing is Annex B: a start code before each NAL unit; mp4's form with lengths is FFmpeg's
affair. A NAL unit in this module is its bytes without the start code, header byte first.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from stream_sr.video.color import ColorInfo, Matrix, Range, Siting

START_CODE = b"\x00\x00\x00\x01"
SLICE, IDR, SEI, SPS, PPS, DELIMITER = 1, 5, 6, 7, 8, 9  # NAL unit types, table 7-1
RECOVERY_POINT = 6  # SEI payload type, D.1.8

# Table E-1, index 1 to 16.
_ASPECTS = (
    (1, 1), (12, 11), (10, 11), (16, 11), (40, 33), (24, 11), (20, 11), (32, 11),
    (80, 33), (18, 11), (15, 11), (64, 33), (160, 99), (4, 3), (3, 2), (2, 1),
)  # fmt: skip
_WITH_CHROMA_FORMAT = frozenset((100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135))  # 7.3.2.1.1
_LARGEST = 16384  # samples across or down; level 6.2 ends at 16,880


def nal_type(nal: bytes) -> int:
    """Type 1 to 31 of a NAL unit; 0 for an empty one."""
    return nal[0] & 0x1F if nal else 0


def is_picture(nal: bytes) -> bool:
    """Whether a NAL unit carries samples of a picture (types 1 to 5)."""
    return 1 <= nal_type(nal) <= 5


def split_annexb(data: bytes) -> list[bytes]:
    """The NAL units of an Annex B stream. Bytes before the first start code and empty units are left out."""
    nals = []
    start = data.find(b"\x00\x00\x01")
    while start >= 0:
        end = data.find(b"\x00\x00\x01", start + 3)
        nal = data[start + 3 : end if end >= 0 else len(data)].rstrip(b"\x00")
        if nal:
            nals.append(nal)
        start = end
    return nals


def join_annexb(nals: Iterable[bytes]) -> bytes:
    """NAL units as an Annex B stream, a 4-byte start code before each."""
    return b"".join([START_CODE + nal for nal in nals])


def parameter_sets(nals: Iterable[bytes]) -> tuple[list[bytes], list[bytes]]:
    """Sequence and picture parameter sets among NAL units, each once, in their order."""
    sps: list[bytes] = []
    pps: list[bytes] = []
    for nal in nals:
        kept = {SPS: sps, PPS: pps}.get(nal_type(nal))
        if kept is not None and nal not in kept:
            kept.append(nal)
    return sps, pps


def is_random_access(nals: Iterable[bytes]) -> bool:
    """Whether a decoder can start here: an IDR picture, or a recovery point as of open groups and intra refresh."""
    return any(nal_type(nal) == IDR or (nal_type(nal) == SEI and _has_recovery_point(nal)) for nal in nals)


def _has_recovery_point(sei: bytes) -> bool:
    """Walk the messages of an SEI unit (7.3.2.3.1)."""
    data, position = unescape(sei[1:]), 0
    while position + 2 <= len(data):
        numbers = []
        for _ in range(2):  # payload type, payload size: bytes of 255 add up
            value = 0
            while position < len(data) and data[position] == 255:
                value, position = value + 255, position + 1
            if position >= len(data):
                return False
            numbers.append(value + data[position])
            position += 1
        if numbers[0] == RECOVERY_POINT:
            return True
        position += numbers[1]
    return False


def profile_level_id(sps: bytes) -> str:
    """Six hexadecimal digits: profile, constraint flags, level (RFC 6184, 8.1). ``avc1.`` + this names the codec."""
    if len(sps) < 4:
        raise ValueError(f"a sequence parameter set of {len(sps)} bytes is no parameter set")
    return sps[1:4].hex().upper()


@dataclass(frozen=True, slots=True)
class SpsInfo:
    """What a sequence parameter set says, as far as we ask."""

    width: int  # after cropping
    height: int
    chroma_format: int  # 0 grey, 1 4:2:0, 2 4:2:2, 3 4:4:4
    bit_depth: int
    chroma_bit_depth: int
    interlaced: bool  # fields may occur
    sample_aspect: Fraction
    color: ColorInfo
    fps: Fraction | None  # from the timing information; None where it is absent or beyond 1 to 480


def parse_sps(nal: bytes) -> SpsInfo:
    """Read a sequence parameter set (7.3.2.1.1, E.1.1). Raises ValueError for what is none."""
    if nal_type(nal) != SPS or len(nal) < 4:
        raise ValueError(f"a NAL unit of type {nal_type(nal)} and {len(nal)} bytes is no sequence parameter set")
    bits = _Bits(unescape(nal[1:]))
    profile = bits.read(8)
    bits.read(16)  # constraint flags, level
    bits.ue()  # its number
    chroma, depths = 1, (8, 8)
    if profile in _WITH_CHROMA_FORMAT:
        chroma, depths = _read_chroma_format(bits)
    bits.ue()  # log2_max_frame_num
    _skip_order_count(bits)
    bits.ue()  # reference frames
    bits.read(1)  # gaps allowed
    columns, rows = bits.ue() + 1, bits.ue() + 1
    frames_only = bits.read(1)
    if not frames_only:
        rows *= 2
        bits.read(1)
    bits.read(1)  # direct_8x8_inference
    width, height = _cropped(bits, columns * 16, rows * 16, chroma, frames_only)
    aspect, color, fps = _read_vui(bits) if bits.read(1) else (Fraction(1), ColorInfo(), None)
    return SpsInfo(width, height, chroma, *depths, not frames_only, aspect, color, fps)


def _read_chroma_format(bits: "_Bits") -> tuple[int, tuple[int, int]]:
    chroma = bits.ue()
    if chroma > 3:
        raise ValueError(f"chroma format {chroma} does not exist")
    if chroma == 3:
        bits.read(1)
    depths = bits.ue() + 8, bits.ue() + 8
    if max(depths) > 14:
        raise ValueError(f"bit depths {depths} do not exist")
    bits.read(1)
    if bits.read(1):
        for index in range(12 if chroma == 3 else 8):
            if bits.read(1):
                _skip_scaling_list(bits, 16 if index < 6 else 64)
    return chroma, depths


def _skip_scaling_list(bits: "_Bits", size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + bits.se()) % 256
        last = following or last


def _skip_order_count(bits: "_Bits") -> None:
    kind = bits.ue()
    if kind == 0:
        bits.ue()
    elif kind == 1:
        bits.read(1)
        bits.se()
        bits.se()
        for _ in range(min(bits.ue(), 255)):
            bits.se()


def _cropped(bits: "_Bits", width: int, height: int, chroma: int, frames_only: int) -> tuple[int, int]:
    if bits.read(1):
        unit_x = 2 if chroma in (1, 2) else 1
        unit_y = (2 if chroma == 1 else 1) * (2 - frames_only)
        width -= unit_x * (bits.ue() + bits.ue())
        height -= unit_y * (bits.ue() + bits.ue())
    if not (0 < width <= _LARGEST and 0 < height <= _LARGEST):
        raise ValueError(f"a picture of {width}x{height} does not exist")
    return width, height


def _read_vui(bits: "_Bits") -> tuple[Fraction, ColorInfo, Fraction | None]:
    aspect = _read_aspect(bits)
    if bits.read(1):  # overscan
        bits.read(1)
    range_, primaries, transfer, matrix, siting = Range.UNKNOWN, 2, 2, int(Matrix.UNKNOWN), Siting.UNKNOWN
    if bits.read(1):
        bits.read(3)
        range_ = Range.FULL if bits.read(1) else Range.LIMITED
        if bits.read(1):
            primaries, transfer, matrix = bits.read(8), bits.read(8), bits.read(8)
    if bits.read(1):
        siting = {0: Siting.LEFT, 1: Siting.CENTER, 2: Siting.TOPLEFT}.get(bits.ue(), Siting.UNKNOWN)
        bits.ue()
    fps = None
    if bits.read(1):
        tick, scale = bits.read(32), bits.read(32)
        if tick and 1 <= (rate := Fraction(scale, 2 * tick)) <= 480:
            fps = rate
    return aspect, ColorInfo(matrix, range_, primaries, transfer, siting), fps


def _read_aspect(bits: "_Bits") -> Fraction:
    if not bits.read(1):
        return Fraction(1)
    number = bits.read(8)
    across, down = (bits.read(16), bits.read(16)) if number == 255 else (1, 1)
    if 1 <= number <= len(_ASPECTS):
        across, down = _ASPECTS[number - 1]
    return Fraction(across, down) if across and down else Fraction(1)


def unescape(data: bytes) -> bytes:
    """Without the emulation prevention bytes (7.3.1): 00 00 03 becomes 00 00."""
    if b"\x00\x00\x03" not in data:
        return data
    out, start = bytearray(), 0
    while (found := data.find(b"\x00\x00\x03", start)) >= 0:
        out += data[start : found + 2]
        start = found + 3
    return bytes(out + data[start:])


class _Bits:
    """Bits of a payload, most significant first; ValueError beyond the end."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data, "big")
        self._left = len(data) * 8

    def read(self, count: int) -> int:
        if count > self._left:
            raise ValueError("the parameter set is cut short")
        self._left -= count
        return self._value >> self._left & ((1 << count) - 1)

    def ue(self) -> int:
        """Exp-Golomb, unsigned (9.1)."""
        zeros = 0
        while not self.read(1):
            zeros += 1
            if zeros > 32:
                raise ValueError("a number of more than 32 bits")
        return (1 << zeros) - 1 + self.read(zeros)

    def se(self) -> int:
        """Exp-Golomb, signed (9.1.1)."""
        value = self.ue()
        return (value + 1) // 2 if value % 2 else -(value // 2)
