"""The filter of the benchmark `live`, with any of the `readers`, as a process of its own.

    python -m benchmarks.latency.filter_process REQUEST FOLDER

REQUEST is JSON: ``source``, ``sink``, ``reader``, ``model``, ``seconds`` and ``max_latency`` in ms. FOLDER gets
``report.json`` when the time is over.
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from benchmarks.latency.readers import READERS
from stream_sr.app.engine_setup import open_fitted_engine, warm_up
from stream_sr.app.report import make_report
from stream_sr.cli.latency import WARM_UP_SECONDS, LatencyProbe
from stream_sr.codec.encoder import Encoder
from stream_sr.config import Config
from stream_sr.pipeline.interfaces import SinkOptions
from stream_sr.pipeline.pipeline import Pipeline
from stream_sr.pipeline.plan import Plan
from stream_sr.pipeline.stats import Stats
from stream_sr.sinks import open_sink

KEPT = (
    *("model", "scale", "backend", "precision", "device", "frames_in", "frames_out", "dropped", "fps"),
    *("latency_ms", "stages_ms", "source", "output"),
)


def run_filter(request: dict[str, Any], folder: Path) -> None:
    """Run the filter with one of the readers, as `session.run` composes it, and write report.json into ``folder``."""
    config = Config(model=request["model"], max_latency=request["max_latency"])
    with ExitStack() as stack:
        sink = stack.enter_context(closing(open_sink(request["sink"], SinkOptions())))
        source = stack.enter_context(closing(READERS[request["reader"]](request["source"])))
        engine = stack.enter_context(closing(open_fitted_engine(config, source.info, live=True)))
        warm_up(engine, source.info)
        probe = LatencyProbe()
        plan = Plan(
            source,
            engine,
            [sink],
            make_encoder=lambda info: Encoder(info, config.encoder_options, live=True),
            max_latency_ns=round(config.max_latency * 1e6),
            seen=probe.see,
        )
        pipeline = Pipeline(plan)
        deadline = time.monotonic() + request["seconds"] + WARM_UP_SECONDS

        def tick(stats: Stats) -> None:
            if time.monotonic() > deadline:
                pipeline.stop()

        pipeline.run(tick=tick)
        report = make_report(plan, pipeline.stats, None)
    stages = probe.stats.summary()["stages_ms"]
    report = {key: report[key] for key in KEPT} | {
        "chain_ms": {name: stages.get(name, {"count": 0}) for name in ("camera", "filter")},
        "burnt": probe.burnt,
        "sequences": probe.sequences,
    }
    (folder / "report.json").write_text(json.dumps(report))


if __name__ == "__main__":
    run_filter(json.loads(sys.argv[1]), Path(sys.argv[2]))
