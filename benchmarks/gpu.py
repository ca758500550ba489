"""What an NVIDIA GPU does with this: correctness, speed, overlap, beside torch, torch.compile and ONNX Runtime.

    python benchmarks/gpu.py [--name NAME] [--device N] [--seconds 540] [--resume] [--only SECTION ...]

Run it once; it needs torch with CUDA, onnx and numpy, and takes what else is there: tensorrt or tensorrt_rtx with
pycuda and cuda-bindings, onnxruntime. What is not there is skipped with its reason. Every figure is written to
``results/gpu-NAME.json`` as soon as it is measured; after ``--seconds`` the script ends where it is, and ``--resume``
goes on from there (also after a crash: each section runs in a process of its own, started again behind what broke it).

Sections, in this order: ``limits`` (bandwidths, arithmetic), ``tensorrt`` (whether it runs here, in its own words),
``conformance`` (every backend against torch fp32, and frames in flight against the same one at a time), ``rows`` (each
model x size x precision: stages alone, end to end, overlapped, pinned and pageable, launch and graph, both heads),
``layers`` (each operation of some networks alone, for ``gpu_layers.py``), ``peers`` (torch eager, ONNX Runtime,
torch.compile),
``compiled`` (our captured graph of the compiled network), ``autotuned`` (both with max-autotune: minutes a row).
--rehearse runs all of it on the
processor with tiny pictures, to see that the script works: its figures mean nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))  # a checkout that was not installed

import gpu_measure as measure
import gpu_tables as tables

from stream_sr.errors import StreamSRError
from stream_sr.inference.model import ModelSpec, find_model, list_models
from stream_sr.system import machine

RESULTS = Path(__file__).parent / "results"
SECTIONS = ("limits", "tensorrt", "conformance", "rows", "layers", "peers", "compiled", "autotuned")
SIZES = ((1920, 1080), (1280, 720), (960, 540), (640, 360))
PRECISIONS = ("fp16", "fp32", "bf16")
MODES = ("reduce-overhead", "default")
AUTOTUNED = "max-autotune"
STALL_SECONDS = 240  # without a figure: the row is given up (torch.compile may search for long)
RESTARTS = 40
IN_FLIGHT = 300  # frames, to see that none is mixed up with another


class Record:
    """The result file: read once, written whole after every figure."""

    def __init__(self, path: Path, *, resume: bool) -> None:
        self.path = path
        self.data: dict[str, Any] = json.loads(path.read_text()) if resume and path.is_file() else {}

    def has(self, section: str, key: str) -> bool:
        return key in self.data.get(section, {})

    def put(self, section: str, key: str, value: Any) -> None:
        self.data.setdefault(section, {})[key] = value
        self.save()

    def save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(self.data, indent=1) + "\n")
        partial.replace(self.path)


class Bench:
    """One section, in the process that measures."""

    def __init__(self, record: Record, parsed: argparse.Namespace) -> None:
        self.record, self.parsed = record, parsed
        self.device = "cpu" if parsed.rehearse else f"cuda:{parsed.device}"
        self.sizes = ((64, 48),) if parsed.rehearse else SIZES
        self.models = [one for one in list_models() if not parsed.model or f"{one.name}-x{one.scale}" in parsed.model]
        self.models.sort(key=lambda one: (one.scale != 2, one.macs_per_pixel))
        if parsed.rehearse:
            self.models = self.models[:1]
        self.timed = list({(one.name, one.scale): one for one in self.models if one.tune == "clean"}.values())
        self.timed += [one for one in self.models if not any(alike(one, other) for other in self.timed)]

    def run(self, section: str) -> None:
        for key, work in getattr(self, f"_{section}")():
            if self.record.has(section, key):
                continue
            self.record.data["running"] = [section, key]
            self.record.save()
            found = attempt(work)
            self._free()
            self.record.put(section, key, found)
            print(f"{section:12} {key:50} {tables.short(self.record.data[section][key])}", flush=True)

    def _free(self) -> None:
        """Give the device's memory back before the next row."""
        gc.collect()
        if self.device != "cpu":
            import torch

            with contextlib.suppress(RuntimeError):  # a broken device is found out below
                torch.cuda.empty_cache()

    def _open(self, backend: str, *what: Any, **options: Any) -> Any:
        """An engine of ours on the GPU that was asked for."""
        return measure.OPEN[backend](*what, device=self.parsed.device, **options)

    def _cells(self) -> Iterator[tuple[str, ModelSpec, Any, str]]:
        """What is timed, x2 first; weights do not change the speed, so a model of another tune is the same."""
        for double in (True, False):
            for size in self.sizes:
                for precision in PRECISIONS:
                    for model in self.timed:
                        if (model.scale == 2) is double:
                            key = f"{model.name} x{model.scale} {size[0]}x{size[1]} {precision}"
                            yield key, model, measure.stream_info(*size), precision

    def _limits(self) -> Iterator[tuple[str, Callable[[], Any]]]:
        yield "limits", lambda: measure.limits(self.device)

    def _tensorrt(self) -> Iterator[tuple[str, Callable[[], Any]]]:
        def try_it() -> Any:
            from stream_sr.inference.backends.tensorrt import library

            found = library.can_run(self.parsed.device)
            if not found.usable:
                raise measure.Skipped(found.reason)
            listed = library.is_listed(self.parsed.device)
            info = measure.stream_info(*self.sizes[-1])
            try:
                engine = self._open("tensorrt", self.models[0], info, "fp16", measure.LOWERED)
            except StreamSRError as error:
                return {"version": found.version, "listed": listed, "skipped": f"not measured: {error}"}
            engine.close()
            return {"version": found.version, "listed": listed, "runs": True}

        yield "runs", try_it

    def _backends(self) -> list[str]:
        runs = self.record.data.get("tensorrt", {}).get("runs", {}).get("runs")
        return ["tensorrt", "torch-cuda"] if runs else ["torch-cuda"]

    def _conformance(self) -> Iterator[tuple[str, Callable[[], Any]]]:
        for model in self.models:
            for backend in self._backends():
                for precision in ("fp32", "fp16", "bf16"):
                    yield (
                        f"{backend} {titled(model)} {precision}",
                        lambda model=model, backend=backend, precision=precision: self._compare(
                            model, backend, precision
                        ),  # type: ignore[misc]
                    )

    def _compare(self, model: ModelSpec, backend: str, precision: str) -> Any:
        from stream_sr.inference.backends.torch import cpu as reference
        from stream_sr.pipeline.engine import EngineOptions

        found: dict[str, Any] = {}
        odd = (852, 476) if model.network["kind"] == "Autoencoder" else (853, 479)  # it takes multiples of 4 alone
        for width, height in ((640, 360), odd) if not self.parsed.rehearse else ((33, 21),):
            info = measure.stream_info(width, height)
            frames = measure.frames_of(info, 2, None)
            right = reference.open_model(model, info, EngineOptions(backend="torch", precision="fp32"))
            expected = [right.submit(frame).wait() for frame in frames]
            right.close()
            engine = self._open(backend, model, info, precision, measure.LOWERED)
            found[f"{width}x{height}"] = measure.conformance(engine, expected, frames)
            if "in_flight" not in found:
                found["in_flight"] = measure.mixed_up(engine, 6 if self.parsed.rehearse else IN_FLIGHT)
            engine.close()
        return found

    def _rows(self) -> Iterator[tuple[str, Callable[[], Any]]]:
        for key, model, info, precision in self._cells():
            for backend in self._backends():
                yield (
                    f"{backend} {key}",
                    lambda model=model, info=info, precision=precision, backend=backend: self._row(
                        model, info, precision, backend
                    ),  # type: ignore[misc]
                )

    def _row(self, model: ModelSpec, info: Any, precision: str, backend: str) -> Any:
        limits = self.record.data.get("limits", {}).get("limits", {})
        found: dict[str, Any] = {
            "floor_ms": measure.floor(model, info, precision, limits) if "tflops" in limits else {}
        }
        heads: dict[str, Any] = {}
        best: tuple[float, str] | None = None
        for head in (measure.LOWERED, measure.DECONVOLUTION):
            try:
                engine = self._open(backend, model, info, precision, head, depth=1)
            except StreamSRError as error:
                heads[head] = {"error": str(error)}
                continue
            took = min(engine.compute_ms.values())
            heads[head] = measure.rounded(engine.compute_ms)
            engine.close()
            best = min(best or (took, head), (took, head))
        found["heads_ms"] = heads
        if best is None:
            return found | {"error": "no form of the head could be opened"}
        alone = self._open(backend, model, info, precision, best[1], depth=1)
        latency = measure.end_to_end(alone)
        alone.close()
        engine = self._open(backend, model, info, precision, best[1])
        found |= measure.measure_engine(engine) | {"end_to_end_ms": latency}
        engine.close()
        return found

    def _layers(self) -> Iterator[tuple[str, Callable[[], Any]]]:
        import gpu_layers  # it needs torch, which the parent does without

        def measured(model: ModelSpec, info: Any) -> Any:
            return {"rows": gpu_layers.layers(model, info, self.device, self._least_ms)}

        for name, width, height in gpu_layers.SHOWN if not self.parsed.rehearse else (("fast", *self.sizes[0]),):
            model, info = find_model(name, 2), measure.stream_info(width, height)
            yield gpu_layers.row_key(model, info), functools.partial(measured, model, info)

    def _least_ms(self, work: Callable[[], Any]) -> float:
        return min(measure.device_times(work, self.device))

    def _compiled(self) -> Iterator[tuple[str, Callable[[], Any]]]:
        for cell in self._cells():
            if cell[3] == "fp16":
                yield cell[0], lambda cell=cell: self._captured("default", *cell)  # type: ignore[misc]

    def _autotuned(self) -> Iterator[tuple[str, Callable[[], Any]]]:
        for cell in self._cells():
            if cell[3] == "fp16":
                name = f"torch.compile {AUTOTUNED}"
                yield f"{name} {cell[0]}", lambda cell=cell, name=name: self._peer(name, AUTOTUNED, *cell)  # type: ignore[misc]
                mode = f"{AUTOTUNED}-no-cudagraphs"
                yield f"captured {cell[0]}", lambda cell=cell, mode=mode: self._captured(mode, *cell)  # type: ignore[misc]

    def _captured(self, mode: str, key: str, model: ModelSpec, info: Any, precision: str) -> Any:
        engine = self._open("torch-cuda", model, info, precision, self._faster_head(f"torch-cuda {key}"), mode=mode)
        found = measure.measure_engine(engine)
        engine.close()
        return found

    def _peers(self) -> Iterator[tuple[str, Callable[[], Any]]]:
        """The quick ones first, then the modes of torch.compile."""
        cells = [
            (key, model, info, precision)
            for key, model, info, precision in self._cells()
            if precision == "fp16" or (precision == "fp32" and info.height == self.sizes[0][1])
        ]
        peers = (("torch eager", None), ("onnxruntime", None), *((f"torch.compile {mode}", mode) for mode in MODES))
        for double in (True, False):
            for name, mode in peers:
                for cell in cells:
                    if (cell[1].scale == 2) is double:
                        yield f"{name} {cell[0]}", lambda cell=cell, name=name, mode=mode: self._peer(name, mode, *cell)  # type: ignore[misc]

    def _peer(self, name: str, mode: str | None, key: str, model: ModelSpec, info: Any, precision: str) -> Any:
        head = self._faster_head(f"torch-cuda {key}")
        if name == "onnxruntime":
            return measure.time_onnxruntime(model, info, precision, self.device, head)
        return measure.time_torch(model, info, precision, mode, self.device, head)

    def _faster_head(self, key: str) -> str:
        heads = self.record.data.get("rows", {}).get(key, {}).get("heads_ms", {})
        times = {head: min(found.values()) for head, found in heads.items() if "error" not in found}
        return min(times, key=lambda head: times[head]) if times else measure.LOWERED


