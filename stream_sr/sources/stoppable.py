"""What sources share that have no tracks beside their frames and nothing to count or to free."""

import threading

from stream_sr.pipeline.packets import Passthrough


class StoppableSource:
    """`stop`, `counters` and `close` of `interfaces.Source`; ``frames`` ends once ``_stopping`` is set."""

    passthrough: Passthrough | None = None

    def __init__(self) -> None:
        self._stopping = threading.Event()

    def stop(self) -> None:
        """See `interfaces.Source`."""
        self._stopping.set()

    def counters(self) -> dict[str, int]:
        """Return nothing: whatever goes wrong is an error."""
        return {}

    def close(self) -> None:
        """See `interfaces.Source`."""
        self._stopping.set()
