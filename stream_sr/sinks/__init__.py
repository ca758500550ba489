"""Outputs: each takes frames or encoded packets. `open_sink` finds the sink for an address, and imports it then.

Contains `file`, `record`, `restarting`, `rtsp_server`, `rtsp_publish`, `window`, `web`, `v4l2`, `y4m`, `null`. A new
sink fulfils `FrameSink` or `PacketSink` of `pipeline.interfaces`. May import `rtsp`, `codec` and below, never
`sources`. Start reading here.
"""

from __future__ import annotations

import re
from pathlib import PurePath

from stream_sr.errors import ConfigError
from stream_sr.pipeline.interfaces import CheckedSink, FrameSink, PacketSink, SinkOptions
from stream_sr.system.printable import redact

ADDRESSES = (
    ("FILE.mp4, .m4v, .mov, .mkv, .ts", "a video file, with the audio and subtitles of the input"),
    ("rtsp://host[:port]/path", "publish to an RTSP server"),
    ("rtsp://@:8654/path", "serve it ourselves as RTSP to this machine; rtsp://@0.0.0.0:8654/path to the network"),
    ("window:", "a window"),
    ("web:[HOST:]PORT", "a page for browsers, on this machine; web:0.0.0.0:PORT for the network"),
    ("v4l2:/dev/videoN", "a virtual camera (v4l2loopback), for calls and OBS"),
    ("-", "y4m on standard output, e.g. for | x264 --demuxer y4m -o out.264 -"),
    ("null:", "nowhere"),
)


def is_served(address: str) -> bool:
    """Whether our own RTSP server is meant."""
    return address.startswith("rtsp://@")


def is_file(address: str) -> bool:
    """Whether a file is meant: none of the other forms."""
    return address not in ("", "-") and re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", address) is None


def is_page(address: str) -> bool:
    """Whether our page for browsers is meant."""
    return address.startswith("web:")


def is_published(address: str) -> bool:
    """Whether another RTSP server is meant."""
    return address.startswith("rtsp://") and not is_served(address)


def check_address(address: str, options: SinkOptions) -> FrameSink | PacketSink:
    """The sink, unopened. Raises ConfigError or SinkOpenError for what no sink can ever take, such as an unknown form
    of address, the ending of a file, or a name that no file can have."""
    sink = construct(address, options)
    if is_file(address):
        from stream_sr.sinks.file import CONTAINERS, ending_refused
        from stream_sr.sinks.restarting import part_name

        if PurePath(address).suffix.lower() not in CONTAINERS:
            raise ConfigError(ending_refused(address))
        part_name(address)
    return sink


def claim(address: str) -> tuple[str, int, str | None] | None:
    """Host, port and path (None: the whole port) at which this output will listen; None where it does not."""
    if is_served(address):
        from stream_sr.sinks.rtsp_server import RtspServerSink

        server = RtspServerSink(address)
        return server.host, server.port, server.path
    if is_page(address):
        from stream_sr.sinks.web.sink import WebSink

        page = WebSink(address, SinkOptions())
        return page.host, page.port, None
    return None


def check_folder_of(address: str) -> None:
    """Raise SinkOpenError unless files can be made where this recording is to lie."""
    from stream_sr.sinks.restarting import RestartingFile

    RestartingFile(address, SinkOptions()).check()


def open_sink(address: str, options: SinkOptions) -> FrameSink | PacketSink:
    """The sink for an address, checked as far as is possible before any work; its `open` starts it.

    Raises ConfigError for an address that is none of `ADDRESSES`, SinkOpenError for an output that cannot be opened.
    """
    sink = construct(address, options)
    if isinstance(sink, CheckedSink):
        sink.check()
    return sink


def construct(address: str, options: SinkOptions) -> FrameSink | PacketSink:
    """The sink, unchecked. Raises ConfigError for an address that is none of `ADDRESSES`."""
    if address == "null:":
        from stream_sr.sinks.null import NullSink

        return NullSink()
    if address == "-":
        from stream_sr.sinks.y4m import Y4mSink

        return Y4mSink()
    if address == "window:":
        from stream_sr.sinks.window import WindowSink

        return WindowSink(options)
    if address.startswith("v4l2:"):
        from stream_sr.sinks.v4l2 import V4l2Sink

        return V4l2Sink(address)
    if is_page(address):
        from stream_sr.sinks.web.sink import WebSink

        return WebSink(address, options)
    if is_served(address):
        from stream_sr.sinks.rtsp_server import RtspServerSink

        return RtspServerSink(address, options)
    if is_published(address):
        from stream_sr.sinks.rtsp_publish import RtspPublishSink

        return RtspPublishSink(address, options)
    if not is_file(address):
        forms = "; ".join(form for form, _ in ADDRESSES)
        raise ConfigError(f"the output {redact(address)!r} is none that we know; it is one of: {forms}")
    from stream_sr.sinks.file import FileSink

    return FileSink(address, options)
