"""The demonstration, short: three processes, real RTSP, the clock read back from the picture."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import av
import pytest
from PIL import Image

from stream_sr.cli.screenshot import SIZE, find_chromium

pytestmark = [pytest.mark.network, pytest.mark.browser, pytest.mark.long, pytest.mark.serial]

pytest.importorskip("skimage", reason="the demo's photographs come with scikit-image (the extra [demo])")


def test_the_demo_leaves_film_picture_and_report(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "stream_sr", "demo", "--seconds", "4", "--out", str(tmp_path)],
        capture_output=True,
        timeout=120,
        check=False,
    )
    text = result.stdout.decode()
    assert result.returncode == 0, result.stderr.decode()
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["frames_out"] > 20
    assert report["viewer"]["frames"] > 10
    assert report["glass_to_glass_ms"]["count"] + report["viewer"]["unreadable_barcodes"] == report["viewer"]["frames"]
    assert 0 < report["glass_to_glass_ms"]["p50"] < 5000
    with av.open(str(tmp_path / "demo.mp4")) as film:
        stream = film.streams.video[0]
        assert (stream.width, stream.height) == (1280, 720)
        assert sum(1 for _ in film.decode(stream)) == report["frames_out"]
    with Image.open(tmp_path / "before_after.png") as sheet:
        assert sheet.size == (2 * 1280 + 8, 2 * 720 + 8)
    made = {"before_after.png", "demo.mp4", "report.json"} | ({"page.png"} if find_chromium() else set())
    assert {path.name for path in tmp_path.iterdir()} == made
    if find_chromium():
        with Image.open(tmp_path / "page.png") as page:
            assert page.size[0] == SIZE[0]
            colors = page.convert("RGB").resize((64, 40)).getcolors(64 * 40) or []
            assert len(colors) > 100  # a picture, not an empty page
    assert "http://127.0.0.1:" in result.stderr.decode().split("\n")[0]
    for part in ("glass to glass", "stream-sr preview 0 --web 8080", "stream-sr restream", "stream-sr run FILE.mp4"):
        assert part in text
