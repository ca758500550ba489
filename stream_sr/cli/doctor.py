"""What this machine has, what it lacks and the command that fixes it. Every question is asked, none may end the rest.

Libraries are imported in processes of their own: an import that crashes or hangs harms only its own answer.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, TextIO

from stream_sr.errors import EngineUnavailable, ModelError
from stream_sr.inference.cache import cache_folder, engine_entries
from stream_sr.inference.engines import backends, choose_backend
from stream_sr.inference.model import ModelSpec, engines_folder, read_model
from stream_sr.system import machine
from stream_sr.system.features import missing_features
from stream_sr.system.machine import has_nvidia
from stream_sr.system.printable import printable
from stream_sr.system.video_devices import device_name, video_devices

OK, ABSENT, OPTIONAL, MISSING, BROKEN = "ok", "absent", "optional", "missing", "broken"
PROBE_SECONDS = 60
DISPLAY_SECONDS = 10
REINSTALL = "install stream_sr again, from its wheel or checkout"
LIBRARIES = (  # distribution, module, what for, extra that brings it (the base has none)
    ("numpy", "numpy", "arrays", ""),
    ("av", "av", "files, RTSP, encoding", ""),
    ("openvino", "openvino", "inference on the CPU", ""),
    ("opencv-python", "cv2", "window, webcam, optical flow", ""),
    ("aiortsp", "aiortsp", "RTSP with low delay", ""),
    ("websockets", "websockets", "page for browsers", ""),
    ("prometheus-client", "prometheus_client", "metrics", ""),
    ("pillow", "PIL", "pictures", ""),
    ("platformdirs", "platformdirs", "cache folder", ""),
    ("tqdm", "tqdm", "progress bar", ""),
    ("nvidia-ml-py", "pynvml", "names and load of NVIDIA GPUs", ""),
    ("scikit-image", "skimage", "photographs of the demo", "demo"),
    ("torch", "torch", "reference backend, training", "torch"),
    ("onnx", "onnx", "reference backend, export", "torch"),
    ("matplotlib", "matplotlib", "plots", "plot"),
    ("nncf", "nncf", "eight bits", "train"),
    ("onnxruntime", "onnxruntime", "eight bits", "train"),
    ("tensorrt", "tensorrt", "engines for NVIDIA GPUs", "tensorrt"),
    ("tensorrt-rtx-cu13-bindings", "tensorrt_rtx_bindings", "engines for RTX GPUs", "tensorrt-rtx"),
    ("pycuda", "pycuda.driver", "memory and streams of the GPU", "tensorrt"),
    ("cuda-bindings", "cuda.bindings.driver", "CUDA graphs", "tensorrt"),
)
NEEDS_GPU = ("tensorrt", "tensorrt-rtx")  # extras
SHARED_LIBRARIES = {  # what an import misses, and the Debian package that has it
    "libGL.so": "apt-get install libgl1",
    "libgthread": "apt-get install libglib2.0-0",
    "libglib": "apt-get install libglib2.0-0",
    "libgomp": "apt-get install libgomp1",
    "libcuda.so": "apt-get install nvidia-driver",
}
ENCODERS = """
import av, json
answers = {}
for name in ("libx264", "h264_nvenc", "hevc_nvenc"):
    try:
        context = av.CodecContext.create(name, "w")
        context.width, context.height, context.pix_fmt, context.framerate = 640, 360, "yuv420p", 30
        context.open()
        answers[name] = ""
    except Exception as error:
        answers[name] = f"{type(error).__name__}: {error}"
print(json.dumps(answers))
"""
GRAPH = """
import openvino, sys
graph = openvino.Core().read_model(sys.argv[1])
kinds = [[port.get_element_type().get_type_name() for port in ports] for ports in (graph.inputs, graph.outputs)]
print(" to ".join(" and ".join(side) for side in kinds))
"""
DISPLAY = """
import sys
sys.path.append(sys.argv[1])  # the folder with stream_sr
from stream_sr.system.display import screen_size
screen_size()
"""
GRAPHS = ("u8 to u8", "u8 and u8 to u8")  # a model's, a recurrent one's
AREAS = ("processor", "GPU", "libraries", "encoders", "backends", "models", "cache", "devices")
COLOURS = {OK: "32", ABSENT: "2", OPTIONAL: "2", MISSING: "33", BROKEN: "31"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One answer. ``absent`` is what this machine cannot use; ``optional`` names what brings it, for who wants it.

    ``missing`` and ``broken`` name what fixes them.
    """

    area: str
    name: str
    state: str
    detail: str = ""
    fix: str = ""


