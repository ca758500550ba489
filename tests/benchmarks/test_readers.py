"""The readers that ours is measured against give the pictures of a camera, with its clock readable."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from itertools import islice, pairwise

import peers
import pytest

from benchmarks.latency import readers
from stream_sr.video import barcode
from stream_sr.video.frame_pool import FramePool

pytestmark = [pytest.mark.network, pytest.mark.serial]


@pytest.fixture(scope="module")
def camera() -> Iterator[str]:
    with peers.camera("320x180@30", "--gop", "15") as port:
        yield f"rtsp://127.0.0.1:{port}/cam"


@pytest.mark.parametrize("name", list(readers.READERS))
def test_pictures_of_every_reader(camera: str, name: str) -> None:
    before = dict(os.environ)
    with closing(readers.READERS[name](camera)) as source:
        assert os.environ.get(readers.OPENCV_OPTIONS) == before.get(readers.OPENCV_OPTIONS)  # nothing for other readers
        assert (source.info.width, source.info.height, source.info.live) == (320, 180, True)
        pool = FramePool(320, 180, 6)
        frames = list(islice(source.frames(pool), 5))
        clocks = [barcode.read(frame.planes[0]) for frame in frames]
        assert all(clock is not None for clock in clocks)
        assert all(a.sequence < b.sequence for a, b in pairwise(clocks) if a is not None and b is not None)
        assert all(a.pts < b.pts for a, b in pairwise(frames))
        source.stop()
