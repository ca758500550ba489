"""The only place that starts threads. Every thread has a name, an owner that joins it, and is not a daemon."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from stream_sr.errors import PipelineStalled

R = TypeVar("R")

_abandoned: list["Worker"] = []


class Worker:
    """A thread whose failure is kept for its owner.

    On Linux the system knows it by the first 15 bytes of its name (``top -H``, gdb), and so the threads that a library
    starts from it without naming them.
    """

    def __init__(self, name: str, target: Callable[[], None]) -> None:
        self.name = name
        self.error: BaseException | None = None
        self._target = target
        self._thread = threading.Thread(target=self._run, name=name)
        self._thread.start()

    def _run(self) -> None:
        _tell_the_system(self.name)
        try:
            self._target()
        except BaseException as error:
            self.error = error
        finally:
            del self._target  # it may hold its owner, who holds us

    @property
    def ident(self) -> int | None:
        """The thread, as `threading.get_ident` names it."""
        return self._thread.ident

    def abandon(self) -> None:
        """Nobody waits for it any more: it is stuck in a library. See `abandoned`."""
        _abandoned.append(self)

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the end; whether it came."""
        self._thread.join(timeout)
        return not self._thread.is_alive()


def abandoned() -> bool:
    """Whether a thread that was abandoned still runs: the interpreter would wait for it, so only `os._exit` ends it."""
    _abandoned[:] = [worker for worker in _abandoned if not worker.join(0)]
    return bool(_abandoned)


def _tell_the_system(name: str) -> None:
    with contextlib.suppress(OSError):  # another system, or no /proc
        Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_bytes(name.encode()[:15])


class LoopThread:
    """An asyncio event loop on a thread of its own, for adapters that speak a network protocol."""

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._worker = Worker(name, self._serve)

    def _serve(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def submit(self, work: Coroutine[Any, Any, R]) -> "Future[R]":
        """Run a coroutine on the loop; the future belongs to the calling thread."""
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def call(self, work: Coroutine[Any, Any, R], timeout: float | None = None) -> R:
        """Run a coroutine on the loop and wait for its result. TimeoutError cancels it."""
        future = self.submit(work)
        try:
            return future.result(timeout)
        except TimeoutError:
            future.cancel()
            raise

    def close(self, timeout: float = 5.0) -> None:
        """Cancel what still runs, stop the loop and join. Raises PipelineStalled if the thread does not end."""
        if self.loop.is_closed():
            return
        with contextlib.suppress(TimeoutError):
            self.submit(self._cancel_all()).result(timeout)
        self.loop.call_soon_threadsafe(self.loop.stop)
        if not self._worker.join(timeout):
            raise PipelineStalled(f"the thread '{self._worker.name}' did not end within {timeout:g} s")
        self.loop.close()

    async def _cancel_all(self) -> None:
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self.loop.shutdown_asyncgens()
