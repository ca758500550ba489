"""NVIDIA's decoder through FFmpeg: pictures are decoded on the GPU and handed over in the host's memory."""

from __future__ import annotations

import logging
from collections.abc import Callable

import av
from av.codec.hwaccel import HWAccel, hwdevices_available
from av.container import InputContainer
from av.video.stream import VideoStream

from stream_sr.errors import SourceOpenError
from stream_sr.system import machine

log = logging.getLogger("stream_sr")


def open_with_decoder(wanted: str, open_container: Callable[[HWAccel | None], InputContainer]) -> InputContainer:
    """Open a container for ``auto`` (the GPU's decoder where there is a GPU and it works), ``cuda`` or ``cpu``.

    ``auto`` falls back to the processor, which is logged; ``cuda`` does not. Raises SourceOpenError where ``cuda``
    cannot be, and what ``open_container`` raises.
    """
    problem = _missing() if wanted != "cpu" else ""
    if wanted == "cpu" or (problem and wanted == "auto"):
        return open_container(None)
    if not problem:
        hardware = HWAccel("cuda", allow_software_fallback=wanted == "auto")
        try:
            return open_container(hardware)
        except (av.FFmpegError, NotImplementedError, RuntimeError) as error:
            container = open_container(None)  # raises, where it is not the decoder that is at fault
            if wanted == "auto":
                log.info("the GPU's decoder cannot be used (%s): decoding on the processor", error)
                return container
            container.close()
            problem = str(error)
    raise SourceOpenError(f"--decoder cuda cannot be: {problem}; use --decoder auto or cpu")


def _missing() -> str:
    driver = machine.cuda()
    if not driver.devices:
        return driver.problem
    return "" if "cuda" in hwdevices_available() else "this build of PyAV has no CUDA"


def decoder_in_use(stream: VideoStream) -> str:
    """``cuda`` or ``cpu``."""
    return "cuda" if stream.codec_context.is_hwaccel else "cpu"
