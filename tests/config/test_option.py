"""A declared option: its names, its default in words, lists, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from stream_sr.config.kinds import FILE, WORD, choice, number, whole
from stream_sr.config.option import Option, argument, option, options_of, required
from stream_sr.config.renamed import RENAMED
from stream_sr.config.run_options import RUN_OPTIONS
from stream_sr.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Example:
    source: str = argument(WORD, "SOURCE", "an input")
    max_age: float = option(500.0, number(0, 1e3, "MS"), "how old")
    mode: str | None = option(None, choice("slow", "fast"), "how", unset="what suits SOURCE")
    start_from: Path = required(FILE, "where from", name="from")
    sizes: tuple[int, ...] = option((), whole(1, 9), "of frames", comma_list=True)


SOURCE, MAX_AGE, MODE, START_FROM, SIZES = options_of(Example)


def test_names_come_from_the_field() -> None:
    assert (MAX_AGE.key, MAX_AGE.flag, MAX_AGE.variable) == ("max_age", "--max-age", "STREAM_SR_MAX_AGE")
    assert (START_FROM.key, START_FROM.flag, START_FROM.required) == ("start_from", "--from", True)
    assert (SOURCE.flag, SOURCE.positional, SOURCE.required) == ("SOURCE", True, True)


def test_the_help_tells_the_default_once() -> None:
    assert MAX_AGE.help_text == "how old (default 500)"
    assert MODE.help_text == "how (default: what suits SOURCE)"
    assert SIZES.help_text == "of frames"


def test_the_default_is_that_of_the_field() -> None:
    assert Example(source="a", start_from=Path("b")) == Example(
        source="a", max_age=500.0, mode=None, start_from=Path("b"), sizes=()
    )


def test_a_comma_list() -> None:
    assert SIZES.read("1, 2,3") == (1, 2, 3)
    for text, message in (("1,,2", "has an empty part"), ("1,x", "'x' is not a whole number from 1 to 9")):
        with pytest.raises(ConfigError, match=f"^--sizes: .*{message}"):
            SIZES.read(text)


@pytest.mark.parametrize(
    ("one", "text", "message"),
    [
        (MODE, "quick", "--mode: 'quick' is not one of slow, fast"),
        (MAX_AGE, "nan", "--max-age: 'nan' is not a number from 0 to 1000"),
        (MAX_AGE, "1\n", r"--max-age: '1\n' holds a control character; leave it out"),
        (MAX_AGE, "1" * 2049, "has 2049 characters; at most 2048 are allowed"),
        (SOURCE, "\udc80", "is not a text in UTF-8 without control characters"),
    ],
)
def test_what_is_refused(one: Option, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        one.read(text)
    assert message in str(caught.value)


def test_old_names_are_free_and_new_ones_exist() -> None:
    known = {option.key for option in RUN_OPTIONS}
    assert not known & RENAMED.keys()
    assert RENAMED["tune"] in known
