"""The programs that the benchmark `peers` runs on this machine, and those that it cannot run, with the reason."""

import atexit
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.peers.ffmpeg_native import write_native
from benchmarks.peers.transcode import CRF, PRESET
from benchmarks.processes import watch
from stream_sr.evaluation.codec_roundtrip import read_luma
from stream_sr.inference.backends.openvino import precision
from stream_sr.inference.model import PRESETS, find_model, list_models
from stream_sr.system import machine

FSRCNN, TINY = "fsrcnn", "tiny"
FPS = Fraction(30)  # of the input
SCRIPT = Path(__file__).parent / "transcode.py"
Command = Callable[[Path, Path, int], list[str]]  # input, output, frames
Plane = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Peer:
    """A program that enlarges a film twice."""

    name: str
    family: str  # ours, network, resize
    command: Command
    model: str = ""  # the weights; empty for none
    form: str = ""  # of the network's head, or the precision
    keep: Callable[[Path, Path, int], Iterator[Plane]] | None = None

    def facts(self, out: Path) -> dict[str, str]:
        """What it is; of ours also the precision that it took, as it has reported beside ``out``."""
        found = {"family": self.family, "model": self.model, "form": self.form}
        report = out.with_suffix(".json")
        return found | ({"precision": json.loads(report.read_text())["precision"]} if report.exists() else {})

    def luma(self, source: Path, folder: Path, frames: int) -> Iterator[Plane]:
        """What it computes, before it is encoded."""
        if self.keep is None:
            raise ValueError(f"{self.name} does not show its luma")
        return self.keep(source, folder, frames)


def peers() -> tuple[list[Peer], list[dict[str, str]]]:
    """Those that can run here, and the others with their reason."""
    able = [ours(name, "auto") for name in (*PRESETS, FSRCNN) if any(m.name == name for m in list_models())]
    if precision.cpu().bf16:
        able.append(ours(FSRCNN, "bf16"))
    able += [script("opencv-dnn", "exported"), script("opencv-dnn", "lowered"), script("opencv-resize")]
    left: list[dict[str, str]] = []
    no_gpu = "" if machine.cuda().devices else "needs an NVIDIA GPU"
    for name, library, missing in (
        ("openvino", "openvino", ""),
        ("onnxruntime", "onnxruntime", ""),
        ("torch", "torch", ""),
        ("torch-compile", "torch", no_gpu),
        ("onnxruntime-cuda", "onnxruntime", no_gpu or _no_cuda_provider()),
    ):
        reason = missing or (
            "" if find_spec(library) else f"{library} is not installed; pip install 'stream-sr[peers]'"
        )
        if reason:
            left.append({"name": name, "reason": reason})
        else:
            able.append(script(name, "exported"))
    if shutil.which("ffmpeg"):
        able += [ffmpeg(f"scale {flags}", f"scale=iw*2:ih*2:flags={flags}") for flags in ("bicubic", "lanczos")]
    else:
        left.append({"name": "ffmpeg scale", "reason": "no ffmpeg here; apt-get install ffmpeg"})
    if reason := _no_native_ffmpeg():
        left.append({"name": "ffmpeg dnn_processing", "reason": reason})
    else:
        able.append(
            ffmpeg("dnn_processing", f"dnn_processing=dnn_backend=native:model={native_file()}:input=x:output=y", TINY)
        )
    left += [
        {"name": "vapoursynth", "reason": _no_vapoursynth()},
        {"name": "nvidia-vfx", "reason": no_gpu or "its networks are NVIDIA's own, and no peer here runs them yet"},
    ]
    return able, left


def ours(model: str, precision: str) -> Peer:
    """`stream-sr run` as a user types it."""

    def command(source: Path, out: Path, frames: int, crf: str = CRF) -> list[str]:
        return [
            sys.executable, "-m", "stream_sr", "run", str(source), str(out), "--model", model, "--scale", "2",
            "--precision", precision, "--crf", crf, "--encoder-preset", PRESET, "--overwrite",
            "--duration", f"{float((frames - Fraction(1, 2)) / FPS):.4f}", "--json", str(out.with_suffix(".json")),
        ]  # fmt: skip

    def keep(source: Path, folder: Path, frames: int) -> Iterator[Plane]:
        lossless = folder / "kept.mp4"
        watch(command(source, lossless, frames, "0"))
        return read_luma(lossless)

    name = f"stream-sr {model}" + (f" {precision}" if precision != "auto" else "")
    return Peer(name, "ours", command, model, precision, keep)


