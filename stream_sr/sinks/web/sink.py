"""A page in the browser: input and output side by side, with a split line, figures and controls.

One frame holds both sides and is encoded once for all clients: H.264 as fragmented MP4 over a WebSocket for Media
Source Extensions, and JPEG for browsers without them. Nothing is composed or encoded while no client is connected.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import Any

import av
from av.error import FFmpegError
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import Colorspace, VideoReformatter

from stream_sr.codec import fmp4
from stream_sr.codec.decode import swscale_matrix
from stream_sr.codec.encoder import Encoder
from stream_sr.codec.picture import expect, picture_of
from stream_sr.codec.side_by_side import SideBySide, pair_shape
from stream_sr.errors import SinkOpenError, SinkWriteError
from stream_sr.pipeline.interfaces import Controls, EncoderOptions, SinkOptions
from stream_sr.pipeline.threads import LoopThread
from stream_sr.sinks.web.auth import WebAuth
from stream_sr.sinks.web.messages import FRAGMENT, HEADER, INIT, JPEG
from stream_sr.sinks.web.server import WebServer
from stream_sr.system.limits import codec_threads
from stream_sr.system.sockets import LOOPBACK, bind_refusal, listening_socket
from stream_sr.video.color import Range
from stream_sr.video.frame import Frame, StreamInfo
from stream_sr.video.planes import read_only

FORM = "write web:PORT for this machine, web:0.0.0.0:PORT for the network"
BACKLOG = 64  # connections that wait to be accepted
MAX_PENDING = 60  # messages handed over by `write`, not yet queued by the loop
JPEG_QUALITY = 3  # FFmpeg's scale, 2 is best
MAX_INTERVAL = 1.0  # seconds; a longer interval is a pause, not a frame rate
UNITS = Fraction(1, fmp4.TIMESCALE)

log = logging.getLogger("stream_sr")


class WebSink:
    """Serves a page at ``web:[HOST:]PORT``: to this machine only, unless a HOST says otherwise; port 0: a free one.

    See `interfaces.FrameSink`, `interfaces.CheckedSink` and `interfaces.Display`. Frame times are those of
    the page's stream: each frame begins where the one before it ends, because browsers stop at gaps.
    """

    paced = True
    with_source = True

    def __init__(self, address: str, options: SinkOptions) -> None:
        """Raises SinkOpenError for an invalid address; opens nothing."""
        self.host, self.port = _parse(address)
        self.name = f"web:{_bracketed(self.host)}:{self.port}"
        self._options = options
        self._socket: socket.socket | None = None
        self._loop: LoopThread | None = None
        self._server: WebServer | None = None
        self._controls: Controls | None = None
        self._info: StreamInfo | None = None
        self._stack: SideBySide | None = None
        self._encoder: Encoder | None = None
        self._jpeg: _JpegEncoder | None = None
        self._timeline = _Timeline()
        self._sequence = self._pending = 0
        self._lock = threading.Lock()  # of _pending
        self._skipping = self._closed = False

    @property
    def url(self) -> str:
        """The address for a browser: on this machine, or for one in the network where it is served there."""
        host = _own_address() if self.host in ("0.0.0.0", "::", "") else self.host
        return f"http://{_bracketed(host)}:{self.port}/"

    def check(self) -> None:
        """Take the port. Raises SinkOpenError."""
        if self._socket is not None:
            return
        try:
            self._socket = listening_socket(self.host, self.port, BACKLOG)
        except (OSError, OverflowError) as error:
            raise SinkOpenError(bind_refusal(self.name, self.host, self.port, error)) from error
        self.port = self._socket.getsockname()[1]
        self.name = f"web:{_bracketed(self.host)}:{self.port}"

    def take_controls(self, controls: Controls) -> None:
        """See `interfaces.Display`; a read-only page takes none."""
        self._controls = None if self._options.web_read_only else controls

    def open(self, info: StreamInfo) -> None:
        """Start to serve."""
        self.check()
        assert self._socket is not None
        options = self._options
        login = None
        if options.viewer_user is not None and options.viewer_password is not None:
            login = (options.viewer_user, options.viewer_password)
        auth = WebAuth(self.port, names=options.web_names, login=login)
        self._server = WebServer(auth, self._controls, options.max_viewers)
        self._loop = LoopThread("web page")
        self._loop.call(self._server.start(self._socket))
        self._info = info
        log.info("watch it in a browser: %s", self.url)
        if not _is_loopback(self.host) and not auth.has_password:
            may = "see the picture" if self._controls is None else "see the picture and use the controls"
            log.warning("%s: whoever reaches this machine can %s; --viewer-password asks for one", self.name, may)

    def write(self, frame: Frame) -> bool:
        """Show a frame that holds its source. Never waits for a client."""
        server, info = self._server, self._info
        if server is None or info is None or self._closed:
            raise SinkWriteError(f"{self.name} is not open")
        assert frame.source is not None
        time_, duration = self._timeline.add(frame)
        if not (server.wants_video or server.wants_jpeg):
            return True
        stack = self._stack_for(frame, info)
        planes = stack.compose(frame)
        both = Frame(
            read_only(planes),
            pts=time_,
            time_base=UNITS,
            duration=duration,
            number=frame.number,
            captured_ns=frame.captured_ns,
            color=stack.stream.color,
        )
        if server.wants_video:
            self._send_video(server, both)
        if server.wants_jpeg:
            self._send_jpeg(both)
        return True

    def show_figures(self, figures: Mapping[str, Any]) -> None:
        """See `interfaces.Display`."""
        server, loop = self._server, self._loop
        if server is not None and loop is not None and not self._closed:
            with contextlib.suppress(RuntimeError):  # `close` has ended the loop meanwhile
                loop.loop.call_soon_threadsafe(server.show_figures, figures)

    def close(self) -> None:
        """Disconnect all clients and free the port."""
        if self._closed:
            return
        self._closed = True
        try:
            if self._loop is not None and self._server is not None:
                self._loop.call(self._server.stop())
        finally:
            if self._loop is not None:
                self._loop.close()
            if self._socket is not None:
                self._socket.close()
            for encoder in (self._encoder, self._jpeg):
                if encoder is not None:
                    encoder.close()

    def _stack_for(self, frame: Frame, info: StreamInfo) -> SideBySide:
        """Return the composer for frames of this form; if its output differs, another stream begins."""
        before = self._stack
        if before is None or before.shape != pair_shape(frame):
            self._stack = SideBySide(frame, info)
            if before is None or before.stream != self._stack.stream:
                self._begin(self._stack)
        assert self._stack is not None
        return self._stack

    def _begin(self, stack: SideBySide) -> None:
        for encoder in (self._encoder, self._jpeg):
            if encoder is not None:
                encoder.close()
        layout, picture = stack.layout, stack.stream
        info = replace(picture, time_base=UNITS, live=True, name=self.name)
        self._encoder, self._jpeg = Encoder(info, EncoderOptions(), live=True), None
        log.info("%s: both sides in one stream of %dx%d, %s", self.name, *layout.size, layout.words)
        if stack.shrunk:
            log.warning(
                "%s: two pictures of this size are more than H.264 decoders take; they are shown smaller", self.name
            )
        stream = {
            "type": "stream",
            "mime": fmp4.mime_type(self._encoder.stream),
            "width": layout.width,
            "height": layout.height,
            "x": layout.x,
            "y": layout.y,
            "aspect": float(picture.sample_aspect),
        }
        init = HEADER.pack(INIT, 0, 0, 0) + fmp4.init_segment(self._encoder.stream)
        self._post(partial(WebServer.begin_stream, stream=stream, init=init))

    def _send_video(self, server: WebServer, both: Frame) -> None:
        assert self._encoder is not None
        for packet in self._encoder.encode(both, keyframe=server.take_keyframe_request()):
            if self._pending >= MAX_PENDING or (self._skipping and not packet.is_keyframe):
                self._skipping = True
                continue
            self._skipping = False
            self._sequence += 1
            part = fmp4.fragment(
                packet.data, sequence=self._sequence, time=packet.pts, duration=packet.duration, key=packet.is_keyframe
            )
            message = _header(FRAGMENT, both) + part
            self._post(partial(WebServer.send_frame, message=message, keyframe=packet.is_keyframe, jpeg=False))

    def _send_jpeg(self, both: Frame) -> None:
        if self._pending >= MAX_PENDING:
            return
        if self._jpeg is None:
            self._jpeg = _JpegEncoder(both.width, both.height)
        message = _header(JPEG, both) + self._jpeg.encode(both)
        self._post(partial(WebServer.send_frame, message=message, keyframe=True, jpeg=True))

    def _post(self, work: Callable[[WebServer], None]) -> None:
        """Run ``work(server)`` on the loop."""
        server, loop = self._server, self._loop
        assert server is not None
        assert loop is not None
        with self._lock:
            self._pending += 1

        def run() -> None:
            with self._lock:
                self._pending -= 1
            work(server)

        loop.loop.call_soon_threadsafe(run)


class _Timeline:
    """Times of the page's stream: each frame begins where the last one ended; its duration is the recent average."""

    def __init__(self) -> None:
        self._next = 0
        self._last: float | None = None  # presentation time of the last frame, seconds
        self._interval = 0.0

    def add(self, frame: Frame) -> tuple[int, int]:
        """Return start and duration of a frame, in `UNITS`."""
        between = frame.seconds - self._last if self._last is not None else float(frame.duration * frame.time_base)
        self._last = frame.seconds
        if 0 < between < MAX_INTERVAL:
            self._interval = between if not self._interval else 0.9 * self._interval + 0.1 * between
        duration = max(1, round((self._interval or 1 / 30) / UNITS))
        begin, self._next = self._next, self._next + duration
        return begin, duration


