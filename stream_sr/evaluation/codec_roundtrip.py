"""What a codec makes of a picture: luma through libx264 and back, to train and to measure on compressed input."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError

from stream_sr.codec.extent import is_truncated
from stream_sr.codec.metadata import METADATA_ERRORS
from stream_sr.codec.picture import picture_planes
from stream_sr.errors import SourceOpenError
from stream_sr.system.limits import codec_threads
from stream_sr.video.planes import Plane


def h264_roundtrip(
    frames: Sequence[Plane], *, crf: float, preset: str = "veryfast", fps: int = 25, gop: int = 50
) -> list[Plane]:
    """Luma planes ``[H, W]`` uint8, H and W even, as a camera's viewer gets them: libx264 with zerolatency, decoded.

    Chroma is neutral, so that the rate goes to luma alone; constant quality depends on the picture, not on the rate.
    Raises ValueError for an odd size.
    """
    height, width = frames[0].shape
    if height % 2 or width % 2:
        raise ValueError(f"{width}x{height} is odd; H.264 4:2:0 needs even sides")
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
    encoder.framerate, encoder.time_base, encoder.gop_size = Fraction(fps), Fraction(1, fps), gop
    encoder.thread_count = 1  # so that the same frames give the same bits everywhere
    encoder.options = {"crf": str(crf), "preset": preset, "tune": "zerolatency"}
    decoder = av.CodecContext.create("h264", "r")
    decoder.thread_count = 1
    picture = av.VideoFrame(width, height, "yuv420p")
    luma, *chroma = picture_planes(picture)
    for plane in chroma:
        plane[:] = 128
    decoded: list[Plane] = []
    for n, frame in enumerate(frames):
        luma[:] = frame
        picture.pts = n
        for packet in encoder.encode(picture):
            decoded += [_luma(one) for one in decoder.decode(packet)]
    for packet in encoder.encode(None):
        decoded += [_luma(one) for one in decoder.decode(packet)]
    decoded += [_luma(one) for one in decoder.decode(None)]
    return decoded


def read_luma(path: Path) -> Iterator[Plane]:
    """The luma planes ``[H, W]`` of a film, as they are coded.

    Raises SourceOpenError for one that is no 8-bit YUV, and after the last picture of one that is truncated.
    """
    try:
        with av.open(str(path), metadata_errors=METADATA_ERRORS) as container:
            truncated, count = is_truncated(path, container), 0
            for stream in container.streams.video:
                stream.codec_context.thread_count = codec_threads()
            for picture in container.decode(video=0):
                if picture.format.components[0].bits != 8 or not picture.format.name.startswith(
                    ("yuv", "gray", "nv12")
                ):
                    raise SourceOpenError(f"{path} is {picture.format.name}; convert it to 8-bit yuv420p")
                yield _luma(picture)
                count += 1
            if truncated:
                raise SourceOpenError(
                    f"{path} is truncated: it breaks off after {count} pictures; give a whole film, or to "
                    f"`stream-sr evaluate` --frames {count}"
                )
    except (FFmpegError, IndexError) as error:
        raise SourceOpenError(f"{path} cannot be read as a film: {getattr(error, 'strerror', error)}") from error


def _luma(picture: av.VideoFrame) -> Plane:
    return np.array(picture_planes(picture)[0])
