"""Text subtitles: cues that overlap become pieces that do not, and show the same at every moment."""

from __future__ import annotations

import itertools
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from stream_sr.codec.subtitles import Cue, flatten

TIMES = st.integers(0, 40)


def cue(start: int, end: int, name: str) -> Cue:
    return Cue(Fraction(start), Fraction(end), f"0,0,Default,,0,0,0,,{name}".encode())


@given(st.lists(st.tuples(TIMES, st.integers(1, 15)), max_size=8), st.lists(TIMES, max_size=6))
def test_pieces_show_what_the_cues_show_at_every_moment(spans: list[tuple[int, int]], looks: list[int]) -> None:
    cues = [cue(start, start + length, f"t{i}") for i, (start, length) in enumerate(sorted(spans))]
    pieces: list[Cue] = []
    waiting: list[Cue] = []
    reached = Fraction(0)

    def advance(until: Fraction, *, cut: bool) -> None:
        nonlocal waiting, reached
        made, reached, waiting = flatten(waiting, reached, until, cut=cut)
        pieces.extend(made)

    moments = sorted(looks)
    for one in cues:
        while moments and moments[0] <= one.start:  # nothing starts before these
            advance(Fraction(moments.pop(0)), cut=False)
        advance(one.start, cut=True)
        waiting.append(one)
    advance(Fraction(100), cut=False)
    assert waiting == []
    assert all(a.end <= b.start for a, b in itertools.pairwise(pieces))
    for half in range(120):
        moment = Fraction(half, 2) + Fraction(1, 4)
        expected = {c.text for c in cues if c.start <= moment < c.end}
        shown = {text for p in pieces if p.start <= moment < p.end for text in p.text.split(b"\\N")}
        assert shown == expected


def test_the_text_is_behind_the_eighth_comma() -> None:
    assert cue(0, 1, "a, b, c").text == b"a, b, c"
