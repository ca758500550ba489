"""Train the shipped models, as far as the time allows: each preset, scale and weights, and the recurrent ones.

    python -m benchmarks train-models --data DIR... --clips DIR --out runs [--unlabelled DIR...] [--minutes 9]
        [--parallel 6] [--only NAME...]

Each network is a `stream-sr train` of its own, some at a time; what starts from another waits for it. After the minutes
every run writes its state and stops; the same command goes on from there. Pictures of --unlabelled are shown to those
that have a teacher, which says what they should become. DIR of --clips holds folders made by `stream-sr clips`:
camera-x1 to camera-x4, and with --motion both --length 12 moving-clean-x4 and moving-camera-x2; what needs a missing
one is left out, and said. ``make train-gpu`` is this with the folders of ``data/``.
"""

import argparse
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.interface import Task
from benchmarks.processes import environment, module_command
from stream_sr.errors import SourceOpenError
from stream_sr.training.loop import CHECKPOINT
from stream_sr.training.plots import read_log
from stream_sr.training.recipe import load_recipe

PRESETS = ("quality", "balanced", "fast", "tiny")  # the largest teaches the others
SCALES = (2, 3, 4)
STOP_SECONDS = 60  # to write a checkpoint


@dataclass(frozen=True)
class Job:
    """One run; ``after`` are names of the runs whose checkpoints it needs."""

    name: str
    recipe: str
    scale: int
    weights: str
    data: tuple[str, ...]
    after: tuple[str, ...] = ()
    teacher: str | None = None
    unlabelled: tuple[str, ...] = ()

    def command(self, out: Path) -> list[str]:
        words = module_command("stream_sr", "train", self.recipe, "--scale", str(self.scale), "--weights", self.weights)
        words += [word for folder in self.data for word in ("--data", folder)]
        words += ["--out", str(out / self.name), "--threads", "2"]
        if (out / self.name / CHECKPOINT).exists():
            words.append("--resume")
        elif self.after:
            words += ["--from", str(out / self.after[0] / CHECKPOINT)]
        if self.teacher and (out / self.teacher / CHECKPOINT).exists():
            words += ["--teacher", str(out / self.teacher / CHECKPOINT)]
            words += [word for folder in self.unlabelled for word in ("--unlabelled", folder)]
        return words

    def done(self, out: Path) -> int:
        """Iterations done, as its log has them; a stop between two validations is not in it."""
        try:
            return int(read_log(out / self.name / "log.jsonl")[-1]["iteration"])
        except SourceOpenError:  # there is none, or it is being written
            return 0

    @property
    def iterations(self) -> int:
        return load_recipe(self.recipe, scale=self.scale, weights=self.weights).iterations


def jobs(pictures: Sequence[Path], clips: Path, unlabelled: Sequence[Path] = ()) -> list[Job]:
    """All runs, in an order in which each comes after what it needs."""
    stills, more = tuple(str(folder) for folder in pictures), tuple(str(folder) for folder in unlabelled)
    found: list[Job] = []
    for preset in PRESETS:
        for scale in SCALES:
            after = (f"{preset}-x2",) if scale != 2 else ()
            teacher = f"quality-x{scale}" if preset != "quality" else None
            found.append(Job(f"{preset}-x{scale}", preset, scale, "clean", stills, after, teacher, more))
        for scale in (1, *SCALES):
            start = f"{preset}-x{2 if scale == 1 else scale}"
            data = (str(clips / f"camera-x{scale}"),)
            found.append(Job(f"{preset}-camera-x{scale}", preset, scale, "camera", data, (start,)))
    for weights, scale in (("clean", 4), ("camera", 2)):
        name = ("-camera" if weights == "camera" else "") + f"-x{scale}"
        data = (str(clips / f"moving-{weights}-x{scale}"),)
        start = "fast-camera-x2" if weights == "camera" else "fast-x2"
        found.append(Job(f"recurrent{name}", "recurrent", scale, weights, data, (start,)))
    return found


def ready(job: Job, out: Path, by_name: dict[str, Job]) -> bool:
    """Whether what it starts from and learns from is complete."""
    needs = [*job.after, *([job.teacher] if job.teacher else [])]
    return all(name not in by_name or by_name[name].done(out) >= by_name[name].iterations for name in needs)


def choose(parsed: argparse.Namespace) -> list[Job]:
    """The jobs that are asked for and have what they need; what is left out is printed."""
    chosen = [
        job for job in jobs(parsed.data, parsed.clips, parsed.unlabelled) if not parsed.only or job.name in parsed.only
    ]
    for job in [job for job in chosen if not all(Path(folder).is_dir() for folder in job.data)]:
        print(f"{job.name}: left out, there is no {' '.join(job.data)}; `stream-sr clips` makes it")
        chosen.remove(job)
    names = {job.name for job in chosen}
    for job in chosen:
        if job.teacher and job.teacher not in names and not (parsed.out / job.teacher / CHECKPOINT).exists():
            print(f"{job.name}: learns without a teacher, there is no {parsed.out / job.teacher / CHECKPOINT}")
    return chosen


class Runs:
    """The processes that train, each with its log in ``out``. One thread."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.failed: list[str] = []

    def start(self, job: Job) -> None:
        with (self.out / f"{job.name}.log").open("ab") as log:
            self.running[job.name] = subprocess.Popen(job.command(self.out), stdout=log, stderr=log, env=environment())
        print(f"{job.name}: started", flush=True)

    def collect(self) -> None:
        """Take away those that have ended."""
        for name in [name for name, process in self.running.items() if process.poll() is not None]:
            self._ended(name)

    def stop(self) -> None:
        """Tell all to write their checkpoints and end; wait for them."""
        for process in self.running.values():
            process.send_signal(signal.SIGINT)
        for name, process in list(self.running.items()):
            try:
                process.wait(STOP_SECONDS)
                self._ended(name)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                print(f"{name}: did not stop in {STOP_SECONDS} s, its last checkpoint counts", file=sys.stderr)

    def _ended(self, name: str) -> None:
        if self.running.pop(name).returncode:
            self.failed.append(name)
            print(f"{name}: failed, see {self.out / f'{name}.log'}", file=sys.stderr)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, action="append", required=True, metavar="DIR")
    parser.add_argument("--clips", type=Path, required=True, metavar="DIR")
    parser.add_argument("--unlabelled", type=Path, action="append", default=[], metavar="DIR")
    parser.add_argument("--out", type=Path, default=Path("runs"), metavar="DIR")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--parallel", type=int, default=6)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="such as fast-x2 fast-camera-x2")


def run(parsed: argparse.Namespace) -> int:
    chosen = choose(parsed)
    by_name = {job.name: job for job in chosen}
    parsed.out.mkdir(parents=True, exist_ok=True)
    ends, runs = time.monotonic() + 60 * parsed.minutes, Runs(parsed.out)
    while time.monotonic() < ends:
        runs.collect()
        waiting = [job for job in chosen if job.name not in runs.running and job.name not in runs.failed]
        for job in (job for job in waiting if job.done(parsed.out) < job.iterations):
            if len(runs.running) < parsed.parallel and ready(job, parsed.out, by_name):
                runs.start(job)
        if not runs.running:
            break  # all are done, or what is left waits for a run that failed
        time.sleep(1)
    runs.stop()
    for job in chosen:
        print(f"{job.name:24} {job.done(parsed.out):>8,} of {job.iterations:>8,}")
    return 1 if runs.failed else 0


ENTRY = Task(add_options=add_options, run=run)
