"""One browser that shows the page: its queue of messages, what it may send, and what happens if it falls behind."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from stream_sr.errors import StreamSRError
from stream_sr.sinks.web.messages import HEADER, INIT

MAX_QUEUED_BYTES = 4 << 20
MAX_QUEUED_SECONDS = 1.0  # when the oldest frame waits longer, skip to the next keyframe
MAX_QUEUED_TEXTS = 500  # for a client that asks and does not read; the oldest are dropped
MESSAGES_PER_SECOND, MESSAGE_BURST = 20.0, 40.0
MAX_MESSAGE_BYTES = 2048
POLICY_VIOLATION = 1008


class WebClient:
    """Sends from its own queue, so that a slow connection delays no other. Lives on the server's loop.

    ``handle_command`` gets the messages of the page and raises StreamSRError to refuse one.
    """

    def __init__(
        self, connection: ServerConnection, handle_command: Callable[[WebClient, Mapping[str, Any]], None]
    ) -> None:
        self.wants_jpeg = False
        self.dropped = 0  # frames
        self._connection = connection
        self._handle_command = handle_command
        self._texts: deque[str] = deque(maxlen=MAX_QUEUED_TEXTS)
        self._figures: str | None = None  # the newest
        self._frames: deque[tuple[float, bytes]] = deque()  # when it was queued, message
        self._queued_bytes = 0
        self._skipping = True
        self._not_empty = asyncio.Event()
        self._budget, self._budget_at = MESSAGE_BURST, time.monotonic()

    def send_message(self, message: Mapping[str, Any]) -> None:
        """Queue a message as JSON, in order with the others and ahead of queued frames."""
        self._texts.append(json.dumps(message, allow_nan=False))
        self._not_empty.set()

    def show_figures(self, text: str) -> None:
        """Queue figures as JSON in place of older ones that are not sent yet."""
        self._figures = text
        self._not_empty.set()

    def begin_stream(self, init: bytes) -> None:
        """Begin a new stream: drop the frames of the old one and continue with the next keyframe."""
        self._drop_frames()
        self._put(init)

    def send_frame(self, message: bytes, *, keyframe: bool) -> None:
        """Queue a frame. Before a keyframe, and after falling behind, it is dropped up to the next keyframe."""
        if self._frames and not self._skipping:
            late = time.monotonic() - self._frames[0][0] > MAX_QUEUED_SECONDS
            if late or self._queued_bytes + len(message) > MAX_QUEUED_BYTES:
                self._drop_frames()
        if self._skipping and not keyframe:
            self.dropped += 1
            return
        self._skipping = False
        self._put(message)

    async def run(self) -> None:
        """Send and receive until the connection ends."""
        sending = asyncio.ensure_future(self._send())
        try:
            async for message in self._connection:
                if not self._within_budget():
                    await self._connection.close(POLICY_VIOLATION, "too many messages")
                    return
                self._receive(message)
        except ConnectionClosed:
            pass
        finally:
            sending.cancel()

    async def close(self, code: int, reason: str) -> None:
        """Close the connection."""
        await self._connection.close(code, reason)

    def _put(self, message: bytes) -> None:
        self._frames.append((time.monotonic(), message))
        self._queued_bytes += len(message)
        self._not_empty.set()

    def _drop_frames(self) -> None:
        """Drop the queued frames, but not the beginning of a new stream."""
        kept = [item for item in self._frames if HEADER.unpack_from(item[1])[0] == INIT]
        self.dropped += len(self._frames) - len(kept)
        self._frames = deque(kept[-1:])
        self._queued_bytes = sum(len(message) for _, message in self._frames)
        self._skipping = True

    async def _send(self) -> None:
        try:
            while True:
                await self._not_empty.wait()
                self._not_empty.clear()
                while (message := self._next()) is not None:
                    await self._connection.send(message)
        except ConnectionClosed:
            pass

    def _next(self) -> str | bytes | None:
        if self._texts:
            return self._texts.popleft()
        if self._figures is not None:
            text, self._figures = self._figures, None
            return text
        if self._frames:
            _, message = self._frames.popleft()
            self._queued_bytes -= len(message)
            return message
        return None

    def _within_budget(self) -> bool:
        now = time.monotonic()
        self._budget = min(MESSAGE_BURST, self._budget + (now - self._budget_at) * MESSAGES_PER_SECOND) - 1
        self._budget_at = now
        return self._budget >= 0

    def _receive(self, message: str | bytes) -> None:
        """Handle a message of the page: a JSON object with a ``type``. Anything else is refused."""
        try:
            received = json.loads(message)
        except (ValueError, RecursionError):
            received = None
        if not isinstance(received, dict):
            self.send_message({"type": "refused", "text": "that is no message of this page"})
            return
        at = received.get("at")
        if received.get("type") == "ping":
            if _is_time(at):
                self.send_message({"type": "pong", "at": at, "clock": time.monotonic_ns() / 1e6})
            return
        try:
            self._handle_command(self, received)
        except StreamSRError as error:
            self.send_message({"type": "refused", "text": str(error)})


def _is_time(value: object) -> bool:
    """Whether a JSON value is a finite number as a float; JSON allows any number of digits."""
    try:
        return isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:
        return False
