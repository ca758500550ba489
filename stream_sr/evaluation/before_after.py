"""Before and after, side by side, as a picture."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from stream_sr.codec.rgb import to_rgb
from stream_sr.inference.engines import open_engine
from stream_sr.pipeline.engine import EngineOptions
from stream_sr.video.frame import Frame, StreamInfo

log = logging.getLogger("stream_sr")

Picture = npt.NDArray[np.uint8]  # [H, W, 3], RGB


class ExampleFrames:
    """Keeps copies of one frame before and after the engine."""

    def __init__(self, wanted: int) -> None:
        self._wanted = wanted
        self._pair: tuple[Frame, Frame] | None = None
        self._count = 0

    def see(self, before: Frame, after: Frame) -> None:
        """Called by the pipeline with borrowed frames."""
        if self._count in (0, self._wanted):
            self._pair = (_copy(before), _copy(after))
        self._count += 1

    def save(self, path: Path, *, model: str) -> None:
        """Side by side: the camera's picture enlarged by bicubic, and ours, with a detail of both below."""
        if self._pair is None:
            log.warning("no frame was seen, so there is no %s", path)
            return
        before, after = self._pair
        info = StreamInfo(before.width, before.height, before.time_base, color=before.color)
        scale = after.width // before.width
        engine = open_engine(None, info, EngineOptions(backend="bicubic"), scale=scale)
        try:
            plain = to_rgb(engine.submit(before).wait())
        finally:
            engine.close()
        compose(plain, to_rgb(after), ("bicubic", model)).save(path)


def compose(left: Picture, right: Picture, names: tuple[str, str], *, zoom: int = 4) -> Image.Image:
    """Two pictures ``[H, W, 3]`` side by side, and below each its most detailed part, enlarged without smoothing."""
    height, width = left.shape[:2]
    cut_w, cut_h = width // zoom, height // zoom
    x, y = _busiest(left, cut_w, cut_h)
    sheet = Image.new("RGB", (2 * width + 8, 2 * height + 8), "white")
    font = ImageFont.load_default(max(14, height // 24))
    for column, (picture, name) in enumerate(zip((left, right), names, strict=True)):
        whole = Image.fromarray(picture)
        detail = whole.crop((x, y, x + cut_w, y + cut_h)).resize((width, height), Image.Resampling.NEAREST)
        draw = ImageDraw.Draw(whole)
        draw.rectangle((x, y, x + cut_w, y + cut_h), outline="yellow", width=2)
        _label(draw, name, font)
        _label(ImageDraw.Draw(detail), f"{name}, detail", font)
        sheet.paste(whole, (column * (width + 8), 0))
        sheet.paste(detail, (column * (width + 8), height + 8))
    return sheet


def _label(draw: ImageDraw.ImageDraw, text: str, font: Any) -> None:
    left, top, right, bottom = draw.textbbox((12, 10), text, font=font)
    draw.rectangle((left - 6, top - 5, right + 6, bottom + 5), fill="black")
    draw.text((12, 10), text, fill="white", font=font)


def _busiest(picture: Picture, width: int, height: int) -> tuple[int, int]:
    """Corner of the cut with the most edges, away from the barcode at the picture's rim."""
    grey = picture.astype(np.float32).mean(axis=2)
    edges = np.abs(np.diff(grey, axis=0))[:, :-1] + np.abs(np.diff(grey, axis=1))[:-1]
    rim = picture.shape[0] // 8
    best, place = -1.0, (0, rim)
    for y in range(rim, edges.shape[0] - height - rim, height // 4):
        for x in range(0, edges.shape[1] - width, width // 4):
            score = float(np.minimum(edges[y : y + height, x : x + width], 60).mean())
            if score > best:
                best, place = score, (x, y)
    return place


def _copy(frame: Frame) -> Frame:
    y, u, v = (plane.copy() for plane in frame.planes)
    return frame.with_planes((y, u, v))
