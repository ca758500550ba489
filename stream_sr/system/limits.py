"""How many cores and how much memory this process may use: its affinity, and the control groups of its container.

Everything that starts threads asks `cores`. A quota of CPU time does not show in the affinity: a library that counts
processors starts a thread for each of the host's 64 under a quota of 2, and is throttled. Reads both versions of
control groups (Linux kernel, Documentation/admin-guide/cgroup-v2.rst and cgroup-v1). Standard library only.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from fractions import Fraction
from math import ceil
from pathlib import Path, PurePosixPath

ROOT = Path("/")  # another in tests
MOST_CODEC_THREADS = 16  # FFmpeg's own limit, and beyond it neither a decoder nor x264 gains


def cores() -> int:
    """Cores that this process may use: its affinity, and the quotas of its control groups, rounded up; at least 1."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return count if quota is None else max(1, min(count, ceil(quota)))


def codec_threads(most: int = MOST_CODEC_THREADS) -> int:
    """Threads for one decoder, encoder or filter graph. FFmpeg's own choice (0) ignores quotas."""
    return min(cores(), most)


def cpu_quota() -> Fraction | None:
    """The smallest quota, in cores, of the process's control group and those around it; None where there is none."""
    quotas = []
    for folder, version in _groups("cpu"):
        if version == 2:
            limit, _, period = _read(folder / "cpu.max").partition(" ")
        else:
            limit, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
        if (used := _number(limit)) and (of := _number(period)):  # "max" and -1: no limit
            quotas.append(Fraction(used, of))
    return min(quotas, default=None)


def memory_limit() -> int | None:
    """The smallest limit, in bytes, of the process's control group and those around it; None where there is none."""
    limits = []
    for folder, version in _groups("memory"):
        limit = _number(_read(folder / ("memory.max" if version == 2 else "memory.limit_in_bytes")))
        if limit:  # version 1 has a very large number where there is no limit
            limits.append(limit)
    return min(limits, default=None)


def limit_libraries() -> None:
    """Under a quota, give OpenBLAS and OpenMP the number of threads: they read it once, when they are loaded."""
    if cpu_quota() is not None:
        for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
            os.environ.setdefault(name, str(cores()))


def _groups(controller: str) -> Iterator[tuple[Path, int]]:
    """The folders that may hold a limit for this process, innermost first, and their version of control groups."""
    own = {}  # version: path of this process's group
    for line in _read(ROOT / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            own[2] = path
        elif controller in controllers.split(","):
            own[1] = path
    for mount, top, version in _mounts(controller):
        if version in own:
            inside = _below(own[version], top)
            for part in (inside, *inside.parents):
                yield mount / part, version


def _mounts(controller: str) -> Iterator[tuple[Path, str, int]]:
    """Where control groups are mounted, the group that the mount shows as its root, and the version."""
    for line in _read(ROOT / "proc/self/mountinfo").splitlines():
        fields, _, rest = line.partition(" - ")
        words, kind = fields.split(), rest.split()
        if len(words) < 5 or len(kind) < 3:
            continue
        if kind[0] == "cgroup2" or (kind[0] == "cgroup" and controller in kind[2].split(",")):
            mount = words[4].encode().decode("unicode_escape").lstrip("/")  # a blank is \040 there
            yield ROOT / mount, words[3], 2 if kind[0] == "cgroup2" else 1


def _below(path: str, top: str) -> PurePosixPath:
    """A group's path below a mount; the mount itself where the group lies outside (another namespace's path)."""
    whole = PurePosixPath(path)
    if ".." in whole.parts or not whole.is_relative_to(top):
        return PurePosixPath()
    return whole.relative_to(top)


def _number(text: str) -> int | None:
    return int(text) if text.strip().isdecimal() else None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""
