"""What cameras and their codecs do to a picture before we get it: blur, sensor noise, H.264 or JPEG. Seeded, pure.

The order is that of the light: the lens blurs the scene, the sensor samples it and adds noise, the encoder throws away.
After Wang and others, "Real-ESRGAN" (ICCVW 2021), reduced to what fixed cameras and webcams show, and to luma.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from stream_sr.video.planes import Plane
from stream_sr.video.resample import bicubic, to_uint8

Roundtrip = Callable[..., list[Plane]]


@dataclass(frozen=True, slots=True)
class Degradation:
    """One camera. Widths and deviations at the size of the degraded picture, but for ``soft``."""

    soft: float = 0.0  # standard deviation of a Gaussian in pixels of the truth, which `soften` gives to that as well
    blur: float = 0.0  # standard deviation of a Gaussian, pixels
    shot: float = 0.0  # noise that grows with the root of the light: standard deviation at white, levels
    read: float = 0.0  # noise that does not, levels
    codec: str = ""  # "h264", "jpeg" or none
    crf: int = 0  # of H.264, 18 to 34
    preset: str = "veryfast"
    quality: int = 0  # of JPEG, 40 to 95

    def soften(self, truth: Sequence[Plane]) -> list[Plane]:
        """The scene as a lens shows it that resolves less than the truth has pixels: most real ones do.

        A network that learns from sharp pictures only makes every edge as thin as theirs, also where it is not.
        """
        return [to_uint8(_blur(one, self.soft)) for one in truth]

    def apply(
        self, truth: Sequence[Plane], scale: int, *, random: np.random.Generator, roundtrip: Roundtrip
    ) -> list[Plane]:
        """The degraded pictures of ``truth``, each reduced by ``scale`` (a factor of its sides), uint8.

        ``roundtrip`` is `codec_roundtrip.h264_roundtrip`, handed in because training itself knows no codec.
        """
        frames = [self._sense(_blur(one, self.blur * scale), scale, random) for one in truth]
        if self.codec == "h264":
            return roundtrip(frames, crf=self.crf, preset=self.preset)
        if self.codec == "jpeg":
            return [_jpeg(one, self.quality) for one in frames]
        return frames

    def _sense(self, picture: npt.NDArray[np.floating], scale: int, random: np.random.Generator) -> Plane:
        height, width = picture.shape
        low = bicubic(picture, (height // scale, width // scale)) if scale > 1 else picture.astype(np.float64)
        if self.shot or self.read:
            light = np.clip(low - 16, 0, 219) / 219
            low = low + random.standard_normal(low.shape) * np.sqrt(self.read**2 + self.shot**2 * light)
        return to_uint8(low)


def draw(random: np.random.Generator, scale: int) -> Degradation:
    """A camera as one meets it: 75 % H.264 of CRF 18 to 34, 10 % JPEG, the rest clean; a tenth blurred, a tenth noisy.

    Half of the scenes are soft. With more blur and noise, and nothing clean, a small network softens all: it cannot
    tell noise from texture. At ``scale`` 1 there is nothing to do but to restore: 85 % H.264, 10 % JPEG, no blur.
    """
    codec = str(random.choice(["h264", "jpeg", ""], p=[0.75, 0.1, 0.15] if scale > 1 else [0.85, 0.1, 0.05]))
    noisy, blurred = random.random() < 0.1, random.random() < 0.1 and scale > 1
    return Degradation(
        soft=float(random.uniform(0.4, 1.2)) if scale > 1 and random.random() < 0.5 else 0.0,
        blur=float(random.uniform(0.2, 0.6)) if blurred else 0.0,
        shot=float(random.uniform(0, 4)) if noisy else 0.0,
        read=float(random.uniform(0.5, 3)) if noisy else 0.0,
        codec=codec,
        crf=int(random.integers(18, 35)),
        preset=str(random.choice(["ultrafast", "superfast", "veryfast", "medium"])),
        quality=int(random.integers(50, 96)),
    )


def _blur(picture: Plane, sigma: float) -> npt.NDArray[np.float64]:
    if sigma <= 0:
        return picture.astype(np.float64)
    radius = max(1, round(3 * sigma))
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    taps /= taps.sum()
    padded = np.pad(picture.astype(np.float64), radius, "edge")
    padded = np.apply_along_axis(lambda row: np.convolve(row, taps, "valid"), 1, padded)
    return np.apply_along_axis(lambda column: np.convolve(column, taps, "valid"), 0, padded)


def _jpeg(picture: Plane, quality: int) -> Plane:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))
