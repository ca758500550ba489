"""What a figure was measured on: processor, memory, system, library versions and GPUs, for reports.

Nothing in it names the machine or its user: no host name, no paths, no addresses.
"""

from __future__ import annotations

import ctypes
import os
import platform
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

try:
    import pynvml
except ImportError:  # a machine with only what training or the GPU benchmark needs: it shows no GPU through NVML
    pynvml = None

from stream_sr.system.limits import cores as cores
from stream_sr.system.limits import memory_limit
from stream_sr.system.printable import redact

LIBRARIES = (
    *("stream-sr", "numpy", "av", "openvino", "opencv-python", "aiortsp", "websockets", "prometheus-client", "pillow"),
    *("platformdirs", "tqdm", "nvidia-ml-py", "scikit-image", "torch", "onnx", "matplotlib", "tensorrt"),
    *("tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu13-libs", "pycuda", "cuda-bindings", "onnxruntime", "nncf"),
)
FEATURES = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "amx_tile")
ARM_FEATURES = ("asimd", "asimddp", "i8mm", "bf16", "sve")
PROGRAM = "stream-sr"
VNNI = frozenset({"avx_vnni", "avx512_vnni", "amx_int8"})
LIBCUDA = "libcuda.so.1"
COMPUTE_CAPABILITY = (75, 76)  # CUdevice_attribute: major and minor


def describe() -> dict[str, Any]:
    """The machine as it is now.

    ``cpu``, ``cores`` (those that this process may use), ``cpu_features``, ``memory_gib``, ``os``, ``kernel``,
    ``python``, ``libraries`` (name to version, the installed ones) and ``gpus``. What cannot be found out is "unknown",
    0 or empty; nothing is raised and no library is imported.
    """
    info = _cpuinfo()
    return {
        "cpu": cpu_name(info),
        "cores": cores(),
        "cpu_features": cpu_features(info),
        "memory_gib": memory_gib(),
        "os": _os_name(),
        "kernel": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": platform.python_version(),
        "libraries": libraries(),
        "gpus": gpus(),
    }


def format_line(machine: dict[str, Any]) -> str:
    """The machine in one line, for the head of a table."""
    parts = [f"{machine['cpu']}, {machine['cores']} cores", f"{machine['memory_gib']:g} GiB"]
    parts += [gpu["name"] for gpu in machine["gpus"]]
    return ", ".join([*parts, machine["os"], f"Python {machine['python']}"])


def command_line(words: Sequence[str]) -> str:
    """The command as one would type it, without passwords: those in addresses, and that for viewers."""
    shown = [redact(word) for word in words]
    for index, word in enumerate(shown):
        if word == "--viewer-password":
            shown[index + 1 : index + 2] = ["..."]
        elif word.startswith("--viewer-password="):
            shown[index] = "--viewer-password=..."
    return shlex.join(shown)


def program() -> str:
    """How this program is called from this shell: its name where the PATH has it, else where it is."""
    called = sys.argv[0] if Path(sys.argv[0]).name == PROGRAM else str(Path(sys.executable).with_name(PROGRAM))
    if shutil.which(PROGRAM) in (called, os.path.abspath(called)):
        return PROGRAM
    return _near(called) if os.path.exists(called) else f"{_near(sys.executable)} -m stream_sr"


def pip_install(*words: str) -> str:
    """The command that installs for the Python that runs here, which may be in no PATH."""
    own = shutil.which("pip") == str(Path(sys.executable).with_name("pip"))
    return shlex.join([*(["pip"] if own else [_near(sys.executable), "-m", "pip"]), "install", *words])


def _near(path: str) -> str:
    """A path as seen from the working folder, where that is shorter."""
    return min(path, os.path.relpath(path), key=len)


def cpu_name(info: dict[str, str] | None = None) -> str:
    """What the processor calls itself."""
    info = _cpuinfo() if info is None else info
    return info.get("model name") or info.get("Model") or platform.processor() or platform.machine() or "unknown"


def cpu_features(info: dict[str, str] | None = None) -> list[str]:
    """The instruction sets that decide how fast a network runs, as the kernel names them."""
    info = _cpuinfo() if info is None else info
    flags = set(info.get("flags", info.get("Features", "")).split())
    wanted = FEATURES if "flags" in info else ARM_FEATURES
    return [name for name in wanted if name in flags]


