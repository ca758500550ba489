"""Inputs: each opens an address and yields frames. `open_source` knows them all, and imports one when it is needed.

Contains `file`, `rtsp`, `webcam`, `images`, `animation`, `y4m`, `synthetic`, and what live inputs need: `reconnect`,
`no_signal`, `opening`, `clock`. A new source is a module here that fulfils `pipeline.interfaces.Source`, and a line in
`open_source`. May import `rtsp`, `codec` and below, never `sinks`. Start reading here.
"""

from __future__ import annotations

import logging
import os
import threading
from dataclasses import fields, replace
from pathlib import Path
from urllib.parse import urlsplit

from stream_sr.errors import ConfigError
from stream_sr.pipeline.interfaces import Source, SourceOptions
from stream_sr.system.printable import redact

logger = logging.getLogger(__name__)

# For the help: the form of an address, and what it is.
ADDRESSES = (
    ("0, /dev/video0", "a webcam"),
    ("rtsp://[user:password@]host[:port]/path", "a network camera"),
    ("http://..., udp://..., ...", "any other URL that FFmpeg opens"),
    ("FILE", "a video file"),
    ("PICTURE, FOLDER", "a still picture, or a folder of them as frames, 25 a second; an animated one as a video"),
    ("-", "y4m on the standard input"),
    ("synthetic:[photos,][WxH@FPS]", "a moving test picture or photographs with a burnt-in clock; 640x360@30"),
)

MOST_DIGITS = 5  # of a camera's number

# Which options mean something for which kind of address. `duration` always does.
APPLICABLE_OPTIONS = {
    "webcam": {"duration", "read_timeout", "capture_size", "capture_fps", "fourcc"},
    "rtsp": {"duration", "read_timeout", "rtsp_transport"},
    "url": {"duration", "read_timeout", "decoder"},
    "file": {"duration", "start", "decoder"},
    "pictures": {"duration"},
    "animated WebP": {"duration", "start"},
    "standard input": {"duration"},
    "synthetic": {"duration"},
}


def kind_of(address: str) -> str:
    """Which kind of input an address is: a key of the table of options.

    A file is looked into: an animated picture often has the name of a still one.
    """
    from stream_sr.codec.still import ImageContent, probe_image
    from stream_sr.sources.images import is_image
    from stream_sr.sources.webcam import is_camera

    if address == "-":
        return "standard input"
    if address.startswith("synthetic:"):
        return "synthetic"
    if is_camera(address):
        return "webcam"
    if "://" in address:
        return "rtsp" if address.startswith(("rtsp://", "rtsps://")) else "url"
    path = Path(address)
    content = probe_image(path)
    if content is ImageContent.ANIMATED_WEBP:
        return "animated WebP"
    if content is ImageContent.HEIF or os.path.isdir(path) or (is_image(path) and content is not ImageContent.VIDEO):
        return "pictures"
    return "file"


def check_address(address: str, options: SourceOptions) -> None:
    """Raise ConfigError for an address that can never be opened, or an option that does not apply. Opens nothing."""
    kind = kind_of(address)
    _check_options(address, kind, options)
    if kind == "synthetic":
        from stream_sr.sources.synthetic import parse_scene

        parse_scene(address)
    elif kind == "webcam" and address.isdecimal() and len(address) > MOST_DIGITS:
        raise ConfigError(f"there is no camera of so large a number as {address[:MOST_DIGITS]}...; `0` is the first")
    elif kind in ("rtsp", "url"):
        from stream_sr.rtsp.address import parse_address

        try:
            if kind == "rtsp":
                parse_address(address)
            else:
                _ = urlsplit(address).port
        except ValueError as error:
            reason = str(error) if kind == "rtsp" else "the host or the port cannot be read"
            raise ConfigError(f"{redact(address)} is no address: {reason}") from error


