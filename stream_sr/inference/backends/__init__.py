"""What runs a model: one adapter for each library.

Each adapter is a module with ``PRECISIONS``, ``availability()`` and ``open_model(...)``, imported only when it is asked
for, so that a missing library harms nobody else. An adapter may import everything below `inference`, and no other
adapter. ``cuda`` holds what the two GPU backends share. Start reading in `openvino.engine`.
"""

from importlib import import_module
from typing import Any

ADAPTERS = {
    "openvino": "openvino.engine",
    "tensorrt": "tensorrt.engine",
    "torch-cuda": "torch.cuda",
    "torch": "torch.cpu",
    "bicubic": "bicubic",
}


def load_adapter(name: str) -> Any:
    """Import the module of the backend ``name``, a key of `ADAPTERS`."""
    return import_module(f"{__name__}.{ADAPTERS[name]}")
