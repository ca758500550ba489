"""Threads that can be abandoned: visible while they run, bounded in number, and no burden on the end of the process."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from stream_sr.errors import SourceOpenError
from stream_sr.pipeline import threads
from stream_sr.pipeline.threads import Abandonable, LoopThread, Worker, abandoned


def wait(event: threading.Event) -> None:
    event.wait()


def ended(thread: Worker) -> bool:
    return thread.join(10)


def test_an_abandoned_thread_is_listed_until_it_ends() -> None:
    leave = threading.Event()
    thread = Abandonable("call", partial(wait, leave))
    assert abandoned() == []
    thread.abandon()
    thread.abandon()
    assert abandoned() == ["call"]
    leave.set()
    assert ended(thread)
    assert abandoned() == []
    thread.abandon()  # it has ended: nothing is left of it
    assert abandoned() == []


def test_the_number_of_abandoned_threads_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "MAX_ABANDONED", 2)
    leave = threading.Event()
    stuck = [Abandonable("call", partial(wait, leave)) for _ in range(2)]
    for thread in stuck:
        thread.abandon()
    with pytest.raises(SourceOpenError, match="2 calls that were abandoned have not returned"):
        Abandonable("one more", lambda: None)
    leave.set()
    assert all(map(ended, stuck))
    assert ended(Abandonable("one more", lambda: None))


def test_only_abandonable_threads_are_daemons_whoever_starts_them() -> None:
    kinds: list[bool] = []

    def start_worker() -> None:
        assert Worker("inner", lambda: kinds.append(threading.current_thread().daemon)).join(10)

    assert ended(Abandonable("outer", start_worker))
    assert kinds == [False]


@pytest.mark.parametrize("code", [0, 3])
def test_the_end_of_the_process_does_not_wait_for_an_abandoned_thread(code: int) -> None:
    """It keeps the exit code and the output, waits for the other threads, and leaves Python's state alone."""
    program = f"""
import socket, sys, threading
from stream_sr.pipeline.threads import Abandonable, Worker, finish_process
here, there = socket.socketpair()
Abandonable("native call", lambda: here.recv(1)).abandon()
Worker("writer", lambda: sys.stdout.write("written\\n"))
sys.stdout.write("printed\\n")
sys.exit(finish_process({code}))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == code
    assert sorted(done.stdout.split()) == ["printed", "written"]
    assert done.stderr == ""


def test_without_an_abandoned_thread_the_process_ends_as_usual() -> None:
    """Threads of libraries are left to their own clean-up: those of an executor end only when Python shuts down."""
    with ThreadPoolExecutor() as executor:
        executor.submit(int).result()
        assert threads.finish_process(7) == 7


def test_a_loop_looks_names_up() -> None:
    loop = LoopThread("loop")
    try:
        found = loop.call(loop.loop.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM), 10)
        assert [one[4] for one in found] == [("127.0.0.1", 80)]
        with pytest.raises(socket.gaierror):
            loop.call(loop.loop.getaddrinfo("a" * 300 + ".invalid", 80), 10)
    finally:
        loop.close()


def test_closing_a_loop_does_not_wait_for_a_look_up(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, answer = threading.Event(), threading.Event()

    def hang(*words: object, **options: object) -> list[object]:
        asked.set()
        answer.wait()
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    loop = LoopThread("loop")
    waiting = loop.submit(loop.loop.getaddrinfo("camera.example", 554))
    assert asked.wait(10)
    loop.close(2)
    assert waiting.cancelled() or isinstance(waiting.exception(), asyncio.CancelledError)
    assert abandoned() == ["look up camera.example"]
    answer.set()
    while abandoned():
        threading.Event().wait(0.01)