def open_source(
    address: str,
    options: SourceOptions = SourceOptions(),  # noqa: B008 - it is immutable
    *,
    cancelled: threading.Event | None = None,
    said: set[str] | None = None,
) -> Source:
    """Open an input by its address (`ADDRESSES`).

    Ends soon after ``cancelled`` was set (SourceLost), and at once when a signal handler raises in the calling thread,
    also while the network, a device or a FIFO does not answer; a thread that is inside a native call then is abandoned
    and frees what it opened by itself (`opening.open_cancellable`).

    ``said`` keeps the remarks that were made on the way, for who opens the same again: none is made twice.
    Raises ConfigError for an address that is none and for an option that was set but does not apply to it;
    SourceOpenError when the input cannot be opened.
    """
    if not address:
        raise ConfigError(f"the source is empty; allowed are: {'; '.join(form for form, _ in ADDRESSES)}")
    kind = kind_of(address)
    _check_options(address, kind, options)
    if kind == "webcam":
        from stream_sr.sources.opening import open_cancellable
        from stream_sr.sources.webcam import CameraSource

        return open_cancellable(
            f"camera {address}", lambda given_up: CameraSource(address, options, stopping=given_up), cancelled
        )
    if kind == "rtsp":
        return _open_rtsp(address, options, cancelled, set() if said is None else said)
    if kind == "pictures":
        from stream_sr.sources.images import ImageSource
        from stream_sr.sources.opening import open_cancellable

        return open_cancellable(address, lambda given_up: ImageSource(Path(address), options), cancelled)
    if kind == "animated WebP":
        from stream_sr.sources.animation import AnimatedWebpSource

        return AnimatedWebpSource(Path(address), options)
    if kind == "standard input":
        from stream_sr.sources.y4m import Y4mSource

        return Y4mSource(options)
    if kind == "synthetic":
        from stream_sr.sources.synthetic import SyntheticSource, parse_scene

        return SyntheticSource(parse_scene(address), options)
    from stream_sr.sources.file import open_file

    return open_file(address, options, cancelled)


def open_reconnecting_source(
    address: str,
    options: SourceOptions = SourceOptions(),  # noqa: B008 - it is immutable
    *,
    give_up_seconds: float | None = None,
    cancelled: threading.Event | None = None,
) -> Source:
    """`open_source`, but a live input (a camera, a network stream) that is lost is tried again for so long; None: for
    ever, 0: not at all. See `reconnect.ReconnectingSource`. ``cancelled`` is for the opening now.
    """
    kind = kind_of(address) if address else ""
    if give_up_seconds == 0 or not is_live_address(address):
        return open_source(address, options, cancelled=cancelled)
    from stream_sr.sources.reconnect import ReconnectingSource

    _check_options(address, kind, options)
    once, said = replace(options, duration=None), set[str]()
    return ReconnectingSource(
        lambda cancelled: open_source(address, once, cancelled=cancelled, said=said),
        duration=options.duration,
        give_up_seconds=give_up_seconds,
        cancelled=cancelled,
    )


def is_live_address(address: str) -> bool:
    """Whether this is an input that may come back after it was lost."""
    from stream_sr.sources.file import LIVE_SCHEMES

    kind = kind_of(address) if address else ""
    return kind in ("rtsp", "webcam") or (kind == "url" and address.partition("://")[0] in LIVE_SCHEMES)


def _open_rtsp(address: str, options: SourceOptions, cancelled: threading.Event | None, said: set[str]) -> Source:
    """The low-delay reader, or, said with its reason, FFmpeg's, which holds every picture for one more."""
    from stream_sr.sources.rtsp import LowDelayUnsupported, open_rtsp

    try:
        return open_rtsp(address, options, cancelled=cancelled)
    except LowDelayUnsupported as reason:
        from stream_sr.sources.file import open_file

        if str(reason) not in said:
            said.add(str(reason))
            logger.warning("%s is read through FFmpeg, about one frame later: %s", redact(address), reason)
        return open_file(address, options, cancelled)


def applicable(address: str) -> frozenset[str]:
    """Names of the options that mean something for this address. Raises ConfigError for an address that is none."""
    return frozenset(APPLICABLE_OPTIONS[kind_of(address)])


def _check_options(address: str, kind: str, options: SourceOptions) -> None:
    for field in fields(options):
        value = getattr(options, field.name)
        if value != field.default and field.name not in APPLICABLE_OPTIONS[kind]:
            flag = "--" + field.name.replace("_", "-")
            raise ConfigError(f"{flag} does not apply to {redact(address)} ({kind})")
    if options.start is not None and options.start < 0:
        raise ConfigError(f"--start is {options.start:g}; it must be 0 or more seconds")
    if options.duration is not None and options.duration <= 0:
        raise ConfigError(f"--duration is {options.duration:g}; it must be more than 0 seconds")
    if options.read_timeout <= 0:
        raise ConfigError(f"--read-timeout is {options.read_timeout:g}; it must be more than 0 seconds")
