"""docs/options.md is what the tables of options generate."""

from pathlib import Path

from stream_sr.cli.commands import COMMANDS
from stream_sr.cli.options_page import options_page
from stream_sr.config.run_options import RUN_OPTIONS

PAGE = Path(__file__).parents[2] / "docs" / "options.md"


def test_the_committed_page_is_up_to_date() -> None:
    assert PAGE.read_text() == options_page(), "run `make docs`"


def test_the_page_names_every_option_and_command() -> None:
    page = options_page()
    assert all(f"`{option.flag}" in page and f"`{option.variable}`" in page for option in RUN_OPTIONS)
    assert all(f"### `stream-sr {command.full_name}" in page for command in COMMANDS)
