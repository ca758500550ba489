"""The file of `stream-sr serve`: read, and checked as a whole before a camera is started or stopped."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from stream_sr.app.engine_setup import check_computes, choose_model
from stream_sr.app.session import check_outputs
from stream_sr.codec.nvenc import CODECS, why_not
from stream_sr.config import Config, make_config
from stream_sr.config.kinds import refuse_control_characters, shown
from stream_sr.config.metrics_options import DEFAULT_HOST, MetricsOptions
from stream_sr.config.option import Need, options_of
from stream_sr.config.precedence import read_values
from stream_sr.config.toml_file import read_toml
from stream_sr.errors import ConfigError, StreamSRError
from stream_sr.inference.engines import check_available, check_engine_options
from stream_sr.sinks import check_address as check_sink
from stream_sr.sinks import check_folder_of, claim, is_file, is_page
from stream_sr.sources import applicable, kind_of
from stream_sr.sources import check_address as check_source
from stream_sr.system.printable import redact
from stream_sr.video.frame import StreamInfo

SYNTAX = '[camera.NAME] with source = "ADDRESS", sinks = ["ADDRESS", ...] and options'
MOST_NAME = 100  # characters of a camera's name
WILDCARDS = ("0.0.0.0", "::")


@dataclass(frozen=True)
class CameraPlan:
    """One stream as the file configures it."""

    name: str
    source: str
    sinks: tuple[str, ...]
    config: Config


@dataclass(frozen=True)
class Fleet:
    """A whole file."""

    cameras: tuple[CameraPlan, ...]
    metrics_port: int | None = None
    metrics_host: str = DEFAULT_HOST


def check_fleet(file: Path, unchanged: Iterable[CameraPlan] = ()) -> Fleet:
    """`read_fleet`, and for each camera whether this machine can run it: model, backend, folders of recordings.

    This is ``serve --check``, and what a reload does before it touches a camera. Cameras in ``unchanged`` run already:
    for them only the file is read. Not checked is what may come later: whether a camera or server answers, and whether
    a port is free. Raises ConfigError, and nothing else, whatever the file holds.
    """
    fleet = read_fleet(file)
    running = set(unchanged)
    for plan in fleet.cameras:
        if plan in running:
            continue
        try:
            _check_here(plan)
        except StreamSRError as error:
            raise ConfigError(f"{file}: [camera.{plan.name}]: {error}") from error
    return fleet


def read_fleet(file: Path) -> Fleet:
    """Read a file of cameras. Raises ConfigError for whatever is wrong in it, and nothing else.

    ``[all]`` holds options for every camera, ``[camera.NAME]`` its source, sinks and options, which go before those in
    the environment. The names of recordings may hold the time at which they begin, as in ``door-%Y%m%d-%H%M%S.mkv``.
    """
    raw = read_toml(file)
    shared, cameras = raw.pop("all", {}), raw.pop("camera", {})
    names = [option.name for option in options_of(MetricsOptions)]
    if unknown := [name for name in raw if name not in names]:
        raise ConfigError(f"{file}: '{shown(unknown[0])}' is not known; known are {', '.join(names)}, [all], {SYNTAX}")
    metrics = MetricsOptions(**read_values(raw, str(file), options_of(MetricsOptions)))
    port, host = metrics.metrics_port, metrics.metrics_host or DEFAULT_HOST
    if not isinstance(shared, dict) or not isinstance(cameras, dict) or not cameras:
        raise ConfigError(f"{file} names no camera; write {SYNTAX}")
    base = read_values(shared, f"{file}: [all]")
    plans = tuple(_camera(file, name, table, base, len(cameras)) for name, table in cameras.items())
    _refuse_duplicates(file, plans, port, host)
    devices = {plan.config.device for plan in plans}
    if len(devices) > 1:
        raise ConfigError(
            f"{file}: cameras on the GPUs {', '.join(map(str, sorted(devices)))}; "
            "one process serves one GPU: write a file for each and start one for each"
        )
    return Fleet(plans, port, host)


def _camera(file: Path, name: str, table: Any, base: Mapping[str, Any], cameras: int) -> CameraPlan:
    where = f"{file}: [camera.{shown(name)}]"
    if not name.isprintable() or not 0 < len(name) <= MOST_NAME:
        raise ConfigError(f"{where}: a name has 1 to {MOST_NAME} characters, none of them a control character")
    if not isinstance(table, dict):
        raise ConfigError(f"{where} is no table; write {SYNTAX}")
    options = dict(table)
    source, sinks = options.pop("source", None), options.pop("sinks", None)
    if not isinstance(source, str) or not source:
        raise ConfigError(f"{where} has no source; write {SYNTAX}")
    if not isinstance(sinks, list) or not sinks or not all(isinstance(sink, str) and sink for sink in sinks):
        raise ConfigError(f"{where} has no sinks; write {SYNTAX}")
    for place in (source, *sinks):
        refuse_control_characters(place, where)
        if place in ("-", "window:"):
            raise ConfigError(f"{where}: '{place}' is for one stream at a terminal; use `stream-sr run` for that")
    try:
        config = replace(make_config(read_values(options, where), file=base), cameras=cameras)
        plan = CameraPlan(name, source, tuple(sinks), config)
        _check_addresses(plan)
    except StreamSRError as error:
        text = str(error)
        raise ConfigError(text if text.startswith(where) else f"{where}: {text}") from error
    return plan


def _check_addresses(plan: CameraPlan) -> None:
    """Raise StreamSRError for an input, an output or an option that can never be, or would do nothing."""
    source, config = plan.source, plan.config
    check_source(source, config.source_options(applicable(source)))
    if kind_of(source) in ("file", "pictures"):
        config.refuse_without(Need.LIVE_INPUT, f"{redact(source)} is not live, and no frame of it is dropped")
    outputs = [check_sink(sink, config.sink_options(source)) for sink in plan.sinks]
    check_outputs(source, plan.sinks, config, outputs)


def _check_here(plan: CameraPlan) -> None:
    """Raise StreamSRError for what this machine lacks."""
    model, scale = choose_model(plan.config)
    options = plan.config.engine_options(depth=1, live=True)
    check_engine_options(model, options, scale=scale)
    check_available(options)
    if plan.config.model is not None and plan.config.model.endswith(".onnx"):
        check_computes(model, options, scale=scale)
    encoder = plan.config.encoder_options.encoder
    if encoder in CODECS and (reason := why_not(encoder, StreamInfo(640, 360, Fraction(1, 25)))):
        raise ConfigError(f"--encoder {encoder} cannot be used here: {reason}; --encoder auto takes one that works")
    for sink in filter(is_file, plan.sinks):
        check_folder_of(sink)
    folder = plan.config.record_dir
    if folder is not None and any(map(is_page, plan.sinks)) and not os.path.isdir(folder):
        raise ConfigError(f"--record-dir {folder} is no folder; make it first (mkdir -p)")


def _refuse_duplicates(file: Path, plans: tuple[CameraPlan, ...], port: int | None, host: str) -> None:
    """Raise ConfigError where two outputs are one file, one address, or ports that exclude each other."""
    places: dict[str, str] = {}
    ports: dict[int, list[tuple[str, str | None, str]]] = {}
    if port:
        ports[port] = [(host, None, "metrics-port")]
    for plan in plans:
        for sink in plan.sinks:
            if sink == "null:":
                continue
            place = os.path.realpath(sink) if is_file(sink) else sink
            if place in places:
                raise ConfigError(f"{file}: {redact(sink)} is an output of both {places[place]} and {plan.name}")
            places[place] = plan.name
            claimed = claim(sink)
            if claimed is None or not claimed[1]:
                continue
            at, number, path = claimed
            for other_host, other_path, owner in ports.setdefault(number, []):
                if _exclude((at, path), (other_host, other_path)):
                    raise ConfigError(f"{file}: port {number} of {redact(sink)} ({plan.name}) is taken by {owner}")
            ports[number].append((at, path, plan.name))


def _exclude(one: tuple[str, str | None], other: tuple[str, str | None]) -> bool:
    """Whether two servers, given as host and path (None: the whole port), cannot share a port number."""
    hosts = {host.replace("localhost", "127.0.0.1").lower() for host, _ in (one, other)}
    if len(hosts) == 2:
        return any(host in WILDCARDS for host in hosts) and len({":" in host for host in hosts}) == 1
    return one[1] is None or one[1] == other[1]
