"""The sections of the GPU benchmark: what each measures, in the process that measures it."""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.nvidia import measure, tables
from benchmarks.nvidia.result_file import ResultFile
from stream_sr.errors import StreamSRError
from stream_sr.inference.model import ModelSpec, find_model, list_models

SIZES = ((1920, 1080), (1280, 720), (960, 540), (640, 360))
PRECISIONS = ("fp16", "fp32", "bf16")
MODES = ("reduce-overhead", "default")
AUTOTUNED = "max-autotune"
IN_FLIGHT = 300  # frames, to see that none is mixed up with another


class Sections:
    """One section, in the process that measures."""

    def __init__(self, file: ResultFile, parsed: argparse.Namespace) -> None:
        self.file, self.parsed = file, parsed
        self.device = "cpu" if parsed.rehearse else f"cuda:{parsed.device}"
        self.sizes = ((64, 48),) if parsed.rehearse else SIZES
        self.models = [one for one in list_models() if not parsed.model or f"{one.name}-x{one.scale}" in parsed.model]
        self.models.sort(key=lambda one: (one.scale != 2, one.macs_per_pixel))
        if parsed.rehearse:
            self.models = self.models[:1]
        self.timed = list({(one.name, one.scale): one for one in self.models if one.weights == "clean"}.values())
        self.timed += [one for one in self.models if not any(alike(one, other) for other in self.timed)]

    def run(self, section: str) -> None:
        for key, work in getattr(self, f"_{section}")():
            if self.file.has(section, key):
                continue
            self.file.data["running"] = [section, key]
            self.file.save()
            found = attempt(work)
            self._free()
            self.file.put(section, key, found)
            print(f"{section:12} {key:50} {tables.short(self.file.data[section][key])}", flush=True)

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
        """What is timed, x2 first; the camera weights are left out: they take the same time."""
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
        runs = self.file.data.get("tensorrt", {}).get("runs", {}).get("runs")
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
        limits = self.file.data.get("limits", {}).get("limits", {})
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
        from benchmarks.nvidia import layers  # it needs torch, which the parent does without

        def measured(model: ModelSpec, info: Any) -> Any:
            return {"rows": layers.layers(model, info, self.device, self._least_ms)}

        for name, width, height in layers.SHOWN if not self.parsed.rehearse else (("fast", *self.sizes[0]),):
            model, info = find_model(name, 2), measure.stream_info(width, height)
            yield layers.row_key(model, info), functools.partial(measured, model, info)

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
        heads = self.file.data.get("rows", {}).get(key, {}).get("heads_ms", {})
        times = {head: min(found.values()) for head, found in heads.items() if "error" not in found}
        return min(times, key=lambda head: times[head]) if times else measure.LOWERED


def titled(model: ModelSpec) -> str:
    return f"{model.name} x{model.scale}" + (f" {model.weights}" if model.weights != "clean" else "")


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
