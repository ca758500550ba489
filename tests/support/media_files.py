"""Small clips that tests make for themselves with PyAV."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

TIME_BASE = Fraction(1, 12800)

Picture = npt.NDArray[np.uint8]


def test_picture(index: int, width: int, height: int) -> tuple[Picture, Picture, Picture]:
    """4:2:0 planes of a moving gradient with some detail: no two of 19 in a row are alike."""
    y, x = np.mgrid[0:height, 0:width]
    luma = 64 + (x * 3 + y * 2 + index * 5) % 96 + 40 * (((x - 4 * index) // 8 + y // 8) % 2)
    rows, columns = (height + 1) // 2, (width + 1) // 2
    v, u = np.mgrid[0:rows, 0:columns]
    return luma.astype(np.uint8), (96 + u % 64).astype(np.uint8), (96 + v % 64).astype(np.uint8)


def upright(pixels: Picture, orientation: int) -> Picture:
    """The picture as EXIF 2.32 (tag 0x0112) says, by where its first row and column are to be seen."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)  # row 0 is at the left or the right, column 0 at the top or the bottom
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def display_matrix(orientation: int) -> list[int]:
    """FFmpeg's display matrix, from where the unit vectors of the picture (across, down) go."""
    rows, columns = np.mgrid[0:3, 0:3]
    seen_rows, seen_columns = (
        upright(rows.astype(np.uint8), orientation),
        upright(columns.astype(np.uint8), orientation),
    )

    def place(row: int, column: int) -> npt.NDArray[np.int64]:
        (found,) = np.argwhere((seen_rows == row) & (seen_columns == column))
        return found

    (b, a), (d, c) = place(1, 2) - place(1, 1), place(2, 1) - place(1, 1)
    return [int(cell) << 16 for cell in (a, b, 0, c, d, 0, 0, 0)] + [1 << 30]


test_picture.__test__ = False  # type: ignore[attr-defined]


def video_frame(planes: Sequence[Picture], fmt: str = "yuv420p") -> av.VideoFrame:
    """Planes as a picture of PyAV, padded as it wants them."""
    frame = av.VideoFrame(planes[0].shape[1], planes[0].shape[0], fmt)
    for plane, samples in zip(frame.planes, planes, strict=True):
        rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)  # type: ignore[call-overload]
        rows[: samples.shape[0], : samples.shape[1]] = samples
    return frame


def write_video(
    path: Path | str,
    *,
    width: int = 64,
    height: int = 48,
    pts: Sequence[int] | None = None,
    count: int = 10,
    fps: Fraction | int = 25,
    time_base: Fraction = TIME_BASE,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    sample_aspect: Fraction | None = None,
    orientation: int = 1,
    matrix: Sequence[int] | None = None,
    interlaced: bool = False,
    color: tuple[int, int, int, int] | None = None,
    audio_seconds: float = 0.0,
    audio: tuple[str, int, str] = ("aac", 48000, "stereo"),
    offset: int = 0,
    subtitles: Sequence[tuple[int, int, str]] = (),
    picture: Callable[[int, int, int], tuple[Picture, Picture, Picture]] = test_picture,
    format: str | None = None,
) -> list[int]:
    """Write a clip; return its presentation times, in ``time_base`` units.

    ``pts`` gives variable frame rates; ``orientation`` is EXIF's number and ``matrix`` the display matrix itself;
    ``color`` is (matrix, range, primaries, transfer); ``audio`` is (codec, rate, layout); ``offset`` seconds are added
    to the times of all tracks; ``subtitles`` are (start ms, duration ms, text), for .mkv. x264 writes a keyframe every
    10 frames and two B-frames between, so that decoding order is not presentation order.
    """
    step = round(1 / fps / time_base)
    times = list(pts) if pts is not None else [i * step for i in range(count)]
    with av.open(str(path), "w", format=format, options=container_options or {}) as container:
        stream: Any = container.add_stream(codec, rate=Fraction(fps))
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.codec_context.time_base = time_base
        stream.time_base = time_base
        stream.options = ({"preset": "ultrafast", "g": "10", "bf": "2"} if codec == "libx264" else {}) | (options or {})
        if sample_aspect is not None:
            stream.codec_context.sample_aspect_ratio = sample_aspect
        if color is not None:
            context = stream.codec_context
            context.colorspace, context.color_range, context.color_primaries, context.color_trc = color
        if interlaced:
            stream.options = {**stream.options, "x264-params": "tff=1"}
        if orientation != 1 or matrix is not None:
            stream.set_display_matrix(matrix or display_matrix(orientation))
        sound: Any = container.add_stream(audio[0], rate=audio[1]) if audio_seconds else None
        if sound is not None:
            sound.codec_context.layout = audio[2]
        _write_subtitles(container, subtitles)
        _write_sound(container, sound, audio_seconds, offset)
        for number, moment in enumerate(times):
            frame = video_frame(picture(number, width, height), "yuv420p")
            if pix_fmt != "yuv420p":
                frame = frame.reformat(format=pix_fmt)
            frame.pts, frame.time_base = moment + round(offset / time_base), time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return times


def _write_sound(container: Any, stream: Any, seconds: float, offset: int) -> None:
    if stream is None:
        return
    context = stream.codec_context
    rate, channels = context.sample_rate, context.layout.nb_channels
    resampler = None if context.format.name == "fltp" else av.AudioResampler(context.format, context.layout, rate)
    for start in range(0, round(seconds * rate), 1024):
        wave = 0.2 * np.sin(2 * np.pi * (300 + start / 400) * (start + np.arange(1024)) / rate)
        planes = np.tile(wave.astype(np.float32), (channels, 1))
        frame = av.AudioFrame.from_ndarray(planes, format="fltp", layout=context.layout.name)
        frame.sample_rate, frame.pts, frame.time_base = rate, start + offset * rate, Fraction(1, rate)
        for piece in [frame] if resampler is None else resampler.resample(frame):
            container.mux(stream.encode(piece))
    container.mux(stream.encode(None))


def _write_subtitles(container: Any, subtitles: Sequence[tuple[int, int, str]]) -> None:
    if not subtitles:
        return
    lines = [f"{i}\n{_clock(at)} --> {_clock(at + ms)}\n{text}\n\n" for i, (at, ms, text) in enumerate(subtitles, 1)]
    text: Any = io.BytesIO("".join(lines).encode())
    with av.open(text, "r", format="srt") as source:
        target = container.add_stream_from_template(source.streams[0])
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = target
                container.mux(packet)


def _clock(ms: int) -> str:
    return f"{ms // 3600000:02}:{ms // 60000 % 60:02}:{ms // 1000 % 60:02},{ms % 1000:03}"


def write_y4m(
    path: Path | str, *, width: int = 64, height: int = 48, count: int = 5, header: str = "F25:1 Ip A1:1 C420jpeg"
) -> list[tuple[Picture, Picture, Picture]]:
    """Write an 8-bit 4:2:0 y4m file; return its pictures."""
    pictures = [test_picture(i, width, height) for i in range(count)]
    with open(path, "wb") as file:
        file.write(f"YUV4MPEG2 W{width} H{height} {header}\n".encode())
        for planes in pictures:
            file.write(b"FRAME\n" + b"".join(plane.tobytes() for plane in planes))
    return pictures


def count_pictures(path: Path) -> int:
    """Decode the first video stream of a file; how many pictures came out."""
    with av.open(str(path), "r") as container:
        return sum(1 for _ in container.decode(video=0))
