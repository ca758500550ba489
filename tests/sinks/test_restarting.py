"""Recordings for weeks: a full disk ends a part and not the stream, and no part stands in the way of another."""

from __future__ import annotations

import logging
import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from media_files import count_pictures, test_picture

from stream_sr.codec.encoder import Encoder
from stream_sr.errors import OutputRemoved, SinkOpenError, SinkWriteError
from stream_sr.pipeline.interfaces import EncoderOptions, SinkOptions
from stream_sr.sinks.file import LOOK_SECONDS
from stream_sr.sinks.restarting import AGAIN_SECONDS, FOLDER_SECONDS, SETTLED_SECONDS, RestartingFile
from stream_sr.video.frame import Frame, StreamInfo
from stream_sr.video.planes import read_only

pytestmark = pytest.mark.long

INFO = StreamInfo(64, 48, Fraction(1, 25), Fraction(25), live=True)


class Recording:
    """A `RestartingFile` behind an encoder, and the clock by which it tries again."""

    def __init__(self, name: Path, options: SinkOptions = SinkOptions(), info: StreamInfo = INFO) -> None:  # noqa: B008
        self.now, self.count, self.size = 0.0, 0, (info.width, info.height)
        self.encoder = Encoder(info, EncoderOptions(gop=1000), live=info.live)
        self.sink = RestartingFile(str(name), options, now=lambda: self.now)

    def open(self) -> None:
        self.sink.open(self.encoder.stream)

    def write(self, amount: int) -> None:
        for _ in range(amount):
            frame = Frame(
                read_only(test_picture(self.count, *self.size)), pts=self.count, time_base=INFO.time_base, duration=1
            )
            for packet in self.encoder.encode(frame, keyframe=self.sink.wants_keyframe()):
                self.sink.write(packet)
            self.count += 1

    @property
    def recording(self) -> int:
        return self.sink.counters()["recording"]


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
    assert 1 <= count_pictures(tmp_path / "door.mkv") <= 70
    assert count_pictures(tmp_path / "door-2.mkv") in (9, 10), "from the next picture but one on: it is made a keyframe"
    assert len(list(tmp_path.iterdir())) == 2, "what could not be begun has left nothing"
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 1, "the same is said once"
    assert "the stream goes on" in errors[0].message
    told = [record.message for record in caplog.records if record.levelno == logging.INFO]
    assert [message for message in told if "recording" in message] == [
        f"recording into {tmp_path / 'door.mkv'}",
        f"recording again, into {tmp_path / 'door-2.mkv'}",
    ]
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
    assert count_pictures(file) in (8, 9)


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
    assert count_pictures(first) == 1
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


def removed(path: Path) -> Path | None:
    path.unlink()
    return None


def renamed(path: Path) -> Path | None:
    return path.rename(path.with_stem("kept"))


def replaced(path: Path) -> Path | None:
    (path.parent / "other").write_bytes(b"not a video")
    (path.parent / "other").rename(path)
    return None


def in_a_renamed_folder(path: Path) -> Path | None:
    path.parent.rename(path.parent.with_name("away"))
    path.parent.mkdir()
    return path.parent.with_name("away") / path.name


@pytest.mark.parametrize("ending", [".mp4", ".mov", ".mkv", ".ts"])
@pytest.mark.parametrize("how", [removed, renamed, replaced, in_a_renamed_folder])
def test_a_part_that_is_removed_is_noticed_and_another_begins_at_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, how: Callable[[Path], Path | None], ending: str
) -> None:
    caplog.set_level(logging.INFO)
    path = tmp_path / "rec" / f"door{ending}"
    path.parent.mkdir()
    run = Recording(path)
    run.open()
    run.write(20)
    moved = how(path)
    run.write(5)
    assert run.recording == 1, "it is looked for once a second"
    run.now += LOOK_SECONDS
    run.write(1)
    assert run.sink.counters() == {"recording": 0, "failures": 1}
    run.write(12)
    assert run.recording == 1
    run.sink.complete()
    run.sink.close()
    again = path.with_stem("door-2") if how is replaced else path
    assert count_pictures(again) in (11, 12), "from the next frame but one on: it is asked to be a keyframe"
    if moved is not None:
        assert count_pictures(moved) == 25, "it was finished where it is"
    if how is replaced:
        assert path.read_bytes() == b"not a video", "what is there now is not ours"
    (error,) = (record.message for record in caplog.records if record.levelno >= logging.ERROR)
    assert "was removed, renamed or replaced while it was written, after 1.0 s of video" in error


