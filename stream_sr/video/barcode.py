"""A clock in the picture: 64 luma cells that carry a sequence number and the time, to measure glass to glass.

Two rows of 32 cells across the full width, at the top of the picture, most significant bit first: 16 bits sequence
number, 32 bits monotonic clock in units of 0.1 ms, 16 bits CRC (CRC-16/CCITT-FALSE over the six bytes before it).
All is proportional to the picture, so that it is read at any scale of the picture it was burnt into, and after a
lossy encoder. The clock wraps after 119 hours; the sequence number after 65536 pictures.
"""

from __future__ import annotations

import binascii
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stream_sr.video.planes import Plane

COLUMNS, ROWS = 32, 2
UNIT_NS = 100_000  # 0.1 ms
CLOCK_WRAP = 1 << 32
DARK, BRIGHT = 16, 235
CELLS_IN_HEIGHT = 45  # a row of cells is 1/45 of the picture: 8 lines of 360
LEAST_CONTRAST = 32  # levels between dark and bright cells; less is no barcode
LEAST_WIDTH = 2 * COLUMNS


@dataclass(frozen=True, slots=True)
class Reading:
    """What a barcode says."""

    sequence: int  # 0..65535
    clock_units: int  # monotonic time in 0.1 ms, modulo 2**32

    def age_ns(self, now_ns: int) -> int:
        """Time from burning to ``now_ns`` (monotonic, of the same machine), to 0.1 ms; negative if it lies ahead."""
        behind = (now_ns // UNIT_NS - self.clock_units) % CLOCK_WRAP
        if behind >= CLOCK_WRAP // 2:
            behind -= CLOCK_WRAP
        return behind * UNIT_NS


def rows_used(height: int) -> int:
    """Lines at the top of a picture of this height that the barcode covers."""
    return round(ROWS * height / CELLS_IN_HEIGHT)


def burn(luma: Plane, sequence: int, clock_ns: int) -> None:
    """Write the barcode over the top of a writable luma plane, at least 64 wide and 90 high (else ValueError)."""
    height, width = luma.shape
    if width < LEAST_WIDTH or height < 2 * CELLS_IN_HEIGHT:
        raise ValueError(f"a picture of {width}x{height} is too small for the barcode: 64x90 at least")
    payload = (sequence & 0xFFFF).to_bytes(2, "big") + (clock_ns // UNIT_NS % CLOCK_WRAP).to_bytes(4, "big")
    word = payload + binascii.crc_hqx(payload, 0xFFFF).to_bytes(2, "big")
    bits = np.unpackbits(np.frombuffer(word, np.uint8)).reshape(ROWS, COLUMNS)
    levels = np.where(bits, np.uint8(BRIGHT), np.uint8(DARK))
    widths = np.diff(np.rint(np.arange(COLUMNS + 1) * width / COLUMNS).astype(int))
    edges = [round(row * height / CELLS_IN_HEIGHT) for row in range(ROWS + 1)]
    for row in range(ROWS):
        luma[edges[row] : edges[row + 1]] = np.repeat(levels[row], widths)


def read(luma: Plane) -> Reading | None:
    """Read the barcode of a luma plane of any size; None where there is none or it is damaged."""
    height, width = luma.shape
    if width < LEAST_WIDTH or height < 2 * CELLS_IN_HEIGHT:
        return None
    means = _cell_means(luma)
    low, high = float(means.min()), float(means.max())
    if high - low < LEAST_CONTRAST:
        return None
    word = np.packbits(means.reshape(-1) > (low + high) / 2).tobytes()
    if binascii.crc_hqx(word[:6], 0xFFFF) != int.from_bytes(word[6:], "big"):
        return None
    return Reading(int.from_bytes(word[:2], "big"), int.from_bytes(word[2:6], "big"))


def _cell_means(luma: Plane) -> npt.NDArray[np.float64]:
    """Mean of the middle of each cell, ``[2, 32]``: its border belongs to rounding, the encoder and the scaler."""
    height, width = luma.shape
    pitch = height / CELLS_IN_HEIGHT
    ends = (np.arange(COLUMNS)[:, None] + np.array([0.3, 0.7])) * (width / COLUMNS)  # [32, 2], fractions of a pixel
    whole = ends.astype(int)
    means = np.empty((ROWS, COLUMNS))
    for row in range(ROWS):
        middle = int((row + 0.5) * pitch)
        reach = int(0.2 * pitch)
        line = luma[middle - reach : middle + reach + 1].mean(axis=0)
        sums = np.concatenate(([0.0], np.cumsum(line)))
        upto = sums[whole] + (ends - whole) * line[whole]
        means[row] = (upto[:, 1] - upto[:, 0]) / (0.4 * width / COLUMNS)
    return means
