"""Each operation of a frame on a GPU beside the least time it could take: writes ``benchmarks/GPU.md``.

    python -m benchmarks gpu-layers [--check]

What each operation reads, writes and computes is counted by running the network without data (torch's meta device), so
this needs no GPU. The benchmark ``gpu`` measures the same operations on one (its section ``layers``); where such a
result is committed its times and its limits stand in the tables, else the limits of the data sheets, which say so.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from benchmarks.interface import Task
from benchmarks.record import RESULTS, ROOT, read_record
from stream_sr.bench.engine import TIME_BASE
from stream_sr.inference.backends.cuda.schedule import i420_bytes
from stream_sr.inference.backends.torch.cpu import load_network
from stream_sr.inference.backends.torch.frames import FrameNetwork, NetworkVariant
from stream_sr.inference.model import ModelSpec, find_model
from stream_sr.video.frame import StreamInfo

PAGE = ROOT / "benchmarks" / "GPU.md"
PRECISION = "fp16"
SHOWN = (("fast", 1920, 1080), ("tiny", 1920, 1080), ("fast", 640, 360))
# NVIDIA's data sheets: memory bandwidth, and fp16 matrix arithmetic without sparsity, fp32 accumulation
SHEETS = {
    "H200 SXM": {"device_copy_gbs": 4800.0, "tflops": 989.5},
    "RTX 4090": {"device_copy_gbs": 1008.0, "tflops": 165.2},
}
TILE = 64  # pixels: side of the tile that one fused kernel would keep in shared memory
VIEWS = ("getitem", "view", "contiguous", "float")

Time = Callable[[Callable[[], Any]], float]


class Steps(fx.Interpreter):
    """Runs a traced frame network and notes of each operation: name, bytes, operations, and its time where asked."""

    def __init__(self, module: fx.GraphModule, time: Time | None = None) -> None:
        super().__init__(module)
        self.time, self.rows = time, list[dict[str, Any]]()

    def run_node(self, node: fx.Node) -> Any:
        found = super().run_node(node)
        if node.op in ("placeholder", "output", "get_attr") or not isinstance(found, Tensor):
            return found
        taken = [one for one in self.fetch_args_kwargs_from_env(node)[0] if isinstance(one, Tensor)]
        layer = self.fetch_attr(str(node.target)) if node.op == "call_module" else None
        name = type(layer).__name__ if layer is not None else str(getattr(node.target, "__name__", node.target))
        if name in VIEWS or (
            taken and found.dtype == taken[0].dtype and found.shape == taken[0].shape and name == "to"
        ):
            return found
        parameters = list(layer.parameters()) if layer is not None else []
        operations = 2 * layer.weight[0].numel() * found.numel() if isinstance(layer, torch.nn.Conv2d) else 0
        row: dict[str, Any] = {
            "name": f"{name} {node.target}" if layer is not None else name,
            "read": sum(nbytes(one) for one in (*taken[name == "copy_" :], *parameters)),
            "written": nbytes(found),
            "operations": operations,
            "border": layer.kernel_size[0] // 2 if isinstance(layer, torch.nn.Conv2d) else 0,
        }
        if self.time is not None:
            row["ms"] = round(self.time(lambda: super(Steps, self).run_node(node)), 5)
        self.rows.append(row)
        return found


def nbytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def layers(model: ModelSpec, info: StreamInfo, device: str = "meta", time: Time | None = None) -> list[dict[str, Any]]:
    """Each operation of a whole I420 frame through ``model`` in fp16, head lowered, uncompiled, in order.

    ``read`` and ``written`` in bytes, ``operations`` (multiplications and additions of the network's convolutions),
    ``border`` in pixels that it needs around a tile, ``ms`` where ``time`` is given, which gets the operation to run.
    Not for recurrent models.
    """
    network = FrameNetwork(load_network(model), info, model.scale, PRECISION, NetworkVariant(lowered=True)).to(device)
    traced = fx.symbolic_trace(network, concrete_args={"previous": None, "flow": None})
    large = i420_bytes(info.width * model.scale, info.height * model.scale)
    frame = torch.zeros(i420_bytes(info.width, info.height), dtype=torch.uint8, device=device)
    steps = Steps(traced, time)
    with torch.no_grad():
        steps.run(frame, torch.zeros(large, dtype=torch.uint8, device=device), None, None)
    return steps.rows


def least_ms(row: Mapping[str, Any], limits: Mapping[str, Any]) -> float:
    """The least an operation can take: its bytes through the memory, or its arithmetic."""
    memory = (row["read"] + row["written"]) / limits["device_copy_gbs"] / 1e6
    return float(max(memory, row["operations"] / limits["tflops"] / 1e9))


def ideas(rows: Sequence[Mapping[str, Any]], limits: Mapping[str, Any], frame_bytes: int) -> list[tuple[str, float]]:
    """What could be done, each with the least milliseconds of a frame after it."""
    convolutions = [row for row in rows if row["operations"]]
    epilogues = [row for row in rows if row["name"].startswith(("ReLU", "PReLU"))]
    as_it_is = sum(least_ms(row, limits) for row in rows)
    fused = as_it_is - sum(least_ms(row, limits) for row in epilogues)
    bytes_only = sum(least_ms(row, limits) for row in convolutions) + frame_bytes / limits["device_copy_gbs"] / 1e6
    work = sum(row["operations"] for row in convolutions)
    tiled = sum(
        row["operations"] * (1 + 2 * sum(later["border"] for later in convolutions[n + 1 :]) / TILE) ** 2
        for n, row in enumerate(convolutions)
    )
    halo, arithmetic = tiled / work, tiled / limits["tflops"] / 1e9
    return [
        ("every operation a kernel of its own (torch eager)", as_it_is),
        ("each activation in the convolution before it", fused),
        ("uint8 in and out of the first and the last convolution, nothing between", bytes_only),
        (
            f"all layers in one kernel on tiles of {TILE}x{TILE}, {halo:.2f} times the arithmetic for their borders",
            max(arithmetic, frame_bytes / limits["device_copy_gbs"] / 1e6),
        ),
    ]


def page(results: Sequence[Mapping[str, Any]]) -> str:
    """GPU.md from the committed results of the benchmark ``gpu``, or from the data sheets alone."""
    measured = [data for data in results if "tflops" in data.get("limits", {}).get("limits", {})]
    lines = [
        "# The gap between a GPU's time and its floor",
        "",
        "Written by `python -m benchmarks gpu-layers`. A floor is the larger of an operation's bytes over the memory's",
        "bandwidth and its arithmetic over the peak. One frame, I420 in and out, fp16, the head lowered.",
        "",
    ]
    if not measured:
        lines += [
            "**Nothing here was measured**: no result of `benchmarks/gpu.py` is committed yet. The floors are those of",
            "the data sheets, the order of the ideas below follows from them alone.",
            "",
        ]
    for name, width, height in SHOWN:
        lines += list(_chapter(find_model(name, 2), StreamInfo(width, height, TIME_BASE), measured))
    return "\n".join(lines)


def _chapter(model: ModelSpec, info: StreamInfo, measured: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    rows, frame_bytes = layers(model, info), _frame_bytes(model, info)
    machines = {_gpu(data): _limits_of(data) for data in measured} or SHEETS
    key = row_key(model, info)
    times = {_gpu(data): data.get("layers", {}).get(key, {}).get("rows") for data in measured}
    yield f"## {model.name} x{model.scale}, {info.width}x{info.height}"
    yield ""
    head = ["operation", "MB read", "written", "GFLOP"]
    head += [f"{name}: floor ms" + (", measured" if times.get(name) else "") for name in machines]
    yield f"| {' | '.join(head)} |"
    yield "| --- |" + " --- |" * (len(head) - 1)
    for number, row in enumerate(rows):
        cells = [f"{row['read'] / 1e6:.1f}", f"{row['written'] / 1e6:.1f}", f"{row['operations'] / 1e9:.2f}"]
        for name, limits in machines.items():
            found = times.get(name)
            cells.append(f"{least_ms(row, limits):.4f}" + (f", {found[number]['ms']:.4f}" if found else ""))
        yield f"| {row['name']} | {' | '.join(cells)} |"
    yield ""
    yield f"| what would close it | {' | '.join(f'{name}, ms at least' for name in machines)} |"
    yield "| --- |" + " --- |" * len(machines)
    columns = [ideas(rows, limits, frame_bytes) for limits in machines.values()]
    for number, (text, _) in enumerate(columns[0]):
        yield f"| {text} | {' | '.join(f'{column[number][1]:.3f}' for column in columns)} |"
    yield ""


def row_key(model: ModelSpec, info: StreamInfo) -> str:
    return f"{model.name} x{model.scale} {info.width}x{info.height} {PRECISION}"


def _frame_bytes(model: ModelSpec, info: StreamInfo) -> int:
    return i420_bytes(info.width, info.height) + i420_bytes(info.width * model.scale, info.height * model.scale)


def _gpu(data: Mapping[str, Any]) -> str:
    return str(data["gpu"])


def _limits_of(data: Mapping[str, Any]) -> dict[str, float]:
    limits = data["limits"]["limits"]
    return {"device_copy_gbs": limits["device_copy_gbs"], "tflops": limits["tflops"][PRECISION]}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--check", action="store_true", help="write nothing, fail where GPU.md is out of step")


def run(parsed: argparse.Namespace) -> int:
    text = page([read_record(path)["result"] for path in sorted(RESULTS.glob("gpu-*.json"))])
    if not parsed.check:
        PAGE.write_text(text)
    elif PAGE.read_text() != text:
        print("benchmarks/GPU.md is out of step; run `python -m benchmarks gpu-layers`", file=sys.stderr)
        return 1
    return 0


ENTRY = Task(add_options=add_options, run=run)
