"""Correctness, speed and overlap on an NVIDIA GPU, beside torch, torch.compile and ONNX Runtime.

    python benchmarks/gpu.py [--name NAME] [--device N] [--seconds 540] [--resume] [--only SECTION ...]

Run it once; it needs torch with CUDA, onnx and numpy, and takes what else is there: tensorrt or tensorrt_rtx with
pycuda and cuda-bindings, onnxruntime. What is not there is skipped with its reason. Every figure is written to
``results/gpu-NAME.json`` as soon as it is measured; after ``--seconds`` the script ends where it is, and ``--resume``
goes on from there, also after a crash: each section runs in a process of its own, which is started again and skips
the figure that ended it.

Sections, in this order: ``limits`` (bandwidths, arithmetic), ``tensorrt`` (whether it runs here, or its own message),
``conformance`` (every backend against torch fp32, and frames in flight against the same one at a time), ``rows`` (each
model x size x precision: stages alone, end to end, overlapped, pinned and pageable, launch and graph, both heads),
``layers`` (each operation of some networks alone, for the page that `gpu-layers` writes), ``peers`` (torch eager, ONNX
Runtime, torch.compile), ``compiled`` (our captured graph of the compiled network), ``autotuned`` (both with
max-autotune: minutes a row). --rehearse runs all of it on the processor with tiny frames, to test the program: its
figures mean nothing.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.interface import Task
from benchmarks.nvidia import tables
from benchmarks.nvidia.result_file import ResultFile
from benchmarks.nvidia.sections import Sections, is_broken
from benchmarks.record import RESULTS, ROOT
from stream_sr.system import machine

SCRIPT = ROOT / "benchmarks" / "gpu.py"
SECTIONS = ("limits", "tensorrt", "conformance", "rows", "layers", "peers", "compiled", "autotuned")
STALL_SECONDS = 240  # without a figure: the row is given up (torch.compile may search for long)
RESTARTS = 40


def measure_section(parsed: argparse.Namespace, file: ResultFile) -> int:
    """The child: measures one section."""
    if parsed.rehearse:
        from benchmarks.nvidia import rehearsal

        rehearsal.install()
    elif parsed.device:
        import torch

        torch.cuda.set_device(parsed.device)  # whose stream an event is recorded on
    sections = Sections(file, parsed)
    put = file.put

    def put_and_look(section: str, key: str, value: Any) -> None:
        put(section, key, value)
        if isinstance(value, dict) and "error" in value and is_broken(sections.device):
            print(f"the device is broken after {key}; going on in a new process", flush=True)
            os._exit(75)

    file.put = put_and_look  # type: ignore[method-assign]
    sections.run(parsed.section)
    return 0


def supervise(parsed: argparse.Namespace, file: ResultFile) -> int:
    """The parent: a process per section, watched, started again behind what broke it, ended in time."""
    ends = time.monotonic() + parsed.seconds
    for section in parsed.only or SECTIONS:
        for _ in range(RESTARTS):
            file.data["running"] = [section, "start"]
            file.save()
            code = watch(parsed, file, section, ends)
            if code is None:
                print(f"the {parsed.seconds:g} s are over in section {section}; go on with --resume")
                return 3
            if code == 0:
                break
            broken = file.data["running"]
            if broken[1] == "start" or not file.has(*broken):
                file.put(broken[0], broken[1], {"error": f"the process ended with code {code} here"})
                print(f"{section}: the process ended with code {code} at '{broken[1]}'; going on behind it", flush=True)
                if broken[1] == "start":
                    break
    file.data.pop("running", None)
    file.data["complete"] = not parsed.only
    file.save()
    return 0


def watch(parsed: argparse.Namespace, file: ResultFile, section: str, ends: float) -> int | None:
    """Run the child for a section; its exit code, or None when the time is over."""
    command = [sys.executable, str(SCRIPT), *parsed.words, "--resume", "--section", section]
    child = subprocess.Popen(command)
    changed, seen = time.monotonic(), 0.0
    try:
        while True:
            try:
                code = child.wait(0.5)
                file.reload()
                return code
            except subprocess.TimeoutExpired:
                stamp = file.path.stat().st_mtime
                if stamp != seen:
                    changed, seen = time.monotonic(), stamp
            if time.monotonic() > ends or time.monotonic() - changed > STALL_SECONDS:
                over = time.monotonic() > ends
                child.kill()
                child.wait()
                file.reload()
                return None if over else -9
    except BaseException:
        child.kill()
        child.wait()
        raise


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--name", help="of the result file (default: the GPU's)")
    parser.add_argument("--device", type=int, default=0, metavar="N", help="as CUDA counts them")
    parser.add_argument("--seconds", type=float, default=540, help="after these the script ends, ready for --resume")
    parser.add_argument("--only", action="append", choices=SECTIONS, metavar="SECTION", help="may be repeated")
    parser.add_argument("--model", action="append", metavar="NAME-xSCALE", help="may be repeated (default: all)")
    parser.add_argument("--resume", action="store_true", help="keep what is in the result file, measure the rest")
    parser.add_argument("--retry", action="store_true", help="with --resume: measure again what failed")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR")
    parser.add_argument("--rehearse", action="store_true", help="on the processor, tiny, without meaning")
    parser.add_argument("--section", choices=SECTIONS, help=argparse.SUPPRESS)


def run(parsed: argparse.Namespace) -> int:
    # a cache of its own, so that nothing comes from engines that were built before, and platformdirs is not needed
    os.environ.setdefault("STREAM_SR_CACHE", str(Path(tempfile.gettempdir()) / "stream_sr-gpu"))
    parsed.words = [word for word in parsed.words if word not in ("--resume", "--retry")]
    gpus = machine.cuda()
    if not parsed.rehearse and parsed.device >= len(gpus.devices):
        problem = gpus.problem or f"there is no GPU {parsed.device}, only {len(gpus.devices)}"
        print(f"error: nothing was measured: {problem}; this needs an NVIDIA GPU", file=sys.stderr)
        return 4
    gpu = "a rehearsal" if parsed.rehearse else gpus.devices[parsed.device].name
    name = parsed.name or ("rehearsal" if parsed.rehearse else tables.slug(gpu))
    file = ResultFile(parsed.out / f"gpu-{name}.json", resume=parsed.resume)
    if parsed.section:
        return measure_section(parsed, file)
    if parsed.retry:
        for section in SECTIONS:
            cells = file.data.get(section, {})
            file.data[section] = {key: cell for key, cell in cells.items() if "error" not in cell}
    file.data.update(gpu=gpu, rehearsal=parsed.rehearse)
    file.begin(machine.command_line(["python", "benchmarks/gpu.py", *parsed.words]))
    code = supervise(parsed, file)
    print(tables.summary(file.data))
    print(f"written: {file.path}")
    return code


ENTRY = Task(add_options=add_options, run=run)
