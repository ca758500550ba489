"""NVIDIA's encoder through FFmpeg: the settings that do what `encoder.Encoder` promises, and whether it is there.

Not every NVIDIA GPU has one (Hopper and other datacentre chips have none), so ``auto`` tries and says why not.
"""

from __future__ import annotations

from fractions import Fraction
from typing import cast

import av
from av.codec.context import Flags
from av.error import FFmpegError
from av.video.codeccontext import VideoCodecContext

from stream_sr.errors import ConfigError
from stream_sr.pipeline.interfaces import EncoderOptions
from stream_sr.video.frame import StreamInfo

CODECS = {"h264_nvenc": "h264", "hevc_nvenc": "hevc"}
PRESETS = ("p1", "p2", "p3", "p4", "p5", "p6", "p7")  # from the fastest to the best
LIVE_PRESET, FILE_PRESET = "p3", "p5"
LIVE_CQ, FILE_CQ = 23, 21  # constant quality; near libx264's CRF 20 and 18 by the encoder's own scale


def nvenc_context(
    name: str, info: StreamInfo, options: EncoderOptions, *, live: bool, gop: int, most: int
) -> VideoCodecContext:
    """An encoder that is not open yet. ``most`` is the highest rate of a live stream, bit/s.

    ``live``: a packet for every picture at once (no B-frames, no delay), half a second of buffer. Raises ConfigError.
    """
    if options.preset is not None and options.preset not in PRESETS:
        raise ConfigError(f"--encoder-preset {options.preset} is none of {name}'s; use one of {', '.join(PRESETS)}")
    context = cast(VideoCodecContext, av.CodecContext.create(name, "w"))
    context.width, context.height, context.pix_fmt = info.width, info.height, "yuv420p"
    context.time_base, context.framerate = info.time_base, info.fps or Fraction(30)
    context.sample_aspect_ratio = info.sample_aspect
    context.colorspace, context.color_range = int(info.color.matrix), int(info.color.range)
    context.color_primaries, context.color_trc = info.color.primaries, info.color.transfer
    context.flags |= Flags.closed_gop | Flags.global_header
    context.gop_size = gop
    context.options = {
        "preset": options.preset or (LIVE_PRESET if live else FILE_PRESET),
        "forced-idr": "1",
        **({"tune": "ull", "bf": "0", "delay": "0", "zerolatency": "1"} if live else {"tune": "hq", "bf": "2"}),
        **_rate(options, live=live, most=most),
    }
    return context


def _rate(options: EncoderOptions, *, live: bool, most: int) -> dict[str, str]:
    if options.bitrate is not None:
        rate = {"rc": "cbr" if live else "vbr", "b": str(options.bitrate)}
    else:
        quality = options.crf if options.crf is not None else (LIVE_CQ if live else FILE_CQ)
        rate = {"rc": "vbr", "cq": f"{max(1, quality):g}", "b": "0"}  # to it, 0 is "as it likes"
    return rate | ({"maxrate": str(most), "bufsize": str(most // 2)} if live else {})


def why_not(name: str, info: StreamInfo) -> str:
    """Empty where the encoder opens here; else its own words."""
    try:
        context = nvenc_context(name, info, EncoderOptions(), live=True, gop=30, most=8_000_000)
        context.open()
    except (FFmpegError, ValueError, OSError) as error:
        return getattr(error, "strerror", None) or str(error)
    return ""
