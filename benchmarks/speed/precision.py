"""The network alone in every precision that the CPU has.

    python -m benchmarks precision [--model fast ...] [--size 640x360] [--threads 1] [--rounds 15]

Luma x2 through OpenVINO, chroma and everything else left out. The precisions take turns within each round, and a ratio
is the median of the rounds' ratios, so that what disturbs one disturbs all. With one thread (the default) core
milliseconds tell more than the clock does where other work is running. Takes a few seconds.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

from benchmarks.interface import Benchmark, Measurement
from stream_sr.config import size
from stream_sr.inference.backends.openvino.graph import compile_graph
from stream_sr.inference.backends.openvino.precision import choose_precision, cpu
from stream_sr.inference.model import LUMA, ModelSpec, find_model
from stream_sr.pipeline.engine import QUALITY_FIDELITY
from stream_sr.video.quality import texture

FRAMES = 5  # of each turn
TARGETS = {"bf16": ("fp32", 1.6), "int8": ("bf16", 1.5)}  # times as fast as which, at least


def precisions(model: ModelSpec) -> list[str]:
    """Those that the CPU has and the model is there in."""
    eight = model.int8 is not None and model.int8.onnx.is_file()
    return ["fp32", *(["bf16"] if cpu().bf16 else []), *(["int8"] if cpu().int8 and eight else [])]


def runner(model: ModelSpec, precision: str, width: int, height: int, threads: int) -> Callable[[], None]:
    """One inference of a texture; it has run once."""
    graph = choose_precision(model, precision, QUALITY_FIDELITY).graph
    compiled = compile_graph(graph.sized(height, width), precision=precision, threads=threads, streams=1)
    request = compiled.create_infer_request()
    request.get_tensor(LUMA).data[0, 0] = texture(height, width)
    request.infer()
    return lambda: request.infer() and None


def take_turns(runners: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """For each round (wall, core) milliseconds of an inference."""
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in runners}
    for _ in range(rounds):
        for name, run in runners.items():
            wall, core = time.perf_counter(), time.process_time()
            for _ in range(FRAMES):
                run()
            wall, core = time.perf_counter() - wall, time.process_time() - core
            spent[name].append((wall / FRAMES * 1e3, core / FRAMES * 1e3))
    return spent


def row_of(model: ModelSpec, precision: str, spent: dict[str, list[tuple[float, float]]]) -> dict[str, Any]:
    """Medians, and how many times as fast as the slower precision this one is."""
    row: dict[str, Any] = {
        "model": model.name,
        "scale": model.scale,
        "precision": precision,
        "ms": round(statistics.median(wall for wall, _ in spent[precision]), 2),
        "core_ms": round(statistics.median(core for _, core in spent[precision]), 2),
    }
    against, mark = TARGETS.get(precision, ("", 0))
    if against in spent:
        pairs = zip(spent[against], spent[precision], strict=True)
        row |= {"against": against, "mark": mark}
        row["times_as_fast"] = round(statistics.median(slow[1] / fast[1] for slow, fast in pairs), 2)
    return row


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", action="append", metavar="NAME", help="x2; may be repeated (default tiny and fast)")
    parser.add_argument("--size", type=size, default=(640, 360), metavar="WxH")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)


def measure(parsed: argparse.Namespace) -> Measurement:
    width, height = parsed.size
    rows = []
    for model in (find_model(name, 2) for name in parsed.model or ["tiny", "fast"]):
        runners = {name: runner(model, name, width, height, parsed.threads) for name in precisions(model)}
        spent = take_turns(runners, parsed.rounds)
        rows += [row_of(model, name, spent) for name in runners]
    for row in rows:
        ratio = f"  {row['times_as_fast']:.2f} times {row['against']}" if "against" in row else ""
        print(f"{row['model']:>8} {row['precision']}  {row['ms']:6.2f} ms  {row['core_ms']:6.2f} core-ms{ratio}")
    return Measurement({"size": f"{width}x{height}", "threads": parsed.threads, "rows": rows})


ENTRY = Benchmark(add_options=add_options, measure=measure)
