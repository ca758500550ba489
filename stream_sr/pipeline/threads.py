"""The only place that starts threads.

A `Worker` has a name, an owner that joins it, and is not a daemon. `Abandonable` is the one exception: a daemon thread
for a native call that cannot be cancelled, which its owner may leave before the call returns.
"""

import asyncio
import contextlib
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

from stream_sr.errors import PipelineStalled, SourceOpenError
from stream_sr.system.printable import printable
from stream_sr.system.processes import name_thread

R = TypeVar("R")
MAX_ABANDONED = 100  # threads whose call has not returned yet; more are refused

log = logging.getLogger("stream_sr")


class Worker:
    """A thread whose failure is kept for its owner.

    On Linux the system knows it by the first 15 bytes of its name (``top -H``, gdb), and so the threads that a library
    starts from it without naming them.
    """

    _daemon = False
    _running: "set[Worker]" = set()  # noqa: RUF012 - of all instances
    _lock = threading.Lock()

    def __init__(self, name: str, target: Callable[[], None]) -> None:
        self.name = name
        self.error: BaseException | None = None
        self._target = target
        self._thread = threading.Thread(target=self._run, name=name, daemon=self._daemon)
        with self._lock:
            self._running.add(self)
        try:
            self._thread.start()
        except BaseException:
            with self._lock:
                self._running.discard(self)
            raise

    def _run(self) -> None:
        try:
            name_thread(printable(self.name))
            self._target()
        except BaseException as error:
            self.error = error
        finally:
            del self._target  # it may hold its owner, who holds us
            with self._lock:
                self._running.discard(self)

    @property
    def ident(self) -> int | None:
        """The thread, as `threading.get_ident` names it."""
        return self._thread.ident

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the end; whether it came."""
        self._thread.join(timeout)
        return not self._thread.is_alive()


class Abandonable(Worker):
    """A daemon thread for native calls that nothing can cancel: FFmpeg's opening and reading, a name lookup.

    Such a call ends only after its own timeout, and often later than the user, a reload or the end of the process can
    wait. The owner joins this thread like a `Worker`, or calls `abandon` and leaves. From then on what ``target`` opens
    belongs to ``target`` alone, which closes it as soon as the native call has returned: never while a call is inside.

    A daemon thread does not hold the end of the process up, but it must not run into the interpreter's finalisation:
    `finish_process` ends a process that still has one. The number of abandoned threads is bounded: the constructor
    raises SourceOpenError while ``MAX_ABANDONED`` of them have not returned.
    """

    _daemon = True

    def __init__(self, name: str, target: Callable[[], None]) -> None:
        if len(stuck := abandoned()) >= MAX_ABANDONED:
            raise SourceOpenError(
                f"{len(stuck)} calls that were abandoned have not returned yet (the first: {stuck[0]}); "
                "check the name servers, the network and the mounted file systems; it is tried again"
            )
        self.is_abandoned = False
        super().__init__(name, target)

    def _run(self) -> None:
        super()._run()
        if self.is_abandoned:
            log.debug("the abandoned thread '%s' has ended", self.name)

    def abandon(self) -> None:
        """Leave the thread to itself; returns at once."""
        if not self.is_abandoned and not self.join(0):
            self.is_abandoned = True
            log.debug("the thread '%s' is abandoned until its native call returns", self.name)


def abandoned() -> list[str]:
    """Return the names of the abandoned threads that still run."""
    with Worker._lock:
        return sorted(one.name for one in Worker._running if isinstance(one, Abandonable) and one.is_abandoned)


def finish_process(code: int) -> int:
    """Return ``code`` for a normal exit; where an `Abandonable` still runs, end the process here with that code.

    Python would tear its state down under a native call that comes back to it 10 times a second (PyAV's timeouts do).
    Joins every `Worker` and flushes the standard streams first, as a normal exit does; runs no `atexit` function.
    """
    with Worker._lock:
        running = list(Worker._running)
    left = [one for one in running if isinstance(one, Abandonable)]
    if not left:
        return code
    for one in running:
        if one not in left:
            one.join()
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or nobody reads it
            stream.flush()
    os._exit(code)


class LoopThread:
    """An asyncio event loop on a thread of its own, for adapters that speak a network protocol.

    It looks host names up in an `Abandonable`: a lookup that hangs holds up neither `close` nor the end of the process.
    """

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self.loop.getaddrinfo = partial(_look_up, self.loop)  # type: ignore[method-assign]
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


async def _look_up(loop: asyncio.AbstractEventLoop, host: Any, port: Any, **options: Any) -> Any:
    """Do what `asyncio.loop.getaddrinfo` does, which would use the non-daemon threads of the default executor."""
    answer: asyncio.Future[Any] = loop.create_future()

    def settle(found: Any, error: OSError | None) -> None:
        if answer.done():
            return
        if error is None:
            answer.set_result(found)
        else:
            answer.set_exception(error)

    def work() -> None:
        found: Any = None
        failure: OSError | None = None
        try:
            found = socket.getaddrinfo(host, port, **options)
        except (OSError, UnicodeError) as error:
            failure = error if isinstance(error, OSError) else socket.gaierror(socket.EAI_NONAME, str(error))
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(settle, found, failure)

    thread = Abandonable(f"look up {host}", work)
    try:
        return await answer
    finally:
        if not (answer.done() and not answer.cancelled() and thread.join(1)):
            thread.abandon()
