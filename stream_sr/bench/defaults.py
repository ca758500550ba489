"""What `stream-sr bench` measures where the options do not say; it imports nothing, so that the parser may use it."""

from __future__ import annotations

KINDS = ("engine", "pipeline", "live")
SWEPT = ("model", "scale", "backend", "precision")  # options that take a list
DEFAULT_SIZE = (640, 360)
ROUNDS = {"engine": 5, "pipeline": 3, "live": 3}
SECONDS = {"engine": 1.0, "live": 5.0}  # of a round; the whole filter runs to the end of its file
