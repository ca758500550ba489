"""Options: one table of what there is, and how flags, environment and a TOML file become one validated value.

Precedence: flag, then ``STREAM_SR_<NAME>`` in the environment, then the file given with ``--config``, then the default.
"""

from __future__ import annotations

import logging
import math
import os
import stat
import tomllib
import unicodedata
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from stream_sr.errors import ConfigError
from stream_sr.inference.model import WEIGHTS
from stream_sr.pipeline.engine import LIVE_FIDELITY, QUALITY_FIDELITY, EngineOptions
from stream_sr.pipeline.interfaces import MOST_SIDE, EncoderOptions, SinkOptions, SourceOptions
from stream_sr.system.files import open_without_waiting

log = logging.getLogger("stream_sr")
PREFIX = "STREAM_SR_"
NO_OPTIONS = ("STREAM_SR_CACHE", "STREAM_SR_REQUIRE_PEERS")  # of the cache, of the tests

BACKENDS = ("auto", "tensorrt", "openvino", "torch-cuda", "torch", "bicubic")
PRECISIONS = ("auto", "fp32", "fp16", "bf16", "int8")
MOST_FILE_BYTES = 1 << 20
MOST_LINE = 8192  # characters of a line: the time to read a dotted key grows with the square of its length
MOST_DOTS = 32  # in a line in front of an equals sign
MOST_TEXT = 2048  # characters of a value
MOST_SHOWN = 80  # characters of a value that a message repeats
MOST_NUMBER = 1 << 63
LEAST_SIDE = 16  # pixels, of a wished size: no encoder takes a few pixels


def size(text: str) -> tuple[int, int]:
    """``640x360`` as (width, height)."""
    width, _, height = text.lower().partition("x")
    sides = [int(side) for side in (width, height) if side.isdecimal()]
    if len(sides) < 2 or min(sides) < LEAST_SIDE or max(sides) > MOST_SIDE:
        raise ValueError(f"a size like 640x360, from {LEAST_SIDE}x{LEAST_SIDE} to {MOST_SIDE}x{MOST_SIDE}")
    return int(width), int(height)


def bitrate(text: str) -> int:
    """A bit rate like 4M or 800k, or a number of bit/s."""
    unit = {"k": 1_000, "m": 1_000_000}.get(text[-1:].lower(), 1)
    value = float(text[:-1] if unit > 1 else text) * unit
    if not (math.isfinite(value) and value >= 1000):
        raise ValueError("a bit rate like 4M or 800k")
    return round(value)


