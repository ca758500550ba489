"""Decoders of one's own for a track that somebody else demuxes."""

from __future__ import annotations

import io
from typing import Any

import av

from stream_sr.limits import codec_threads


class TrackDecoder:
    """A decoder with the parameters of a demuxed stream, independent of the stream's own decoder.

    The stream's own belongs to the thread that demuxes, and to one output only. PyAV copies parameters from stream to
    stream but not into a decoder; a stream of the muxer ``null``, which writes nothing, has a context with them.
    """

    def __init__(self, template: Any) -> None:
        """``template`` is PyAV's stream. Raises ValueError or FFmpegError where FFmpeg has no decoder for it."""
        self._container = av.open(io.BytesIO(), "w", format="null")  # owns the stream, and so the context
        stream: Any = self._container.add_stream_from_template(template, opaque=True)
        self.context: Any = stream.codec_context
        if not self.context.is_decoder:
            raise ValueError(f"FFmpeg has no decoder for {self.context.name}")
        self.context.thread_count = codec_threads()
