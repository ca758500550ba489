"""What Python costs: CPU time that goes neither into decoding, the network, interpolation nor encoding, file to file.

    python -m benchmarks overhead [--model fast] [--size 640x360] [--seconds 10] [--rounds 3]

One process, `stream-sr run FILE OUT.mp4 --encoder-preset ultrafast` as a function. Every thread of ours tells its CPU
time at its end, and each call into a library the CPU time that this thread spent inside it. What is left is ours:
Python, queues, statistics, copies of planes. The libraries' own threads run nothing of ours. ``share`` is ours, and the
container that FFmpeg reads and writes, over the CPU time of the whole process from the first frame on; it must be under
0.03. ``python_share`` is without the container.
"""

import argparse
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.interface import Benchmark, Measurement
from stream_sr.app.session import RunHooks, run
from stream_sr.bench.clip import make_clip
from stream_sr.codec.encoder import Encoder
from stream_sr.config import Config, size
from stream_sr.errors import ConfigError
from stream_sr.pipeline.pipeline import Pipeline
from stream_sr.pipeline.threads import Worker
from stream_sr.sinks.file import FileSink
from stream_sr.sources.file import FileSource

TARGET = 0.03
REQUEST = ("start_async", "wait", "infer")  # what an inference thread calls of OpenVINO


class Account:
    """CPU nanoseconds: of each thread of ours as a whole, and inside libraries by what they do. Thread-safe."""

    def __init__(self) -> None:
        self.threads: Counter[str] = Counter()
        self.inside: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self._lock = threading.Lock()

    def into(self, what: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """``work`` with its time entered under ``what``."""

        def timed(*arguments: Any, **options: Any) -> Any:
            began = time.thread_time_ns()
            try:
                return work(*arguments, **options)
            finally:
                spent = time.thread_time_ns() - began
                with self._lock:
                    self.inside[what] += spent
                    self.calls[what] += 1

        return timed

    def thread(self, work: Callable[[Worker], None]) -> Callable[[Worker], None]:
        """A worker's whole life with its time entered under its name."""

        def whole(worker: Worker) -> None:
            began = time.thread_time_ns()
            try:
                work(worker)
            finally:
                with self._lock:
                    self.threads[worker.name] += time.thread_time_ns() - began

        return whole

    def clear(self) -> None:
        """Forget what was entered so far: the opening of the file and the engine."""
        with self._lock:
            for counter in (self.threads, self.inside, self.calls):
                counter.clear()


class Timed:
    """Stands before a library's object; one of its methods is entered into the account."""

    def __init__(self, real: Any, method: str, call: Callable[..., Any]) -> None:
        self._real = real
        setattr(self, method, call)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


@contextmanager
def watching(account: Account) -> Iterator[None]:
    """Within, our threads and the calls that they make into PyAV and OpenVINO are entered."""
    import openvino

    create, read, write = Encoder.__init__, FileSource._open, FileSink.open

    def begin(encoder: Encoder, *arguments: Any, **options: Any) -> None:
        create(encoder, *arguments, **options)
        context = encoder._context
        encoder._context = Timed(context, "encode", account.into("encode", context.encode))  # type: ignore[assignment]

    def open_file(source: FileSource) -> None:
        read(source)
        container = source._container

        def demux(*wanted: Any) -> Iterator[Any]:
            return iter(account.into("container", partial(next, container.demux(*wanted), None)), None)

        source._container = Timed(container, "demux", demux)  # type: ignore[assignment]

    def begin_file(sink: FileSink, *arguments: Any) -> None:
        write(sink, *arguments)
        sink._container = Timed(sink._container, "mux_one", account.into("container", sink._container.mux_one))

    request = openvino.InferRequest
    changes: list[tuple[Any, str, Any]] = [
        (Worker, "_run", account.thread(Worker._run)),
        (FileSource, "_decode", account.into("decode", FileSource._decode)),
        (Encoder, "__init__", begin),
        (FileSource, "_open", open_file),
        (FileSink, "open", begin_file),
        *((request, name, account.into("network", getattr(request, name))) for name in REQUEST),
    ]
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in changes]
    for owner, name, value in changes:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


def measure_run(clip: Path, out: Path, config: Config) -> dict[str, Any]:
    """One run: CPU milliseconds per frame of everything, and of ours by thread. Raises what the run raises."""
    account = Account()
    began: list[int] = []

    def started(pipeline: Pipeline) -> None:
        account.clear()
        began[:] = [time.process_time_ns(), time.thread_time_ns()]

    with watching(account):
        outcome = run(str(clip), [str(out)], config, RunHooks(started=started, show_status=False))
    whole, main = time.process_time_ns() - began[0], time.thread_time_ns() - began[1]
    if outcome.error is not None:
        raise outcome.error
    if not {"decode", "network", "encode"} <= set(account.inside):
        raise ConfigError(f"only {', '.join(account.inside) or 'nothing'} was seen; this measures files and OpenVINO")
    report = outcome.report
    frames = report["frames_out"]
    account.threads["main"] += main
    python = sum(account.threads.values()) - sum(account.inside.values())
    ours = python + account.inside["container"]

    def each(ns: float) -> float:
        return round(ns / frames / 1e6, 4)

    return {
        "model": report["model"],
        "scale": report["scale"],
        "backend": report["backend"],
        "precision": report["precision"],
        "frames": frames,
        "fps": report["fps"],
        "share": round(ours / whole, 5),
        "python_share": round(python / whole, 5),
        "cpu_ms_per_frame": {
            "all": each(whole),
            "ours": each(ours),
            "libraries' threads": each(whole - sum(account.threads.values())),
            **{f"{what}, in our threads": each(ns) for what, ns in sorted(account.inside.items())},
        },
        "threads_ms_per_frame": {
            "write" if name == str(out) else name: each(ns) for name, ns in account.threads.most_common()
        },
    }


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="fast")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--size", type=size, default=(640, 360), metavar="WxH")
    parser.add_argument("--seconds", type=float, default=10, help="of film at 30 fps, each round")
    parser.add_argument("--rounds", type=int, default=3)


def measure(parsed: argparse.Namespace) -> Measurement:
    config = Config(
        model=parsed.model, backend="openvino", precision=parsed.precision, encoder_preset="ultrafast", overwrite=True
    )
    width, height = parsed.size
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip = make_clip(f"synthetic:{width}x{height}@30", parsed.seconds, folder / "clip.mp4")
        rounds = [measure_run(clip, folder / "out.mp4", config) for _ in range(parsed.rounds)]
    middle = sorted(rounds, key=lambda one: one["share"])[len(rounds) // 2]
    share = statistics.median(one["share"] for one in rounds)
    result = {
        "size": f"{width}x{height}",
        "shares": [one["share"] for one in rounds],
        "mark": TARGET,
        "reached": share < TARGET,
    } | middle
    for what, ms in middle["cpu_ms_per_frame"].items():
        print(f"{what:30}{ms:9.3f} ms of CPU a frame")
    print(f"ours is {100 * share:.2f} % of all, without the container {100 * middle['python_share']:.2f} %")
    missed = f"ours is {100 * share:.2f} % of the CPU time, the target is under {100 * TARGET:g} %"
    return Measurement(result, [] if result["reached"] else [missed])


ENTRY = Benchmark(add_options=add_options, measure=measure)