def whole(low: int, high: int) -> Callable[[str], int]:
    """A whole number from ``low`` to ``high``."""

    def parse(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return value

    parse.__doc__ = f"a whole number from {low} to {high}"
    return parse


def number(low: float, high: float) -> Callable[[str], float]:
    """A number from ``low`` to ``high``."""

    def parse(text: str) -> float:
        value = float(text)
        if not low <= value <= high:
            raise ValueError(f"a number from {low:g} to {high:g}")
        return value

    parse.__doc__ = f"a number from {low:g} to {high:g}"
    return parse


def switch(text: str) -> bool:
    """``true`` or ``false``."""
    try:
        return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[text.lower()]
    except KeyError:
        raise ValueError("true or false") from None


def word(text: str) -> str:
    """text in UTF-8"""
    if not text.isprintable():  # surrogates stand for bytes of an argument or variable that are no UTF-8
        raise ValueError("a text in UTF-8 without control characters")
    return text


def shown(value: str, most: int = MOST_SHOWN) -> str:
    """A value as a message repeats it: shortened to ``most`` characters, and what is not printable escaped."""
    short = value if len(value) <= most else f"{value[:most]}..."
    return short if short.isprintable() else ascii(short)[1:-1]


def refuse_control_characters(text: str, where: str) -> None:
    """Raise ConfigError for NUL, newline, escape and the like, and for a text that is too long for any option."""
    if len(text) > MOST_TEXT:
        raise ConfigError(f"{where}: '{shown(text)}' has {len(text)} characters; at most {MOST_TEXT} are allowed")
    if any(unicodedata.category(letter) == "Cc" for letter in text):
        raise ConfigError(f"{where}: '{shown(text)}' holds a control character; leave it out")


@dataclass(frozen=True)
class Option:
    """One option: ``--name``, ``STREAM_SR_NAME``, ``name`` in the file."""

    name: str
    help: str
    parse: Callable[[str], Any] = str
    metavar: str | None = None
    choices: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        return self.name.replace("-", "_")

    def read(self, text: str, where: str) -> Any:
        """The value of a text. Raises ConfigError that says what is allowed."""
        refuse_control_characters(text, where)
        if self.choices and text not in self.choices:
            raise ConfigError(f"{where}: '{shown(text)}' is not one of {', '.join(self.choices)}")
        try:
            return self.parse(text)
        except (ValueError, OverflowError) as error:
            allowed = self.parse.__doc__ or str(error)
            allowed = allowed[:1].lower() + allowed[1:]
            allowed = str(error) if str(error).startswith(("a ", "true")) else allowed
            raise ConfigError(f"{where}: '{shown(text)}' is not {allowed.rstrip('.')}") from error


ENGINE_OPTIONS = (
    Option("model", "auto: for a live input the largest that keeps up, at every moment; for a file the largest "
           "(default: the one marked in `stream-sr models`)", metavar="NAME|FILE.onnx|auto"),
    Option("scale", "enlargement (default 2)", whole(1, 4), "1|2|3|4"),
    Option("weights", "for clean pictures or for cameras (default: camera if the input is live)", choices=WEIGHTS),
    Option("backend", "what computes (default auto)", choices=BACKENDS),
    Option("precision", "of the computation (default auto); int8 is for OpenVINO", choices=PRECISIONS),
    Option("device", "number of the GPU (default 0)", whole(0, 63), "N"),
    Option("threads", "CPU threads of the engine (default: all cores, or fewer where that was measured to be faster)",
           whole(1, 1024), "N"),
    Option("stall-timeout", "a live run ends, and `serve` starts it again, when engine or encoder work on one frame "
           "for so long (default 60)", number(1, 1e6), "SECONDS"),
)  # fmt: skip
SOURCE_OPTIONS = (
    Option("start", "start at this time of the file", number(0, 1e9), "SECONDS"),
    Option("duration", "end after this time", number(0.001, 1e9), "SECONDS"),
    Option("rtsp-transport", "of an RTSP input (default tcp)", choices=("tcp", "udp")),
    Option("decoder", "video decoder of a file or of FFmpeg's demuxer (default auto)", choices=("auto", "cuda", "cpu")),
    Option("read-timeout", "a live input silent for so long is lost (default 5)", number(0.1, 3600), "SECONDS"),
    Option(
        "reconnect",
        "try for so long to get a live input, or a server, back (default: for ever; 0: not at all)",
        number(0, 1e9),
        "SECONDS",
    ),
    Option("capture-size", "picture size asked of a webcam", size, "WxH"),
    Option("capture-fps", "frame rate asked of a webcam", number(0.1, 1000), "FPS"),
    Option("fourcc", "pixel format asked of a webcam, such as MJPG", parse=word, metavar="CODE"),
)
OUTPUT_OPTIONS = (
    Option("size", "fit the output into this size, keeping the shape of the picture", size, "WxH"),
    Option("max-latency", "drop live frames older than this before the engine works on them (default 500)",
           number(1, 1e6), "MS"),
    Option("encoder", "video encoder (default auto)", choices=("auto", "h264_nvenc", "hevc_nvenc", "libx264")),
    Option("crf", "constant quality of the encoder, 0 is lossless (default for files: 18)", number(0, 51), "N"),
    Option("bitrate", "bit rate of the encoder, such as 4M", bitrate, "RATE"),
    Option("encoder-preset", "speed of the encoder, such as ultrafast or slow", parse=word, metavar="NAME"),
    Option("gop", "frames between keyframes", whole(1, 100_000), "N"),
    Option(
        "audio", "of the source, and a file's subtitles: copy (AAC where the output cannot hold it), aac, none",
        choices=("copy", "aac", "none"), metavar="copy|aac|none",
    ),
    Option("viewer-user", "whom our RTSP server and the page let in (default: everybody)", parse=word, metavar="NAME"),
    Option("viewer-password", "that this user has to prove; better in the environment or in a file", parse=word,
           metavar="WORD"),
    Option("max-viewers", "at once, of each stream that is served (default 64)", whole(1, 1000), "N"),
)  # fmt: skip
DISPLAY_OPTIONS = (
    Option("web-read-only", "the page shows everything and changes nothing", switch),
    Option(
        "web-name",
        "name under which the page may be opened, besides IP addresses and this machine's own",
        parse=word,
        metavar="HOST",
    ),
    Option("record-dir", "let the page or window start and stop recordings, into this folder", Path, "DIR"),
)
RUN_OPTIONS = ENGINE_OPTIONS + SOURCE_OPTIONS + OUTPUT_OPTIONS + DISPLAY_OPTIONS


@dataclass(frozen=True, kw_only=True)
class Config:
    """All options of a run, validated. None: the default of the place where it is used."""

    model: str | None = None
    scale: int | None = None
    weights: str | None = None
    backend: str = "auto"
    precision: str = "auto"
    device: int = 0
    threads: int | None = None
    stall_timeout: float = 60.0
    start: float | None = None
    duration: float | None = None
    rtsp_transport: str = "tcp"
    read_timeout: float = 5.0
    decoder: str = "auto"
    reconnect: float | None = None  # seconds; None: for ever
    capture_size: tuple[int, int] | None = None
    capture_fps: float | None = None
    fourcc: str | None = None
    size: tuple[int, int] | None = None
    max_latency: float = 500.0  # ms
    encoder: str = "auto"
    crf: float | None = None
    bitrate: int | None = None
    encoder_preset: str | None = None
    gop: int | None = None
    audio: str = "copy"
    viewer_user: str | None = None
    viewer_password: str | None = field(default=None, repr=False)
    max_viewers: int = 64
    overwrite: bool = False
    web_read_only: bool = False
    web_name: str | None = None
    record_dir: Path | None = None
    asked: frozenset[str] = field(default=frozenset(), compare=False)  # options given for this very run: flags
    cameras: int = field(default=1, compare=False)  # no option: how many streams the process runs

    def __post_init__(self) -> None:
        if self.crf is not None and self.bitrate is not None:
            raise ConfigError("--crf and --bitrate exclude each other; give constant quality or a bit rate")
        if self.size is not None and self.scale is not None:
            raise ConfigError("--size and --scale exclude each other; --size chooses the scale")
        if (self.viewer_user is None) != (self.viewer_password is None):
            raise ConfigError("--viewer-user and --viewer-password belong together; give both, or none for everybody")
        if self.backend == "bicubic" and self.model is not None:
            raise ConfigError(f"--backend bicubic uses no network; leave out --model {self.model}")

    def source_options(self, applicable: Collection[str]) -> SourceOptions:
        """Options for an input to which ``applicable`` ones apply; others count only if they were asked for.

        So a timeout in the environment or in a file does not stand in the way of opening a film.
        """
        wanted = [part.name for part in fields(SourceOptions) if part.name in applicable or part.name in self.asked]
        return SourceOptions(**{name: getattr(self, name) for name in wanted})

    def refuse(self, names: Collection[str], why: str) -> None:
        """Raise ConfigError if one of these options was asked for: it would do nothing."""
        idle = [f"--{name.replace('_', '-')}" for name in sorted(self.asked & set(names))]
        if idle:
            raise ConfigError(f"{', '.join(idle)} would do nothing: {why}")

    @property
    def encoder_options(self) -> EncoderOptions:
        return EncoderOptions(
            encoder=self.encoder, crf=self.crf, bitrate=self.bitrate, preset=self.encoder_preset, gop=self.gop
        )

    def sink_options(self, source: str) -> SinkOptions:
        return SinkOptions(
            overwrite=self.overwrite,
            audio=self.audio,
            source=source,
            reconnect=self.reconnect,
            viewer_user=self.viewer_user,
            viewer_password=self.viewer_password,
            max_viewers=self.max_viewers,
            record_dir=self.record_dir,
            web_read_only=self.web_read_only,
            web_names=(self.web_name,) if self.web_name else (),
        )

    def engine_options(self, *, depth: int, live: bool = False) -> EngineOptions:
        """``live`` runs take the faster precision where the eye sees no difference, others only where PSNR does not."""
        return EngineOptions(
            backend=self.backend,
            precision=self.precision,
            device=self.device,
            threads=self.threads,
            depth=depth,
            cameras=self.cameras,
            fidelity=LIVE_FIDELITY if live else QUALITY_FIDELITY,
        )


# a stronger layer that names one of these takes the other away from the weaker ones
RIVALS = (("crf", "bitrate"), ("size", "scale"))


def file_options() -> dict[str, Option]:
    """What may stand in a file or in the environment, by key."""
    return {option.key: option for option in RUN_OPTIONS} | {"overwrite": Option("overwrite", "", switch)}


def make_config(
    flags: Mapping[str, Any],
    *,
    environment: Mapping[str, str] = os.environ,
    file: Path | Mapping[str, Any] | None = None,
) -> Config:
    """One configuration. ``flags`` are parsed values (None: not given), and so is a ``file`` that was read already.

    Raises ConfigError.
    """
    options = file_options()
    found = {f"{PREFIX}{key.upper()}": key for key in options}
    for name in environment:
        if name.startswith(PREFIX) and name not in found and name not in NO_OPTIONS:
            near = get_close_matches(name, found, 1)
            log.warning("%s in the environment is no option%s", name, f"; is it {near[0]}?" if near else "")
    given = {key: value for key, value in flags.items() if key in options and value is not None}
    values: dict[str, Any] = {}
    for layer in (
        read_values(read_toml(file), str(file)) if isinstance(file, Path) else dict(file or {}),
        {key: options[key].read(environment[name], name) for name, key in found.items() if name in environment},
        given,
    ):
        for one, other in RIVALS:
            if (one in layer) != (other in layer):
                values.pop(other if one in layer else one, None)
        if layer.get("backend") == "bicubic":
            values.pop("model", None)
        elif "model" in layer and values.get("backend") == "bicubic":
            values.pop("backend")
        values |= layer
    config = Config(**values, asked=frozenset(given))
    if config.backend == "bicubic":
        config.refuse({"weights"}, "--backend bicubic uses no network")
    return config


def read_toml(file: Path) -> dict[str, Any]:
    """A TOML file of at most 1 MiB. Raises ConfigError, whatever the file holds."""
    text = _read_text(file)
    longest = max(map(len, text.splitlines()), default=0)
    if longest > MOST_LINE:
        raise ConfigError(f"configuration {file} has a line of {longest} characters; at most {MOST_LINE} are allowed")
    if any(line.partition("=")[0].partition("#")[0].count(".") > MOST_DOTS for line in text.splitlines()):
        raise ConfigError(f"configuration {file} has a key of more than {MOST_DOTS} parts")  # their cost grows squared
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"configuration {file} is not TOML: {shown(str(error), 200)}") from error
    except RecursionError as error:
        raise ConfigError(f"configuration {file}: brackets or tables are nested too deeply") from error
    except ValueError as error:  # of more than 4300 digits: Python's limit
        raise ConfigError(f"configuration {file}: a number has too many digits") from error
    except Exception as error:  # no content of a file may do more harm than this
        raise ConfigError(f"configuration {file} cannot be read as TOML: {type(error).__name__}") from error


