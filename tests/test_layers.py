"""Imports point downwards only, and each library is imported by its adapters alone."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import stream_sr

ROOT = Path(stream_sr.__file__).parent

# From the bottom up; a module may import from its own group only what the rules below allow, and from lower groups.
LAYERS: list[set[str]] = [
    {
        "errors",
        "limits",
        "printable",
        "frame",
        "orientation",
        "color",
        "metadata",
        "timing",
        "ring",
        "stats",
        "deconvolution",
        "quality",
        "barcode",
        "scene",
        "opencv",
        "motion",
        "governor",
    },
    {"media", "engine", "model", "threads", "stall", "machine", "energy", "figure"},
    {"networks", "reference"},
    {"stages", "pipeline"},
    {"codec"},
    {"sources", "sinks", "backends", "train"},
    {
        "config",
        "status",
        "telemetry",
        "screenshot",
        "controls",
        "session",
        "upscaler",
        "compare",
        "demo",
        "bench",
        "evaluate",
        "evaluate_clips",
        "temporal",
        "sheets",
        "doctor",
        "catalog",
        "metrics",
        "fleet",
        "serve",
        "latency",
    },
    {"arguments", "terminal", "watchdog", "commands", "bench_commands"},
    {"cli", "__main__"},
]
LIBRARIES = {
    "av": {"codec", "sources", "sinks", "backends", "doctor"},
    "cv2": {"opencv", "temporal", "sinks/window", "sinks/viewer"},
    "openvino": {
        "backends/openvino",
        "backends/openvino_graph",
        "backends/openvino_precision",
        "backends/openvino_quantized",
    },
    "nncf": {"train"},
    "onnxruntime": {"train"},
    "torch": {"networks", "train", "backends/torch", "backends/torch_cuda", "backends/torch_frames"},
    "onnx": {"train", "reference", "backends/torch", "backends/tensorrt"},
    "pycuda": {"backends/tensorrt"},
    "cuda": {"backends/tensorrt"},
    "tensorrt": {"backends/tensorrt"},
    "websockets": {"sinks/web_server", "sinks/web_viewer", "screenshot"},
    "aiortsp": {"sources/rtsp_client", "sources/rtsp_connection"},
    "prometheus_client": {"metrics"},
    "threading.Thread": {"threads"},
}


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(ROOT.rglob("*.py")):
        name = path.relative_to(ROOT).with_suffix("").as_posix()
        if name != "__init__" and not name.startswith("engines/"):
            yield name.removesuffix("/__init__"), path


def layer(module: str) -> int:
    top = module.split("/")[0]
    for number, names in enumerate(LAYERS):
        if top in names:
            return number
    raise AssertionError(f"{module} is in no layer: add it to LAYERS and to ARCHITECTURE.md")


def imports(path: Path) -> Iterator[str]:
    """Dotted names imported at run time (not those under TYPE_CHECKING)."""
    tree = ast.parse(path.read_text())
    skipped = {
        id(node)
        for guard in ast.walk(tree)
        if isinstance(guard, ast.If) and "TYPE_CHECKING" in ast.unparse(guard.test)
        for node in ast.walk(guard)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own(dotted: str) -> str | None:
    """``stream_sr.codec.h264.split`` as ``codec/h264``; None for other packages."""
    parts = dotted.split(".")
    if parts[0] != "stream_sr" or len(parts) == 1:
        return None
    path = ROOT
    found: list[str] = []
    for part in parts[1:]:
        path = path / part
        if not (path.is_dir() or path.with_suffix(".py").is_file()):
            break
        found.append(part)
    return "/".join(found) or None


def breaches(name: str, path: Path) -> list[str]:
    wrong = []
    for dotted in imports(path):
        target = own(dotted)
        if target is not None:
            here, there = name.split("/"), target.split("/")
            same_folder = here[0] == there[0]
            if layer(target) > layer(name):
                wrong.append(f"{name} imports {target}, which is above it")
            adapters = {"sources", "sinks", "backends", "train"}
            if here[0] in adapters and there[0] in adapters and not same_folder:
                wrong.append(f"the adapter {name} imports the adapter {target}")
        else:
            top = dotted.split(".")[0]
            allowed = LIBRARIES.get(top)
            if allowed is not None and not any(name == a or name.startswith(f"{a}/") for a in allowed):
                wrong.append(f"{name} imports {top}; only {', '.join(sorted(allowed))} may")
    return wrong


@pytest.mark.parametrize(("name", "path"), list(modules()), ids=[name for name, _ in modules()])
def test_imports_point_downwards(name: str, path: Path) -> None:
    assert breaches(name, path) == []


def test_a_breach_is_found(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("import cv2\nfrom stream_sr.pipeline import Pipeline\nfrom stream_sr.sinks import open_sink\n")
    found = breaches("sources/bad", bad)
    assert any("cv2" in line for line in found)
    assert any("the adapter sources/bad imports the adapter sinks" in line for line in found)
    assert any("stages" not in line and "above" in line for line in breaches("frame", bad))


def test_threads_start_in_one_place() -> None:
    starters = [name for name, path in modules() if "threading.Thread(" in path.read_text()]
    assert starters == ["threads"]


def test_no_import_cycles() -> None:
    graph = {name: {t for d in imports(path) if (t := own(d)) and t != name} for name, path in modules()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail, name))
        if name not in done:
            for target in graph.get(name, ()):
                visit(target, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())