def script(name: str, form: str = "") -> Peer:
    """A network of `transcode`, on FSRCNN's ONNX in this form."""
    model = str(onnx_file(form)) if form else ""

    def command(source: Path, out: Path, frames: int) -> list[str]:
        words = [sys.executable, str(SCRIPT), name, str(source), str(out), "--frames", str(frames)]
        return words + (["--model", model] if model else [])

    def keep(source: Path, folder: Path, frames: int) -> Iterator[Plane]:
        kept = folder / "kept.npy"
        watch([*command(source, folder / "kept.mp4", frames), "--keep", str(kept)])
        yield from np.load(kept)

    title = f"{name}, {form}" if name == "opencv-dnn" else name
    return Peer(title, "network" if form else "resize", command, FSRCNN if form else "", form, keep)


def ffmpeg(name: str, chain: str, model: str = "") -> Peer:
    """FFmpeg with this chain of filters."""

    def command(source: Path, out: Path, frames: int, crf: str = CRF) -> list[str]:
        return [
            "ffmpeg", "-hide_banner", "-loglevel", "error", "-y", "-i", str(source), "-frames:v", str(frames),
            "-vf", chain, "-c:v", "libx264", "-preset", PRESET, "-crf", crf, str(out),
        ]  # fmt: skip

    def keep(source: Path, folder: Path, frames: int) -> Iterator[Plane]:
        lossless = folder / "kept.mp4"
        watch(command(source, lossless, frames, "0"))
        return read_luma(lossless)

    return Peer(f"ffmpeg {name}", "network" if model else "resize", command, model, "lowered" if model else "", keep)


@lru_cache
def onnx_file(form: str) -> Path:
    """FSRCNN as it was exported, or with its deconvolution as a convolution and depth-to-space."""
    model = find_model(FSRCNN, 2)
    if form == "exported":
        return model.onnx
    from stream_sr.inference.backends.tensorrt.graph import OnnxGraph

    graph = OnnxGraph.read(model.onnx.read_bytes())
    graph.lower()
    path = _folder() / f"{FSRCNN}-{form}.onnx"
    path.write_bytes(graph.serialize())
    return path


@lru_cache
def native_file() -> Path:
    """tiny in FFmpeg's own format, which has no PReLU and so no FSRCNN."""
    return write_native(find_model(TINY, 2), _folder() / f"{TINY}.model")


@lru_cache
def _folder() -> Path:
    """For models in other forms; removed at the end."""
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    return Path(folder.name)


def _no_cuda_provider() -> str:
    if not find_spec("onnxruntime"):
        return ""
    import onnxruntime

    found: Any = onnxruntime.get_available_providers()
    return "" if "CUDAExecutionProvider" in found else f"this onnxruntime has only {', '.join(found)}"


def _no_native_ffmpeg() -> str:
    """Why FFmpeg's network filter cannot be used here with its own backend."""
    if not shutil.which("ffmpeg"):
        return "no ffmpeg here; apt-get install ffmpeg"
    text = subprocess.run(
        ["ffmpeg", "-hide_banner", "-h", "filter=dnn_processing"], capture_output=True, text=True, check=False
    ).stdout
    found = [word for word in ("native", "tensorflow", "openvino", "torch") if f" {word} " in text]
    if "native" in found:
        return ""
    return f"this build's backends are {', '.join(found) or 'none'}; FFmpeg's own is in 4.3 to 5.1 only"


def _no_vapoursynth() -> str:
    if find_spec("vapoursynth"):
        return "it is installed, but no plug-in of it that reads files and runs FSRCNN"
    if sys.version_info < (3, 12):
        return f"PyPI's wheels need Python 3.12 or newer, and this is {sys.version_info.major}.{sys.version_info.minor}"
    return "it is not installed, and PyPI has no plug-in for it that runs FSRCNN"
