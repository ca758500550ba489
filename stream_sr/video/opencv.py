"""OpenCV, imported where it is used: its window system's libraries may be missing on a machine that shows nothing."""

from __future__ import annotations

import os
from typing import Any

from stream_sr.errors import StreamSRError
from stream_sr.system.limits import cores


def load_opencv(what: str, error: type[StreamSRError]) -> Any:
    """The module cv2. Raises ``error``, which says that ``what`` needs it and how to get it."""
    # Before the import: OpenCV reads them once. Its waits must be shorter than the second that a stop may take.
    os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", "1")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    try:
        import cv2
    except ImportError as missing:
        if "libGL" in str(missing):
            raise error(f"{what} needs OpenCV, which needs libGL.so.1: apt-get install libgl1") from missing
        raise error(f"{what} needs OpenCV ({missing}): pip install opencv-python") from missing
    cv2.setNumThreads(min(cv2.getNumThreads(), cores()))
    return cv2
