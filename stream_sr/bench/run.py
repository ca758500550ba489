"""The whole filter as something to be measured: a source, the engine and a sink, in one process, again and again."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from stream_sr.app.session import RunHooks, RunResult, run
from stream_sr.bench.rounds import LoadMeter, Turn
from stream_sr.config import Config
from stream_sr.errors import ConfigError
from stream_sr.pipeline.pipeline import Pipeline
from stream_sr.pipeline.stats import Histogram
from stream_sr.system.printable import redact

WARM_UP_SECONDS = 1.0


class RunSubject:
    """A run of the filter: a file as fast as it goes, or a live source by its clock.

    A round is the whole source, or its first ``config.duration`` seconds. Its figures: what computed, sizes,
    ``latency_ms`` from capture to output and ``stages_ms`` over all rounds, ``frames_in``, ``frames_out``,
    ``dropped`` by reason and ``lost_in_source``. ``attach`` is told what to stop before each run. Raises
    as `session.run`, the error that a run ended with, and ConfigError where less than two pictures came out.
    """

    def __init__(
        self,
        source: str,
        sink: str,
        config: Config,
        *,
        label: str = "",
        attach: Callable[[Pipeline], None] = lambda pipeline: None,
        meter: LoadMeter | None = None,
    ) -> None:
        self.label = label
        self._source, self._sink, self._config = source, sink, config
        self._attach, self._meter = attach, meter or LoadMeter()
        self._report: dict[str, Any] | None = None
        self._histograms: dict[str, Histogram] = {}
        self._counts = {name: Counter[str]() for name in ("frames", "dropped", "lost_in_source")}

    def warm_up(self) -> None:
        """A second of the source; after it an output file is there, and may be replaced."""
        seconds = min(WARM_UP_SECONDS, self._config.duration or WARM_UP_SECONDS)
        self._run(replace(self._config, duration=seconds))
        self._config = replace(self._config, overwrite=True)

    def turn(self) -> Turn | None:
        """See `Subject.turn`."""
        outcome, pipeline, wall, load = self._run(self._config)
        report = outcome.report
        if report["frames_out"] < 2:
            if pipeline.stopping:
                return None
            raise ConfigError(
                f"{redact(self._source)}: a speed needs two pictures, and a round gave {report['frames_out']}; "
                "give a longer source, or more --seconds"
            )
        for name, histogram in pipeline.stats.histograms().items():
            before = self._histograms.get(name)
            self._histograms[name] = histogram if before is None else before.plus(histogram)
        self._counts["frames"].update({name: report[name] for name in ("frames_in", "frames_out")})
        for name in ("dropped", "lost_in_source"):
            self._counts[name].update(report[name])
        return Turn(report["fps"], report["frames_out"], wall, load)

    def _run(self, config: Config) -> tuple[RunResult, Pipeline, float, dict[str, Any]]:
        began = [0]
        pipelines: list[Pipeline] = []

        def started(pipeline: Pipeline) -> None:
            pipelines.append(pipeline)
            self._attach(pipeline)
            self._meter.begin()
            began[0] = time.monotonic_ns()

        outcome = run(self._source, [self._sink], config, RunHooks(started=started, show_status=False))
        wall = (time.monotonic_ns() - began[0]) / 1e9
        load = self._meter.end(max(1, outcome.report["frames_out"]))
        if outcome.error is not None:
            raise outcome.error
        self._report = outcome.report
        return outcome, pipelines[0], wall, load

    def figures(self) -> dict[str, Any]:
        """See `Subject.figures`; of a run that could not begin, what was asked for."""
        report, config = self._report, self._config
        if report is None:
            return {
                "model": config.model or ("bicubic" if config.backend == "bicubic" else "default"),
                "scale": config.scale,
                "backend": config.backend,
                "precision": config.precision,
            }
        kept = ("model", "scale", "backend", "precision", "device", "head", "notes", "output")
        found = {"width": report["source"]["width"], "height": report["source"]["height"]}
        found |= {name: report[name] for name in kept}
        summaries = {name: histogram.summary() for name, histogram in self._histograms.items()}
        if summaries:
            found["latency_ms"] = summaries.pop("latency")
            found["stages_ms"] = summaries
        found |= dict(self._counts["frames"])
        return found | {name: dict(self._counts[name]) for name in ("dropped", "lost_in_source")}

    def close(self) -> None:
        """Nothing stays open between the rounds."""
