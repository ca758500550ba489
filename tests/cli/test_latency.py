"""Glass to glass, through real processes."""

import json
import subprocess
from pathlib import Path

import peers
import pytest

from stream_sr.cli.latency import format_latency, measure
from stream_sr.config import Config
from stream_sr.errors import ConfigError

pytestmark = [pytest.mark.network, pytest.mark.long, pytest.mark.serial]


def test_every_stage_of_the_chain(tmp_path: Path) -> None:
    file = tmp_path / "latency.json"
    words = peers.stream_sr("latency", "synthetic:192x108@20", "--seconds", "6", "--backend", "bicubic")
    done = subprocess.run([*words, "--json", str(file)], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(file.read_text())
    chain = report["chain_ms"]
    assert list(chain) == ["camera", "filter", "out", "glass to glass"]
    assert all(block["count"] >= 1 for block in chain.values())
    assert chain["glass to glass"]["p50"] >= max(chain[name]["p50"] for name in ("camera", "filter", "out")) - 0.2
    assert "glass to glass" in done.stdout
    assert done.stdout.rstrip() == format_latency(report).rstrip()


@pytest.mark.parametrize("sink", ["window:", "x.mp4", "-"])
def test_what_cannot_be_watched(sink: str) -> None:
    with pytest.raises(ConfigError, match="cannot be watched"):
        measure("synthetic:192x108@20", sink, 1, Config())
