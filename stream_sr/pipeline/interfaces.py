"""Contracts of inputs and outputs, and what travels between them besides frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from stream_sr.pipeline.packets import EncodedStream, Packet, Passthrough
from stream_sr.video.frame import Frame, StreamInfo
from stream_sr.video.frame_pool import FramePool

MOST_SIDE = 16384  # pixels, of a picture that libx264 takes
# logged with the name of an output, its format and the orientation
ORIENTATION_LOST = "%s: %s has no place for the orientation: players will not show it %s; write .mp4, .mov or .mkv"


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceOptions:
    """How an input is opened. What does not apply to it is refused by `open_source` if it is set."""

    rtsp_transport: str = "tcp"
    read_timeout: float = 5.0  # seconds without data after which a live source is lost
    start: float | None = None  # seconds; files only
    duration: float | None = None  # seconds of presentation time after which the source ends
    capture_size: tuple[int, int] | None = None  # webcam: width, height
    capture_fps: float | None = None
    fourcc: str | None = None
    decoder: str = "auto"  # auto, cuda (NVDEC), cpu


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkOptions:
    """How an output is opened."""

    overwrite: bool = False
    audio: str = "copy"  # or "aac": transcoded to it, or "none"
    viewer_user: str | None = None  # whom a server of ours lets in; None: everybody
    viewer_password: str | None = None
    max_viewers: int = 64  # of each stream
    source: str = ""  # address of the input, which is never overwritten without `overwrite`
    reconnect: float | None = None  # seconds to try for to get a lost server back; None: for ever, 0: not at all
    record_dir: Path | None = None  # where displays put recordings and pictures
    web_read_only: bool = False  # the page shows and changes nothing
    web_names: tuple[str, ...] = ()  # names under which it may be asked for, besides addresses and this machine's own


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderOptions:
    """How pictures are encoded. None is chosen for the use: quality for files, low delay and VBV for live outputs."""

    encoder: str = "auto"  # auto, libx264, h264_nvenc, hevc_nvenc
    crf: float | None = None
    bitrate: int | None = None  # bit/s
    preset: str | None = None
    gop: int | None = None  # frames between keyframes


class Source(Protocol):
    """An open input. Opening raises SourceOpenError; one thread reads."""

    info: StreamInfo
    passthrough: Passthrough | None  # passthrough tracks; None where there are none

    def frames(self, pool: FramePool | None = None) -> Iterator[Frame]:
        """Yield the frames in presentation order, until the end or `stop`.

        With a pool the pixels are copied once into a leased slot, which the receiver releases; without one every frame
        owns its memory. A live source that is not read loses frames inside itself and counts them in `counters`.
        Raises SourceLost, DecodeError.
        """
        ...

    def stop(self) -> None:
        """Make `frames` end soon, within a second, from any thread, also while it waits for the network."""
        ...

    def counters(self) -> dict[str, int]:
        """What went wrong so far without being an error: ``corrupt_packets``, ``dropped_packets``..."""
        ...

    def close(self) -> None:
        """Free everything; joins its threads. Safe to call twice."""
        ...


@runtime_checkable
class ResizingSource(Protocol):
    """A source whose frames may change their size and colours: a camera that comes back, a file of several parts.

    ``prepare`` is set by who can take such frames. The source calls it with the new description before the first of
    them, from the thread that makes its frames or another; it may take long.
    """

    prepare: Callable[[StreamInfo], None] | None


class FrameSink(Protocol):
    """An output that takes pictures: a window, y4m, null. `write` is called from one thread."""

    name: str
    paced: bool  # frames are to be handed over at their presentation time
    with_source: bool  # each frame is to come with the picture that it was made from, `Frame.source`

    def open(self, info: StreamInfo) -> None:
        """Called once, before the first frame, with the size and colour of what comes. Raises SinkOpenError."""
        ...

    def write(self, frame: Frame) -> bool:
        """Take a frame (borrowed: the caller releases it). False when the user has closed the output: not an error.

        Raises SinkWriteError.
        """
        ...

    def close(self) -> None:
        """Finish and free. Safe to call twice, also after a failure."""
        ...


class FrameEncoder(Protocol):
    """Turns frames of one size into packets for every packet sink. Used by one thread."""

    stream: EncodedStream

    def encode(self, frame: Frame, *, keyframe: bool = False) -> list[Packet]:
        """Packets that are ready now, possibly of earlier frames; ``keyframe`` asks for one. Raises SinkWriteError."""
        ...

    def flush(self) -> list[Packet]:
        """The packets still inside; nothing can be encoded afterwards."""
        ...

    def close(self) -> None:
        """Free the encoder. Safe to call twice."""
        ...


class PacketSink(Protocol):
    """An output that takes encoded packets: a file, an RTSP server. `write` is called from one thread."""

    name: str
    paced: bool
    takes_passthrough: bool  # whether it muxes the source's passthrough tracks

    def open(self, stream: EncodedStream) -> None:
        """Called once before the first packet. Raises SinkOpenError."""
        ...

    def write(self, packet: Packet) -> None:
        """Take a packet. Raises SinkWriteError."""
        ...

    def wants_keyframe(self) -> bool:
        """Whether a keyframe is wanted now (a viewer joined); asking clears the request."""
        ...

    def complete(self) -> None:
        """Called once, before `close`, when the source came to its own end and everything of it was written.

        Without it the output is a part: playable, but nothing that may take the place of something else.
        """
        ...

    def counters(self) -> dict[str, int]:
        """What is known of the receivers: ``viewers``, ``dropped_packets``... Called from any thread."""
        ...

    def close(self) -> None:
        """Finish the file or tell the peers; free everything, join threads. Safe to call twice and after a failure."""
        ...


@runtime_checkable
class CheckedSink(Protocol):
    """A sink that can refuse before any work is done (output exists, port taken, no display)."""

    def check(self) -> None:
        """Raises SinkOpenError."""
        ...


class Controls(Protocol):
    """What a viewer may change in a running filter. Thread-safe."""

    def change(self, name: str, value: str) -> None:
        """Ask for a change, which comes between two frames once it is ready; does not wait for it.

        Names and values are those that the figures list under ``controls``. Raises ConfigError for others.
        """
        ...


@runtime_checkable
class Display(Protocol):
    """A sink with a face: it shows the figures of the run (see `telemetry`), and may have controls."""

    def take_controls(self, controls: Controls) -> None:
        """Called once, before `open`."""
        ...

    def show_figures(self, figures: Mapping[str, Any]) -> None:
        """Called a few times a second while the sink is open, from a thread of its caller; does not wait."""
        ...
