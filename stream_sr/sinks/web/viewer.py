"""One browser that looks on: what it is sent, what it may say, and what happens when it does not follow."""

from __future__ import annotations

import asyncio
import json
import math
import struct
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from websockets.exceptions import ConnectionClosed

from stream_sr.errors import StreamSRError

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection

INIT, FRAGMENT, JPEG = 1, 2, 3
HEADER = struct.Struct("<IIdd")  # kind, number of the frame, capture in ms of our monotonic clock, time in the stream
MOST_WAITING_BYTES = 4 << 20
MOST_WORDS = 500  # answers to one who asks and does not read; then the oldest go
MOST_WAITING_SECONDS = 1.0  # older pictures are worth nothing: skip to the next keyframe
MESSAGES_A_SECOND, MESSAGES_AT_ONCE = 20.0, 40.0
LONGEST_MESSAGE = 2048
POLICY_VIOLATION = 1008


class Viewer:
    """Sends from a queue of its own, so that a slow connection harms only itself. Lives on the server's loop."""

    def __init__(self, connection: ServerConnection, obey: Callable[[Viewer, Mapping[str, Any]], None]) -> None:
        self.wants_jpeg = False
        self.dropped = 0  # pictures
        self._connection = connection
        self._handle_command = obey
        self._words: deque[str] = deque(maxlen=MOST_WORDS)
        self._figures: str | None = None  # only the newest
        self._pictures: deque[tuple[float, bytes]] = deque()  # when it came, message
        self._waiting_bytes = 0
        self._skipping = True
        self._something = asyncio.Event()
        self._budget, self._budget_at = MESSAGES_AT_ONCE, time.monotonic()

    def say(self, message: Mapping[str, Any]) -> None:
        """Send a text message, in order with the others and ahead of waiting pictures."""
        self._words.append(json.dumps(message, allow_nan=False))
        self._something.set()

    def show_figures(self, text: str) -> None:
        """Send figures as JSON, unless newer ones come before."""
        self._figures = text
        self._something.set()

    def begin(self, init: bytes) -> None:
        """A new stream: what waits of the old one is of no use; then pictures from the next keyframe on."""
        self._drop_waiting()
        self._put(init)

    def picture(self, message: bytes, *, key: bool) -> None:
        """Queue a picture, or drop it: until a keyframe comes, or after falling behind."""
        if self._pictures and not self._skipping:
            late = time.monotonic() - self._pictures[0][0] > MOST_WAITING_SECONDS
            if late or self._waiting_bytes + len(message) > MOST_WAITING_BYTES:
                self._drop_waiting()
        if self._skipping and not key:
            self.dropped += 1
            return
        self._skipping = False
        self._put(message)

    async def attend(self) -> None:
        """Send and listen until the connection ends."""
        sending = asyncio.ensure_future(self._send())
        try:
            async for message in self._connection:
                if not self._within_budget():
                    await self._connection.close(POLICY_VIOLATION, "too many messages")
                    return
                self._hear(message)
        except ConnectionClosed:
            pass
        finally:
            sending.cancel()

    async def farewell(self, code: int, reason: str) -> None:
        """Close from our side."""
        await self._connection.close(code, reason)

    def _put(self, message: bytes) -> None:
        self._pictures.append((time.monotonic(), message))
        self._waiting_bytes += len(message)
        self._something.set()

    def _drop_waiting(self) -> None:
        """Forget the pictures that wait, but for a new stream's beginning."""
        kept = [item for item in self._pictures if HEADER.unpack_from(item[1])[0] == INIT]
        self.dropped += len(self._pictures) - len(kept)
        self._pictures = deque(kept[-1:])
        self._waiting_bytes = sum(len(message) for _, message in self._pictures)
        self._skipping = True

    async def _send(self) -> None:
        try:
            while True:
                await self._something.wait()
                self._something.clear()
                while (message := self._next()) is not None:
                    await self._connection.send(message)
        except ConnectionClosed:
            pass

    def _next(self) -> str | bytes | None:
        if self._words:
            return self._words.popleft()
        if self._figures is not None:
            text, self._figures = self._figures, None
            return text
        if self._pictures:
            _, message = self._pictures.popleft()
            self._waiting_bytes -= len(message)
            return message
        return None

    def _within_budget(self) -> bool:
        now = time.monotonic()
        self._budget = min(MESSAGES_AT_ONCE, self._budget + (now - self._budget_at) * MESSAGES_A_SECOND) - 1
        self._budget_at = now
        return self._budget >= 0

    def _hear(self, message: str | bytes) -> None:
        """Take a message of the page: a JSON object with a ``type``. What is none is answered, and nothing else."""
        try:
            said = json.loads(message)
        except (ValueError, RecursionError):
            said = None
        if not isinstance(said, dict):
            self.say({"type": "refused", "text": "that is no message of this page"})
            return
        at = said.get("at")
        if said.get("type") == "ping":
            if _is_time(at):
                self.say({"type": "pong", "at": at, "clock": time.monotonic_ns() / 1e6})
            return
        try:
            self._handle_command(self, said)
        except StreamSRError as error:
            self.say({"type": "refused", "text": str(error)})


def _is_time(value: object) -> bool:
    """Whether it is a number that both sides can compute with; JSON's may have any number of digits."""
    try:
        return isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:
        return False
