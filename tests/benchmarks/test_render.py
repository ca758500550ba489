"""The tables of the documents are those of the committed results."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import render
from benchmarks.latency import tables as latency
from benchmarks.quality import tables as quality
from benchmarks.record import ROOT, make_record
from benchmarks.robustness import tables as robustness
from benchmarks.speed import tables as speed


def row(model: str, scale: int, name: str, backend: str, psnr: float) -> dict[str, Any]:
    return {
        "model": model,
        "scale": scale,
        "set": name,
        "backend": backend,
        "precision": "fp32",
        "psnr_y": psnr,
        "ssim_y": 0.95,
        "bicubic": {"psnr_y": 33.645, "ssim_y": 0.9294},
        "onnx_sha256": "",
    }


@pytest.fixture
def results(tmp_path: Path) -> Path:
    rows = [
        row("fsrcnn", 2, "Set5", "openvino", 37.004),
        row("fsrcnn", 2, "Set14", "openvino", 32.636),
        row("fsrcnn", 2, "Set5", "torch", 37.012),
        row("fsrcnn", 2, "Set14", "torch", 32.636),
        row("fsrcnn", 3, "Set5", "openvino", 33.16),
        row("fsrcnn", 3, "Set5", "torch", 33.16),
    ]
    record = make_record("quality", "python -m benchmarks quality --data DIR", {"rows": rows})
    (tmp_path / "quality.json").write_text(json.dumps(record))
    return tmp_path


def check(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", "render", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


def test_the_documents_are_in_step_with_the_results() -> None:
    done = check("--check")
    assert done.returncode == 0, done.stderr


def test_every_result_is_shown_once_and_every_link_leads_somewhere() -> None:
    shown = [name for document in render.DOCUMENTS for _, name, _, _ in render.BLOCK.findall(document.read_text())]
    kept = {path.stem for path in (ROOT / "benchmarks" / "results").glob("*.json") if not path.stem.startswith("gpu-")}
    assert sorted(shown) == sorted(kept | {"gpu"})
    for document in (*render.DOCUMENTS, ROOT / "ARCHITECTURE.md"):
        for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text()):
            assert (document.parent / link).exists(), f"{document.name}: {link}"
        headings = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
        anchors = {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert set(re.findall(r"\]\(#([^)]+)\)", document.read_text())) <= anchors


def test_links_are_those_of_the_folder() -> None:
    assert (
        render._links_from(ROOT / "docs", "![a](docs/a.png) [b](benchmarks/b.md)")
        == "![a](a.png) [b](../benchmarks/b.md)"
    )
    assert render._links_from(ROOT, "![a](docs/a.png)") == "![a](docs/a.png)"


def test_a_readme_out_of_step_is_noticed_and_rendered(results: Path, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- quality:begin -->\nold\n<!-- quality:end -->\nafter\n")
    options = ("--document", str(readme), "--results", str(results))
    assert check("--check", *options).returncode == 1
    assert "old" in readme.read_text()
    assert check(*options).returncode == 0
    assert "old" not in readme.read_text()
    assert readme.read_text().startswith("before\n<!-- quality:begin -->\n| model | Set5 | Set14 | B100 |\n")
    assert readme.read_text().endswith("<!-- quality:end -->\nafter\n")
    assert check("--check", *options).returncode == 0
    (results / "quality.json").write_text((results / "quality.json").read_text().replace("37.004", "37.014"))
    assert check("--check", *options).returncode == 1


def test_quality(results: Path) -> None:
    text = quality.quality(json.loads((results / "quality.json").read_text())["result"])
    assert "| bicubic x2 | 33.65 / 0.9294 | 33.65 / 0.9294 | - |" in text
    assert "| fsrcnn x2 | 37.00 / 0.9500 | 32.64 / 0.9500 | - |" in text
    assert "| fsrcnn x3 | 33.16 / 0.9500 | - | - |" in text
    assert "through openvino (fp32)" in text
    assert "torch (fp32) is at most 0.008 dB away." in text


def test_overlap() -> None:
    text = speed.overlap(
        {
            "cpu_ms_per_frame": {"decode": 1.0, "infer": 24.0, "encode": 5.0}, "bound_fps": 66.667, "fps": 60.0,
            "ratio": 0.9, "size": "640x360", "scale": 2, "model": "fsrcnn-s", "backend": "openvino",
            "precision": "bf16", "preset": "ultrafast",
        }
    )  # fmt: skip
    assert "| 1.0 ms | 24.0 ms | 5.0 ms | 30.0 ms | 66.7 fps | 60.0 fps | 0.90 |" in text


def test_precision() -> None:
    fp32 = {"model": "fast", "scale": 2, "precision": "fp32", "ms": 31.1, "core_ms": 31.0}
    bf16 = fp32 | {"precision": "bf16", "core_ms": 17.0, "against": "fp32", "mark": 1.6, "times_as_fast": 1.824}
    data = {"rows": [fp32, bf16], "size": "640x360", "threads": 1}
    text = speed.precision(data)
    assert "| fast x2 | bf16 | 31.1 | 17.0 | 1.82 times as fast as fp32 |" in text
    assert "1 thread;" in text


def test_live() -> None:
    times = {"p50": 14.04, "p95": 20.0, "p99": 31.26, "mean": 15.0, "max": 40.0, "count": 300}
    row = {
        "model": "fsrcnn-s", "scale": 2, "backend": "openvino", "precision": "fp32", "device": "CPU", "frames_in": 1800,
        "reader": "ours", "frames_out": 1796, "dropped": {"late": 3, "ring": 1}, "fps": 29.96, "latency_ms": times,
        "stages_ms": {}, "source": {"width": 640, "height": 360}, "output": {"width": 1280, "height": 720},
        "glass_to_glass_ms": {"count": 0}, "memory_mib": {"second_quarter": 301.2, "last_quarter": 302.0, "peak": 310},
    }  # fmt: skip
    data = {"rows": [row], "seconds": 60.0}
    expected = "640x360 to 1280x720 | 30.0 | 4 of 1800 | 14.0 / 31.3 | not measured | 301, later 302 MiB |"
    assert f"| fsrcnn-s x2, openvino fp32 | {expected}" in latency.live(data)
    assert "| none |" in latency.live(data | {"rows": [row | {"dropped": {}}]})
    chain = {"camera": times, "filter": times, "out": {"count": 0}, "glass to glass": times}
    both = latency.live(data | {"rows": [row | {"chain_ms": chain}, row | {"reader": "OpenCV", "chain_ms": chain}]})
    assert "| OpenCV | fsrcnn-s | 14.0 / 31.3 | 14.0 / 31.3 | not measured | 14.0 / 31.3 |" in both
    assert both.count("| fsrcnn-s x2, openvino fp32 |") == 1


def test_overload_and_soak() -> None:
    latency = {"p50": 140, "p99": 260, "count": 9}
    row = {
        "max_latency_ms": 500.0,
        "stages_ms": {"infer": latency},
        "latency_ms": latency,
        "frames_in": 9000,
        "frames_out": 3600,
        "dropped": {"slow engine": 5400},
        "model": "fsrcnn",
        "scale": 2,
        "memory_mib": {"second_quarter": 300.0, "last_quarter": 301.0},
        "source": {"width": 1280, "height": 720},
    }
    text = robustness.overload({"rows": [row], "seconds": 300.0})
    assert "| 500 | 140.0 / 260.0 | 140.0 / 260.0 | 9000 | 3600 | slow engine 5400 | 300, later 301 MiB |" in text
    data = {
        "memory_mib": [200.1, 201.0],
        "descriptors": [14.0, 14.0],
        "threads": [24, 24],
        "cameras": 2,
        "minutes": 30.0,
        "latency_p99_ms": [[20.1, 21.0], [19.0, 18.0]],
        "faults": {"silent": 3, "killed": 2},
        "window_seconds": 300,
        "size": "320x180@15",
        "model": "fast",
    }
    text = robustness.soak(data)
    assert "| memory, MiB | 200.1 | 201 |" in text
    assert "| p99 of camera 2, ms | 19 | 18 |" in text
    assert "2 times killed, 3 times silent" in text


def test_fuzz() -> None:
    data = {"inputs": {"video": 60_000, "server": 42_000}, "total": 102_000, "seconds": 849, "failures": 0}
    text = robustness.fuzz(data | {"memory_growth_mib": 4.6})
    assert "(video, server): 102,000 inputs in 849 s, nothing broke, memory grew by 4.6 MiB." in text


def test_overhead_and_memory() -> None:
    settings = {"model": "fast", "scale": 2, "precision": "int8"}
    cpu = {"all": 20.0, "ours": 0.5}
    text = speed.overhead(settings | {"cpu_ms_per_frame": cpu, "size": "640x360", "share": 0.025})
    assert text.startswith("Of 20.0 ms of CPU time a frame (640x360 x2, fast in int8, file to file) 0.50 ms, 2.5 %, go")
    sizes = {"source": {"width": 1920, "height": 1080}, "output": {"width": 3840, "height": 2160}}
    grown = {"seconds": 600.0, "peak_mib": 700.4, "second_quarter_mib": 650.0, "last_quarter_mib": 651.0}
    text = robustness.memory(settings | sizes | grown)
    assert "1920x1080 to 3840x2160, fast in int8, 10 minutes: at most 700 MiB; 650 MiB in" in text


def test_an_empty_block_waits_for_its_result(tmp_path: Path) -> None:
    text = "<!-- overlap:begin -->\n<!-- overlap:end -->"
    assert render.render(text, tmp_path) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- nothing:begin -->\n<!-- nothing:end -->", "there are quality, cameras, films"),
        ("<!-- overlap:begin -->\nfigures\n<!-- overlap:end -->", "need results/overlap.json"),
        ("<!-- quality:begin -->\n", "every begin needs its end"),
        ("<!-- quality:begin -->\n<!-- overlap:end -->", "every begin needs its end"),
    ],
)
def test_blocks_that_cannot_be_rendered_are_refused(results: Path, text: str, message: str) -> None:
    with pytest.raises(render.RenderError, match=message):
        render.render(text, results)


def test_text_without_blocks_stays(results: Path) -> None:
    shutil.rmtree(results)
    assert render.render("# A title\n", results) == "# A title\n"


def test_each_result_of_a_gpu_has_its_table(tmp_path: Path) -> None:
    text = "<!-- gpu:begin -->\n<!-- gpu:end -->\n"
    assert render.render(text, tmp_path) == text
    times = {stage: {"p50": 0.25} for stage in ("upload", "compute", "download")}
    rows = {
        "torch-cuda fast x2 640x360 fp16": {
            "stages_ms": times,
            "end_to_end_ms": {"p50": 0.9, "p99": 1.1},
            "overlapped_fps": 3500.4,
            "overlapped_fps_pageable": 2000.0,
        },
        "torch-cuda fast x2 640x360 fp32": {"stages_ms": times},
        "tensorrt fast x2 640x360 fp16": {"skipped": "not measured"},
    }
    for name in ("A", "B"):
        record = make_record("gpu", "python benchmarks/gpu.py", {"gpu": f"GPU {name}", "rows": rows})
        (tmp_path / f"gpu-{name}.json").write_text(json.dumps(record))
    done = render.render(text, tmp_path)
    line = "| torch-cuda fast x2 640x360 | 0.250 | 0.250 | 0.250 | 0.90 / 1.10 | 3500 | 2000 |"
    assert [one for one in done.splitlines() if one.startswith(("| torch", "| tensor"))] == [line, line]
    assert "GPU A: times" in done
    assert "GPU B: times" in done
