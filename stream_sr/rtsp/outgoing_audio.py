"""Audio to be sent by RTSP: the source's track from the passthrough, released together with the delayed video."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

from av.error import FFmpegError

from stream_sr.codec.aac import AacTranscoder
from stream_sr.codec.audio_format import AudioFormat
from stream_sr.pipeline.packets import Passthrough, Track
from stream_sr.rtsp.rtp_audio import format_of_track

MAX_WAITING = 2000  # audio frames; over this limit the oldest are dropped

log = logging.getLogger("stream_sr")


class AudioFrame(NamedTuple):
    """One encoded audio frame that is due."""

    data: bytes
    seconds: Fraction  # presentation time, on the clock of the video


class OutgoingAudio:
    """Chooses the audio track that goes into RTP: the first that RTP carries, else the first, transcoded to AAC.

    ``audio`` is "copy" or "aac": then every other codec is transcoded. What is left out is logged once. One thread.
    """

    def __init__(self, name: str, passthrough: Passthrough | None, audio: str = "copy") -> None:
        self._passthrough, self._number = passthrough, -1
        self.format: AudioFormat | None = None
        self._transcoder: AacTranscoder | None = None
        self._waiting: deque[Any] = deque(maxlen=MAX_WAITING)
        self._last: Fraction | None = None
        tracks = passthrough.tracks if passthrough is not None else ()
        formats = [format_of_track(track) for track in tracks]
        carried = [number for number, one in enumerate(formats) if one and (audio == "copy" or one.codec == "aac")]
        if carried:
            self._number, self.format = carried[0], formats[carried[0]]
        else:
            self._transcode(name, tracks, audio)
        left_out = [f"{track.codec} {track.kind}" for n, track in enumerate(tracks) if n != self._number]
        if left_out:
            log.info("%s: left out, RTSP carries one audio track: %s", name, ", ".join(left_out))

    def _transcode(self, name: str, tracks: Sequence[Track], audio: str) -> None:
        for number, track in enumerate(tracks):
            if track.kind != "audio":
                continue
            try:
                self._transcoder = AacTranscoder(track)
            except (FFmpegError, ValueError, OSError) as error:
                log.warning("%s: %s audio cannot be decoded, and is left out: %s", name, track.codec, error)
                continue
            if audio == "copy":
                log.warning("%s: RTSP carries no %s audio as it is, so it is transcoded to AAC", name, track.codec)
            self._number, self.format = number, format_of_track(self._transcoder.track)
            return

    def due(self, until: Fraction) -> list[AudioFrame]:
        """Return the frames that begin before ``until`` (seconds). Times grow strictly: others are dropped."""
        if self._passthrough is None:
            return []
        for number, packet in self._passthrough.take():
            if number == self._number and packet.size:
                self._waiting.extend([packet] if self._transcoder is None else self._transcoder.convert(packet))
        out = []
        while self._waiting:
            packet = self._waiting[0]
            pts = packet.pts if packet.pts is not None else packet.dts
            seconds = None if pts is None else pts * packet.time_base
            if seconds is not None and seconds >= until:
                break
            self._waiting.popleft()
            if seconds is not None and (self._last is None or seconds > self._last):
                self._last = seconds
                out.append(AudioFrame(bytes(packet), seconds))
        return out
