"""The live restream, measured: camera process -> RTSP -> filter -> RTSP -> viewer process, on this machine.

    python benchmarks/live.py [--seconds 60] [--models fast,fsrcnn-s] [--size 640x360@30]

Each model runs for ``--seconds`` after a warm-up run; the viewer reads the camera's clock out of each picture. Memory
is the filter process's resident set, sampled every second. Writes results/live.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from stream_sr import machine
from stream_sr.demo import child, free_port, wait_for_port

RESULTS = Path(__file__).parent / "results"
PAGE_BYTES = 4096


def resident_mib(pid: int) -> float:
    """Resident memory of a process, MiB; 0 once it has gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES / 2**20
    except (OSError, IndexError):
        return 0.0


def measure(model: str, size: str, seconds: float) -> dict[str, Any]:
    """One run: the filter's own report, the viewer's glass-to-glass figures, memory over time."""
    camera, served = free_port(), free_port()
    served_url = f"rtsp://127.0.0.1:{served}/sr"
    with tempfile.TemporaryDirectory() as folder:
        report, seen = Path(folder) / "report.json", Path(folder) / "viewer.json"
        source = f"synthetic:photos,{size}"
        with child("camera", "run", source, f"rtsp://@:{camera}/camera", "--backend", "bicubic", "--scale", "1"):
            wait_for_port(camera, 20)
            with child("viewer", "view", served_url, str(seen), module="stream_sr.demo") as viewer:
                process = subprocess.Popen(
                    [sys.executable, "-m", "stream_sr", "run", f"rtsp://127.0.0.1:{camera}/camera",
                     f"rtsp://@:{served}/sr", "--model", model, "--duration", str(seconds), "--json", str(report)],
                    stderr=subprocess.DEVNULL,
                )  # fmt: skip
                memory = []
                while process.poll() is None:
                    memory.append(resident_mib(process.pid))
                    time.sleep(1)
                viewer.wait(20)
        figures = json.loads(report.read_text())
        glass = json.loads(seen.read_text())
    quarter = max(1, len(memory) // 4)
    return {
        **{key: figures[key] for key in ("model", "scale", "backend", "precision", "device", "frames_in", "frames_out",
                                         "dropped", "fps", "latency_ms", "stages_ms", "source", "output")},
        "glass_to_glass_ms": glass["glass_to_glass_ms"],
        "viewer": glass["viewer"],
        "memory_mib": {
            "second_quarter": round(statistics.median(memory[quarter : 2 * quarter] or memory), 1),
            "last_quarter": round(statistics.median(memory[-quarter - 1 : -1] or memory), 1),
            "peak": round(max(memory), 1),
        },
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--models", default="fast,fsrcnn-s")
    parser.add_argument("--size", default="640x360@30")
    parser.add_argument("--out", type=Path, default=RESULTS / "live.json")
    options = parser.parse_args()
    rows = []
    for model in options.models.split(","):
        measure(model, options.size, 5)  # warm-up: caches, compiled engine
        rows.append(measure(model, options.size, options.seconds))
        glass, dropped = rows[-1]["glass_to_glass_ms"], sum(rows[-1]["dropped"].values())
        print(
            f"{model}: {rows[-1]['fps']:.1f} fps, dropped {dropped}, glass to glass {glass}, {rows[-1]['memory_mib']}"
        )
    result = {
        "rows": rows, "seconds": options.seconds, "machine": machine.describe(),
        "command": machine.command_line(["python", "benchmarks/live.py", *sys.argv[1:]]),
    }  # fmt: skip
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(f"wrote {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
