"""What a person sees while a run goes."""

from __future__ import annotations

import io
import logging
from fractions import Fraction

import pytest

from stream_sr.app import status
from stream_sr.pipeline.stats import Stats
from stream_sr.video.frame import StreamInfo


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


LIVE = StreamInfo(640, 360, Fraction(1, 90000), Fraction(30), live=True)
FILE = StreamInfo(640, 360, Fraction(1, 90000), Fraction(30))


def some_stats() -> Stats:
    stats = Stats()
    name = stats.add_output("null:")
    stats.count("frames_in", 5)
    for number in range(3):
        stats.output(name, number * 33_000_000, 0, number * 33_000_000 + 12_000_000)
    stats.drop("late", 2)
    stats.source({"skipped": 4})
    return stats


def test_a_live_run_on_a_terminal_rewrites_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    terminal = Terminal()
    line = status.open_status(LIVE, LIVE.scaled(1280, 720), frames=None, stream=terminal)
    line.show(some_stats())
    text = terminal.getvalue()
    assert "640x360 > 1280x720" in text
    assert "latency p50 12.0 p99 12.0 ms" in text
    assert "dropped 2 (late 2)" in text
    assert "skipped 4" in text
    assert "\n" not in text
    logging.getLogger("stream_sr").warning("a log line")
    assert terminal.getvalue().endswith("\r\x1b[2K")  # cleared before the log handler writes
    line.close()
    assert not logging.getLogger("stream_sr").handlers


def test_the_line_is_cut_to_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    terminal = Terminal()
    line = status.open_status(LIVE, LIVE, frames=None, stream=terminal)
    line.show(some_stats())
    line.close()
    shown = [part.removeprefix("\x1b[2K") for part in terminal.getvalue().split("\r")]
    assert max(map(len, shown)) == 29
    assert shown[1].startswith("0.0 fps  12.0/12.0 ms")


def test_a_file_has_a_progress_bar() -> None:
    terminal = Terminal()
    bar = status.open_status(FILE, FILE, frames=6, stream=terminal)
    bar.show(some_stats())
    bar.close()
    assert "3/6" in terminal.getvalue()


def test_without_a_terminal_there_are_log_lines(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(status, "LOG_EVERY_SECONDS", 0.0)
    lines = status.open_status(LIVE, LIVE, frames=None, stream=io.StringIO())
    with caplog.at_level(logging.INFO, "stream_sr"):
        lines.show(some_stats())
        lines.show(some_stats())
    lines.close()
    assert len(caplog.messages) == 1
    assert "latency p50" in caplog.messages[0]


def test_a_file_without_a_terminal_tells_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(status, "LOG_EVERY_SECONDS", 0.0)
    lines = status.open_status(FILE, FILE.scaled(1280, 720), frames=6, stream=io.StringIO())
    with caplog.at_level(logging.INFO, "stream_sr"):
        lines.show(some_stats())
        lines.show(some_stats())
    (line,) = caplog.messages
    assert line.startswith("3 of 6 frames  640x360 > 1280x720")
    assert "latency" not in line
    assert "dropped 2 (late 2)" in line  # a window beside the file is paced, and may lose some


@pytest.mark.parametrize("columns", ["200", "60"])
def test_the_model_that_auto_chose_is_shown(monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    terminal = Terminal()
    line = status.open_status(LIVE, LIVE, frames=None, stream=terminal, model=lambda _: "auto: tiny, 3 steps")
    line.show(some_stats())
    line.close()
    assert "auto: tiny, 3 steps" in terminal.getvalue()
