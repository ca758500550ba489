"""A program from its start to its end: wall time, CPU time, and the memory of it and of all that it starts (Linux)."""

import os
import select
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
LOOK_SECONDS = 0.05


class ProcessFailed(Exception):
    """A program that ended with another exit code than 0, and the last line that it said."""


@dataclass(frozen=True)
class Usage:
    """What a program took."""

    wall_seconds: float
    cpu_seconds: float
    peak_mib: float  # resident, of the whole tree


def watch(command: Sequence[str], *, seen: Callable[[int], None] = lambda pid: None) -> Usage:
    """Run a program to its end, its output thrown away. Raises ProcessFailed.

    Memory is looked at every 50 ms; of a single process the kernel's own peak counts. ``seen`` is called with the
    process number at each look.
    """
    with tempfile.TemporaryFile() as said:
        began = time.monotonic()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT)
        ended = os.pidfd_open(process.pid)
        peak = 0.0
        try:
            while not select.select([ended], [], [], LOOK_SECONDS)[0]:
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
            said.seek(0)
            lines = said.read().decode(errors="replace").strip().splitlines() or ["it said nothing"]
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
        own = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES / 2**20
        children = [
            child for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()
        ]
    except (OSError, IndexError):
        return 0.0
    return own + sum(tree_mib(int(child)) for child in children)