def _read_text(file: Path) -> str:
    """An ordinary file, as UTF-8. A pipe or a device is refused rather than waited for."""
    try:
        with open_without_waiting(file) as opened:
            if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
                raise ConfigError(f"configuration {file} is not an ordinary file; give a file with TOML in it")
            content = opened.read(MOST_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"configuration {file} cannot be read: {error.strerror}") from error
    except ValueError as error:  # a NUL byte in the name
        raise ConfigError(f"configuration {shown(str(file))} cannot be read: {error}") from error
    if len(content) > MOST_FILE_BYTES:
        raise ConfigError(f"configuration {file} has more than {MOST_FILE_BYTES} bytes; is it the right file?")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"configuration {file} is not TOML: byte {error.start} is not UTF-8") from error


def read_values(raw: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Options as they stand in a table of a file, parsed. Raises ConfigError."""
    options, values = file_options(), {}
    for name, value in raw.items():
        key = name.replace("-", "_")
        if key not in options:
            raise ConfigError(f"{where}: no option '{shown(name)}'; there are {', '.join(sorted(options))}")
        values[key] = options[key].read(_text_of(value, f"{where}: {name}"), f"{where}: {name}")
    return values


def _text_of(value: Any, where: str) -> str:
    """A value of a TOML file as it would stand on the command line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and abs(value) >= MOST_NUMBER:
        raise ConfigError(f"{where}: the number is too large for any option")
    if not isinstance(value, str | int | float):
        kind = {"list": "an array", "dict": "a table"}.get(type(value).__name__, f"a {type(value).__name__}")
        raise ConfigError(f"{where} is {kind}; write a text, a number, true or false")
    return str(value)