class _JpegEncoder:
    """FFmpeg's JPEG encoder: planar frames of full range, converted to the colours of JFIF (BT.601)."""

    def __init__(self, width: int, height: int) -> None:
        context = av.CodecContext.create("mjpeg", "w")
        assert isinstance(context, VideoCodecContext)
        context.width, context.height, context.pix_fmt = width, height, "yuvj420p"
        context.time_base = UNITS
        context.color_range = int(Range.FULL)
        context.qmin = context.qmax = JPEG_QUALITY
        context.thread_count = codec_threads()
        self._context: VideoCodecContext | None = context
        self._reformatter = VideoReformatter()

    def encode(self, frame: Frame) -> bytes:
        """Encode one frame. Raises SinkWriteError."""
        assert self._context is not None
        picture = self._reformatter.reformat(
            picture_of(frame.planes),
            format="yuvj420p",
            src_colorspace=swscale_matrix(frame.color.matrix),
            dst_colorspace=Colorspace.ITU601,
            src_color_range=Range.FULL,
            dst_color_range=Range.FULL,
            threads=codec_threads(),
        )
        expect(picture, self._context.width, self._context.height, "yuvj420p")  # PyAV would resize another one
        picture.pts, picture.time_base = frame.pts, UNITS
        try:
            return b"".join(bytes(packet) for packet in self._context.encode(picture))
        except (FFmpegError, ValueError) as error:
            raise SinkWriteError(f"the JPEG encoder failed: {error}") from error

    def close(self) -> None:
        self._context = None


def _header(kind: int, frame: Frame) -> bytes:
    captured = frame.captured_ns or time.monotonic_ns()
    return HEADER.pack(kind, frame.number & 0xFFFFFFFF, captured / 1e6, float(frame.pts * UNITS))


def _parse(address: str) -> tuple[str, int]:
    """Return host and port of ``web:[HOST:]PORT``; an IPv6 address stands in brackets."""
    host, _, port = address.removeprefix("web:").rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise SinkOpenError(f"'{address}' is no address of a page; an IPv6 address stands in brackets: web:[::1]:8080")
    if not (port.isascii() and port.isdecimal() and int(port) < 65536):
        raise SinkOpenError(f"'{address}' is no address of a page: '{port}' is no port, 0 to 65535; {FORM}")
    return host or LOOPBACK, int(port)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def _own_address() -> str:
    """Return the address of this machine in its network, as far as the system can tell; sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # RFC 5737: an address of nobody, for the choice of the interface
            return str(probe.getsockname()[0])
        except OSError:
            return LOOPBACK
