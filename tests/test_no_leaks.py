"""What comes and goes for weeks leaves nothing behind, not even for Python's collector to find some hours later."""

from __future__ import annotations

import gc
import os
import platform
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from itertools import islice

import peers
import pytest

from stream_sr.pipeline.interfaces import SourceOptions
from stream_sr.sources import open_source

pytestmark = pytest.mark.network

# Threads that each leave a small block behind its large ones: with arenas of their own, none of them is given back.
MANY_THREADS = """
import sys, threading
if sys.argv[1] == "shared":
    from stream_sr.system.memory import share_arenas
    share_arenas()
gate, ready = threading.Event(), threading.Barrier(17)
def work():
    kept = [bytearray(50_000) for _ in range(20)]
    ready.wait()
    gate.wait()
threads = [threading.Thread(target=work) for _ in range(16)]
for thread in threads: thread.start()
ready.wait()
text = open("/proc/self/maps").read().splitlines()
starts = [int(line.split("-")[0], 16) for line in text if line.split()[1] == "rw-p"]
print(sum(start % (64 << 20) == 0 for start in starts))
gate.set()
for thread in threads: thread.join()
"""


@pytest.fixture(scope="module")
def camera() -> Iterator[str]:
    with peers.camera("128x96@30") as port:
        yield f"rtsp://127.0.0.1:{port}/cam"


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_a_connection_that_was_closed_is_gone_at_once(camera: str, transport: str) -> None:
    def visit() -> None:
        with closing(open_source(camera, SourceOptions(rtsp_transport=transport, read_timeout=10))) as source:
            for frame in islice(source.frames(), 3):
                frame.release()

    visit()  # what is made once
    gc.collect()
    gc.disable()
    try:
        gc.set_debug(gc.DEBUG_SAVEALL)
        visit()
        gc.collect()
        ours = Counter(type(one).__name__ for one in gc.garbage if type(one).__module__.startswith("stream_sr"))
        assert not ours
        assert len(gc.garbage) < 40  # asyncio leaves a few, of some hundred bytes
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="arenas are glibc's")
def test_threads_share_their_arenas() -> None:
    def arenas(how: str) -> int:
        words = [sys.executable, "-c", MANY_THREADS, how]
        free = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"}
        return int(subprocess.run(words, capture_output=True, text=True, check=True, timeout=60, env=free).stdout)

    assert arenas("shared") <= 2
    assert arenas("own") > arenas("shared")
