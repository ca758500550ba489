"""The one encoder per (size, settings), whose packets fan out to every packet sink."""

from __future__ import annotations

import logging
from fractions import Fraction

import av
from av.codec.context import Flags
from av.error import FFmpegError
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType

from stream_sr.codec.nvenc import CODECS, nvenc_context, why_not
from stream_sr.codec.nvenc import PRESETS as NVENC_PRESETS
from stream_sr.codec.picture import expect, fill, picture_in_place
from stream_sr.errors import ConfigError, SinkOpenError, SinkWriteError
from stream_sr.pipeline.interfaces import MOST_SIDE, EncoderOptions
from stream_sr.pipeline.packets import EncodedStream, Packet
from stream_sr.system import machine
from stream_sr.system.limits import codec_threads
from stream_sr.video.color import Siting
from stream_sr.video.frame import Frame, StreamInfo

log = logging.getLogger("stream_sr")

PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow", "placebo")
SOFTWARE = "libx264"
CHROMA_LOCATION = {Siting.LEFT: 0, Siting.CENTER: 1, Siting.TOPLEFT: 2}  # chroma_sample_loc_type, H.264 E.2.1
FILE_CRF, FILE_PRESET, FILE_GOP_SECONDS = 18, "veryfast", 5
LIVE_CRF, LIVE_PRESET, LIVE_GOP_SECONDS = 20, "ultrafast", 2
LIVE_BUFFER_SECONDS = 0.5
ONE_THREAD_PIXELS = 1280 * 720  # a live picture up to here takes 3 to 5 ms on one core


