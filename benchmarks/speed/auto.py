"""Which models ``--model auto`` chooses, alone and while other processes compute.

    python -m benchmarks auto [--seconds 300] [--sizes 640x360,960x540,1280x720] [--busy 1]
    python -m benchmarks auto --record FILE.csv [--sizes 640x360]

A camera of 30 frames a second in this process, the shipped models at x2, no encoder. First every preset fixed
for some seconds at every size; the size taken is the largest at which the largest preset holds (nothing dropped, p99 of
the inference under the time from frame to frame), else at which any does. There `auto` alone for ``--seconds``, and
then with ``--busy`` processes that do nothing but compute in the middle third of ``--load-seconds``. With
``--record`` each of the models takes turns on every frame instead, under the same load, and their times are written
to a CSV file, which the tests replay.
"""

import argparse
import csv
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.interface import Benchmark, Measurement
from stream_sr.app.session import RunHooks, run
from stream_sr.bench.engine import make_pictures
from stream_sr.config import Config, size
from stream_sr.errors import ConfigError
from stream_sr.evaluation.plots import new_figure, save_figure
from stream_sr.inference.engines import open_engine
from stream_sr.inference.model import AUTO, model_ladder
from stream_sr.pipeline.engine import LIVE_FIDELITY, Engine, EngineOptions
from stream_sr.pipeline.pipeline import Pipeline
from stream_sr.pipeline.stats import Histogram, Stats
from stream_sr.pipeline.threads import Worker
from stream_sr.video.frame import StreamInfo

FPS = 30
DEADLINE_MS = 1e3 / FPS
SCALE = 2
BUSY = "while True: pass"


@dataclass
class Watch:
    """What one run showed: four times a second the inferences since, and marks that an event may be counted from."""

    times: list[dict[str, float]] = field(default_factory=list)  # seconds, p50 and p99 of the inferences since, ms
    pipeline: Pipeline | None = None
    started: threading.Event = field(default_factory=threading.Event)
    _before: Histogram = field(default_factory=Histogram)
    _marks: dict[str, tuple[float, Histogram, int]] = field(default_factory=dict)
    _began: float = field(default_factory=time.monotonic)

    def start(self, pipeline: Pipeline) -> None:
        self.pipeline, self._began = pipeline, time.monotonic()
        self.started.set()

    def tick(self, stats: Stats) -> None:
        now = stats.histograms().get("infer", Histogram())
        since, self._before = now.since(self._before), now
        if since.count:
            p50, p99 = (round(since.percentile_ms(percent), 3) for percent in (50, 99))
            self.times.append({"seconds": round(time.monotonic() - self._began, 3), "p50": p50, "p99": p99})

    def mark(self, name: str) -> None:
        """Remember this moment; from any thread."""
        if self.pipeline is None:  # it never began
            return
        stats = self.pipeline.stats
        histogram = stats.histograms().get("infer", Histogram())
        self._marks[name] = (time.monotonic() - self._began, histogram, sum(stats.summary()["dropped"].values()))

    def seconds(self, name: str) -> float:
        return round(self._marks[name][0], 3)

    def between(self, first: str, last: str) -> dict[str, float]:
        """p50 and p99 of the inferences, and drops, between two marks."""
        (_, before, lost), (_, after, later) = self._marks[first], self._marks[last]
        some = after.since(before)
        return {
            "p50": round(some.percentile_ms(50), 2),
            "p99": round(some.percentile_ms(99), 2),
            "frames": some.count,
            "dropped": later - lost,
        }


def measure_run(picture: str, model: str, seconds: float, *, threads: int | None, watch: Watch | None = None) -> Any:
    """The report of a run of so many seconds. Raises what ended it."""
    watch = watch or Watch()
    config = Config(model=model, scale=SCALE, duration=seconds, threads=threads)
    hooks = RunHooks(started=watch.start, ticked=watch.tick, show_status=False)
    outcome = run(f"synthetic:photos,{picture}@{FPS}", ["null:"], config, hooks)
    if outcome.error is not None:
        raise outcome.error
    return outcome.report


