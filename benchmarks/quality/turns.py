"""Engines that take turns, so that a disturbance of the machine affects all of them."""

import statistics
import time
from collections.abc import Mapping

from stream_sr.bench.engine import make_pictures
from stream_sr.pipeline.engine import Engine

FRAMES = 6  # of each turn; the first is not counted


def time_turns(engines: Mapping[str, Engine], width: int, height: int, rounds: int) -> dict[str, float]:
    """Median milliseconds of a frame, by name of the engine."""
    pictures = make_pictures(width, height)
    turns: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(rounds):
        for name, engine in engines.items():
            spent = []
            for n in range(FRAMES):
                began = time.perf_counter()
                engine.submit(pictures[n % len(pictures)]).wait()
                spent.append((time.perf_counter() - began) * 1e3)
            turns[name].append(statistics.median(spent[1:]))
    return {name: statistics.median(values) for name, values in turns.items()}
