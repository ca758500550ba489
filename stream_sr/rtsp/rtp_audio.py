"""Audio in RTP: frames to packets (`AudioPacketiser`) and back (`AudioDepacketiser`), never transcoded.

AAC (RFC 3640, AAC-hbr), Opus (RFC 7587) and G.711 (RFC 3551). The depacketiser raises nothing, whatever bytes come:
what is wrong is counted and left out.
"""

from __future__ import annotations

from typing import NamedTuple

from stream_sr.codec.audio_format import AAC_SAMPLES, CODECS, ENCODINGS, PAYLOAD_TYPE, AudioFormat
from stream_sr.pipeline.packets import Track
from stream_sr.rtsp.rtp import HEADER_BYTES, RtpPacket, RtpStream
from stream_sr.rtsp.sdp import MediaDescription

FRAME_BYTES = 64 << 10  # of one audio frame; more is not valid
STATIC = {0: ("PCMU", 8000, 1), 8: ("PCMA", 8000, 1)}  # payload types that need no rtpmap (RFC 3551, table 4)


def format_of_media(media: MediaDescription) -> AudioFormat | None:
    """Return the audio format that a media description announces; None for one that is not supported."""
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
    """Return the format in which RTP carries a track; None if it cannot, or if the track is not audio."""
    rate, channels = track.sample_rate, track.channels
    if track.kind != "audio" or track.codec not in ENCODINGS or not channels:
        return None
    if track.codec == "aac":
        return AudioFormat("aac", rate, channels, PAYLOAD_TYPE, track.config) if len(track.config) >= 2 else None
    if track.codec == "opus":
        return AudioFormat("opus", 48_000, 2, PAYLOAD_TYPE)  # always announced so (RFC 7587, 4.1)
    payload = {"pcm_mulaw": 0, "pcm_alaw": 8}[track.codec] if (rate, channels) == (8000, 1) else PAYLOAD_TYPE
    return AudioFormat(track.codec, rate, channels, payload)


class RtpAudioFrame(NamedTuple):
    """One audio frame as it came out of RTP."""

    data: bytes
    timestamp: int  # RTP ticks, as it came, 32 bits
    ticks: int  # duration; 0 if unknown


def audio_payloads(audio_format: AudioFormat, data: bytes, room: int) -> list[tuple[bytes, int]]:
    """Return the RTP payloads of one audio frame, each with the ticks by which it is later than the frame.

    Returns none for a frame that RTP cannot carry: Opus beyond one packet, AAC beyond 8191 bytes.
    """
    if audio_format.codec == "aac":
        if len(data) > 0x1FFF:
            return []
        head = (16).to_bytes(2, "big") + (len(data) << 3).to_bytes(2, "big")
        return [(head + data[start : start + room - 4], 0) for start in range(0, len(data), room - 4)]
    if audio_format.codec == "opus":
        return [(data, 0)] if len(data) <= room else []
    step = room // audio_format.channels * audio_format.channels
    return [(data[start : start + step], start // audio_format.channels) for start in range(0, len(data), step)]


class AudioPacketiser(RtpStream):
    """Packs audio frames into RTP packets: a frame that is too long goes in several packets."""

    def __init__(self, audio_format: AudioFormat, *, mtu: int = 1400) -> None:
        super().__init__(payload_type=audio_format.payload_type, mtu=mtu)
        self.format = audio_format

    def packetise(self, data: bytes, timestamp: int) -> list[bytes]:
        """Return the packets of one frame, the last with the marker; none for a frame that RTP cannot carry."""
        payloads = audio_payloads(self.format, data, self.mtu - HEADER_BYTES)
        last = len(payloads) - 1
        return [
            self.packet(payload, timestamp + later, marker=index == last)
            for index, (payload, later) in enumerate(payloads)
        ]


class AudioDepacketiser:
    """Assembles audio frames from packets in their order. A lost packet is a gap in the timestamps. One thread."""

    def __init__(self, audio_format: AudioFormat) -> None:
        self.format = audio_format
        self.bad_packets = 0
        self._parts = bytearray()
        self._expected_bytes = 0  # bytes of the frame that came in parts

    def push(self, packet: RtpPacket) -> list[RtpAudioFrame]:
        """Take a packet and return the frames that it completes."""
        if packet.payload_type != self.format.payload_type or not packet.payload:
            self.bad_packets += 1
            return []
        if self.format.codec == "aac":
            return self._aac(packet)
        ticks = len(packet.payload) // self.format.channels if self.format.codec.startswith("pcm") else 0
        return [RtpAudioFrame(packet.payload, packet.timestamp, ticks)]

    def _aac(self, packet: RtpPacket) -> list[RtpAudioFrame]:
        audio_format, data = self.format, packet.payload
        head_bits = int.from_bytes(data[:2], "big")
        each = audio_format.size_bits + audio_format.index_bits
        start = 2 + (head_bits + 7) // 8
        count = head_bits // each
        if not count or start >= len(data):
            self.bad_packets += 1
            return []
        heads = int.from_bytes(data[2:start], "big")
        spare = 8 * (start - 2)
        sizes = []
        for index in range(count):
            sizes.append(heads >> (spare - index * each - audio_format.size_bits) & ((1 << audio_format.size_bits) - 1))
        if count == 1 and sizes[0] > len(data) - start:
            return self._part(sizes[0], data[start:], packet)
        self._parts.clear()
        frames = []
        for index, size in enumerate(sizes):
            frame = data[start : start + size]
            if not size or len(frame) < size:
                self.bad_packets += 1
                break
            frames.append(
                RtpAudioFrame(
                    frame, packet.timestamp + index * audio_format.frame_ticks & 0xFFFFFFFF, audio_format.frame_ticks
                )
            )
            start += size
        return frames

    def _part(self, size: int, data: bytes, packet: RtpPacket) -> list[RtpAudioFrame]:
        """A frame larger than a packet comes in parts; the last one has the marker."""
        if self._parts and self._expected_bytes != size:
            self._parts.clear()
        self._expected_bytes = size
        self._parts += data
        if len(self._parts) < size and not packet.marker and len(self._parts) < FRAME_BYTES:
            return []
        frame, whole = bytes(self._parts), len(self._parts) == size
        self._parts.clear()
        if not whole:
            self.bad_packets += 1
            return []
        return [RtpAudioFrame(frame, packet.timestamp, self.format.frame_ticks)]
