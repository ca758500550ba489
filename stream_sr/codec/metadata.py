"""Tags, chapters and attachments of a container, read from FFmpeg's demuxers and written to its muxers."""

from __future__ import annotations

import codecs
from collections import Counter
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import av
from av.container import InputContainer
from av.stream import Disposition

from stream_sr.codec import mp4
from stream_sr.video.metadata import Attachment, Chapter, Metadata, Tags

# Facts about the input file that are not true of the output. Matroska's statistics end in a language: BPS-eng.
STALE = {
    "encoder", "major_brand", "minor_version", "compatible_brands", "duration", "bps", "number_of_frames",
    "number_of_bytes", "source_id", "vendor_id", "handler_name", "totaldata", "totaldatarate", "datasize", "filesize",
    "lasttimestamp", "lastkeyframetimestamp", "lastkeyframelocation", "audiodatarate", "videodatarate", "framerate",
    "width", "height", "hasvideo", "hasaudio", "hasmetadata", "haskeyframes", "hascuepoints", "canseektoend",
    "variant_bitrate", "id3v2_priv.com.apple.streaming.transportstreamtimestamp",
}  # fmt: skip
# Of a track, FFmpeg's muxers write these in every container that we write.
TRACK_TAGS = ("language", "title", "handler_name", "comment")
GENERIC_HANDLERS = {"videohandler", "soundhandler", "subtitlehandler", "datahandler", "mainconcept", ""}
# A disposition that the output keeps. attached_pic and timed_thumbnails describe images, not tracks.
DISPOSITIONS = ~(Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image)
MIMETYPES = {"mjpeg": "image/jpeg", "png": "image/png", "bmp": "image/bmp", "gif": "image/gif", "webp": "image/webp"}
SUFFIXES = {"mjpeg": "jpg"}


def _as_latin1(error: UnicodeError) -> tuple[str, int]:
    """Decode the bytes that are not UTF-8 as ISO 8859-1, which old programs wrote."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return error.object[error.start : error.end].decode("latin-1"), error.end


METADATA_ERRORS = "stream_sr.latin1"  # `metadata_errors` of PyAV for every input: no tag makes a file unreadable
codecs.register_error(METADATA_ERRORS, _as_latin1)


def container_tags(container: InputContainer) -> Tags:
    """The tags of the whole file, without those that describe the input's encoding."""
    return tuple((key, value) for key, value in container.metadata.items() if value and not _is_stale(key))


def track_tags(stream: Any) -> Tags:
    """Language, title and handler name of a stream, as far as they are known; a muxer's default name is left out."""
    found = {key.lower(): value for key, value in stream.metadata.items() if value}
    if found.get("handler_name", "").strip("\0 ").lower() in GENERIC_HANDLERS:
        found.pop("handler_name", None)
    return tuple((key, found[key]) for key in TRACK_TAGS if key in found)


def track_disposition(stream: Any) -> int:
    """FFmpeg's AV_DISPOSITION_ flags of a stream that hold for a track of the output."""
    return int(stream.disposition & DISPOSITIONS)


def chapters(container: InputContainer, begin: Fraction, end: Fraction | None) -> tuple[Chapter, ...]:
    """The chapters between ``begin`` and ``end`` (seconds on the input's clock; None: to the last), counted from there.

    A chapter that lies partly outside is cut; chapters without a length are left out.
    """
    found = []
    for entry in container.chapters():
        base = entry["time_base"] or Fraction(1, 1000)
        first, last = max(entry["start"] * base, begin), entry["end"] * base
        last = last if end is None else min(last, end)
        if last > first:
            tags = tuple((key, value) for key, value in entry["metadata"].items() if value)
            found.append(Chapter(first - begin, last - begin, tags))
    return tuple(found)