class Encoder:
    """libx264, or NVIDIA's encoder, for frames of one size: 8-bit 4:2:0 planes in, Annex B access units out.

    ``info`` describes the frames. Its colour, chroma siting and sample aspect go into the bitstream as they are:
    unknown stays unknown, so the caller applies `color.guess_unknown` (with the *input's* size) before. Its
    orientation is handed on in ``stream.info`` for the container. H.264 4:2:0 holds even sizes only: an odd last column
    or row is cut, which is logged once. ``stream`` is complete before the first packet; its ``passthrough`` is None.

    Every key packet is an IDR picture with its parameter sets in front; no packet refers across one (closed GOP).
    A packet carries the pts, number, captured_ns, wall_ns and duration of its frame; dts grows and never exceeds the
    pts. A frame of unknown duration (0) gets that of the nominal frame rate, if there is one.

    - ``live``: one frame in, its packet out at once (no B-frames, no look-ahead), VBV of half a second, a keyframe
      every 2 s; constant quality (CRF 20) below the VBV's rate, or with ``bitrate`` an average of that rate.
      Pictures up to 1280x720 are one slice on one thread; larger ones are cut into slices for up to four threads.
    - otherwise: look-ahead and B-frames, CRF 18 or the average ``bitrate``, a keyframe at least every 5 s. Packets
      come late and in decoding order.

    Not thread-safe. Raises ConfigError for options that cannot be, SinkOpenError when libx264 refuses.
    """

    def __init__(self, info: StreamInfo, options: EncoderOptions, *, live: bool) -> None:
        check_options(options)
        self.live = live
        self.info = _even(info)
        if max(self.info.width, self.info.height) > MOST_SIDE:
            raise SinkOpenError(
                f"the output would be {self.info.width}x{self.info.height}, encoders take up to {MOST_SIDE} pixels "
                "a side; give a --size, or a smaller --scale"
            )
        self.name = choose_encoder(self.info, options, live=live)
        self._context = _context(self.info, options, live, self.name)
        try:
            self._context.open()
        except (FFmpegError, ValueError) as error:
            raise SinkOpenError(
                f"the encoder {self.name} refused {self.info.width}x{self.info.height} with {_words(options)}: "
                + (getattr(error, "strerror", None) or str(error))
                + ("; --encoder auto takes one that works" if self.name in CODECS else "")
            ) from error
        # PyAV's frame is filled again and again, and frames are lent: what encodes copies before `encode` returns.
        self._picture = av.VideoFrame(self.info.width, self.info.height, "yuv420p")
        self._waiting: dict[int, tuple[int, int, int, int | None]] = {}  # pts: number, captured_ns, duration, wall_ns
        self._last_pts: int | None = None
        self._closed = False
        extradata = self._context.extradata
        if not extradata:
            raise SinkOpenError(f"the encoder {self.name} gave no parameter sets; install another build of PyAV (av)")
        self.stream = EncodedStream(codec=CODECS.get(self.name, "h264"), extradata=bytes(extradata), info=self.info)

    def encode(self, frame: Frame, *, keyframe: bool = False) -> list[Packet]:
        """Encode one frame, which is not kept; the packets that are complete now, in decoding order.

        ``keyframe`` forces an IDR picture. The frame's time base is the stream's, its pts greater than the last one's.
        Raises SinkWriteError otherwise, or when x264 fails.
        """
        self._check(frame)
        picture = picture_in_place(frame) or fill(self._picture, frame.planes)  # a view, or a copy cut to even
        expect(picture, self.info.width, self.info.height, "yuv420p")  # PyAV would resize another one
        picture.pts = frame.pts
        picture.time_base = self.info.time_base
        picture.pict_type = PictureType.I if keyframe else PictureType.NONE
        duration = frame.duration or self._nominal_duration()
        self._waiting[frame.pts] = (frame.number, frame.captured_ns, duration, frame.wall_ns)
        self._last_pts = frame.pts
        return self._packets(picture)

    def flush(self) -> list[Packet]:
        """The packets of the frames still inside. No frame may follow."""
        return [] if self._closed else self._packets(None)

    def close(self) -> None:
        """Free the encoder. Safe to call twice; what was not flushed is lost."""
        if not self._closed:
            self._closed = True
            self._waiting.clear()
            del self._context, self._picture

    def _check(self, frame: Frame) -> None:
        if self._closed:
            raise SinkWriteError(f"{frame!r} came after the encoder was closed")
        if (frame.width // 2, frame.height // 2) != (self.info.width // 2, self.info.height // 2):
            raise SinkWriteError(f"{frame!r} came to an encoder of {self.info.width}x{self.info.height} pictures")
        if frame.time_base != self.info.time_base:
            raise SinkWriteError(f"{frame!r} came to an encoder with the time base {self.info.time_base}")
        if self._last_pts is not None and frame.pts <= self._last_pts:
            raise SinkWriteError(
                f"{frame!r} came after pts {self._last_pts}; frames are encoded in presentation order, each pts once"
            )

    def _packets(self, picture: av.VideoFrame | None) -> list[Packet]:
        try:
            packets = self._context.encode(picture)
        except (FFmpegError, ValueError) as error:
            raise SinkWriteError(f"the encoder {self.name} failed: {error}") from error
        return [self._packet(packet) for packet in packets]

    def _packet(self, packet: av.Packet[av.VideoStream]) -> Packet:
        if packet.pts is None or packet.dts is None or packet.pts not in self._waiting:
            raise SinkWriteError(f"the encoder {self.name} gave a packet with pts {packet.pts}, which no frame had")
        number, captured_ns, duration, wall_ns = self._waiting.pop(packet.pts)
        data = bytes(packet)
        if packet.is_keyframe:
            # Before the sets of the first picture x264 puts a text about itself, which is dropped.
            sets = self.stream.extradata
            data = sets + (data.partition(sets)[2] if sets in data else data)
        return Packet(
            data=data,
            pts=packet.pts,
            dts=packet.dts,
            duration=duration,
            time_base=self.info.time_base,
            is_keyframe=packet.is_keyframe,
            captured_ns=captured_ns,
            number=number,
            wall_ns=wall_ns,
        )

    def _nominal_duration(self) -> int:
        return round(1 / (self.info.fps * self.info.time_base)) if self.info.fps else 0


def check_options(options: EncoderOptions) -> None:
    """Raises ConfigError for settings that cannot be, before any work is done."""
    if options.encoder not in ("auto", SOFTWARE, *CODECS):
        raise ConfigError(f"--encoder {options.encoder} is unknown; use auto, {SOFTWARE}, {', '.join(CODECS)}")
    if options.crf is not None and options.bitrate is not None:
        raise ConfigError("--crf and --bitrate were both given: one asks for a quality, the other for a size; give one")
    if options.crf is not None and not 0 <= options.crf <= 51:
        raise ConfigError(
            f"--crf {options.crf:g} is outside 0 (lossless) to 51 (worst); 18 is hard to tell from the source"
        )
    if options.bitrate is not None and not 1_000 <= options.bitrate <= 2_000_000_000:
        raise ConfigError(f"--bitrate {options.bitrate} bit/s is outside 1000 to 2000000000")
    presets = NVENC_PRESETS if options.encoder in CODECS else PRESETS
    if options.preset is not None and options.preset not in presets:
        raise ConfigError(f"--encoder-preset {options.preset} is unknown; use one of {', '.join(presets)}")
    if options.gop is not None and not 1 <= options.gop <= 100_000:
        raise ConfigError(f"--gop {options.gop} is outside 1 to 100000 frames")


def default_bitrate(width: int, height: int, fps: Fraction) -> int:
    """Highest rate of a live stream in bit/s when none is asked for: 8 Mbit/s at 1280x720 and 30 fps.

    It grows as the 0.75th power of the pixel rate, because larger pictures hold less detail per pixel.
    """
    return round(8e6 * (width * height * float(fps) / (1280 * 720 * 30)) ** 0.75)


def _even(info: StreamInfo) -> StreamInfo:
    width, height = info.width & ~1, info.height & ~1
    if width < 2 or height < 2:
        raise SinkOpenError(f"H.264 cannot hold a picture of {info.width}x{info.height}; it needs at least 2x2")
    if (width, height) != (info.width, info.height):
        log.warning(
            "H.264 4:2:0 holds even sizes only: %dx%d is cut to %dx%d (the last column or row is lost)",
            info.width,
            info.height,
            width,
            height,
        )
    return info.scaled(width, height)


def choose_encoder(info: StreamInfo, options: EncoderOptions, *, live: bool) -> str:
    """The encoder's name. ``auto`` is libx264, but for a live picture on a machine whose GPU has an encoder that."""
    if options.encoder != "auto":
        return options.encoder
    if not live or options.preset is not None or not machine.cuda().devices:
        return SOFTWARE  # a file is better for its size with x264; the presets are x264's
    name = next(iter(CODECS))
    reason = why_not(name, info)
    if reason:
        log.info("%s cannot be used here (%s): encoding with %s", name, reason, SOFTWARE)
    return SOFTWARE if reason else name


def _context(info: StreamInfo, options: EncoderOptions, live: bool, name: str) -> VideoCodecContext:
    fps = info.fps or Fraction(30)
    if name in CODECS:
        gop = options.gop or max(1, round(fps * (LIVE_GOP_SECONDS if live else FILE_GOP_SECONDS)))
        most = options.bitrate or default_bitrate(info.width, info.height, fps)
        return nvenc_context(name, info, options, live=live, gop=gop, most=most)
    context = av.CodecContext.create("libx264", "w")
    context.width, context.height, context.pix_fmt = info.width, info.height, "yuv420p"
    context.time_base = info.time_base
    context.framerate = fps
    context.sample_aspect_ratio = info.sample_aspect
    context.colorspace, context.color_range = int(info.color.matrix), int(info.color.range)
    context.color_primaries, context.color_trc = info.color.primaries, info.color.transfer
    # global_header puts the parameter sets into the extradata; repeat-headers puts them before each IDR as well.
    context.flags |= Flags.closed_gop | Flags.global_header
    context.gop_size = options.gop or max(1, round(fps * (LIVE_GOP_SECONDS if live else FILE_GOP_SECONDS)))
    parameters = ["repeat-headers=1"]
    if info.color.siting in CHROMA_LOCATION:
        parameters.append(f"chromaloc={CHROMA_LOCATION[Siting(info.color.siting)]}")
    context.options = {
        "preset": options.preset or (LIVE_PRESET if live else FILE_PRESET),
        "forced-idr": "1",
        **_rate(info, options, live),
        "x264-params": ":".join(parameters),
    }
    if live:
        context.options = context.options | {"tune": "zerolatency"}
        context.thread_count = 1 if info.width * info.height <= ONE_THREAD_PIXELS else codec_threads(4)
    else:
        context.thread_count = codec_threads()
    return context


def _rate(info: StreamInfo, options: EncoderOptions, live: bool) -> dict[str, str]:
    """Rate control as libx264's options."""
    if options.bitrate is not None:
        rate = {"b": str(options.bitrate)}
    else:
        crf = options.crf if options.crf is not None else (LIVE_CRF if live else FILE_CRF)
        rate = {"crf": f"{crf:g}"}
    if not live:
        return rate
    most = options.bitrate or default_bitrate(info.width, info.height, info.fps or Fraction(30))
    return rate | {"maxrate": str(most), "bufsize": str(round(most * LIVE_BUFFER_SECONDS))}


def _words(options: EncoderOptions) -> str:
    given = {"preset": options.preset, "crf": options.crf, "bitrate": options.bitrate, "gop": options.gop}
    return ", ".join(f"{name} {value}" for name, value in given.items() if value is not None) or "the defaults"
