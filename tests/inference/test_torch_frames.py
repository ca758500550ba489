"""Whole frames through torch, on the CPU: every form, precision and size against ONNX's reference."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import FSRCNN, PLAIN, RECURRENT, small_model

from stream_sr.errors import EngineUnavailable
from stream_sr.inference import reference
from stream_sr.inference.backends.cuda.schedule import flow_bytes
from stream_sr.inference.backends.torch import cuda
from stream_sr.inference.backends.torch.cpu import load_network
from stream_sr.inference.backends.torch.frames import VARIANTS, FrameNetwork, NetworkVariant
from stream_sr.inference.verify import enlarge_chroma
from stream_sr.pipeline.engine import EngineOptions
from stream_sr.video import optical_flow
from stream_sr.video.color import ColorInfo, Siting
from stream_sr.video.frame import StreamInfo
from stream_sr.video.optical_flow import PreviousOutput
from stream_sr.video.planes import chroma_shape
from stream_sr.video.quality import psnr, texture

pytestmark = pytest.mark.gpu

LEAST = {"fp32": 75.0, "fp16": 55.0, "bf16": 38.0}  # dB; of networks that were not trained for it


@pytest.mark.parametrize("size", [(32, 16), (33, 21)], ids=str)
@pytest.mark.parametrize("network", [FSRCNN, PLAIN, RECURRENT], ids=lambda one: str(one["kind"]))
def test_the_same_picture_in_every_form(network: dict[str, object], size: tuple[int, int], tmp_path: Path) -> None:
    model = small_model(tmp_path, network, 2)
    info = StreamInfo(*size, Fraction(1, 25), color=ColorInfo(siting=Siting.LEFT))
    luma, chroma = texture(size[1], size[0]), texture(2 * chroma_shape(*size)[0], chroma_shape(*size)[1])
    frame = torch.from_numpy(np.concatenate([luma.ravel(), chroma.ravel()]))
    wanted = reference.evaluate(model, [luma, luma])
    width, height = 2 * size[0], 2 * size[1]
    rows, columns = chroma_shape(width, height)
    for variant in VARIANTS:
        for precision, least in LEAST.items():
            frames = FrameNetwork(load_network(model), info, 2, precision, NetworkVariant(variant.lowered))
            assert frames.recurrent == (len(wanted) == 2)
            last = PreviousOutput(2)
            for right in wanted:
                result = torch.full((width * height + 2 * rows * columns,), 7, dtype=torch.uint8)
                previous = np.empty((height, width), np.uint8)
                last.write(luma, previous)
                flow = torch.zeros(flow_bytes(luma.shape), dtype=torch.uint8)
                given = (torch.from_numpy(previous), flow) if frames.recurrent else (None, None)
                with torch.no_grad():
                    frames.ready()(frame, result, *given)
                got = result.numpy()
                larger = got[: width * height].reshape(height, width)
                last.keep(larger)
                assert psnr(larger, right) > least, (str(variant), precision)
            u = enlarge_chroma(chroma[: len(chroma) // 2], 2, Siting.LEFT)[:rows, :columns]
            got_u = got[width * height :][: rows * columns].reshape(rows, columns)
            assert np.abs(got_u.astype(int) - u).max() <= 1


@pytest.mark.parametrize("most", [optical_flow.MOST, 300], ids=["each pixel", "coarse"])
def test_the_last_output_is_moved_as_the_host_moves_it(
    most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optical_flow, "MOST", most)
    model, size = small_model(tmp_path, RECURRENT, 2), (33, 21)
    info = StreamInfo(*size, Fraction(1, 25), color=ColorInfo(siting=Siting.LEFT))
    frames = FrameNetwork(load_network(model), info, 2, "fp32", NetworkVariant(lowered=True))
    rows, columns = chroma_shape(*size)
    frame = torch.from_numpy(texture(1, size[0] * size[1] + 2 * rows * columns)[0])
    last = texture(2 * size[1], 2 * size[0])
    y, x = np.indices(optical_flow.flow_size(size[::-1]))
    flow = np.rint(np.stack([9 * np.sin(x / 5), 5 - 20 * np.cos(y / 4)])).astype(np.int16)
    moved = np.empty_like(last)
    optical_flow.register(last, flow, moved)
    still = np.zeros_like(flow)
    results = []
    for plane, by in ((last, flow), (moved, still), (last, still)):
        result = torch.zeros(4 * size[0] * size[1] + 2 * size[0] * size[1], dtype=torch.uint8)
        given = torch.from_numpy(by.astype(np.float32)).view(torch.uint8).ravel()
        with torch.no_grad():
            frames(frame, result, torch.from_numpy(plane.copy()), given)
        results.append(result.numpy()[: 4 * size[0] * size[1]].astype(int))
    assert np.abs(results[0] - results[1]).max() <= 1
    assert np.abs(results[0] - results[2]).max() > 5


@pytest.mark.usefixtures("no_gpu")
def test_each_compiled_network_is_compiled_for_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch gives up after eight recompilations of one piece of code; networks of other sizes are none."""
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda work, *, mode, **options: real(work, backend="eager", **options))
    model = small_model(tmp_path, PLAIN, 2)
    with torch._dynamo.config.patch(recompile_limit=1), torch.no_grad():
        for width in (8, 16):
            info = StreamInfo(width, 8, Fraction(1, 25), color=ColorInfo(siting=Siting.LEFT))
            frames = FrameNetwork(load_network(model), info, 2, "fp32", NetworkVariant(lowered=True, compiled=True))
            frame = torch.randint(0, 256, (width * 12,), dtype=torch.uint8)
            results = [torch.zeros(width * 48, dtype=torch.uint8) for _ in range(2)]
            frames.ready()(frame, results[0], None, None)
            frames(frame, results[1], None, None)
            assert torch.equal(*results)
            assert results[0].any()


def test_without_a_gpu_the_reason_is_said(tmp_path: Path) -> None:
    found = cuda.availability()
    assert not found.usable
    assert found.reason
    with pytest.raises(EngineUnavailable, match="backend torch-cuda: "):
        cuda.open_model(small_model(tmp_path, PLAIN, 2), StreamInfo(16, 8, Fraction(1)), EngineOptions())