def titled(model: ModelSpec) -> str:
    return f"{model.name} x{model.scale}" + (f" {model.tune}" if model.tune != "clean" else "")


def alike(one: ModelSpec, other: ModelSpec) -> bool:
    """Whether they differ in their weights alone."""
    return (one.name, one.scale) == (other.name, other.scale)


def attempt(work: Callable[[], Any]) -> Any:
    """The figure, or why there is none. A device that is broken for good ends the process."""
    try:
        return work()
    except measure.Skipped as reason:
        return {"skipped": str(reason)}
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(last.filename).name}:{last.lineno}"
        text = f"{type(error).__name__}: {str(error).strip()[:600]} ({where})"
        return {"error": text}


def is_broken(device: str) -> bool:
    """Whether CUDA answers no more: an illegal access spoils the process for good."""
    if device == "cpu":
        return False
    import torch

    try:
        torch.zeros(1, device=device).add_(1).item()
    except RuntimeError:
        return True
    return False


def measure_section(parsed: argparse.Namespace, record: Record) -> int:
    """The child: measures one section."""
    if parsed.rehearse:
        import gpu_rehearsal

        gpu_rehearsal.install()
    elif parsed.device:
        import torch

        torch.cuda.set_device(parsed.device)  # whose stream an event is recorded on
    bench = Bench(record, parsed)
    put = record.put

    def put_and_look(section: str, key: str, value: Any) -> None:
        put(section, key, value)
        if isinstance(value, dict) and "error" in value and is_broken(bench.device):
            print(f"the device is broken after {key}; going on in a new process", flush=True)
            os._exit(75)

    record.put = put_and_look  # type: ignore[method-assign]
    bench.run(parsed.section)
    return 0


