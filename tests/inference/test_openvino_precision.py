"""Which precision a model is computed in: what the CPU has, what was recorded, and what is found here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from small_models import PLAIN, small_model

from stream_sr.errors import EngineBuildError, EngineUnavailable, ModelError
from stream_sr.inference import measurements
from stream_sr.inference.backends.openvino import precision
from stream_sr.inference.backends.openvino.precision import Cpu, choose_precision
from stream_sr.inference.engines import check_available
from stream_sr.inference.model import INT8_FILE, MAX_INT8_LOSS, ModelSpec, Quantized
from stream_sr.pipeline.engine import LIVE_FIDELITY, EngineOptions


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    """x2, said to be there in eight bits: the file itself stands for its own eight-bit form."""
    folder = tmp_path_factory.mktemp("precision")
    plain = small_model(folder, PLAIN, 2)
    (folder / INT8_FILE).write_bytes(plain.onnx.read_bytes())
    return replace(plain, int8=Quantized(folder / INT8_FILE, plain.sha256(), 0.03, 48.0))


def pretend(monkeypatch: pytest.MonkeyPatch, *, has: str = "bf16 int8", **decibels: float) -> None:
    monkeypatch.setattr(precision, "cpu", lambda: Cpu("a CPU", "bf16" in has, "int8" in has))
    monkeypatch.setattr(measurements, "load", lambda kind: {})
    monkeypatch.setattr(measurements, "store", lambda kind, entries: None)
    monkeypatch.setattr(precision, "measure_fidelity", lambda full, other, precision: decibels[precision])


def test_bf16_is_taken_only_where_it_is_close(model: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = replace(model, int8=None)
    for quality, asked, expected, noted in (
        (60.0, "auto", "bf16", False),
        (49.9, "auto", "fp32", True),
        (50.1, "auto", "bf16", False),
        (49.9, "bf16", "bf16", True),
        (10.0, "fp32", "fp32", False),
    ):
        pretend(monkeypatch, bf16=quality)
        chosen = choose_precision(plain, asked, LIVE_FIDELITY)
        assert (chosen.precision, bool(chosen.notes)) == (expected, noted)
    pretend(monkeypatch, bf16=20.0)
    with pytest.raises(EngineBuildError, match=r"20\.0 dB"):
        choose_precision(plain, "bf16", LIVE_FIDELITY)


def test_a_cpu_that_has_neither(model: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, has="")
    with pytest.raises(EngineUnavailable, match="a CPU has no bf16"):
        choose_precision(model, "bf16", LIVE_FIDELITY)
    with pytest.raises(EngineUnavailable, match="a CPU has no VNNI"):
        choose_precision(model, "int8", LIVE_FIDELITY)
    for asked in ("bf16", "int8"):
        with pytest.raises(EngineUnavailable, match=f"a CPU has no {'bf16' if asked == 'bf16' else 'VNNI'}"):
            check_available(EngineOptions(backend="openvino", precision=asked))
    assert choose_precision(model, "auto", LIVE_FIDELITY).precision == "fp32"
    assert str(precision.cpu()) == "a CPU, without bf16 and VNNI"


def test_auto_takes_eight_bits_where_both_figures_agree(model: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    assert model.int8 is not None
    for loss, found, expected, noted in (
        (0.03, 48.0, "int8", False),
        (0.03, 47.1, "int8", False),
        (0.03, 46.9, "bf16", True),  # another result than where it was made
        (MAX_INT8_LOSS, 48.0, "bf16", False),
    ):
        pretend(monkeypatch, int8=found, bf16=60.0)
        recorded = replace(model, int8=replace(model.int8, loss=loss))
        chosen = choose_precision(recorded, "auto", LIVE_FIDELITY)
        assert (chosen.precision, bool(chosen.notes)) == (expected, noted)
        assert chosen.onnx_sha256 in recorded.digests()


def test_eight_bits_that_were_asked_for(model: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, int8=40.0)
    chosen = choose_precision(model, "int8", LIVE_FIDELITY)
    assert chosen.precision == "int8"
    assert chosen.notes == ("int8 is 40.0 dB from fp32 with this model here, 48.0 where it was made",)
    pretend(monkeypatch, int8=12.0)
    with pytest.raises(EngineBuildError, match=r"12\.0 dB"):
        choose_precision(model, "int8", LIVE_FIDELITY)


def test_eight_bits_that_are_not_there(model: ModelSpec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pretend(monkeypatch, int8=48.0, bf16=60.0)
    assert model.int8 is not None
    for found, message in (
        (replace(model, int8=None), r"has no model\.int8\.onnx; `stream-sr quantize .* makes it"),
        (replace(model, int8=None, network={}), r"has no model\.int8\.onnx; use another --precision"),
        (replace(model, int8=replace(model.int8, onnx=tmp_path / "gone", loss=0.7)), r"where it lost 0\.70 dB"),
        (replace(model, int8=replace(model.int8, made_from="another")), "made from another model.onnx"),
    ):
        with pytest.raises(ModelError, match=message):
            choose_precision(found, "int8", LIVE_FIDELITY)
    without = replace(model, int8=replace(model.int8, onnx=tmp_path / "gone", loss=0.7))
    assert choose_precision(without, "auto", LIVE_FIDELITY).precision == "bf16"
    stale = replace(model, int8=replace(model.int8, made_from="another"))
    chosen = choose_precision(stale, "auto", LIVE_FIDELITY)
    assert chosen.precision == "bf16"
    assert "int8 is not used" in chosen.notes[0]


def test_what_was_found_is_remembered(model: ModelSpec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STREAM_SR_CACHE", str(tmp_path))
    monkeypatch.setattr(precision, "cpu", lambda: Cpu("a CPU", True, True))
    answers = iter([48.0, 60.0])
    monkeypatch.setattr(precision, "measure_fidelity", lambda full, other, precision: next(answers))
    for _ in range(3):
        assert choose_precision(model, "auto", LIVE_FIDELITY).precision == "int8"
        assert choose_precision(model, "bf16", LIVE_FIDELITY).precision == "bf16"
    monkeypatch.setattr(precision, "cpu", lambda: Cpu("another CPU", True, True))
    with pytest.raises(StopIteration):
        choose_precision(model, "auto", LIVE_FIDELITY)
