"""Two packets lost in a hundred, in a proxy: the picture goes on with the next keyframe, and is never frozen.

Once with our reader behind the loss, once with our server before it and FFmpeg's reader behind.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import islice, pairwise

import av
import peers
import pytest
from lossy import LossyProxy

from stream_sr.codec.decode import FrameReader
from stream_sr.pipeline.interfaces import SourceOptions
from stream_sr.sources import open_source
from stream_sr.video import barcode

pytestmark = [pytest.mark.network, pytest.mark.serial]

GOP = 15
MOST_GOPS = 6  # without a picture: that keyframes of so many in a row are hit does not happen


@pytest.fixture(scope="module")
def camera() -> Iterator[int]:
    """The port of a camera with a clock in its picture, of some packets a picture."""
    with peers.camera("320x180@30", "--gop", str(GOP), "--crf", "20") as port:
        yield port


def never_frozen(sequences: Sequence[int]) -> bool:
    return all(0 < b - a <= MOST_GOPS * GOP for a, b in pairwise(sequences))


def test_our_reader(camera: int) -> None:
    """No mixture of old and new comes out: every picture has its clock, readable."""
    with (
        closing(LossyProxy(camera, share=0.02)) as proxy,
        closing(
            open_source(f"rtsp://127.0.0.1:{proxy.port}/cam", SourceOptions(rtsp_transport="udp", read_timeout=10))
        ) as source,
    ):
        clocks = [barcode.read(frame.planes[0]) for frame in islice(source.frames(), 90)]
        counters = source.counters()
        lost = proxy.lost
    assert all(clock is not None for clock in clocks)
    assert never_frozen([clock.sequence for clock in clocks if clock is not None])
    assert lost > 0
    assert 0 < counters["lost_packets"] <= lost
    assert counters["dropped_packets"] > 0


def test_our_server_before_a_foreign_reader(camera: int) -> None:
    """FFmpeg's reader shows what it mends, so here only readable clocks count; keyframes bring them back."""
    with closing(LossyProxy(camera, share=0.02)) as proxy:
        options = {"rtsp_transport": "udp", "analyzeduration": "0", "probesize": "32"}
        with av.open(f"rtsp://127.0.0.1:{proxy.port}/cam", options=options, timeout=20) as container:
            container.streams.video[0].thread_type = "SLICE"
            reader, sequences = FrameReader(), []
            for picture in islice(container.decode(video=0), 120):
                clock = barcode.read(reader.read(picture)[0][0])
                if clock is not None:
                    sequences.append(clock.sequence)
        lost = proxy.lost
    assert lost > 0
    assert len(sequences) > 30
    assert never_frozen(sequences)
