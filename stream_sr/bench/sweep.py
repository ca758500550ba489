"""What `stream-sr bench` measures: every combination of models, sizes, backends, precisions, in one of three ways."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stream_sr.app.engine_setup import choose_model
from stream_sr.bench.clip import make_clip
from stream_sr.bench.defaults import DEFAULT_SIZE, ROUNDS, SECONDS, SWEPT
from stream_sr.bench.engine import EngineSubject
from stream_sr.bench.rounds import LoadMeter, Subject, measure, warnings
from stream_sr.bench.run import RunSubject
from stream_sr.config import Config
from stream_sr.config.option import Group, keys
from stream_sr.config.run_options import in_groups
from stream_sr.errors import ConfigError
from stream_sr.pipeline.pipeline import Pipeline
from stream_sr.sinks import is_file
from stream_sr.sources import is_live_address
from stream_sr.system import machine
from stream_sr.system.printable import redact

CLIP_SECONDS = 10.0  # of the file that is made where none is given


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What is to be measured. ``seconds`` and ``rounds`` None are the defaults of the kind."""

    kind: str
    configs: Sequence[Config]
    sizes: Sequence[tuple[int, int]] = (DEFAULT_SIZE,)  # where bench makes the pictures
    source: str | None = None
    sink: str = "null:"
    rounds: int | None = None
    seconds: float | None = None
    command: str = ""


def choose_kind(requested: str | None, source: str | None, sink: str) -> str:
    """``engine`` without a source, ``live`` for one that goes by the clock, else ``pipeline``; or ``requested``.

    Raises ConfigError where that cannot be measured on this source, or into this sink.
    """
    clocked = source is not None and (source.startswith("synthetic:") or is_live_address(source))
    kind = requested or ("engine" if source is None else "live" if clocked else "pipeline")
    if source is None:
        return kind
    if kind == "engine":
        raise ConfigError(f"--mode engine takes no SOURCE, and {redact(source)} was given; leave one of them out")
    if source == "-":
        raise ConfigError("bench runs several times, and standard input can be read once; give a file")
    if sink == "-":
        raise ConfigError("bench prints to standard output, so the picture cannot go there; use null: or a file")
    if kind == "live" and not clocked:
        raise ConfigError(f"{redact(source)} has no clock; for --mode live give synthetic:... or a camera")
    if kind == "pipeline" and is_live_address(source):
        raise ConfigError(f"{redact(source)} goes by its own clock; --mode live measures that")
    return kind


def run_sweep(
    sweep: Sweep,
    folder: Path,
    *,
    stop: Callable[[], bool] = lambda: False,
    attach: Callable[[Pipeline], None] = lambda pipeline: None,
    begin: Callable[[int], Callable[[str], None]] = lambda steps: lambda label: None,
) -> dict[str, Any]:
    """Measure all of it: ``kind``, ``rows`` (see `measure`), ``settings``, ``warnings``, ``stopped``, ``machine``.

    ``folder`` takes a clip where one has to be made; ``begin`` is told the number of steps and gives what each is
    announced to. Raises ConfigError and ModelError before anything is measured, else what `measure` raises.
    """
    rounds = ROUNDS[sweep.kind] if sweep.rounds is None else sweep.rounds
    subjects = make_subjects(sweep, folder, stop, attach)
    try:
        rows = measure(subjects, rounds, stop=stop, progress=begin((rounds + 1) * len(subjects)))
    finally:
        for subject in subjects:
            subject.close()
    return {
        "kind": sweep.kind,
        "rows": rows,
        "settings": settings(sweep, rounds),
        "stopped": stop(),
        "warnings": warnings(rows, paced=sweep.kind == "live"),
        "machine": machine.describe(),
        "command": sweep.command,
    }


def make_subjects(
    sweep: Sweep, folder: Path, stop: Callable[[], bool], attach: Callable[[Pipeline], None]
) -> list[Subject]:
    """One subject for each size and config; a clip is made for each size where the filter has no file to work on."""
    meter = LoadMeter()
    subjects: list[Subject] = []
    for size in sweep.sizes if sweep.source is None else [None]:
        shown = "" if size is None else "{}x{}".format(*size)
        source = sweep.source or f"synthetic:{shown}@30"
        if sweep.kind == "pipeline" and source.startswith("synthetic:"):
            source = str(make_clip(source, sweep.seconds or CLIP_SECONDS, folder / f"clip{shown}.mp4"))
        for config in sweep.configs:
            label = " ".join(filter(None, [config.model or config.backend, shown, config.precision]))
            if sweep.kind == "engine":
                subjects.append(_engine(sweep, config, size or DEFAULT_SIZE, label, stop, meter))
                continue
            seconds = SECONDS.get(sweep.kind) if sweep.seconds is None else sweep.seconds
            config = config if seconds is None or config.duration is not None else replace(config, duration=seconds)
            subjects.append(RunSubject(source, sweep.sink, config, label=label, attach=attach, meter=meter))
    return subjects


def _engine(
    sweep: Sweep, config: Config, size: tuple[int, int], label: str, stop: Callable[[], bool], meter: LoadMeter
) -> EngineSubject:
    config.refuse(keys(in_groups(Group.INPUT, Group.OUTPUT)), "without SOURCE the engine alone runs")
    model, scale = choose_model(config)
    return EngineSubject(
        model,
        size,
        config.engine_options(depth=2),
        scale=scale or None,
        seconds=sweep.seconds or SECONDS["engine"],
        label=label,
        stop=stop,
        meter=meter,
    )


def settings(sweep: Sweep, rounds: int) -> dict[str, str]:
    """What must be the same for two measurements to be compared, besides the machine: text by name."""
    config = sweep.configs[0]
    found = {name: str(getattr(config, name)) for name in sorted(config.asked - {*SWEPT, "viewer_password"})}
    found |= {"rounds": str(rounds), "seconds": str(sweep.seconds)}
    if sweep.kind != "engine":
        found["source"] = redact(sweep.source or "synthetic:")
        found["sink"] = f"a file {Path(sweep.sink).suffix}" if is_file(sweep.sink) else redact(sweep.sink)
    return found