def row_of(picture: str, model: str, report: Any) -> dict[str, Any]:
    """What a fixed preset reached."""
    infer, dropped = report["stages_ms"]["infer"], sum(report["dropped"].values())
    lost = dropped + sum(report["lost_in_source"].values())
    return {
        "size": picture,
        "model": model,
        "fps": round(report["fps"], 2),
        "dropped": lost,
        "p50": infer["p50"],
        "p99": infer["p99"],
        "holds": lost == 0 and infer["p99"] < DEADLINE_MS,
    }


def choose_size(rows: list[dict[str, Any]], models: list[str]) -> str:
    """The largest picture that the largest preset holds, else that any does. Raises ConfigError where none does."""
    for model in reversed(models):
        held = [row["size"] for row in rows if row["model"] == model and row["holds"]]
        if held:
            return str(held[-1])
    raise ConfigError("no preset holds any size on this machine now; make it quieter, or give smaller --sizes")


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """So many processes that compute, for the block."""
    processes = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def run_quiet(picture: str, models: list[str], rows: list[dict[str, Any]], parsed: argparse.Namespace) -> Any:
    """``auto`` alone, against the presets that were fixed."""
    report = measure_run(picture, AUTO, parsed.seconds, threads=parsed.threads)
    rungs = list(report["auto"]["ladder"])
    held = [row["model"] for row in rows if row["size"] == picture and row["holds"]]
    largest = max(models.index(model) for model in held)
    last = rungs.index(report["model"]) - rungs.index(models[largest]) if models[largest] in rungs else None
    return {
        "seconds": parsed.seconds,
        "model": report["model"],
        "largest_that_holds": models[largest],
        "steps": report["auto"]["steps"],
        "frames": report["frames_in"],
        "p99": report["stages_ms"]["infer"]["p99"],
        "dropped": sum(report["dropped"].values()) + sum(report["lost_in_source"].values()),
        "within_one_step": last is not None and -1 <= last <= 0,
    }


def run_loaded(picture: str, parsed: argparse.Namespace) -> Any:
    """``auto`` while busy processes come and go."""
    watch, third = Watch(), parsed.load_seconds / 3

    def load() -> None:
        watch.started.wait()
        time.sleep(third)
        watch.mark("start")
        with busy_processes(parsed.busy):
            time.sleep(third)
            watch.mark("end")

    worker = Worker("load", load)
    try:
        report = measure_run(picture, AUTO, parsed.load_seconds, threads=parsed.threads, watch=watch)
    finally:
        watch.started.set()
        worker.join()
    if worker.error is not None:
        raise worker.error
    steps, ladder = report["auto"]["steps"], list(report["auto"]["ladder"])
    start, end = watch.seconds("start"), watch.seconds("end")
    down = [s for s in steps if start <= s["seconds"] < end and ladder.index(s["to"]) < ladder.index(s["from"])]
    up = [s for s in steps if s["seconds"] >= end and ladder.index(s["to"]) > ladder.index(s["from"])]
    return {
        "seconds": parsed.load_seconds,
        "busy": parsed.busy,
        "busy_from": start,
        "busy_to": end,
        "ladder": ladder,
        "first_model": steps[0]["from"] if steps else report["model"],
        "steps": steps,
        "during": watch.between("start", "end"),
        "down_after": round(down[0]["seconds"] - start, 3) if down else None,
        "up_after": round(up[0]["seconds"] - end, 3) if up else None,
        "times": watch.times,
    }


def judge(quiet: Any, loaded: Any) -> dict[str, bool]:
    """The targets, and whether each is met."""
    return {
        "within one step of the largest that holds": quiet["within_one_step"],
        "drops nothing": quiet["dropped"] == 0,
        "steps down under load": loaded["down_after"] is not None,
        "p99 under the deadline meanwhile": loaded["during"]["p99"] < DEADLINE_MS,
        "steps up again": loaded["up_after"] is not None,
    }


