"""Recordings that are begun and ended while frames come: whole files, failures that end nothing else."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import pytest
from media_files import count_pictures, test_picture

from stream_sr.errors import SinkOpenError
from stream_sr.pipeline.interfaces import EncoderOptions
from stream_sr.sinks.record import RecordSink
from stream_sr.video.frame import Frame, StreamInfo
from stream_sr.video.planes import read_only

INFO = StreamInfo(64, 48, Fraction(1, 25), Fraction(25), live=True)


def frame(number: int) -> Frame:
    return Frame(read_only(test_picture(number, 64, 48)), pts=number, time_base=INFO.time_base, duration=1)


def test_each_switch_makes_a_whole_file(tmp_path: Path) -> None:
    sink = RecordSink(tmp_path, EncoderOptions())
    sink.check()
    sink.open(INFO)
    for number in range(40):
        if number in (5, 25):
            sink.switch(True)
        if number == 15:
            sink.switch(False)
        assert sink.write(frame(number))
        if number == 10:
            state = sink.state()
            assert (state["on"], state["error"]) == (True, "")
            assert state["file"].startswith("stream_sr-")
    sink.close()
    files = sorted(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    assert [count_pictures(path) for path in files] == [10, 15]
    assert all(path.suffix == ".mp4" for path in files)


def test_a_recording_from_the_middle_of_a_file_begins_at_zero(tmp_path: Path) -> None:
    sink = RecordSink(tmp_path, EncoderOptions())
    sink.open(replace(INFO, live=False))
    sink.switch(True)
    for number in range(500, 510):
        sink.write(frame(number))
    sink.close()
    (file,) = tmp_path.iterdir()
    with av.open(str(file), "r") as container:
        assert next(container.decode(video=0)).pts == 0
        assert container.streams.video[0].start_time == 0


def test_a_link_that_lies_in_the_way_is_passed_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.strftime", lambda form: "now")
    (tmp_path / "now.mp4").symlink_to(tmp_path / "elsewhere.mp4")
    sink = RecordSink(tmp_path, EncoderOptions())
    sink.open(INFO)
    sink.switch(True)
    sink.write(frame(0))
    sink.close()
    assert count_pictures(tmp_path / "now-2.mp4") == 1
    assert not (tmp_path / "elsewhere.mp4").exists()


def test_nothing_is_written_unless_it_is_wanted(tmp_path: Path) -> None:
    sink = RecordSink(tmp_path, EncoderOptions())
    sink.check()
    sink.open(INFO)
    for number in range(5):
        sink.write(frame(number))
    sink.close()
    assert list(tmp_path.iterdir()) == []
    assert sink.state()["on"] is False


def test_a_recording_that_fails_ends_alone_and_says_why(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    sink = RecordSink(folder, EncoderOptions())
    sink.check()
    sink.open(INFO)
    folder.rmdir()
    sink.switch(True)
    assert sink.write(frame(0))
    assert sink.state()["on"] is False
    assert "does not exist" in sink.state()["error"]
    assert f"{folder}/" not in sink.state()["error"], "who looks on need not know where our files lie"
    folder.mkdir()
    sink.switch(True)
    sink.write(frame(1))
    sink.close()
    assert [count_pictures(path) for path in folder.iterdir()] == [1]


def test_a_folder_that_is_none_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(SinkOpenError, match="is no folder"):
        RecordSink(tmp_path / "no", EncoderOptions()).check()


@pytest.mark.parametrize("how", ["removed", "renamed"])
def test_a_recording_that_is_removed_is_begun_again_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr("stream_sr.sinks.file.LOOK_SECONDS", 0.0)
    sink = RecordSink(tmp_path, EncoderOptions())
    sink.open(INFO)
    sink.switch(True)
    for number in range(10):
        sink.write(frame(number))
    assert sink.counters() == {"recording": 1, "failures": 0}
    (first,) = tmp_path.iterdir()
    if how == "removed":
        first.unlink()
    else:
        first.rename(tmp_path / "kept.mp4")
    sink.write(frame(10))
    assert sink.counters() == {"recording": 0, "failures": 1}
    for number in range(11, 18):
        sink.write(frame(number))
    assert sink.counters() == {"recording": 1, "failures": 1}
    state = sink.state()
    assert state["on"]
    assert "was removed, renamed or replaced" in state["error"]
    assert str(tmp_path) not in state["error"]
    sink.switch(False)
    sink.write(frame(18))
    sink.switch(True)
    assert sink.state()["error"] == ""
    sink.close()
    files = {path.name: count_pictures(path) for path in tmp_path.iterdir()}
    assert files.pop("kept.mp4", 10) == 10
    assert list(files.values()) == [7]


def test_a_recording_whose_folder_is_removed_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stream_sr.sinks.file.LOOK_SECONDS", 0.0)
    folder = tmp_path / "gone"
    folder.mkdir()
    sink = RecordSink(folder, EncoderOptions())
    sink.open(INFO)
    sink.switch(True)
    sink.write(frame(0))
    next(folder.iterdir()).unlink()
    folder.rmdir()
    for number in range(1, 4):
        sink.write(frame(number))
    sink.close()
    assert sink.counters() == {"recording": 0, "failures": 2}
    assert sink.state()["on"] is False
    assert "does not exist" in sink.state()["error"]
