"""Recordings for weeks: a full disk ends a part and not the stream, and no part stands in the way of another."""

from __future__ import annotations

import logging
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import pytest
from media_files import test_picture

from stream_sr.codec.encoder import Encoder
from stream_sr.errors import SinkOpenError, SinkWriteError
from stream_sr.frame import Frame, StreamInfo, read_only
from stream_sr.media import EncoderOptions, SinkOptions
from stream_sr.sinks.lasting import AGAIN_SECONDS, SETTLED_SECONDS, LastingFile

INFO = StreamInfo(64, 48, Fraction(1, 25), Fraction(25), live=True)


class Recording:
    """A `LastingFile` behind an encoder, and the clock by which it tries again."""

    def __init__(self, name: Path, options: SinkOptions = SinkOptions(), info: StreamInfo = INFO) -> None:  # noqa: B008
        self.now, self.count = 0.0, 0
        self.encoder = Encoder(info, EncoderOptions(gop=1000), live=info.live)
        self.sink = LastingFile(str(name), options, now=lambda: self.now)

    def open(self) -> None:
        self.sink.open(self.encoder.stream)

    def write(self, amount: int) -> None:
        for _ in range(amount):
            frame = Frame(
                read_only(test_picture(self.count, 64, 48)), pts=self.count, time_base=INFO.time_base, duration=1
            )
            for packet in self.encoder.encode(frame, key=self.sink.wants_key()):
                self.sink.write(packet)
            self.count += 1

    @property
    def recording(self) -> int:
        return self.sink.counters()["recording"]


def pictures(path: Path) -> int:
    with av.open(str(path), "r") as container:
        return len(list(container.decode(video=0)))


@contextmanager
def full_disk() -> Iterator[None]:
    """The limit on the size of files stands in for the size of the disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_ends_a_part_and_another_is_begun_when_there_is_room(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    run = Recording(tmp_path / "door.mkv")
    run.sink.check()
    run.open()
    run.write(30)
    assert run.recording == 1
    with full_disk():
        run.write(40)
        assert run.recording == 0
        run.now += AGAIN_SECONDS
        run.write(5)
        run.now += AGAIN_SECONDS
        run.write(5)
    assert run.recording == 0
    run.write(5)
    assert run.recording == 0, "not before the time has come"
    run.now += AGAIN_SECONDS
    run.write(10)
    assert run.recording == 1
    run.now += SETTLED_SECONDS + 1
    run.write(1)
    run.sink.complete()
    run.sink.close()
    assert 1 <= pictures(tmp_path / "door.mkv") <= 70
    assert pictures(tmp_path / "door-2.mkv") in (9, 10), "from the next picture but one on: it is asked to be a key"
    assert len(list(tmp_path.iterdir())) == 2, "what could not be begun has left nothing"
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 1, "the same is said once"
    assert "the stream goes on" in errors[0].message
    told = [record.message for record in caplog.records if record.levelno == logging.INFO]
    assert [message for message in told if "recording" in message] == [
        f"recording into {tmp_path / 'door.mkv'}", f"recording again, into {tmp_path / 'door-2.mkv'}"
    ]  # fmt: skip
    assert run.sink.counters()["failures"] == 3


def test_a_disk_that_is_full_at_the_start_holds_nothing_up(tmp_path: Path) -> None:
    run = Recording(tmp_path / "door.mp4")
    with full_disk():
        run.open()
        run.write(30)
    run.now += AGAIN_SECONDS
    run.write(10)
    run.sink.close()
    (file,) = tmp_path.iterdir()
    assert pictures(file) in (8, 9)


def test_a_part_is_never_in_the_way_of_the_next(tmp_path: Path) -> None:
    for _ in range(2):
        run = Recording(tmp_path / "door-%Y.mkv")
        run.sink.check()
        run.open()
        run.write(3)
        run.sink.close()
    assert sorted(path.name[10:] for path in (tmp_path).glob("door-????*.mkv")) == ["2.mkv", "mkv"]
    first = next(path for path in tmp_path.iterdir() if not path.stem.endswith("-2"))
    run = Recording(tmp_path / "door-%Y.mkv", SinkOptions(overwrite=True))
    run.open()
    run.write(1)
    run.sink.close()
    assert pictures(first) == 1
    assert len(list(tmp_path.iterdir())) == 2


def test_of_a_film_everything_is_wanted(tmp_path: Path) -> None:
    run = Recording(tmp_path / "film.mkv", info=replace(INFO, live=False))
    run.open()
    with full_disk(), pytest.raises(SinkWriteError, match="film"):
        run.write(60)
    run.sink.close()
    again = Recording(tmp_path / "no" / "film.mkv")
    with pytest.raises(SinkOpenError, match="does not exist"):
        again.sink.check()