def plot(result: Mapping[str, Any], out: Path) -> None:
    """Inference times, the deadline, the load and the model in use, over time."""
    loaded, picture = result["loaded"], result["size"]
    figure = new_figure(9, 5.5)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    for axes in (above, below):
        axes.axvspan(
            loaded["busy_from"], loaded["busy_to"], color="0.9", label=f"busy processes beside it: {loaded['busy']}"
        )
    seconds = [point["seconds"] for point in loaded["times"]]
    above.plot(seconds, [point["p99"] for point in loaded["times"]], color="C1", linewidth=1, label="slowest")
    above.plot(seconds, [point["p50"] for point in loaded["times"]], color="C0", label="median")
    above.axhline(DEADLINE_MS, color="C3", linestyle="--", label=f"to the next frame, {DEADLINE_MS:.1f} ms")
    above.set_ylim(0, max(1.5 * DEADLINE_MS, 1.1 * max(point["p99"] for point in loaded["times"])))
    above.set_ylabel("inference, ms, each quarter second")
    above.legend(loc="upper right", fontsize=9)
    above.set_title(f"--model auto at {picture}, x{SCALE}, {FPS} pictures a second", fontsize=10)
    rungs = [loaded["first_model"], *(step["to"] for step in loaded["steps"])]
    starts = [0.0, *(step["seconds"] for step in loaded["steps"])]
    levels = [loaded["ladder"].index(rung) for rung in rungs]
    below.stairs(levels, [*starts, loaded["seconds"]], baseline=None, color="C2", linewidth=2)
    below.set_yticks(range(len(loaded["ladder"])), loaded["ladder"])
    below.set_ylim(-0.5, len(loaded["ladder"]) - 0.5)
    below.set_xlabel("seconds")
    for axes in (above, below):
        axes.grid(visible=True, alpha=0.3)
        axes.set_xlim(0, loaded["seconds"])
    save_figure(figure, out)


def write_times(out: Path, picture: tuple[int, int], seconds: float, busy: int) -> None:
    """Write as CSV the time of each model, in turns on every frame, with a load in the middle third."""
    width, height = picture
    engines: list[Engine] = []
    pictures = make_pictures(width, height)
    info = StreamInfo(width, height, pictures[0].time_base)
    try:
        engines.append(open_engine(None, info, EngineOptions(backend="bicubic"), scale=SCALE))
        engines += [open_engine(model, info, EngineOptions(fidelity=LIVE_FIDELITY)) for model in model_ladder(SCALE)]
        with out.open("w", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(["seconds", *(engine.spec.model for engine in engines)])
            began, rounds = time.monotonic(), iter(range(10**9))

            def measure_until(end: float) -> None:
                while (now := time.monotonic() - began) < end:
                    one, row = pictures[next(rounds) % len(pictures)], [f"{now:.3f}"]
                    for engine in engines:
                        start = time.perf_counter()
                        engine.submit(one).wait()
                        row.append(f"{1e3 * (time.perf_counter() - start):.2f}")
                    table.writerow(row)

            measure_until(seconds / 3)
            with busy_processes(busy):
                measure_until(2 * seconds / 3)
            measure_until(seconds)
    finally:
        for engine in engines:
            engine.close()


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--load-seconds", type=float, default=120)
    parser.add_argument("--fixed-seconds", type=float, default=8, help="of each preset at each size")
    parser.add_argument(
        "--sizes", type=sizes, default=sizes("640x360,960x540,1280x720"), metavar="WxH,...", help="the smallest first"
    )
    parser.add_argument("--busy", type=int, default=1, metavar="PROCESSES")
    parser.add_argument("--threads", type=int, help="of the engines")
    parser.add_argument("--record", type=Path, metavar="FILE.csv")


def sizes(text: str) -> list[tuple[int, int]]:
    return [size(part) for part in text.split(",")]


def measure(parsed: argparse.Namespace) -> Measurement | None:
    if parsed.record is not None:
        write_times(parsed.record, parsed.sizes[0], parsed.seconds, parsed.busy)
        return None
    models = [model.name for model in model_ladder(SCALE)]
    rows = []
    for width, height in parsed.sizes:
        for model in models:
            report = measure_run(f"{width}x{height}", model, parsed.fixed_seconds, threads=parsed.threads)
            rows.append(row_of(f"{width}x{height}", model, report))
            print(rows[-1])
    picture = choose_size(rows, models)
    quiet = run_quiet(picture, models, rows, parsed)
    print({key: value for key, value in quiet.items() if key != "steps"})
    loaded = run_loaded(picture, parsed)
    targets = judge(quiet, loaded)
    result = {"size": picture, "scale": SCALE, "fps": FPS, "fixed": rows, "quiet": quiet, "loaded": loaded}
    return Measurement(result | {"marks": targets}, [name for name, met in targets.items() if not met])


ENTRY = Benchmark(add_options=add_options, measure=measure, plot=plot, image="auto.png")
