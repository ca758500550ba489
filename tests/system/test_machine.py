"""Processor and GPUs of the machine: what NVML answers, and what is reported where it answers with an error."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from stream_sr.system import machine


def test_load_of_the_processor() -> None:
    meter = machine.CpuMeter()
    sum(number * number for number in range(2_000_000))
    load = meter.percent()
    assert 0 < load["process"] <= 100
    assert 0 <= load["machine"] <= 100


def refuse(*_: object) -> Any:
    raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)


def load(handle: int) -> Any:
    return SimpleNamespace(gpu=37) if handle == 1 else refuse()


DRIVER: dict[str, Any] = {
    "nvmlInit": lambda: None,
    "nvmlShutdown": lambda: None,
    "nvmlSystemGetDriverVersion": lambda: "580.65.06",
    "nvmlDeviceGetCount": lambda: 2,
    "nvmlDeviceGetHandleByIndex": lambda index: index + 1,
    "nvmlDeviceGetName": lambda handle: f"GPU {handle}",
    "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(total=handle * 8 << 30),
    "nvmlDeviceGetCudaComputeCapability": lambda handle: (8, 9),
    "nvmlDeviceGetUtilizationRates": load,
    "nvmlDeviceGetTotalEnergyConsumption": refuse,
}


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Two GPUs as NVML describes them: neither counts its energy, and the second does not know its load."""
    for name, call in DRIVER.items():
        monkeypatch.setattr(pynvml, name, call)
    return monkeypatch


def test_gpus_and_their_driver(driver: pytest.MonkeyPatch) -> None:
    first, second = machine.gpus()
    assert first == {"name": "GPU 1", "memory_gib": 8.0, "compute_capability": "8.9", "driver": "580.65.06"}
    assert second["memory_gib"] == 16.0
    assert machine.nvidia_driver() == "580.65.06"


@pytest.mark.usefixtures("driver")
def test_load_of_gpus() -> None:
    assert machine.GpuMeter().percent() == [{"name": "GPU 1", "percent": 37}, {"name": "GPU 2", "percent": None}]


def test_joules_of_gpus(driver: pytest.MonkeyPatch) -> None:
    assert machine.GpuMeter().joules() is None
    driver.setattr(pynvml, "nvmlDeviceGetTotalEnergyConsumption", lambda handle: 1500 * handle)  # millijoules
    assert machine.GpuMeter().joules() == 4.5


def test_a_gpu_without_memory_of_its_own_and_one_that_has_failed(driver: pytest.MonkeyPatch) -> None:
    driver.setattr(pynvml, "nvmlDeviceGetMemoryInfo", refuse)
    driver.setattr(pynvml, "nvmlDeviceGetHandleByIndex", lambda index: refuse() if index else 1)
    (only,) = machine.gpus()
    assert (only["name"], only["memory_gib"]) == ("GPU 1", 0.0)


def test_without_a_driver_there_are_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pynvml, "nvmlInit", refuse)
    assert machine.gpus() == []
    assert machine.GpuMeter().percent() == []
    assert machine.GpuMeter().joules() is None
