"""Real-time video super-resolution: camera, RTSP or file in, upscaled live picture out.

The library's surface: `Upscaler` for arrays and planes, `open_source` to iterate a camera or file, `open_sink`, `run`
for the whole filter with a `Config`. Everything else may change.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from stream_sr.system.limits import limit_libraries

if TYPE_CHECKING:
    from stream_sr.app.session import run
    from stream_sr.config import Config
    from stream_sr.errors import StreamSRError
    from stream_sr.sinks import open_sink
    from stream_sr.sources import open_source
    from stream_sr.upscaler import Upscaler

__all__ = ["Config", "StreamSRError", "Upscaler", "open_sink", "open_source", "run"]

limit_libraries()  # before anything imports NumPy

_HOME = {
    "Config": "config",
    "StreamSRError": "errors",
    "Upscaler": "upscaler",
    "open_sink": "sinks",
    "open_source": "sources",
    "run": "app.session",
}


def __getattr__(name: str) -> Any:
    """Imported on first use: `import stream_sr` costs nothing and needs no library."""
    if name not in _HOME:
        raise AttributeError(f"module 'stream_sr' has no attribute '{name}'")
    return getattr(import_module(f"stream_sr.{_HOME[name]}"), name)
