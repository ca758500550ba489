"""Viewers of the page that join and leave, some of them over slow connections: memory, and what the others notice.

    python -m benchmarks viewers [--seconds 300] [--viewers 10] [--size 640x360@30]

The filter runs in a process of its own: synthetic camera, bicubic (the page is what is measured), a restream over RTSP
beside the page. One viewer stays and one player of the restream; in the first tenth of the time they are alone. Then
``--viewers`` others join for 0.5 to 5 s, leave and come again; every third reads five messages a second and no more.
Memory is the filter's resident set. Fails where memory grows by more than a tenth from the second to the last quarter,
where the one that stays misses a picture, or where the restream loses one.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

from websockets import Origin
from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

from benchmarks.interface import Benchmark, Measurement
from benchmarks.processes import quarters, resident_mib
from stream_sr.bench.engine import spread
from stream_sr.cli.demo import child, free_port, wait_for_port
from stream_sr.sinks.web.messages import FRAGMENT, HEADER

MOST_GROWTH = 1.1
SLOW_SECONDS = 0.2  # between the messages of a slow viewer
ALONE_SHARE = 0.1


def join(port: int, **options: Any) -> ClientConnection:
    host = f"127.0.0.1:{port}"
    return connect(
        f"ws://{host}/stream",
        origin=Origin(f"http://{host}"),
        compression=None,
        max_size=None,
        close_timeout=1,
        **options,
    )


def stay(port: int, stop: threading.Event, seen: list[tuple[float, int, float]]) -> None:
    """Watch all the time: when, which picture, and how old it was in ms."""
    with join(port) as connection:
        while not stop.is_set():
            message = connection.recv(timeout=20)
            if isinstance(message, bytes):
                kind, number, captured_ms, _ = HEADER.unpack_from(message)
                if kind == FRAGMENT:
                    seen.append((time.monotonic(), number, time.monotonic_ns() / 1e6 - captured_ms))


def come_and_go(port: int, index: int, stop: threading.Event, visits: list[int]) -> None:
    """Join for a while, leave, again and again."""
    chance, slow = random.Random(index), index % 3 == 0
    while not stop.is_set():
        with suppress(OSError, TimeoutError, WebSocketException), join(port, max_queue=1) as connection:
            visits[index] += 1
            leave = time.monotonic() + chance.uniform(0.5, 5)
            while time.monotonic() < leave and not stop.is_set():
                connection.recv(timeout=5)
                if slow:
                    stop.wait(SLOW_SECONDS)
        stop.wait(chance.uniform(0, 0.5))


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def measure_viewers(options: argparse.Namespace, report: Path) -> dict[str, Any]:
    """The whole run; the filter writes its own report into ``report``."""
    port, rtsp = free_port(), free_port()
    source, restream = f"synthetic:photos,{options.size}", f"rtsp://@:{rtsp}/x"
    words = ["run", source, restream, f"web:{port}", "--backend", "bicubic", "--json", str(report)]
    stop, alone_ended = threading.Event(), 0.0
    seen: list[tuple[float, int, float]] = []
    visits, memory, files = [0] * options.viewers, list[float](), list[int]()
    process = subprocess.Popen([sys.executable, "-m", "stream_sr", *words], stderr=subprocess.DEVNULL)
    try:
        wait_for_port(port, 60)
        with child("player", "run", f"rtsp://127.0.0.1:{rtsp}/x", "null:", "--backend", "bicubic", "--scale", "1"):
            threads = [threading.Thread(target=stay, args=(port, stop, seen))]
            threads += [
                threading.Thread(target=come_and_go, args=(port, index, stop, visits))
                for index in range(options.viewers)
            ]
            threads[0].start()
            while not seen and threads[0].is_alive():
                time.sleep(0.05)
            ends = time.monotonic() + options.seconds
            while time.monotonic() < ends and process.poll() is None:
                if not alone_ended and time.monotonic() > ends - (1 - ALONE_SHARE) * options.seconds:
                    alone_ended = time.monotonic()
                    for thread in threads[1:]:
                        thread.start()
                memory.append(resident_mib(process.pid))
                files.append(descriptors(process.pid))
                time.sleep(0.5)
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/stats", timeout=10) as answer:
                page = json.load(answer)["web"]
            stop.set()
            for thread in threads:
                thread.join()
    finally:
        stop.set()
        process.terminate()
        process.wait(30)
    figures = json.loads(report.read_text())
    quarter = len(files) // 4
    second, last = quarters(memory)
    ages = {
        name: spread([round(age * 1e6) for at, _, age in seen if (at > alone_ended) == after])
        for name, after in (("alone", False), ("with_the_others", True))
    }
    numbers = [number for _, number, _ in seen]
    dropped = figures["outputs"][f"web:127.0.0.1:{port}"]["dropped"]  # before the page: the machine was too slow
    dropped += sum(figures["lost_in_source"].values())
    return {
        "age_ms": ages,
        "pictures": len(numbers),
        "missed": numbers[-1] - numbers[0] + 1 - len(numbers) - dropped,
        "visits": sum(visits),
        "page": page,
        "outputs": figures["outputs"],
        "dropped": figures["dropped"],
        "memory_mib": {
            "second_quarter": round(second, 1),
            "last_quarter": round(last, 1),
            "peak": round(max(memory), 1),
        },
        "descriptors": {"second_quarter": statistics.median(files[quarter : 2 * quarter]), "most": max(files)},
    }


def failures(result: dict[str, Any]) -> list[str]:
    """The targets that are missed."""
    memory, found = result["memory_mib"], []
    if memory["last_quarter"] > MOST_GROWTH * memory["second_quarter"]:
        found.append(f"memory grew from {memory['second_quarter']} to {memory['last_quarter']} MiB")
    if result["missed"] > 0:
        found.append(f"the viewer that stayed missed {result['missed']} pictures")
    slow = {name: reasons for name, reasons in result["outputs"].items() if name.startswith("rtsp:")}
    lost = sum(one["dropped"] for one in slow.values()) - sum(result["dropped"].values())
    if lost > 0:
        found.append(f"the restream lost {lost} pictures")
    return found


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--viewers", type=int, default=10)
    parser.add_argument("--size", default="640x360@30")


def measure(parsed: argparse.Namespace) -> Measurement:
    with tempfile.TemporaryDirectory() as folder:
        result = measure_viewers(parsed, Path(folder) / "report.json")
    print(json.dumps({key: result[key] for key in ("age_ms", "missed", "visits", "page", "memory_mib", "descriptors")}))
    settings = {"seconds": parsed.seconds, "viewers": parsed.viewers, "size": parsed.size}
    return Measurement(result | settings, failures(result))


ENTRY = Benchmark(add_options=add_options, measure=measure)