def test_while_the_folder_is_gone_nothing_is_recorded_and_it_goes_on_when_it_is_back(tmp_path: Path) -> None:
    path = tmp_path / "rec" / "door.mkv"
    path.parent.mkdir()
    run = Recording(path)
    run.open()
    run.write(20)
    path.unlink()
    path.parent.rmdir()
    run.now += LOOK_SECONDS
    for _ in range(3):
        run.write(5)
        assert run.recording == 0
        assert not path.parent.exists(), "it may be where a disk is to be mounted"
        run.now += FOLDER_SECONDS
    path.parent.mkdir()
    run.write(12)
    assert run.recording == 1
    run.sink.close()
    assert count_pictures(path) >= 10


def test_what_removes_every_file_does_not_make_a_file_a_second(tmp_path: Path) -> None:
    path = tmp_path / "door.mkv"
    run = Recording(path)
    run.open()
    for _ in range(30):
        path.unlink(missing_ok=True)
        run.now += LOOK_SECONDS
        run.write(2)
    run.sink.close()
    assert run.sink.counters()["failures"] <= 7


def test_of_a_file_that_is_made_whole_a_removal_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    run = Recording(path, info=replace(INFO, live=False))
    run.open()
    run.write(60)
    path.unlink()
    run.sink.complete()
    with pytest.raises(OutputRemoved, match=r"film\.mp4 was removed"):
        run.sink.close()
    assert list(tmp_path.iterdir()) == []


@contextmanager
def small_disk(folder: Path, kib: int) -> Iterator[Path]:
    """A file system of its own in memory. Skips where this user may not mount one."""
    folder.mkdir()
    found = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "none", str(folder)], capture_output=True, text=True
    )
    if found.returncode:
        pytest.skip(f"no file system can be mounted here: {found.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("ending", [".mp4", ".mov", ".mkv", ".ts"])
@pytest.mark.parametrize("room", [0, 5, 20])
def test_a_full_disk_leaves_nothing_that_cannot_be_played(tmp_path: Path, ending: str, room: int) -> None:
    """However much room there is (KiB, in pages of 4): what stays has pictures, and the recording goes on."""
    with small_disk(tmp_path / "disk", 1024) as disk:
        ballast = disk / "ballast"
        run = Recording(disk / f"door{ending}", info=replace(INFO, width=320, height=240))
        with filled(ballast, room):
            run.open()
            run.write(40)
            run.now += AGAIN_SECONDS
            run.write(60)
        left = [path for path in disk.iterdir() if path != ballast]
        assert all(count_pictures(path) > 0 for path in left), "no stub"
        run.now += AGAIN_SECONDS
        run.write(30)
        assert run.recording == 1
        run.sink.complete()
        run.sink.close()
        files = [path for path in disk.iterdir() if path != ballast]
        assert len(files) > len(left)
        assert all(count_pictures(path) > 0 for path in files)


@contextmanager
def filled(ballast: Path, room: int) -> Iterator[None]:
    """Fill the disk but for ``room`` KiB; free it at the end."""
    with ballast.open("ab", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)) == 4096:
            pass
    os.truncate(ballast, max(0, (ballast.stat().st_size // 4096 + room // -4) * 4096))
    yield
    os.truncate(ballast, 0)


def test_a_disk_that_is_unmounted_is_noticed(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1024) as disk:
        path = disk / "door.mkv"
        run = Recording(path)
        run.open()
        run.write(20)
        with small_disk_over(disk):
            run.now += LOOK_SECONDS
            run.write(12)
            assert run.sink.counters() == {"recording": 1, "failures": 1}
            run.sink.close()
            assert count_pictures(path) >= 10
        assert count_pictures(path) == 20


@contextmanager
def small_disk_over(folder: Path) -> Iterator[None]:
    """Another file system in the place of the one there."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1024k", "none", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)
