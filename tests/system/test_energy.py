"""Joules are those of whole packages and whole GPUs, over a counter that begins again, and absent where unknown."""

from pathlib import Path

from stream_sr.system.energy import EnergyMeter, packages, since


class Gpus:
    """GPUs with a counter, or without."""

    def __init__(self, *readings: float | None) -> None:
        self.readings = list(readings)

    def joules(self) -> float | None:
        return self.readings.pop(0)


def domain(folder: Path, name: str, microjoules: int, limit: int = 1_000_000) -> Path:
    folder.mkdir()
    (folder / "name").write_text(f"{name}\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text(f"{limit}\n")
    return folder / "energy_uj"


def test_packages_count_once(tmp_path: Path) -> None:
    counter = domain(tmp_path / "intel-rapl:0", "package-0", 100)
    domain(tmp_path / "intel-rapl:0:0", "core", 60)
    domain(tmp_path / "intel-rapl:1", "psys", 500)
    assert [found.counter for found in packages(tmp_path)] == [counter]
    unreadable = tmp_path / "intel-rapl:2"
    unreadable.mkdir()
    (unreadable / "name").write_text("package-1")
    assert len(packages(tmp_path)) == 1


def test_a_counter_begins_again(tmp_path: Path) -> None:
    assert since(10, 30, 1000) == 20
    assert since(990, 9, 999) == 19
    counter = domain(tmp_path / "intel-rapl:0", "package-0", 600_000)
    meter = EnergyMeter(powercap=tmp_path, gpus=Gpus(None, None, None))  # type: ignore[arg-type]
    counter.write_text("900000")
    assert meter.joules() == {"cpu": 0.3}
    counter.write_text("199999")
    assert meter.joules() == {"cpu": 0.3}


def test_gpus_and_what_is_not_told(tmp_path: Path) -> None:
    meter = EnergyMeter(powercap=tmp_path, gpus=Gpus(1000.0, 1002.5, None))  # type: ignore[arg-type]
    assert meter.joules() == {"gpu": 2.5}
    assert meter.joules() == {}