def has_vnni() -> bool:
    """Whether the processor multiplies and sums bytes in one instruction, without which eight bits gain nothing."""
    return not VNNI.isdisjoint(cpu_features())


def memory_gib() -> float:
    """Main memory, or the container's limit where that is lower."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 0.0
    limit = memory_limit()
    if limit is not None:
        total = min(total, limit)
    return round(total / 2**30, 1)


def libraries() -> dict[str, str]:
    """Name and version of each library of ours that is installed, from the package metadata."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def gpus() -> list[dict[str, Any]]:
    """Return ``name``, ``memory_gib``, ``compute_capability`` and ``driver`` of each NVIDIA GPU; none without a driver.

    NVML counts all GPUs of the machine, also those that CUDA_VISIBLE_DEVICES hides from `cuda`.
    """
    if pynvml is None:
        return []
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        driver = _answer(pynvml.nvmlSystemGetDriverVersion, default="")
        return [_gpu(handle) | {"driver": driver} for handle in _handles()]
    finally:
        pynvml.nvmlShutdown()


def has_nvidia() -> bool:
    """Whether the PCI bus shows a display controller of NVIDIA, with or without a driver, or NVML shows one."""
    for device in Path("/sys/bus/pci/devices").glob("*"):
        vendor, kind = _read(device / "vendor"), _read(device / "class")
        if vendor.strip() == "0x10de" and kind.startswith("0x03"):
            return True
    return bool(gpus())


@dataclass(frozen=True, slots=True)
class CudaDevice:
    """A GPU as CUDA counts and names it."""

    name: str
    compute_capability: str
    memory_gib: float


@dataclass(frozen=True, slots=True)
class Cuda:
    """What CUDA's driver shows this process: the devices in its order, which CUDA_VISIBLE_DEVICES chooses."""

    devices: tuple[CudaDevice, ...] = ()
    version: str = ""  # of CUDA, that the driver speaks
    problem: str = ""  # why there is no device


@lru_cache(maxsize=1)
def cuda() -> Cuda:
    """Ask CUDA's driver; makes no context. The answer stays the same as long as the process lives.

    Through ctypes: NVML knows neither the devices that CUDA_VISIBLE_DEVICES leaves, nor their order in CUDA, nor the
    version of CUDA where NVML's library is missing (Jetson, some containers); pycuda is an optional dependency.
    """
    try:
        library = ctypes.CDLL(LIBCUDA)
    except OSError as error:
        return Cuda(problem=f"no NVIDIA driver ({error})")
    try:
        return _cuda(library)
    except AttributeError as error:
        return Cuda(problem=f"the NVIDIA driver is too old ({error})")


def cuda_library_problem() -> str:
    """Why CUDA's driver library cannot be loaded; empty where it can."""
    try:
        ctypes.CDLL(LIBCUDA)
    except OSError as error:
        return str(error)
    return ""


def nvidia_driver() -> str:
    """The version of NVIDIA's driver, or "CUDA" and the version of that where NVML cannot say."""
    return next((str(gpu["driver"]) for gpu in gpus()), f"CUDA {cuda().version}")


def _cuda(library: ctypes.CDLL) -> Cuda:
    version, count = ctypes.c_int(), ctypes.c_int()
    library.cuDriverGetVersion(ctypes.byref(version))
    words = f"{version.value // 1000}.{version.value % 1000 // 10}"
    code = library.cuInit(0) or library.cuDeviceGetCount(ctypes.byref(count))
    if code or not count.value:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        chosen = f", CUDA_VISIBLE_DEVICES is '{visible}'" if visible is not None else ""
        return Cuda(version=words, problem=f"the driver shows none ({_cuda_error(library, code or 100)}{chosen})")
    return Cuda(tuple(_cuda_device(library, number) for number in range(count.value)), words)


