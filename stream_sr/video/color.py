"""What a stream says about its colours, and the one place where the unsaid is guessed.

The values are the code points of ITU-T H.273 (ISO/IEC 23091-2), which FFmpeg, H.264 and HEVC use as they are. UNKNOWN
(2, "unspecified") is a value: a source reports it, and only `guess_unknown` replaces it.
"""

from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
import numpy.typing as npt


class Matrix(IntEnum):
    """Matrix coefficients, H.273 table 4."""

    BT709 = 1
    UNKNOWN = 2
    FCC = 4
    BT470BG = 5  # the coefficients of BT.601
    SMPTE170M = 6  # the coefficients of BT.601
    SMPTE240M = 7
    BT2020_NCL = 9
    BT2020_CL = 10


class Range(IntEnum):
    """FFmpeg's AVColorRange: limited is 16..235 for luma and 16..240 for chroma, full is 0..255."""

    UNKNOWN = 0
    LIMITED = 1
    FULL = 2


class Siting(IntEnum):
    """Where a 4:2:0 chroma sample lies, FFmpeg's AVChromaLocation. H.264 and MPEG-2 mean LEFT when they say nothing."""

    UNKNOWN = 0
    LEFT = 1
    CENTER = 2
    TOPLEFT = 3


@dataclass(frozen=True, slots=True)
class ColorInfo:
    """Colour of one stream. ``primaries`` and ``transfer`` (H.273 code points, 2 is unknown) are only handed on."""

    matrix: int = Matrix.UNKNOWN
    range: int = Range.UNKNOWN
    primaries: int = 2
    transfer: int = 2
    siting: int = Siting.UNKNOWN

    @property
    def full_range(self) -> bool:
        """Whether luma uses 0..255; unknown counts as limited."""
        return self.range == Range.FULL


def guess_unknown(color: ColorInfo, *, width: int, height: int) -> ColorInfo:
    """Replace what a stream does not say, by the *input's* size, the way players do.

    Up to 576 lines and 1024 columns BT.601, above it BT.709; limited range; left-sited chroma. The result goes on the
    output, because a player would otherwise guess again from the larger size, and guess differently. An unknown
    matrix brings the primaries and transfer of its standard where they are unknown too.
    """
    standard = height <= 576 and width <= 1024
    matrix, primaries, transfer = color.matrix, color.primaries, color.transfer
    if matrix == Matrix.UNKNOWN:
        matrix = Matrix.SMPTE170M if standard else Matrix.BT709
        if primaries == 2:
            primaries = (5 if height == 576 else 6) if standard else 1
        if transfer == 2:
            transfer = 6 if standard else 1
    return replace(
        color,
        matrix=matrix,
        primaries=primaries,
        transfer=transfer,
        range=Range.LIMITED if color.range == Range.UNKNOWN else color.range,
        siting=Siting.LEFT if color.siting == Siting.UNKNOWN else color.siting,
    )


def chroma_taps(scale: int, offset: float) -> npt.NDArray[np.float32]:
    """Cubic interpolation taps that enlarge a chroma plane by ``scale`` along one axis: ``[scale, 5]``.

    Output sample s*q + r is the sum over j of ``taps[r, j] * x[q + j - 2]``. ``offset`` is the chroma sample's distance
    from the centre of its two luma samples, in chroma samples: -0.25 when it is sited with the left (or top) one, 0
    when centred. Siting is kept, so the input lies at ``(s*q + r + 0.5 + offset)/s - 0.5 - offset``. Keys, IEEE TASSP
    1981, a = -0.5. Each row sums to 1.
    """
    taps = np.zeros((scale, 5))
    for r in range(scale):
        position = (r + 0.5 + offset) / scale - 0.5 - offset
        for j in range(5):
            taps[r, j] = _keys(j - 2 - position)
        taps[r] /= taps[r].sum()
    return taps.astype(np.float32)


def chroma_kernel(scale: int, siting: int) -> npt.NDArray[np.float32]:
    """The 5x5 convolution, before depth-to-space, that enlarges chroma: ``[s*s, 1, 5, 5]``. Borders are replicated."""
    across = chroma_taps(scale, -0.25 if siting in (Siting.LEFT, Siting.TOPLEFT, Siting.UNKNOWN) else 0.0)
    down = chroma_taps(scale, -0.25 if siting == Siting.TOPLEFT else 0.0)
    kernel = down[:, None, :, None] * across[None, :, None, :]
    return np.ascontiguousarray(kernel.reshape(scale * scale, 1, 5, 5))


def _keys(x: float) -> float:
    x = abs(x)
    if x <= 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    if x < 2:
        return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return 0.0