def examine() -> dict[str, Any]:
    """Look at everything. Takes some seconds, changes nothing, raises nothing.

    Returns ``findings`` (of `Finding`, in the order of the areas), ``auto`` (the ``backend`` that it chooses, None
    where it can choose none, and the ``reason``), ``machine``, and the counts ``optional``, ``missing`` and ``broken``.
    """
    libraries = Probes()
    questions: dict[str, Callable[[], Iterable[Finding]]] = {
        "processor": _processor,
        "GPU": _gpu,
        "libraries": libraries.findings,
        "encoders": _encoders,
        "backends": _backends,
        "models": _models,
        "cache": _cache,
        "devices": lambda: [*_display(), *_webcams()],
    }
    findings = [finding for area in AREAS for finding in _ask(area, questions[area])]
    return {
        "findings": [asdict(finding) for finding in findings],
        "auto": _auto(),
        "machine": machine.describe(),
    } | {state: sum(finding.state == state for finding in findings) for state in (OPTIONAL, MISSING, BROKEN)}


def _ask(area: str, question: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """The answers; a question that fails is itself a finding, because the others are wanted all the same."""
    try:
        return list(question())
    except Exception as error:
        reason = f"could not be examined: {type(error).__name__}: {error}"
        return [Finding(area, "examination", BROKEN, reason, REINSTALL)]


class Probes:
    """Imports of the installed libraries, each in a process of its own, all started at once."""

    def __init__(self) -> None:
        self.versions = machine.libraries()
        self._processes = {
            name: _python(f"import {module}") for name, module, _, _ in LIBRARIES if name in self.versions
        }

    def findings(self) -> Iterable[Finding]:
        """An answer per library, in order."""
        for name, _, use, extra in LIBRARIES:
            if name not in self.versions:
                state = MISSING if not extra or extra in NEEDS_GPU else OPTIONAL
                state = ABSENT if extra in NEEDS_GPU and not has_nvidia() else state
                fix = machine.pip_install(f"stream-sr[{extra}]" if extra else name)
                yield Finding("libraries", name, state, f"not installed: {use}", fix)
                continue
            code, _, complaint = _finish(self._processes[name])
            version = self.versions[name]
            if code == 0:
                yield Finding("libraries", name, OK, f"{version}: {use}")
            else:
                fix = _fix(complaint) or _again(name)
                yield Finding("libraries", name, BROKEN, f"{version} cannot be imported: {complaint}", fix)


def _processor() -> Iterable[Finding]:
    yield Finding("processor", machine.cpu_name(), OK, f"{machine.cores()} cores, {machine.memory_gib():g} GiB memory")
    yield Finding("processor", "instruction sets", OK, " ".join(machine.cpu_features()) or "none of those that matter")
    if missing := missing_features():
        yield Finding("processor", "operating system", ABSENT, f"has no {'; no '.join(missing)}")


def _gpu() -> Iterable[Finding]:
    found = machine.gpus()
    for gpu in found:
        detail = f"{gpu['memory_gib']:g} GiB, compute capability {gpu['compute_capability']}, driver {gpu['driver']}"
        yield Finding("GPU", gpu["name"], OK, detail)
    if not found and has_nvidia():
        yield Finding("GPU", "NVIDIA", BROKEN, "a GPU without a working driver", "apt-get install nvidia-driver")
    elif not found:
        yield Finding("GPU", "NVIDIA", ABSENT, "none; networks run on the processor")
    if found or has_nvidia():
        if not (problem := machine.cuda_library_problem()):
            yield Finding("GPU", "libcuda.so.1", OK, "the driver's CUDA interface")
        else:
            yield Finding("GPU", "libcuda.so.1", BROKEN, problem, "apt-get install nvidia-driver")


def _encoders() -> Iterable[Finding]:
    code, answer, complaint = _finish(_python(ENCODERS))
    if code != 0:
        yield Finding("encoders", "libx264", BROKEN, f"av cannot say: {complaint}", _again("av"))
        return
    for name, error in json.loads(answer).items():
        if not error:
            yield Finding("encoders", name, OK, "opens")
        elif name == "libx264":
            yield Finding("encoders", name, BROKEN, error, _again("av"))
        elif has_nvidia():
            yield Finding("encoders", name, BROKEN, error, "apt-get install libnvidia-encode1")
        else:
            yield Finding("encoders", name, ABSENT, "in the build; needs an NVIDIA GPU")


def _backends() -> Iterable[Finding]:
    for name, found in backends().items():
        detail = ", ".join(part for part in (found.version, found.reason) if part)
        unused = (MISSING if has_nvidia() else ABSENT) if name in ("tensorrt", "torch-cuda") else OPTIONAL
        state = OK if found.usable else unused
        yield Finding("backends", name, state, detail, found.fix)


def _auto() -> dict[str, Any]:
    try:
        choice = choose_backend()
    except EngineUnavailable as error:
        return {"backend": None, "reason": str(error)}
    except Exception as error:
        return {"backend": None, "reason": f"the choice failed: {type(error).__name__}: {error}"}
    return {"backend": choice.name, "reason": choice.reason}


def _models() -> Iterable[Finding]:
    folder = engines_folder()
    paths = sorted(folder.glob("*/model.toml"))
    if not paths:
        yield Finding("models", "engines", MISSING, f"no model in {folder}", REINSTALL)
    readable: list[ModelSpec] = []
    for path in paths:
        try:
            readable.append(read_model(path))
        except ModelError as error:
            yield Finding("models", path.parent.name, BROKEN, str(error), "stream-sr export")
    probes = [_python(GRAPH, str(model.onnx)) for model in readable]
    for model, probe in zip(readable, probes, strict=True):
        yield _model(model, *_finish(probe))


def _model(model: ModelSpec, code: int, answer: str, complaint: str) -> Finding:
    name = model.label()
    digest = f"sha256 {model.sha256()[:12]}"
    if code == 0 and answer in GRAPHS:
        default = ", default" if model.default else ""
        try:
            eight = f", int8 loses {max(model.int8.loss, 0):.2f} dB" if model.as_int8() and model.int8 else ""
        except ModelError as error:
            if model.int8 is not None and model.int8.made_from != model.sha256():
                return Finding("models", name, BROKEN, str(error), "stream-sr quantize")
            eight = ""
        return Finding("models", name, OK, f"{model.parameters:,} parameters, {digest}{default}{eight}")
    if code == 0:
        reason = f"the graph goes from {answer}; a model takes one uint8 plane, a recurrent one two, and gives one"
    elif "No module named" in complaint or "shared object" in complaint:
        return Finding("models", name, OK, f"{model.parameters:,} parameters, {digest}, unread without openvino")
    else:
        reason = f"model.onnx cannot be read: {complaint}"
    return Finding("models", name, BROKEN, reason, "stream-sr export")


def _cache() -> Iterable[Finding]:
    folder = cache_folder()
    entries = engine_entries()
    size = sum(entry.size_bytes for entry in entries) / 2**20
    damaged = sum(entry.key is None for entry in entries)
    where = next(path for path in (folder, *folder.parents) if path.exists())
    if not (where.is_dir() and os.access(where, os.W_OK | os.X_OK)):
        yield Finding(
            "cache",
            "compiled engines",
            BROKEN,
            f"{folder} cannot be written; engines are compiled at each start",
            "export STREAM_SR_CACHE=FOLDER",
        )
    elif damaged:
        yield Finding("cache", "compiled engines", BROKEN, f"{damaged} damaged in {folder}", "stream-sr engine prune")
    else:
        yield Finding("cache", "compiled engines", OK, f"{len(entries)}, {size:.1f} MiB, {folder}")
    for entry in entries:
        if entry.refused and entry.key:
            key = entry.key
            what = f"model {key.onnx_sha256[:8]}, {key.backend} {key.precision}, {key.profile}, {key.head}"
            yield Finding("cache", "refused engine", ABSENT, f"{what}: {entry.refused}")


def _display() -> Iterable[Finding]:
    wayland, x11 = os.environ.get("WAYLAND_DISPLAY"), os.environ.get("DISPLAY")
    if not (wayland or x11):
        detail = "neither DISPLAY nor WAYLAND_DISPLAY is set: no window, all else works"
        yield Finding("devices", "display", OPTIONAL, detail, "ssh -X HOST, or xvfb-run -a stream-sr ...")
    elif x11 and not wayland and (problem := _display_problem()):
        yield Finding("devices", "display", BROKEN, problem, "ssh -X HOST, or xvfb-run -a stream-sr ...")
    else:
        yield Finding("devices", "display", OK, f"Wayland {wayland}" if wayland else f"X11 {x11}")


def _display_problem() -> str:
    """Why the X display cannot be opened; empty where it can."""
    code, _, complaint = _finish(_python(DISPLAY, str(Path(__file__).parents[2])), DISPLAY_SECONDS)
    return complaint.removeprefix("OSError: ") if code != 0 else ""


def _webcams() -> Iterable[Finding]:
    devices = video_devices()
    if not devices:
        yield Finding("devices", "webcam", ABSENT, "no /dev/video*; plug one in")
    for device in devices:
        name = device_name(device)
        if os.access(device, os.R_OK | os.W_OK):
            yield Finding("devices", str(device), OK, name)
        else:
            yield Finding("devices", str(device), BROKEN, f"{name}: no permission", "sudo usermod -aG video $USER")


def _python(code: str, *arguments: str) -> subprocess.Popen[str]:
    """Start this Python on ``code``, with the working directory out of its import path."""
    return subprocess.Popen(
        [sys.executable, "-P", "-c", code, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _finish(process: subprocess.Popen[str], seconds: float | None = None) -> tuple[int, str, str]:
    """(exit code, what it printed, the last line of its complaint). One that does not end in time is killed."""
    seconds = PROBE_SECONDS if seconds is None else seconds
    try:
        answer, complaint = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return 1, "", f"it did not end within {seconds:g} s"
    last = complaint.strip().splitlines()[-1] if complaint.strip() else f"exit code {process.returncode}"
    return process.returncode, answer.strip(), last


def _again(name: str) -> str:
    return machine.pip_install("--force-reinstall", name)


def _fix(complaint: str) -> str:
    """The command that brings the shared library an import misses; empty where it is another failure."""
    return next((command for name, command in SHARED_LIBRARIES.items() if name in complaint), "")


def wants_color(stream: TextIO) -> bool:
    """Whether to colour what is written there: a terminal, unless NO_COLOR or TERM=dumb."""
    return stream.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


def format_findings(report: Mapping[str, Any], *, color: bool = False, width: int = 80) -> str:
    """What `examine` returned, for a terminal of ``width`` columns. Commands are never broken over lines."""
    lines: list[str] = []
    for area in AREAS:
        found = [finding for finding in report["findings"] if finding["area"] == area]
        if found:
            lines += ["", area[0].upper() + area[1:]]
        for finding, fix in group(found):
            lines += _lines(finding, fix, color, width)
    auto = report["auto"]
    choice = f"--backend auto chooses {auto['backend']}" if auto["backend"] else "--backend auto finds nothing to run"
    lines += ["", *textwrap.wrap(printable(f"{choice}: {auto['reason']}"), width)]
    lines.append(f"{report['missing']} missing, {report['broken']} broken, {report['optional']} optional")
    return "\n".join(lines[1:])


def group(findings: Sequence[Mapping[str, str]]) -> Iterable[tuple[Mapping[str, str], str]]:
    """Each finding with the command that is shown below it: where several in a row share one, below the last."""
    for finding, after in zip_longest(findings, findings[1:]):
        same = after is not None and (after["state"], after["fix"]) == (finding["state"], finding["fix"])
        yield finding, "" if same else finding["fix"]


def _lines(finding: Mapping[str, str], fix: str, color: bool, width: int) -> Sequence[str]:
    mark = f"{finding['state']:<8}"
    if color:
        mark = f"\x1b[{COLOURS[finding['state']]}m{mark}\x1b[0m"
    name = printable(finding["name"])
    indent = 31
    detail = textwrap.wrap(printable(finding["detail"]), width - indent, break_on_hyphens=False) or [""]
    head = [f"  {mark} {name:<19} {detail[0]}"] if len(name) < 20 else [f"  {mark} {name}", " " * indent + detail[0]]
    rest = [" " * indent + line for line in detail[1:]]
    command = [f"{'':11}-> {printable(fix)}"] if fix and finding["state"] in (OPTIONAL, MISSING, BROKEN) else []
    return [line.rstrip() for line in (*head, *rest, *command)]
