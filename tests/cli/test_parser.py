"""The parser: it is made from the tables of options, fits the terminal, and refuses old names."""

from __future__ import annotations

import pytest

from stream_sr.cli import main
from stream_sr.cli.commands import COMMANDS
from stream_sr.cli.commands.run import RunOptions
from stream_sr.cli.parser import read_options
from stream_sr.config.option import options_of


def help_of(*words: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        main.main([*words, "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "a.mp4", "b.mp4", "--tune", "camera"], "--tune is now called --weights (see `stream-sr run --help`)"),
        (["run", "a.mp4", "b.mp4", "--tune=camera"], "--tune is now called --weights"),
        (["train", "fast", "--tune", "camera"], "--tune is now called --weights"),
        (["engine", "build", "--tune", "clean"], "--tune is now called --weights"),
        (
            ["bench", "compare", "a.json", "b.json", "--fail-over", "5"],
            "--fail-over is now called --max-regression (see `stream-sr bench compare --help`)",
        ),
        (["run", "a.mp4", "b.mp4", "--fail-over", "5"], "there is no option --fail-over"),
    ],
)
def test_an_old_flag_is_refused(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"stream-sr: error: {message}")


def test_an_old_variable_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("STREAM_SR_TUNE", "camera")
    assert main.main(["run", "a.mp4", "null:"]) == 2
    assert capsys.readouterr().err == "stream-sr: error: STREAM_SR_TUNE is now called STREAM_SR_WEIGHTS\n"


def test_the_help_does_not_list_old_flags(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--tune" not in help_of("run", capsys=capsys)
    assert "--fail-over" not in help_of("bench", "compare", capsys=capsys)


def test_the_age_of_a_frame_is_bounded_before_inference(capsys: pytest.CaptureFixture[str]) -> None:
    text = " ".join(help_of("run", capsys=capsys).split())
    assert "--max-latency MS maximum age of a live frame before inference" in text


@pytest.mark.parametrize("width", [80, 120])
def test_the_help_fits_the_terminal(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    for words in ([], *(command.full_name.split() for command in COMMANDS)):
        long = [line for line in help_of(*words, capsys=capsys).splitlines() if len(line) > width]
        assert long == [], words


def test_every_declared_option_is_in_the_help_of_its_command(capsys: pytest.CaptureFixture[str]) -> None:
    for command in COMMANDS:
        text = help_of(*command.full_name.split(), capsys=capsys)
        assert all(one.flag in text for one in (*options_of(command.options), *command.run_options())), command.name


def test_options_arrive_typed_and_only_where_they_were_given() -> None:
    words = ["run", "in.mp4", "a.mp4", "null:", "--scale", "3", "--overwrite", "--metrics-port", "80", "-v"]
    parsed = main._parser().parse_args(words)
    options = read_options(parsed.command, parsed)
    assert options == RunOptions(
        source="in.mp4", sinks=("a.mp4", "null:"), flags={"scale": 3, "overwrite": True}, metrics_port=80, verbose=True
    )