def attachments(address: str, container: InputContainer) -> tuple[Attachment, ...]:
    """Cover images and attached files. ``address`` is opened once more to read the images, if there are any."""
    streams: list[Any] = list(container.streams)
    files = [
        Attachment(stream.name or "attachment", stream.mimetype or "application/octet-stream", bytes(stream.data))
        for stream in streams
        if stream.type == "attachment" and stream.data
    ]
    numbers = [stream.index for stream in container.streams if _is_cover(stream)]
    return (*_read_covers(address, numbers), *files)


def unsupported_tracks(container: InputContainer, taken: set[int]) -> tuple[str, ...]:
    """What is in the container and neither in ``taken`` (stream indices) nor an attachment or the text of chapters."""
    names: Counter[str] = Counter()
    for stream in container.streams:
        if stream.index in taken or stream.type == "attachment" or _is_cover(stream):
            continue
        if container.chapters() and _is_plain_data(stream):
            continue  # QuickTime keeps the titles of chapters in a text track, which FFmpeg calls data
        names[_name_of(stream)] += 1
    return tuple(name if count == 1 else f"{count} {name}s" for name, count in names.items())


def write_metadata(container: Any, metadata: Metadata) -> None:
    """Give an output container its tags and chapters, before its header is written."""
    container.metadata.update(metadata.tags)
    container.set_chapters(
        [
            {
                "id": number,
                "start": round(chapter.start * 1000),
                "end": round(chapter.end * 1000),
                "time_base": Fraction(1, 1000),
                "metadata": _title(container, number) | dict(chapter.tags),
            }
            for number, chapter in enumerate(metadata.chapters, 1)
        ]
    )


def _title(container: Any, number: int) -> dict[str, str]:
    """A title for a chapter without one: MP4 keeps chapters by their titles, and leaves one without out."""
    return {} if container.format.name == "matroska" else {"title": f"Chapter {number}"}


def add_attachments(container: Any, metadata: Metadata) -> list[str]:
    """Give an output container its attached files, before its header is written; what it cannot hold, in words.

    Cover images of an MP4 are added to the finished file: see `mp4.add_covers`.
    """
    left_out = []
    for attachment in metadata.attachments:
        if container.format.name == "matroska":
            container.add_attachment(attachment.name, attachment.mimetype, attachment.data)
        elif container.format.name != "mp4" or attachment.codec not in mp4.COVERS:
            left_out.append(f"cover image ({attachment.codec})" if attachment.is_cover else "attachment")
    return left_out


def _read_covers(address: str, numbers: list[int]) -> list[Attachment]:
    if not numbers:
        return []
    found: dict[int, Attachment] = {}
    with av.open(f"file:{address}", metadata_errors=METADATA_ERRORS) as container:
        streams: list[Any] = [container.streams[number] for number in numbers]
        packets: Any = container.demux(streams)
        for packet in packets:
            if packet.size and packet.stream.index not in found:
                found[packet.stream.index] = _cover(packet.stream, bytes(packet))
            if len(found) == len(numbers):
                break
    return list(found.values())


def _cover(stream: Any, data: bytes) -> Attachment:
    codec = stream.codec_context
    tags: Mapping[str, str] = stream.metadata
    name = tags.get("filename", f"cover.{SUFFIXES.get(codec.name, codec.name)}")
    mimetype = tags.get("mimetype", MIMETYPES.get(codec.name, "application/octet-stream"))
    return Attachment(name, mimetype, data, codec.name, (codec.width, codec.height))


def _is_cover(stream: Any) -> bool:
    return bool(
        stream.type == "video" and stream.disposition & Disposition.attached_pic and stream.codec_context is not None
    )


def _is_plain_data(stream: Any) -> bool:
    return stream.type == "data" and "timecode" not in stream.metadata


def _name_of(stream: Any) -> str:
    if stream.type == "data":
        return "data track" if _is_plain_data(stream) else "timecode track"
    known = stream.codec_context is not None
    return f"further {stream.type} track" if known else f"{stream.type} track of an unknown codec"


def _is_stale(key: str) -> bool:
    plain = key.lower().partition("-")[0]
    return plain in STALE or key.lower() in STALE or key.startswith("_STATISTICS")
