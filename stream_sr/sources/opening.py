"""Open an input in a thread that can be left, and open a container with FFmpeg with a clear error message.

FFmpeg's calls cannot be cancelled: they end after their timeouts (an opening after up to twice ``read_timeout``, the
look-up of a host name or the opening of a FIFO when the system returns). They release the interpreter's lock meanwhile,
but a thread inside one hears neither Ctrl-C nor an event. So each opening has a thread of its own, which is abandoned
when its caller must leave. Nothing is shared between two openings, so cancelling one cannot harm another.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import urlsplit

import av
from av.container import InputContainer

from stream_sr.codec.extent import lacks_index
from stream_sr.codec.metadata import METADATA_ERRORS
from stream_sr.codec.nvdec import open_with_decoder
from stream_sr.codec.still import demuxer_of
from stream_sr.errors import SourceLost, SourceOpenError
from stream_sr.pipeline.interfaces import Source, SourceOptions
from stream_sr.pipeline.threads import Abandonable

SILENT = (av.error.ExitError, av.error.TimeoutError)  # what a timeout looks like
LOOK_SECONDS = 0.1  # between looks at whether opening is still wanted
S = TypeVar("S", bound=Source)


def open_cancellable(name: str, open_it: Callable[[threading.Event], S], cancelled: threading.Event | None = None) -> S:
    """Return what ``open_it`` returns, or raise what it raises; it runs in a thread of its own.

    Leaves within ``LOOK_SECONDS`` once ``cancelled`` is set (SourceLost), and at once when a signal handler raises
    here. The thread is then abandoned (`threads.Abandonable`): the event that ``open_it`` was given is set, which asks
    it to give up between two native calls, and what it returns later is closed in its thread.
    """
    given_up, done, lock = threading.Event(), threading.Event(), threading.Lock()
    found: list[S] = []

    def work() -> None:
        try:
            source = open_it(given_up)
            with lock:
                if not given_up.is_set():
                    found.append(source)
                    return
            source.close()
        finally:
            done.set()

    thread: Abandonable | None = None
    try:
        thread = Abandonable("open", work)
        while not done.wait(LOOK_SECONDS):
            if cancelled is not None and cancelled.is_set():
                raise SourceLost(f"{name}: the opening was cancelled")
        thread.join()
    except BaseException:
        with lock:
            given_up.set()
        for source in found:
            source.close()
        if thread is not None:
            thread.abandon()
        raise
    if thread.error is not None:
        raise thread.error
    return found[0]


def open_container(address: str, options: SourceOptions, name: str) -> InputContainer:
    """Return the open container. Raises SourceOpenError."""
    remote = "://" in address
    settings: dict[str, str] = {}
    timeout: tuple[float, float] | None = None
    if remote:
        timeout = (options.read_timeout, options.read_timeout)
        if address.startswith("rtsp"):
            settings = {"rtsp_transport": options.rtsp_transport, "analyzeduration": "0", "probesize": "32"}
    try:
        # "file:" keeps FFmpeg from reading a name with a colon as a protocol.
        place = address if remote else f"file:{address}"
        kind = None if remote else demuxer_of(address)
        return open_with_decoder(
            options.decoder,
            lambda hardware: av.open(
                place,
                "r",
                format=kind,
                options=settings,
                timeout=timeout,
                hwaccel=hardware,
                metadata_errors=METADATA_ERRORS,
            ),
        )
    except (av.FFmpegError, OSError, ValueError) as error:
        raise SourceOpenError(_why_not(address, name, error)) from error


def refuse_bad_port(url: str, name: str) -> None:
    """Raise SourceOpenError for a URL whose port is not a number from 0 to 65535."""
    try:
        _ = urlsplit(url).port
    except ValueError as error:
        raise SourceOpenError(f"{name} is no address: {error}") from error


def _why_not(address: str, name: str, error: Exception) -> str:
    reason = getattr(error, "strerror", None) or type(error).__name__
    if isinstance(error, FileNotFoundError):
        return f"no such file: {name}"
    if "://" in address:
        if isinstance(error, SILENT):
            return f"{name} does not answer"
        if isinstance(error, av.ProtocolNotFoundError):
            reason = "FFmpeg knows no such protocol; give a file, rtsp://, http:// or https://, or a camera's number"
        return f"cannot open {name}: {reason}"
    with contextlib.suppress(OSError):
        if not os.path.isfile(address):
            return f"{name} is neither a file nor a folder, and what comes from it is not a video"
        if os.path.getsize(address) == 0:
            return f"{name} is empty"
        if lacks_index(address):
            return f"{name} has no index (moov): it is truncated, or its recording was never finished"
    return f"{name} is not a video that can be read ({reason})"
