"""Sound in RTP and out of it, untouched: AAC (RFC 3640, AAC-hbr), Opus (RFC 7587) and G.711 (RFC 3551).

Whatever bytes come, the depacketiser raises nothing: what is wrong is counted and left out.
"""

from __future__ import annotations

from typing import NamedTuple

from stream_sr.codec.audio_format import AAC_SAMPLES, CODECS, ENCODINGS, PAYLOAD_TYPE, AudioFormat
from stream_sr.pipeline.packets import Track
from stream_sr.rtsp.rtp import RtpPacket
from stream_sr.rtsp.sdp import Media

FRAME_BYTES = 64 << 10  # of one frame of sound; more is nonsense
STATIC = {0: ("PCMU", 8000, 1), 8: ("PCMA", 8000, 1)}  # payload types that need no rtpmap (RFC 3551, table 4)


def format_of(media: Media) -> AudioFormat | None:
    """The sound that a section of a description announces; None for what we do not carry."""
    encoding, clock, channels = media.codec, media.clock, media.channels
    if not encoding and media.payload_type in STATIC:
        encoding, clock, channels = STATIC[media.payload_type]
    codec = CODECS.get(encoding)
    if media.kind != "audio" or media.payload_type is None or codec is None or not 8000 <= clock <= 192_000:
        return None
    if not 1 <= channels <= 8:
        return None
    if codec != "aac":
        return AudioFormat(codec, clock, channels, media.payload_type)
    if media.parameters.get("mode", "").lower() != "aac-hbr":
        return None
    try:
        config = bytes.fromhex(media.parameters.get("config", ""))
        bits = [
            int(media.parameters.get(name, "3" if name != "sizelength" else "13"))
            for name in ("sizelength", "indexlength", "constantduration")
        ]
    except ValueError:
        return None
    if not 2 <= len(config) <= 64 or not (1 <= bits[0] <= 16 and 0 <= bits[1] <= 8):
        return None
    ticks = bits[2] if "constantduration" in media.parameters and 0 < bits[2] <= 4096 else AAC_SAMPLES
    return AudioFormat(codec, clock, channels, media.payload_type, config, bits[0], bits[1], ticks)


def format_of_track(track: Track) -> AudioFormat | None:
    """How a source's track goes into RTP; None where it cannot (or is no sound)."""
    rate, channels = track.sample_rate, track.channels
    if track.kind != "audio" or track.codec not in ENCODINGS or not channels:
        return None
    if track.codec == "aac":
        return AudioFormat("aac", rate, channels, PAYLOAD_TYPE, track.config) if len(track.config) >= 2 else None
    if track.codec == "opus":
        return AudioFormat("opus", 48_000, 2, PAYLOAD_TYPE)  # always announced so (RFC 7587, 4.1)
    payload = {"pcm_mulaw": 0, "pcm_alaw": 8}[track.codec] if (rate, channels) == (8000, 1) else PAYLOAD_TYPE
    return AudioFormat(track.codec, rate, channels, payload)


class Sound(NamedTuple):
    """One frame of sound."""

    data: bytes
    timestamp: int  # RTP ticks, as it came, 32 bits
    ticks: int  # how long it lasts; 0 where it does not say


class AudioDepacketiser:
    """Puts frames together again. One thread. Packets come in their order; what is lost is silence for the player."""

    def __init__(self, form: AudioFormat) -> None:
        self.form = form
        self.bad_packets = 0
        self._parts = bytearray()
        self._wanted = 0  # bytes of the frame that came in parts

    def push(self, packet: RtpPacket) -> list[Sound]:
        """The frames that a packet completes."""
        if packet.payload_type != self.form.payload_type or not packet.payload:
            self.bad_packets += 1
            return []
        if self.form.codec == "aac":
            return self._aac(packet)
        ticks = len(packet.payload) // self.form.channels if self.form.codec.startswith("pcm") else 0
        return [Sound(packet.payload, packet.timestamp, ticks)]

    def _aac(self, packet: RtpPacket) -> list[Sound]:
        form, data = self.form, packet.payload
        head_bits = int.from_bytes(data[:2], "big")
        each = form.size_bits + form.index_bits
        start = 2 + (head_bits + 7) // 8
        count = head_bits // each
        if not count or start >= len(data):
            self.bad_packets += 1
            return []
        heads = int.from_bytes(data[2:start], "big")
        spare = 8 * (start - 2)
        sizes = []
        for index in range(count):
            sizes.append(heads >> (spare - index * each - form.size_bits) & ((1 << form.size_bits) - 1))
        if count == 1 and sizes[0] > len(data) - start:
            return self._part(sizes[0], data[start:], packet)
        self._parts.clear()
        frames = []
        for index, size in enumerate(sizes):
            frame = data[start : start + size]
            if not size or len(frame) < size:
                self.bad_packets += 1
                break
            frames.append(Sound(frame, packet.timestamp + index * form.frame_ticks & 0xFFFFFFFF, form.frame_ticks))
            start += size
        return frames

    def _part(self, size: int, data: bytes, packet: RtpPacket) -> list[Sound]:
        """A frame larger than a packet comes in parts; the last one has the marker."""
        if self._parts and self._wanted != size:
            self._parts.clear()
        self._wanted = size
        self._parts += data
        if len(self._parts) < size and not packet.marker and len(self._parts) < FRAME_BYTES:
            return []
        frame, whole = bytes(self._parts), len(self._parts) == size
        self._parts.clear()
        if not whole:
            self.bad_packets += 1
            return []
        return [Sound(frame, packet.timestamp, self.form.frame_ticks)]


def payloads_of(form: AudioFormat, data: bytes, room: int) -> list[tuple[bytes, int]]:
    """The RTP payloads of one frame of sound, each with the ticks by which it is later than the frame.

    None for a frame that has no form in RTP: Opus beyond one packet, AAC beyond 8191 bytes.
    """
    if form.codec == "aac":
        if len(data) > 0x1FFF:
            return []
        head = (16).to_bytes(2, "big") + (len(data) << 3).to_bytes(2, "big")
        return [(head + data[start : start + room - 4], 0) for start in range(0, len(data), room - 4)]
    if form.codec == "opus":
        return [(data, 0)] if len(data) <= room else []
    step = room // form.channels * form.channels
    return [(data[start : start + step], start // form.channels) for start in range(0, len(data), step)]