def supervise(parsed: argparse.Namespace, record: Record) -> int:
    """The parent: a process per section, watched, started again behind what broke it, ended in time."""
    ends = time.monotonic() + parsed.seconds
    for section in parsed.only or SECTIONS:
        for _ in range(RESTARTS):
            record.data["running"] = [section, "start"]
            record.save()
            code = watch(parsed, record, section, ends)
            if code is None:
                print(f"the {parsed.seconds:g} s are over in section {section}; go on with --resume")
                return 3
            if code == 0:
                break
            broken = record.data["running"]
            if broken[1] == "start" or not record.has(*broken):
                record.put(broken[0], broken[1], {"error": f"the process ended with code {code} here"})
                print(f"{section}: the process ended with code {code} at '{broken[1]}'; going on behind it", flush=True)
                if broken[1] == "start":
                    break
    record.data.pop("running", None)
    record.data["complete"] = not parsed.only
    record.save()
    return 0


def watch(parsed: argparse.Namespace, record: Record, section: str, ends: float) -> int | None:
    """Run the child for a section; its exit code, or None when the time is over."""
    command = [sys.executable, __file__, *parsed.words, "--resume", "--section", section]
    child = subprocess.Popen(command)
    changed, seen = time.monotonic(), 0.0
    try:
        while True:
            try:
                code = child.wait(0.5)
                record.data = json.loads(record.path.read_text())
                return code
            except subprocess.TimeoutExpired:
                stamp = record.path.stat().st_mtime
                if stamp != seen:
                    changed, seen = time.monotonic(), stamp
            if time.monotonic() > ends or time.monotonic() - changed > STALL_SECONDS:
                over = time.monotonic() > ends
                child.kill()
                child.wait()
                record.data = json.loads(record.path.read_text())
                return None if over else -9
    except BaseException:
        child.kill()
        child.wait()
        raise


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
    parsed = parser.parse_args()
    # of its own, so that nothing comes from engines that were built before, and platformdirs is not needed
    os.environ.setdefault("STREAM_SR_CACHE", str(Path(tempfile.gettempdir()) / "stream_sr-gpu"))
    parsed.words = [word for word in sys.argv[1:] if word not in ("--resume", "--retry")]
    gpus = machine.cuda()
    if not parsed.rehearse and parsed.device >= len(gpus.devices):
        problem = gpus.problem or f"there is no GPU {parsed.device}, only {len(gpus.devices)}"
        print(f"error: nothing was measured: {problem}; this needs an NVIDIA GPU", file=sys.stderr)
        return 4
    name = parsed.name or ("rehearsal" if parsed.rehearse else tables.slug(gpus.devices[parsed.device].name))
    record = Record(parsed.out / f"gpu-{name}.json", resume=parsed.resume)
    if parsed.section:
        return measure_section(parsed, record)
    if parsed.retry:
        for section in SECTIONS:
            cells = record.data.get(section, {})
            record.data[section] = {key: cell for key, cell in cells.items() if "error" not in cell}
    record.data |= {
        "command": machine.command_line(["python", "benchmarks/gpu.py", *parsed.words]),
        "machine": machine.describe(),
        "rehearsal": parsed.rehearse,
    }
    record.save()
    code = supervise(parsed, record)
    print(tables.render(record.data))
    print(f"written: {record.path}")
    return code


if __name__ == "__main__":
    sys.exit(main())
