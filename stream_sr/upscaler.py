"""The library's front door: arrays in, arrays out."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import numpy.typing as npt
from PIL import Image

from stream_sr.app.engine_setup import choose_model
from stream_sr.config import Config
from stream_sr.errors import ConfigError
from stream_sr.inference.engines import open_engine
from stream_sr.pipeline.engine import Engine
from stream_sr.video.color import ColorInfo
from stream_sr.video.frame import Frame, StreamInfo
from stream_sr.video.planes import Plane, Planes, chroma_shape, read_only


class Upscaler:
    """Upscales pictures with one model; an engine is compiled for each new size and the last one is kept.

    ::

        with Upscaler(scale=2) as upscale:
            big = upscale(rgb)              # uint8 [H, W, 3] -> [2H, 2W, 3]
            y, u, v = upscale.planes(y, u, v)   # 4:2:0, uint8

    ``weights`` is ``clean`` or ``camera``; None is clean, where there is such a model. A recurrent model takes the
    pictures as consecutive frames; a change of size begins again. Use it in one thread at a time. Raises ModelError for
    an unknown model, scale or weights, ConfigError for invalid options or arrays, EngineError.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        scale: int | None = None,
        weights: str | None = None,
        backend: str = "auto",
        precision: str = "auto",
        threads: int | None = None,
    ) -> None:
        self._config = Config(
            model=model, scale=scale, weights=weights, backend=backend, precision=precision, threads=threads
        )
        self._model, self.scale = choose_model(self._config)
        self._engine: Engine | None = None
        self._opened_for: tuple[int, int, int] = (0, 0, 0)

    def __call__(self, rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """RGB ``[H, W, 3]`` uint8 to ``[sH, sW, 3]``: luma by the network, chroma (4:4:4, not subsampled) bicubic."""
        if not isinstance(rgb, np.ndarray):
            raise ConfigError(f"expected a numpy array, got {type(rgb).__name__}")
        if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
            raise ConfigError(f"expected uint8 [H, W, 3], got {rgb.dtype} {list(rgb.shape)}")
        luma, cb, cr = Image.fromarray(rgb).convert("YCbCr").split()
        large = self.luma(np.asarray(luma))
        size = (large.shape[1], large.shape[0])
        chroma = [plane.resize(size, Image.Resampling.BICUBIC) for plane in (cb, cr)]
        return np.asarray(Image.merge("YCbCr", [Image.fromarray(large), *chroma]).convert("RGB"))

    def luma(self, plane: Plane) -> Plane:
        """One grey plane ``[H, W]`` uint8 to ``[sH, sW]``."""
        if plane.ndim != 2 or plane.dtype != np.uint8:
            raise ConfigError(f"expected uint8 [H, W], got {plane.dtype} {list(plane.shape)}")
        rows, columns = chroma_shape(plane.shape[1], plane.shape[0])
        neutral = np.full((rows, columns), 128, np.uint8)
        return self.planes(plane, neutral, neutral)[0]

    def planes(self, y: Plane, u: Plane, v: Plane, color: ColorInfo | None = None) -> Planes:
        """Planar 4:2:0, uint8: ``[H, W]`` and twice ``[ceil(H/2), ceil(W/2)]``. ``color`` tells the chroma siting."""
        for plane in (y, u, v):
            if plane.ndim != 2 or plane.dtype != np.uint8:
                raise ConfigError(f"expected planes of uint8 [H, W], got {plane.dtype} {list(plane.shape)}")
        height, width = y.shape
        expected = chroma_shape(width, height)
        if u.shape != expected or v.shape != expected:
            raise ConfigError(f"a {width}x{height} picture has 4:2:0 chroma of {expected}, got {u.shape} and {v.shape}")
        frame = Frame(planes=read_only((y, u, v)), pts=0, time_base=Fraction(1), color=color or ColorInfo())
        return self._open(frame).submit(frame).wait().planes

    def _open(self, frame: Frame) -> Engine:
        wanted = (frame.width, frame.height, frame.color.siting)
        if self._engine is None or wanted != self._opened_for:
            self.close()
            self._opened_for = wanted
            info = StreamInfo(frame.width, frame.height, Fraction(1), color=frame.color)
            self._engine = open_engine(self._model, info, self._config.engine_options(depth=1), scale=self.scale)
            self.scale = self._engine.spec.scale
        return self._engine

    def close(self) -> None:
        """Free the engine."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def __enter__(self) -> Upscaler:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