def _cuda_device(library: ctypes.CDLL, number: int) -> CudaDevice:
    device, memory = ctypes.c_int(), ctypes.c_size_t()
    name = ctypes.create_string_buffer(256)
    sides = [ctypes.c_int(), ctypes.c_int()]
    library.cuDeviceGet(ctypes.byref(device), number)
    library.cuDeviceGetName(name, 256, device)
    library.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    for side, attribute in zip(sides, COMPUTE_CAPABILITY, strict=True):
        library.cuDeviceGetAttribute(ctypes.byref(side), attribute, device)
    return CudaDevice(
        name.value.decode() or "unknown", ".".join(str(side.value) for side in sides), round(memory.value / 2**30, 1)
    )


def _cuda_error(library: ctypes.CDLL, code: int) -> str:
    text = ctypes.c_char_p()
    library.cuGetErrorString(code, ctypes.byref(text))
    return f"error {code}: {text.value.decode()}" if text.value else f"error {code}"


def _answer(call: Callable[..., Any], *arguments: Any, default: Any) -> Any:
    """What NVML answers; ``default`` where driver or GPU does not support the call."""
    try:
        return call(*arguments)
    except pynvml.NVMLError:
        return default


def _handles() -> list[Any]:
    """The GPUs that answer."""
    count = _answer(pynvml.nvmlDeviceGetCount, default=0)
    found = [_answer(pynvml.nvmlDeviceGetHandleByIndex, index, default=None) for index in range(count)]
    return [handle for handle in found if handle is not None]


def _gpu(handle: Any) -> dict[str, Any]:
    memory = _answer(pynvml.nvmlDeviceGetMemoryInfo, handle, default=None)  # GPUs that share main memory have none
    capability = _answer(pynvml.nvmlDeviceGetCudaComputeCapability, handle, default=(0, 0))
    return {
        "name": _answer(pynvml.nvmlDeviceGetName, handle, default="") or "unknown",
        "memory_gib": round(memory.total / 2**30, 1) if memory is not None else 0.0,
        "compute_capability": ".".join(map(str, capability)),
    }


class CpuMeter:
    """Percent of all cores that this process and the whole machine used since the last look. One thread."""

    def __init__(self) -> None:
        self._last = self._read()

    def percent(self) -> dict[str, float]:
        """``process`` and ``machine``, 0 to 100."""
        wall, own, busy, total = now = self._read()
        was, self._last = self._last, now
        seconds, ticks = (wall - was[0]) * cores(), total - was[3]
        return {
            "process": round(min(100.0, 100 * (own - was[1]) / seconds), 1) if seconds > 0 else 0.0,
            "machine": round(100 * (busy - was[2]) / ticks, 1) if ticks > 0 else 0.0,
        }

    @staticmethod
    def _read() -> tuple[float, float, int, int]:
        fields = [int(word) for word in _read("/proc/stat").partition("\n")[0].split()[1:9]]
        idle = sum(fields[3:5])  # idle and waiting for input and output
        return time.monotonic(), time.process_time(), sum(fields) - idle, sum(fields)


class GpuMeter:
    """Load and energy of the NVIDIA GPUs through NVML, which stays open; nothing without a driver. One thread."""

    def __init__(self) -> None:
        self._open = False
        if pynvml is not None:
            with suppress(pynvml.NVMLError):
                pynvml.nvmlInit()
                self._open = True

    def percent(self) -> list[dict[str, Any]]:
        """Return ``name`` and ``percent`` of each GPU; None where the driver does not know the load."""
        found = []
        for handle in _handles() if self._open else ():
            name = _answer(pynvml.nvmlDeviceGetName, handle, default="") or "unknown"
            load = _answer(pynvml.nvmlDeviceGetUtilizationRates, handle, default=None)
            found.append({"name": name, "percent": None if load is None else int(load.gpu)})
        return found

    def joules(self) -> float | None:
        """Return what all GPUs took since the driver was loaded; None where one does not count it, and without any."""
        handles = _handles() if self._open else []
        spent = [_answer(pynvml.nvmlDeviceGetTotalEnergyConsumption, handle, default=None) for handle in handles]
        if not spent or None in spent:  # GPUs before Volta do not count
            return None
        return float(sum(spent)) / 1000


def _cpuinfo() -> dict[str, str]:
    """The first processor's entries of /proc/cpuinfo."""
    found: dict[str, str] = {}
    for line in _read("/proc/cpuinfo").splitlines():
        key, mark, value = line.partition(":")
        if mark:
            found.setdefault(key.strip(), value.strip())
    return found


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system() or "unknown"


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
