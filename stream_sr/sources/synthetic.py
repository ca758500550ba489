"""A camera that needs no camera: a moving view over a drawn test picture or over photographs, with a burnt-in clock.

Everything is drawn once, on a canvas larger than the picture; a frame is a window cut from it, and its barcode
(`stream_sr.video.barcode`) the time at which it was handed out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont, ImageOps

from stream_sr.errors import ConfigError, SourceOpenError
from stream_sr.pipeline.interfaces import SourceOptions
from stream_sr.sources.stoppable import StoppableSource
from stream_sr.system.machine import pip_install
from stream_sr.video import barcode
from stream_sr.video.color import ColorInfo, Matrix, guess_unknown
from stream_sr.video.frame import Frame, StreamInfo
from stream_sr.video.frame_pool import FramePool
from stream_sr.video.planes import Plane, Planes, empty_planes, read_only
from stream_sr.video.timing import NS, Clock, MonotonicClock

ADDRESS_SYNTAX = "synthetic:[photos,][WxH@FPS]"
SMALLEST, LARGEST = (128, 96), (7680, 4320)
PHOTO_WIDTH = 480  # of a cell on the wall: the photographs are enlarged no further, or they would show no detail
GAP = 4
# Photographs in scikit-image's wheel, and which part of the height the cut is taken from (0 is the top).
PHOTOS = {"motorcycle": 0.5, "coffee": 0.5, "astronaut": 0.05, "chelsea": 0.4, "rocket": 0.6, "hubble_deep_field": 0.5}
Rgb = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Scene:
    """What a ``synthetic:`` address asks for."""

    photos: bool = False
    width: int = 640
    height: int = 360
    fps: Fraction = Fraction(30)


def parse_scene(address: str) -> Scene:
    """Read ``synthetic:``, ``synthetic:photos``, ``synthetic:1280x720@60``... Raises ConfigError."""
    match = re.fullmatch(r"synthetic:(photos)?,?(?:(\d+)x(\d+))?(?:@(\d+(?:\.\d+|/[1-9]\d*)?))?", address)
    if match is None:
        raise ConfigError(f"{address} is not of the form {ADDRESS_SYNTAX}, e.g. synthetic:photos,640x360@30")
    photos, width, height, fps = match.groups()
    scene = Scene(
        photos=photos is not None,
        width=int(width or 640),
        height=int(height or 360),
        fps=Fraction(fps) if fps else Fraction(30),
    )
    if not SMALLEST[0] <= scene.width <= LARGEST[0] or not SMALLEST[1] <= scene.height <= LARGEST[1]:
        raise ConfigError(f"{address}: the size must be from {SMALLEST[0]}x{SMALLEST[1]} to {LARGEST[0]}x{LARGEST[1]}")
    if not 1 <= scene.fps <= 1000:
        raise ConfigError(f"{address}: the rate must be from 1 to 1000 frames a second")
    return scene


class SyntheticSource(StoppableSource):
    """A live source: one frame each 1/fps by the clock, whether it is fetched or not.

    A consumer that comes more than a frame late gets the frame of the moment; those between are counted as
    ``skipped`` and leave a gap in ``number`` and pts. Limited range, BT.601 or BT.709 by size, left-sited chroma.
    """

    def __init__(self, scene: Scene, options: SourceOptions | None = None, *, clock: Clock | None = None) -> None:
        options = options or SourceOptions()
        self._scene = scene
        self._clock = clock or MonotonicClock()
        super().__init__()
        self._skipped = 0
        color = guess_unknown(ColorInfo(), width=scene.width, height=scene.height)
        self.info = StreamInfo(
            width=scene.width,
            height=scene.height,
            time_base=1 / scene.fps,
            fps=scene.fps,
            color=color,
            live=True,
            duration_seconds=options.duration,
            codec="rawvideo",
            name="synthetic photographs" if scene.photos else "synthetic test picture",
        )
        large = scene.width * scene.height > 1280 * 720
        size = (scene.width * 3 // 2, scene.height * 3 // 2) if large else (scene.width * 2, scene.height * 2)
        self._canvas = Canvas(draw_photos(*size) if scene.photos else draw_chart(*size), color.matrix)
        self._step = max(1, round(scene.height / 360 * 30 / scene.fps))  # pixels a frame

    def frames(self, pool: FramePool | None = None) -> Iterator[Frame]:
        """See `Source.frames`. The clock starts with the first frame."""
        start = self._clock.now_ns()
        period = NS / self._scene.fps
        number = 0
        end = self.info.duration_seconds
        while end is None or number / self._scene.fps < end:
            due = start + math.floor(number * period)
            if self._clock.wait((due - self._clock.now_ns()) / NS, self._stopping):
                return
            late = math.floor((self._clock.now_ns() - due) / period)
            if late > 0:
                self._skipped += late
                number += late
                continue
            yield self._frame(number, pool)
            number += 1

    def counters(self) -> dict[str, int]:
        """``skipped``: frames whose time had passed before they were asked for."""
        return {"skipped": self._skipped} if self._skipped else {}

    def _frame(self, number: int, pool: FramePool | None) -> Frame:
        scene = self._scene
        slot = None if pool is None else pool.lease()
        planes = empty_planes(scene.width, scene.height) if slot is None else slot.planes
        self._canvas.cut(planes, *self._position(number))
        grey = -(-barcode.rows_used(scene.height) // 2)
        planes[1][:grey] = planes[2][:grey] = 128
        now_ns = self._clock.now_ns()
        barcode.burn(planes[0], number, now_ns)
        return Frame(
            read_only(planes),
            pts=number,
            time_base=self.info.time_base,
            duration=1,
            number=number,
            captured_ns=now_ns,
            color=self.info.color,
            slot=slot,
        )

    def _position(self, number: int) -> tuple[int, int]:
        """Left and top of the window: back and forth, down at half the pace, so that the path does not repeat soon."""
        height, width = self._canvas.luma.shape
        return (
            _bounce(number * self._step, width - self._scene.width),
            _bounce(number * self._step // 2, height - self._scene.height),
        )


class Canvas:
    """A picture to cut windows from at any whole pixel: luma, and chroma for each of the four phases of 4:2:0.

    Chroma is left-sited (H.264's default): [1 2 1]/4 across, the mean of two lines down. BT.601-7 and BT.709-6, limited
    range.
    """

    def __init__(self, rgb: Rgb, matrix: int) -> None:
        kr, kb = (0.2126, 0.0722) if matrix == Matrix.BT709 else (0.299, 0.114)
        r, g, b = (rgb[..., i].astype(np.float32) / 255 for i in range(3))
        y = kr * r + (1 - kr - kb) * g + kb * b
        self.luma = _quantise(16 + 219 * y)
        self._u = _phases(128 + 112 * (b - y) / (1 - kb))
        self._v = _phases(128 + 112 * (r - y) / (1 - kr))

    def cut(self, planes: Planes, left: int, top: int) -> None:
        """Fill the planes with the window whose upper left corner is there."""
        height, width = planes[0].shape
        np.copyto(planes[0], self.luma[top : top + height, left : left + width])
        rows, columns = planes[1].shape
        for plane, phases in ((planes[1], self._u), (planes[2], self._v)):
            chroma = phases[top % 2][left % 2]
            np.copyto(plane, chroma[top // 2 : top // 2 + rows, left // 2 : left // 2 + columns])


def draw_photos(width: int, height: int) -> Rgb:
    """A wall of scikit-image's photographs, each cut to 16:9. Raises SourceOpenError where it is not installed."""
    try:
        from skimage import data
    except ImportError as error:
        raise SourceOpenError(
            f"the photographs come with scikit-image, which is not installed: {pip_install('stream-sr[demo]')}"
        ) from error
    pictures = [(Image.fromarray(_photo(data, name)), place) for name, place in PHOTOS.items()]
    across = min(PHOTO_WIDTH, width // 2)
    down = across * 9 // 16
    wall = Image.new("RGB", (width, height), (24, 24, 24))
    for row in range(-(-height // (down + GAP))):
        for column in range(-(-width // (across + GAP))):
            picture, place = pictures[(column + 3 * row) % len(pictures)]
            cell = ImageOps.fit(picture, (across, down), Image.Resampling.LANCZOS, centering=(0.5, place))
            wall.paste(cell, (column * (across + GAP), row * (down + GAP)))
    return np.asarray(wall)


def _photo(data: object, name: str) -> Rgb:
    if name == "motorcycle":
        left: Rgb = data.stereo_motorcycle()[0]  # type: ignore[attr-defined]
        return left
    picture: Rgb = getattr(data, name)()
    return picture


def draw_chart(width: int, height: int) -> Rgb:
    """A test picture of panels: zone plate, star, text, wedges, colours. Drawn at twice the size and reduced."""
    panel_width, panel_height = max(96, width // 4), max(72, height // 4)
    makers = (_zone_plate, _text, _star, _colours, _wedge, _bricks)
    chart = np.empty((height, width, 3), np.uint8)
    made = [maker(panel_width, panel_height) for maker in makers]
    for row in range(-(-height // panel_height)):
        for column in range(-(-width // panel_width)):
            panel = made[(column + 2 * row) % len(made)]
            top, left = row * panel_height, column * panel_width
            part = chart[top : top + panel_height, left : left + panel_width]
            part[:] = panel[: part.shape[0], : part.shape[1]]
    return chart


def _zone_plate(width: int, height: int) -> Rgb:
    """Rings that get finer towards the border, up to 0.4 cycles a pixel, tinted."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    x, y = x - width / 2, y - height / 2
    wave = 0.5 + 0.5 * np.cos(math.pi * 0.8 / max(width, height) * (x * x + y * y))
    low, high = np.array([18, 24, 48], np.float32), np.array([250, 244, 226], np.float32)
    return _quantise(low + wave[..., None] * (high - low))


def _panel(width: int, height: int, color: tuple[int, int, int]) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", (2 * width, 2 * height), color)
    return image, ImageDraw.Draw(image)


def _reduced(image: Image.Image) -> Rgb:
    return np.asarray(image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS))


def _text(width: int, height: int) -> Rgb:
    image, draw = _panel(width, height, (246, 242, 232))
    lines = (
        "Deconvolution puts back what the lens took",
        "The quick brown fox jumps over the lazy dog; 0123456789",
        "AaBbCcDdEeFfGgHhIiJjKkLlMm {[(<=>)]} &%$#@!? 3.14159265",
    )
    draw.text((12, 4), "stream_sr", fill=(176, 52, 40), font=ImageFont.load_default(height // 3))
    top, size, number = height * 2 // 5, max(20, height // 6), 0
    while top < 2 * height:
        draw.text((12, top), "  ".join([lines[number % 3]] * 3), fill=(30, 34, 46), font=ImageFont.load_default(size))
        top, size, number = top + size * 5 // 4, max(14, size * 5 // 6), number + 1
    return _reduced(image)


def _star(width: int, height: int) -> Rgb:
    image, draw = _panel(width, height, (236, 238, 242))
    radius, spokes = 0.94 * min(width, height), 36
    for i in range(0, 2 * spokes, 2):
        a, b = (math.pi * (i + k) / spokes for k in (0, 1))
        corners = [(width + radius * math.cos(t), height + radius * math.sin(t)) for t in (a, b)]
        draw.polygon([(width, height), *corners], fill=(28, 40, 60))
    for i in range(24):
        x = 6 + i * 12
        draw.line([(x, 0), (x - 40, 2 * height)], fill=(190, 60, 50), width=2)
    return _reduced(image)


def _colours(width: int, height: int) -> Rgb:
    """Smooth hues across, lightness down."""
    hue = np.linspace(0, 2 * math.pi, width, dtype=np.float32)[None, :, None]
    light = np.linspace(0.15, 0.85, height, dtype=np.float32)[:, None, None]
    phase = np.array([0, 2 * math.pi / 3, 4 * math.pi / 3], np.float32)
    return _quantise(255 * (light + np.minimum(light, 1 - light) * 0.8 * np.cos(hue - phase)))


def _wedge(width: int, height: int) -> Rgb:
    """Converging lines, upright and slanted, down to two pixels a line."""
    image, draw = _panel(width, height, (22, 26, 34))
    for i in range(-14, 15):
        draw.polygon(
            [
                (width + i * 26, 0),
                (width + i * 26 + 13, 0),
                (width + i * 8 + 4, 2 * height),
                (width + i * 8, 2 * height),
            ],
            fill=(238, 214, 140),
        )
    return _reduced(image)


def _bricks(width: int, height: int) -> Rgb:
    """A wall with mortar and grain."""
    image, draw = _panel(width, height, (196, 188, 176))
    rng = np.random.default_rng(7)
    for row, top in enumerate(range(0, 2 * height, 28)):
        for left in range(-40 * (row % 2), 2 * width, 80):
            shade = rng.integers(-18, 18)
            fill = (150 + int(shade), 74 + int(shade) // 2, 58 + int(shade) // 2)
            draw.rectangle([left + 3, top + 3, left + 76, top + 24], fill=fill)
    grain = rng.normal(0, 9, (height, width, 1)).astype(np.float32)
    return _quantise(_reduced(image) + grain)


def _quantise(values: npt.NDArray[np.floating[Any]]) -> Plane:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _phases(chroma: npt.NDArray[np.floating[Any]]) -> list[list[Plane]]:
    """The 4:2:0 planes of windows that begin on [even, odd] lines and [even, odd] columns."""
    padded = np.pad(chroma, ((0, 2), (1, 2)), mode="edge")
    across = (padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]) / 4
    both = (across[:-1] + across[1:]) / 2
    return [[_quantise(both[y::2, x::2]) for x in (0, 1)] for y in (0, 1)]


def _bounce(way: int, length: int) -> int:
    """Position after walking so far back and forth on a line of this length."""
    if length <= 0:
        return 0
    at = way % (2 * length)
    return at if at <= length else 2 * length - at
