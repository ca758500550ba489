"""The options of a run: one field each, with all that flags, environment, TOML files, help and docs need of it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TypeVar

from stream_sr.config.kinds import BITRATE, FOLDER, MODEL, SIZE, SWITCH, WORD, choice, number, whole
from stream_sr.config.option import Group, Need, Option, option, options_of
from stream_sr.errors import ConfigError
from stream_sr.inference.model import WEIGHTS
from stream_sr.pipeline.engine import LIVE_FIDELITY, QUALITY_FIDELITY, EngineOptions
from stream_sr.pipeline.interfaces import EncoderOptions, SinkOptions, SourceOptions

BACKENDS = ("auto", "tensorrt", "openvino", "torch-cuda", "torch", "bicubic")
PRECISIONS = ("auto", "fp32", "fp16", "bf16", "int8")
ENCODERS = ("auto", "h264_nvenc", "hevc_nvenc", "libx264")
# Defaults are those of the contracts below, where these have the option too.
ENGINE, SOURCE, SINK, ENCODER = EngineOptions(), SourceOptions(), SinkOptions(), EncoderOptions()
# A stronger layer that names one of these takes the other away from the weaker ones.
RIVALS = (("crf", "bitrate"), ("size", "scale"))

T = TypeVar("T", SourceOptions, SinkOptions, EncoderOptions, EngineOptions)


@dataclass(frozen=True, kw_only=True)
class Config:
    """All options of a run, validated. None: the default of the place where it is used."""

    # -- engine
    model: str | None = option(
        None,
        MODEL,
        "auto: for a live input the largest that keeps up, at every moment; for a file the largest",
        unset="the one marked in `stream-sr models`",
        group=Group.ENGINE,
    )
    scale: int | None = option(None, whole(1, 4, "1|2|3|4"), "enlargement", unset="2", group=Group.ENGINE)
    weights: str | None = option(
        None,
        choice(*WEIGHTS),
        "weights for clean pictures or for cameras",
        unset="camera if the input is live",
        group=Group.ENGINE,
    )
    backend: str = option(ENGINE.backend, choice(*BACKENDS), "what computes", group=Group.ENGINE)
    precision: str = option(
        ENGINE.precision, choice(*PRECISIONS), "of the computation; int8 is for OpenVINO", group=Group.ENGINE
    )
    device: int = option(ENGINE.device, whole(0, 63), "number of the GPU", unset="0", group=Group.ENGINE)
    threads: int | None = option(
        ENGINE.threads,
        whole(1, 1024),
        "CPU threads of the engine",
        unset="all cores, or fewer where that was measured to be faster",
        group=Group.ENGINE,
    )
    stall_timeout: float = option(
        60.0,
        number(1, 1e6),
        "end a live run (`serve` starts it again) when engine or encoder work on one frame for so long",
        group=Group.ENGINE,
        need=Need.RESTART,
    )

    # -- input: `sources` knows to which kinds of input these apply
    start: float | None = option(SOURCE.start, number(0, 1e9), "start at this time of the file", group=Group.INPUT)
    duration: float | None = option(SOURCE.duration, number(0.001, 1e9), "end after this time", group=Group.INPUT)
    rtsp_transport: str = option(SOURCE.rtsp_transport, choice("tcp", "udp"), "of an RTSP input", group=Group.INPUT)
    decoder: str = option(
        SOURCE.decoder,
        choice("auto", "cuda", "cpu"),
        "video decoder of a file or of FFmpeg's demuxer",
        group=Group.INPUT,
    )
    read_timeout: float = option(
        SOURCE.read_timeout, number(0.1, 3600), "a live input silent for so long is lost", group=Group.INPUT
    )
    reconnect: float | None = option(
        SINK.reconnect,
        number(0, 1e9),
        "try for so long to get a live input, or a server, back",
        unset="for ever; 0: not at all",
        group=Group.INPUT,
        need=Need.LOSABLE,
    )
    capture_size: tuple[int, int] | None = option(
        SOURCE.capture_size, SIZE, "frame size requested from a webcam", group=Group.INPUT
    )
    capture_fps: float | None = option(
        SOURCE.capture_fps, number(0.1, 1000, "FPS"), "frame rate requested from a webcam", group=Group.INPUT
    )
    fourcc: str | None = option(
        SOURCE.fourcc, WORD, "pixel format requested from a webcam, such as MJPG", metavar="CODE", group=Group.INPUT
    )

    # -- output
    size: tuple[int, int] | None = option(
        None, SIZE, "fit the output into this size, keeping the shape of the picture", group=Group.OUTPUT
    )
    max_latency: float = option(
        500.0,
        number(1, 1e6, "MS"),
        "maximum age of a live frame before inference, since its capture; an older frame is dropped",
        group=Group.OUTPUT,
        need=Need.LIVE_INPUT,
    )
    encoder: str = option(
        ENCODER.encoder, choice(*ENCODERS), "video encoder", group=Group.OUTPUT, need=Need.ENCODED_OUTPUT
    )
    crf: float | None = option(
        ENCODER.crf,
        number(0, 51, "N"),
        "constant quality of the encoder, 0 is lossless",
        unset="18 for files",
        group=Group.OUTPUT,
        need=Need.ENCODED_OUTPUT,
    )
    bitrate: int | None = option(
        ENCODER.bitrate,
        BITRATE,
        "bit rate of the encoder, such as 4M",
        group=Group.OUTPUT,
        need=Need.ENCODED_OUTPUT,
    )
    encoder_preset: str | None = option(
        ENCODER.preset,
        WORD,
        "speed of the encoder, such as ultrafast or slow",
        group=Group.OUTPUT,
        need=Need.ENCODED_OUTPUT,
    )
    gop: int | None = option(
        ENCODER.gop, whole(1, 100_000), "frames between keyframes", group=Group.OUTPUT, need=Need.ENCODED_OUTPUT
    )
    audio: str = option(
        SINK.audio,
        choice("copy", "aac", "none"),
        "of the source, and a file's subtitles: copy (AAC where the output cannot hold it), aac, none",
        group=Group.OUTPUT,
        need=Need.ENCODED_OUTPUT,
    )
    overwrite: bool = option(
        SINK.overwrite, SWITCH, "replace an existing output file", group=Group.OUTPUT, need=Need.FILE_OUTPUT
    )
    viewer_user: str | None = option(
        SINK.viewer_user,
        WORD,
        "user name that our RTSP server and the page ask for",
        unset="everybody may watch",
        group=Group.OUTPUT,
        need=Need.SERVED_OUTPUT,
    )
    viewer_password: str | None = option(
        SINK.viewer_password,
        WORD,
        "password of this user; better in the environment or in a file",
        metavar="WORD",
        group=Group.OUTPUT,
        need=Need.SERVED_OUTPUT,
        repr=False,
    )
    max_viewers: int = option(
        SINK.max_viewers,
        whole(1, 1000),
        "maximum number of viewers of each stream that is served",
        group=Group.OUTPUT,
        need=Need.SERVED_OUTPUT,
    )

    # -- page and window
    web_read_only: bool = option(
        SINK.web_read_only,
        SWITCH,
        "the page shows everything and changes nothing",
        group=Group.DISPLAY,
        need=Need.PAGE,
    )
    web_name: str | None = option(
        None,
        WORD,
        "host name under which the page may be opened, besides IP addresses and this machine's own name",
        metavar="HOST",
        group=Group.DISPLAY,
        need=Need.PAGE,
    )
    record_dir: Path | None = option(
        SINK.record_dir,
        FOLDER,
        "let the page or window start and stop recordings, into this folder",
        group=Group.DISPLAY,
        need=Need.DISPLAY,
    )

    # -- no options
    asked: frozenset[str] = field(default=frozenset(), compare=False)  # options given for this very run: flags
    cameras: int = field(default=ENGINE.cameras, compare=False)  # how many streams the process runs

    def __post_init__(self) -> None:
        if self.crf is not None and self.bitrate is not None:
            raise ConfigError("--crf and --bitrate exclude each other; give constant quality or a bit rate")
        if self.size is not None and self.scale is not None:
            raise ConfigError("--size and --scale exclude each other; --size chooses the scale")
        if (self.viewer_user is None) != (self.viewer_password is None):
            raise ConfigError("--viewer-user and --viewer-password belong together; give both, or none for everybody")
        if self.backend == "bicubic" and self.model is not None:
            raise ConfigError(f"--backend bicubic uses no network; leave out --model {self.model}")

    def refuse(self, names: Collection[str], why: str) -> None:
        """Raise ConfigError if one of these options was given for this run: it would do nothing."""
        idle = [f"--{name.replace('_', '-')}" for name in sorted(self.asked & set(names))]
        if idle:
            raise ConfigError(f"{', '.join(idle)} would do nothing: {why}")

    def refuse_without(self, need: Need, why: str) -> None:
        """Raise ConfigError if an option that needs this was given for this run: the run does not have it."""
        self.refuse({one.key for one in RUN_OPTIONS if one.need is need}, why)

    def source_options(self, applicable: Collection[str]) -> SourceOptions:
        """Options for an input to which ``applicable`` ones apply; others count only if they were given for this run.

        So a timeout in the environment or in a file does not stand in the way of opening a film.
        """
        chosen = [part.name for part in fields(SourceOptions) if part.name in applicable or part.name in self.asked]
        return SourceOptions(**{name: getattr(self, name) for name in chosen})

    @property
    def encoder_options(self) -> EncoderOptions:
        return self._part(EncoderOptions, preset=self.encoder_preset)

    def sink_options(self, source: str) -> SinkOptions:
        """``source`` is the address of the input."""
        return self._part(SinkOptions, source=source, web_names=(self.web_name,) if self.web_name else ())

    def engine_options(self, *, depth: int, live: bool = False) -> EngineOptions:
        """``live`` runs take the faster precision where the eye sees no difference, others only where PSNR does not."""
        return self._part(EngineOptions, depth=depth, fidelity=LIVE_FIDELITY if live else QUALITY_FIDELITY)

    def _part(self, kind: type[T], **others: object) -> T:
        """The options that ``kind`` has too, under the same name, and ``others``."""
        own = {part.name for part in fields(self)}
        same = {part.name: getattr(self, part.name) for part in fields(kind) if part.name in own}
        return kind(**(same | others))


RUN_OPTIONS: tuple[Option, ...] = options_of(Config)


def in_groups(*groups: Group) -> tuple[Option, ...]:
    """The options of a run in these groups."""
    return tuple(one for one in RUN_OPTIONS if one.group in groups)
