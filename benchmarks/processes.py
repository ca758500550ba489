"""Programs as processes: their command lines, their wall and CPU time, and their memory (Linux)."""

import os
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.interface import MeasurementFailed
from benchmarks.record import ROOT

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
SAMPLE_SECONDS = 0.05


class ProcessFailed(MeasurementFailed):
    """A program ended with another exit code than 0; the message is the last line of its output."""


def module_command(module: str, *words: str) -> list[str]:
    """The command line that runs a module in another process of this interpreter; it needs `environment`."""
    return [sys.executable, "-m", module, *words]


def environment() -> dict[str, str]:
    """The variables of this process, with this checkout in front of the module search path."""
    before = os.environ.get("PYTHONPATH")
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *([before] if before else [])])}


@dataclass(frozen=True)
class Usage:
    """What a program used."""

    wall_seconds: float
    cpu_seconds: float
    peak_mib: float  # resident, of the whole tree


def watch(command: Sequence[str], *, seen: Callable[[int], None] = lambda pid: None) -> Usage:
    """Run a program to its end and discard its output. Raises ProcessFailed.

    Memory is sampled every 50 ms; of a single process the kernel's own peak counts. ``seen`` is called with the
    process number at each sample.
    """
    with tempfile.TemporaryFile() as output:
        began = time.monotonic()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        ended = os.pidfd_open(process.pid)
        peak = 0.0
        try:
            while not select.select([ended], [], [], SAMPLE_SECONDS)[0]:
                peak = max(peak, tree_mib(process.pid), own_peak_mib(process.pid))
                seen(process.pid)
            wall = time.monotonic() - began
        except BaseException:
            process.kill()
            raise
        finally:
            os.close(ended)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            lines = output.read().decode(errors="replace").strip().splitlines() or ["it wrote nothing"]
            raise ProcessFailed(f"{lines[-1]} (exit code {process.returncode})")
    return Usage(wall, usage.ru_utime + usage.ru_stime, peak)


def own_peak_mib(pid: int) -> float:
    """The most that this process alone had resident so far, MiB; 0 once it has gone.

    Not wait4's ru_maxrss, which begins with what the parent had resident at the fork.
    """
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in text.splitlines() if line.startswith("VmHWM:")), 0.0)


def tree_mib(pid: int) -> float:
    """Resident memory of a process and all that it started, MiB; 0 once it has gone. Shared pages count for each."""
    try:
        children = [
            child for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()
        ]
    except OSError:
        return 0.0
    return resident_mib(pid) + sum(tree_mib(int(child)) for child in children)


def resident_mib(pid: int) -> float:
    """Resident memory of one process, MiB; 0 once it has gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES / 2**20
    except (OSError, IndexError):
        return 0.0


def quarters(samples: Sequence[float]) -> tuple[float, float]:
    """The medians of the second and the last quarter of a run; its very last sample, when the run ends, is left out."""
    quarter = max(1, len(samples) // 4)
    second = statistics.median(samples[quarter : 2 * quarter] or samples)
    return second, statistics.median(samples[-quarter - 1 : -1] or samples)
