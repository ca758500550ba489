"""Opening by FFmpeg, in words of ours where it fails, and so that it can be given up.

FFmpeg's calls end by themselves only after their timeouts, and hold Ctrl-C up meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TypeVar
from urllib.parse import urlsplit

import av
from av.container import InputContainer

from stream_sr.codec.extent import lacks_index
from stream_sr.codec.nvdec import open_with_decoder
from stream_sr.codec.sockets import open_sockets, shut_down, tcp_peers
from stream_sr.codec.still import demuxer_of
from stream_sr.errors import SourceLost, SourceOpenError
from stream_sr.media import Source, SourceOptions
from stream_sr.threads import Worker

PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443, "rtmp": 1935, "rtmps": 443}
SILENT = (av.error.ExitError, av.error.TimeoutError)  # what a timeout looks like
LOOK_SECONDS = 0.1  # between looks at whether opening is still wanted
S = TypeVar("S", bound=Source)


def open_freely(name: str, port: int | None, open_it: Callable[[], S], cancelled: threading.Event | None = None) -> S:
    """What ``open_it`` returns or raises; it runs in a thread, so that this one hears Ctrl-C.

    Once ``cancelled`` is set, or a signal handler raises here, the TCP connections that it makes to ``port`` are shut
    down (Linux), upon which FFmpeg gives up; SourceLost, or what the handler raised, comes out. Where it waits for
    something else (a name server, UDP) that takes until its timeouts.
    """
    before = open_sockets()
    done = threading.Event()
    found: list[S] = []

    def work() -> None:
        try:
            found.append(open_it())
        finally:
            done.set()

    worker = Worker("open", work)
    try:
        while not done.wait(LOOK_SECONDS):
            if cancelled is not None and cancelled.is_set():
                raise SourceLost(f"{name} was given up")
    except BaseException:
        while not worker.join(LOOK_SECONDS):  # what it opens next is shut down too
            peers = tcp_peers()
            for descriptor, identity in open_sockets().items():
                if before.get(descriptor) != identity and port is not None and peers.get(identity) == port:
                    shut_down(descriptor)
        for source in found:
            source.close()
        raise
    worker.join()
    if worker.error is not None:
        raise worker.error
    return found[0]


class Claims:
    """Which sockets belong to which open container, as far as that is known. Thread-safe.

    Nobody tells whose a socket is that FFmpeg opened: where two inputs at one port are opened in the same moment, the
    first may take the other's for its own too. What two claim is left alone until one of them has given it back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = Counter[str]()  # by the identity of the socket

    def take(self, sockets: Mapping[int, str]) -> None:
        """Claim these (descriptor to identity)."""
        with self._lock:
            self._counts.update(sockets.values())

    def give_back(self, sockets: Mapping[int, str]) -> None:
        """Those that were taken."""
        with self._lock:
            self._counts -= Counter(sockets.values())

    def shut_down(self, sockets: Mapping[int, str]) -> None:
        """Free who waits for one of these, but for those that another claims too."""
        with self._lock:
            for descriptor, identity in open_sockets().items():
                if sockets.get(descriptor) == identity and self._counts[identity] <= 1:
                    shut_down(descriptor)


claims = Claims()


def open_container(address: str, options: SourceOptions, name: str) -> tuple[InputContainer, dict[int, str]]:
    """The open container, and the sockets that it opened (descriptor to identity)."""
    remote = "://" in address
    settings: dict[str, str] = {}
    timeout: tuple[float, float] | None = None
    if remote:
        timeout = (options.read_timeout, options.read_timeout)
        if address.startswith("rtsp"):
            settings = {"rtsp_transport": options.rtsp_transport, "analyzeduration": "0", "probesize": "32"}
    before = open_sockets() if remote else {}
    try:
        port = port_of(address) if remote else None
        # "file:" keeps FFmpeg from reading a name with a colon as a protocol.
        place = address if remote else f"file:{address}"
        kind = None if remote else demuxer_of(address)
        container = open_with_decoder(
            options.decoder,
            lambda hardware: av.open(place, "r", format=kind, options=settings, timeout=timeout, hwaccel=hardware),
        )
    except (av.FFmpegError, OSError, ValueError) as error:
        raise SourceOpenError(_why_not(address, name, error)) from error
    after, peers = (open_sockets(), tcp_peers()) if remote and port is not None else ({}, {})
    mine = {fd: link for fd, link in after.items() if before.get(fd) != link and peers.get(link) == port}
    return container, mine


def port_of(url: str) -> int | None:
    """Where FFmpeg will connect to; None where that is not known. Raises ValueError for what is no port."""
    return urlsplit(url).port or PORTS.get(url.partition("://")[0])


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
