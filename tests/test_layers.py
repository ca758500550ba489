"""Imports point downwards only, and each library is imported by its adapters alone."""

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import stream_sr

ROOT = Path(stream_sr.__file__).parent

# From the bottom up; a module imports from its own package and from those before it.
LAYERS = [
    *("errors", "system", "video", "pipeline", "networks", "codec", "inference", "rtsp", "sources", "sinks"),
    *("evaluation", "training", "config", "app", "bench", "upscaler", "cli", "__main__"),
]
SEPARATE = {"sources", "sinks"}  # these never import each other
ADAPTERS = "inference/backends/"  # nor do these, one for each library
LIBRARIES = {
    "av": {"codec", "rtsp", "sources", "sinks", "evaluation/codec_roundtrip", "cli/doctor"},
    "cv2": {"video/opencv", "evaluation/temporal", "sinks/window", "sinks/window_process"},
    "openvino": {"inference/backends/openvino"},
    "nncf": {"training"},
    "onnxruntime": {"training"},
    "torch": {"networks", "training", "inference/backends/torch"},
    "onnx": {"training", "inference/reference", "inference/backends/torch", "inference/backends/tensorrt"},
    "pycuda": {"inference/backends/tensorrt"},
    "cuda": {"inference/backends/tensorrt"},
    "tensorrt": {"inference/backends/tensorrt"},
    "websockets": {"sinks/web", "cli/screenshot"},
    "aiortsp": {"rtsp"},
    "prometheus_client": {"app/metrics"},
    "pynvml": {"system/machine"},
}


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(ROOT.rglob("*.py")):
        name = path.relative_to(ROOT).with_suffix("").as_posix()
        if name != "__init__" and not name.startswith("engines/"):
            yield name.removesuffix("/__init__"), path


def layer(module: str) -> int:
    top = module.split("/")[0]
    assert top in LAYERS, f"{module} is in no layer: add it to LAYERS and to ARCHITECTURE.md"
    return LAYERS.index(top)


def imports(path: Path) -> Iterator[str]:
    """Dotted names that are imported: at run time, inside functions, and for types alone."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and is_module(node.value):
            yield node.value  # for import_module, or `python -m`


def is_module(text: str) -> bool:
    """Whether a string is the dotted name of one of our modules."""
    if not re.fullmatch(r"stream_sr(\.\w+)+", text):
        return False
    path = ROOT.parent.joinpath(*text.split("."))
    return path.with_suffix(".py").is_file()


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


def adapter(module: str) -> str:
    """The backend that a module belongs to; empty for others, and for what backends share."""
    name = module.removeprefix(ADAPTERS).split("/")[0] if module.startswith(ADAPTERS) else ""
    return "" if name == "cuda" else name


def breaches(name: str, path: Path) -> list[str]:
    wrong = []
    for dotted in imports(path):
        target = own(dotted)
        if dotted.startswith("."):
            wrong.append(f"{name} imports {dotted}; imports are absolute")
        elif dotted.startswith("stream_sr.") and target is None and name not in ("upscaler", "__main__"):
            wrong.append(f"{name} imports {dotted} from the package itself; import its module")
        elif target is not None:
            here, there = name.split("/")[0], target.split("/")[0]
            if layer(target) > layer(name):
                wrong.append(f"{name} imports {target}, which is above it")
            if here != there and {here, there} <= SEPARATE:
                wrong.append(f"{name} imports {target}; sources and sinks are separate")
            if here in SEPARATE and target.startswith(ADAPTERS):
                wrong.append(f"{name} imports the backend {target}")
            if adapter(name) and adapter(target) not in ("", adapter(name)):
                wrong.append(f"the backend {name} imports the backend {target}")
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
    lines = ["import cv2", "from stream_sr.pipeline.pipeline import Pipeline", "from stream_sr.sinks import open_sink"]
    lines += ["if TYPE_CHECKING:", "    from stream_sr.inference.backends.openvino import graph"]
    bad.write_text("\n".join(lines))
    found = breaches("sources/bad", bad)
    assert [line for line in found if "cv2" in line] == [
        "sources/bad imports cv2; only evaluation/temporal, sinks/window, sinks/window_process, video/opencv may"
    ]
    assert "sources/bad imports sinks/open_sink, which is above it" not in found
    assert any("sources and sinks are separate" in line for line in found)
    assert "video/bad imports pipeline/pipeline, which is above it" in breaches("video/bad", bad)
    assert any("the backend" in line for line in breaches("inference/backends/bicubic", bad))


@pytest.mark.parametrize(
    "line",
    [
        "from ..pipeline import ring",
        "from . import ring",
        "from stream_sr import Upscaler",
        "import_module('stream_sr.cli.main')",
        "def work():\n    from stream_sr.cli import main",
    ],
)
def test_no_other_way_to_import_upwards(tmp_path: Path, line: str) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text(line + "\n")
    assert len(breaches("video/bad", bad)) == 1


def test_the_package_itself_imports_only_system() -> None:
    tree = ast.parse((ROOT / "__init__.py").read_text())
    direct = [node.module for node in tree.body if isinstance(node, ast.ImportFrom)]
    assert [module for module in direct if module and module.startswith("stream_sr")] == ["stream_sr.system.limits"]


def test_every_package_says_what_it_contains() -> None:
    for package in ROOT.glob("*/__init__.py"):
        if package.parent.name != "engines":
            lines = (ast.get_docstring(ast.parse(package.read_text())) or "").splitlines()
            assert 3 <= len(lines) <= 7, package
            assert "May import" in " ".join(lines), package
            assert "Start" in " ".join(lines), package


def test_the_listing_is_short() -> None:
    assert len([path for path in ROOT.iterdir() if path.name != "engines"]) <= 22


def test_threads_start_in_one_place() -> None:
    starters = [name for name, path in modules() if "threading.Thread(" in path.read_text()]
    assert starters == ["pipeline/threads"]


def find_cycle(graph: Mapping[str, set[str]]) -> str:
    """A cycle of imports as ``a -> b -> a``; empty where there is none."""
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> str:
        if name in trail:
            return " -> ".join((*trail[trail.index(name) :], name))
        if name not in done:
            for target in sorted(graph.get(name, ())):
                if found := visit(target, (*trail, name)):
                    return found
            done.add(name)
        return ""

    return next((found for name in graph if (found := visit(name, ()))), "")


def test_no_import_cycles() -> None:
    graph = {name: {t for d in imports(path) if (t := own(d)) and t != name} for name, path in modules()}
    assert find_cycle(graph) == ""


def test_a_cycle_is_found() -> None:
    assert find_cycle({"a": {"b", "d"}, "b": {"c"}, "c": {"b"}, "d": set()}) == "b -> c -> b"
    assert find_cycle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == ""
