"""A damaged file loses its damaged frames only, decoded with as many threads as there may be."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import pytest
from av.codec.context import ThreadType
from media_files import write_video

from stream_sr.codec.video_decoder import VideoDecoder
from stream_sr.pipeline.stats import Counters

COUNT = 60


def packets(path: Path, damage: dict[int, str]) -> Iterator[Any]:
    """The packets of a file, some of them damaged: "head" destroys a NAL unit's type, "tail" all of its data, "cut"."""
    with av.open(str(path)) as container:
        found: Any = container.demux(video=0)
        for number, packet in enumerate(p for p in found if p.size):
            if number not in damage:
                yield packet
                continue
            data = bytearray(bytes(packet))
            if damage[number] == "head":
                data[4] = 0xFF
            elif damage[number] == "tail":
                data[24:] = random.Random(number).randbytes(len(data) - 24)
            else:
                data = data[:5]
            made: Any = av.Packet(bytes(data))
            made.pts, made.dts, made.time_base, made.duration = (
                packet.pts,
                packet.dts,
                packet.time_base,
                packet.duration,
            )
            made.is_keyframe = packet.is_keyframe
            yield made


def open_stream(path: Path, threads: int, kind: ThreadType) -> Any:
    stream: Any = av.open(str(path)).streams.video[0]
    stream.thread_type, stream.thread_count = kind, threads
    return stream


def decoded(path: Path, damage: dict[int, str], threads: int) -> tuple[list[tuple[int, bytes]], int]:
    """Times and luma of all frames, and the number of damaged packets."""
    stream = open_stream(path, threads, ThreadType.FRAME)
    counts = Counters()
    decoder = VideoDecoder(stream, lambda: open_stream(path, 1, ThreadType.SLICE), counts)
    pictures: list[av.VideoFrame] = []
    failures = 0
    for packet in packets(path, damage):
        try:
            pictures += decoder.decode(packet)
        except av.FFmpegError:
            failures += 1
    pictures += decoder.drain()
    decoder.close()
    return [(p.pts or 0, p.to_ndarray().tobytes()) for p in pictures], failures + counts.read().get(
        "corrupt_packets", 0
    )


def reference(path: Path, damage: dict[int, str]) -> tuple[list[tuple[int, bytes]], int]:
    """The same by FFmpeg alone, one frame at a time."""
    stream = open_stream(path, 1, ThreadType.SLICE)
    pictures: list[av.VideoFrame] = []
    failures = 0
    for packet in packets(path, damage):
        try:
            pictures += stream.codec_context.decode(packet)
        except av.FFmpegError:
            failures += 1
    pictures += stream.codec_context.decode(None)
    return [(p.pts or 0, p.to_ndarray().tobytes()) for p in pictures], failures


@pytest.fixture(scope="module", params=["libx264", "libx265", "mpeg4"])
def clip(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / f"{request.param}.mkv"
    options = {"x265-params": "log-level=none:keyint=20"} if request.param == "libx265" else {"g": "20"}
    write_video(path, count=COUNT, codec=request.param, options=options, width=96, height=64)
    return path


@pytest.mark.parametrize("threads", [2, 8, 16])
@pytest.mark.parametrize(
    "damage",
    [
        {},
        {COUNT - 2: "head"},  # while the decoder is drained
        {COUNT - 3: "cut", COUNT - 1: "head"},
        {30: "head"},
        {21: "cut", 22: "head", 45: "cut"},
    ],
    ids=["whole", "at the end", "twice at the end", "in the middle", "everywhere"],
)
def test_frames_are_those_of_one_thread(clip: Path, damage: dict[int, str], threads: int) -> None:
    found, failures = decoded(clip, damage, threads)
    expected, reference_failures = reference(clip, damage)
    assert [pts for pts, _ in found] == [pts for pts, _ in expected]
    if clip.stem != "mpeg4":  # whose decoder does not mark frames with concealed damage
        assert found == expected
    assert failures == reference_failures


@pytest.mark.parametrize("seed", range(12))
def test_any_damage_costs_no_frame_that_one_thread_delivers(clip: Path, seed: int) -> None:
    chance = random.Random(seed)
    damage = {chance.randrange(1, COUNT): chance.choice(["head", "tail", "cut"]) for _ in range(4)}
    found, _ = decoded(clip, damage, 8)
    expected, _ = reference(clip, damage)
    assert [pts for pts, _ in found] == [pts for pts, _ in expected]
