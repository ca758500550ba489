"""What describes a demuxed track, and decodes it, independently of its container."""

from __future__ import annotations

import io
from typing import Any

import av

from stream_sr.system.limits import codec_threads


def detached(stream: Any) -> Any:
    """A copy of a demuxed stream's parameters, tags and disposition that outlives its container.

    PyAV's streams refer to memory of their container, which closing frees; a live input is closed and opened again
    while outputs still describe their tracks by it. The copy belongs to the muxer ``null``, which writes nothing.
    """
    copy: Any = av.open(io.BytesIO(), "w", format="null").add_stream_from_template(stream, opaque=True)
    copy.time_base = stream.time_base
    copy.metadata.update(stream.metadata)
    copy.disposition = stream.disposition
    return copy


class TrackDecoder:
    """A decoder with the parameters of a stream, independent of the stream's own decoder.

    The stream's own belongs to the thread that demuxes, and to one output only. PyAV copies parameters from stream to
    stream but not into a decoder; the context of a `detached` stream has them.
    """

    def __init__(self, template: Any) -> None:
        """``template`` is PyAV's stream. Raises ValueError or FFmpegError where FFmpeg has no decoder for it."""
        self._stream = detached(template)  # owns the context
        self.context: Any = self._stream.codec_context
        if not self.context.is_decoder:
            raise ValueError(f"FFmpeg has no decoder for {self.context.name}")
        self.context.thread_count = codec_threads()
