"""Models: what lies in ``engines/``, how a name becomes one, and the key of what is compiled from it."""

from __future__ import annotations

import hashlib
import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from stream_sr.errors import ModelError

SCALES = (1, 2, 3, 4)
PRESETS = ("tiny", "fast", "balanced", "quality")
AUTO = "auto"  # for a model's name: the largest that keeps up
MIN_COST_RATIO = 1.5  # of a model of the ladder to the one below, in multiplications
WEIGHTS = ("clean", "camera")  # what a network was trained on: bicubic reductions, or what cameras and codecs leave
LUMA, PREVIOUS, UPSCALED = "luma", "previous", "upscaled"  # the planes of a graph; the second of a recurrent one
INT8_FILE = "model.int8.onnx"
MAX_INT8_LOSS = 0.05  # dB that eight bits may lose for ``auto`` to take them, and for a model to be shipped in them


@dataclass(frozen=True, slots=True)
class Quantized:
    """A model in eight bits: the same graph with QuantizeLinear and DequantizeLinear, and what it loses."""

    onnx: Path  # need not exist: one that loses too much is not kept
    made_from: str  # SHA-256 of the ONNX file that was quantised
    loss: float  # dB to fp32, on pictures that nothing was measured on
    fidelity: float  # PSNR in dB to fp32 on `quality.texture`: what a machine that computes it rightly reaches
    psnr_y: Mapping[str, float] = field(default_factory=dict)  # per set, dB


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One ONNX graph, luma uint8 ``[1,1,H,W]`` to ``[1,1,sH,sW]``, dynamic H and W, and what is known about it.

    A recurrent one takes its last output beside it, uint8 ``[1,1,sH,sW]``, as `optical_flow.PreviousOutput` writes it.

    ``network`` is ``{"kind": ..., arguments}`` for `networks.registry.build_network`, empty for a bare ONNX file.
    ``scale`` is 0 where only a trial run can tell (a bare file).
    """

    name: str
    scale: int
    onnx: Path
    network: Mapping[str, Any] = field(default_factory=dict)
    parameters: int = 0
    macs_per_pixel: int = 0  # multiplications per input pixel, of the lowered graph's useful taps
    psnr_y: Mapping[str, float] = field(default_factory=dict)  # per set, dB
    default: bool = False
    weights: str = "clean"
    int8: Quantized | None = None

    @property
    def is_stateful(self) -> bool:
        """Whether results can depend on earlier pictures, as a recurrent network's do; nobody knows of a bare file."""
        return self.network.get("kind", "RecurrentSR") == "RecurrentSR"

    def sha256(self) -> str:
        """Of the ONNX file."""
        return hashlib.sha256(self.onnx.read_bytes()).hexdigest()

    def as_int8(self) -> ModelSpec:
        """The model whose file is ``model.int8.onnx``. Raises ModelError where there is none, or it is another's."""
        make = f"`stream-sr quantize {self.onnx.parent} --data DIR`"
        name = f"'{self.name}'" + (f" x{self.scale}" if self.scale else "")
        if self.int8 is None:
            hint = f"{make} makes it, or use another --precision" if self.network else "use another --precision"
            raise ModelError(f"model {name} has no {INT8_FILE}; {hint}")
        if self.int8.made_from != self.sha256():
            raise ModelError(f"{self.int8.onnx} was made from another {self.onnx.name}; {make} makes it again")
        if not self.int8.onnx.is_file():
            raise ModelError(
                f"model {name} is not kept in eight bits, where it lost {self.int8.loss:.2f} dB; "
                "use another --precision"
            )
        return replace(self, onnx=self.int8.onnx, int8=None)

    def label(self) -> str:
        """Such as ``fast x2``, or ``fast x2, camera`` where the weights are not the clean ones."""
        return f"{self.name} x{self.scale}" + ("" if self.weights == WEIGHTS[0] else f", {self.weights}")

    def digests(self) -> set[str]:
        """SHA-256 of each of its ONNX files that is there."""
        files = {self.sha256()}
        if self.int8 is not None and self.int8.onnx.is_file():
            files.add(hashlib.sha256(self.int8.onnx.read_bytes()).hexdigest())
        return files


@dataclass(frozen=True, slots=True)
class BuildKey:
    """All that makes a compiled engine stale. Its digest names the cache file."""

    onnx_sha256: str
    backend: str
    backend_version: str
    device: str
    compute_capability: str
    driver: str
    precision: str
    profile: str  # smallest, usual and largest input, "64x64 640x360 3840x2160"
    head: str = "deconvolution"

    def digest(self) -> str:
        """32 hexadecimal digits."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:32]


def engines_folder() -> Path:
    """Where the shipped models lie: in the package when installed as a wheel, beside it in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "engines"
    return inside if inside.is_dir() else package.parent / "engines"


def list_models(folder: Path | None = None) -> list[ModelSpec]:
    """All shipped models, by name and scale."""
    found = [read_model(path) for path in sorted((folder or engines_folder()).glob("*/model.toml"))]
    return sorted(found, key=lambda model: (model.name, WEIGHTS.index(model.weights), model.scale))


def read_model(path: Path) -> ModelSpec:
    """Read a ``model.toml``; ``model.onnx`` lies beside it. Raises ModelError."""
    try:
        raw = tomllib.loads(path.read_text())
        for key, kind in {"name": str, "scale": int, "network": dict, "parameters": int, "macs_per_pixel": int}.items():
            if not isinstance(raw[key], kind):
                raise ModelError(f"{path}: {key} is {raw[key]!r}, not of type {kind.__name__}; export the model again")
        onnx = path.with_name("model.onnx")
        if not onnx.is_file():
            raise ModelError(f"{onnx} is missing; restore it, or export the model again with `stream-sr export`")
        if "tune" in raw:
            raise ModelError(f"{path}: the key tune is now called weights; rename it in this file")
        weights = raw.get("weights", WEIGHTS[0])
        if weights not in WEIGHTS:
            raise ModelError(f"{path}: weights is {weights!r}, not one of {', '.join(WEIGHTS)}; export the model again")
        return ModelSpec(
            weights=weights,
            name=raw["name"],
            scale=raw["scale"],
            onnx=onnx,
            network=raw["network"],
            parameters=raw["parameters"],
            macs_per_pixel=raw["macs_per_pixel"],
            psnr_y=raw.get("psnr_y", {}),
            default=raw.get("default", False),
            int8=_quantized(path, raw.get("int8")),
        )
    except FileNotFoundError as error:
        raise ModelError(
            f"{path.parent} is no model folder: it has no {path.name}; `stream-sr export` makes one"
        ) from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise ModelError(f"{path} cannot be used: {error!r}; export the model again") from error


def _quantized(path: Path, table: Mapping[str, Any] | None) -> Quantized | None:
    if table is None:
        return None
    return Quantized(
        path.with_name(INT8_FILE),
        table["onnx_sha256"],
        float(table["loss"]),
        float(table["fidelity"]),
        table.get("psnr_y", {}),
    )


def default_model(*, folder: Path | None = None) -> ModelSpec:
    """The model that is used when none is named: the one marked ``default``. Raises ModelError if there is none."""
    for model in list_models(folder):
        if model.default:
            return model
    raise ModelError(f"no model is marked as the default in {folder or engines_folder()}; name one with --model")


def model_ladder(
    scale: int, weights: str | None = None, *, prefer: str = WEIGHTS[0], folder: Path | None = None
) -> list[ModelSpec]:
    """The models worth choosing from by their cost, for this scale and weights (see `find_model`), the smallest first.

    From the best PSNR downwards, each that computes less than the one before by a factor of `MIN_COST_RATIO`: of
    models of about one size the best. A model is ranked by the figures of its name and scale, measured on clean
    video, whatever it was trained for; one without figures is left out. Where ``weights`` is None the best is one with
    the weights ``prefer``, if any has them: a larger one without is no better on such video. Raises ModelError where
    none is left.
    """
    fitting = [model for model in list_models(folder) if model.scale == scale]
    ranks = {model.name: _rank(model) for model in fitting if model.psnr_y}
    names = {model.name for model in fitting if weights in (None, model.weights)} & set(ranks)
    tuned = {model.name for model in fitting if model.weights == (weights or prefer)} & names
    ladder: list[ModelSpec] = []
    for name in sorted(names, key=lambda name: ranks[name], reverse=True):
        if not ladder and tuned and name not in tuned:
            continue
        model = find_model(name, scale, weights, prefer=prefer, folder=folder)
        if not ladder or model.macs_per_pixel * MIN_COST_RATIO <= ladder[-1].macs_per_pixel:
            ladder.append(model)
    if not ladder:
        asked = f" and {weights}" if weights else ""
        raise ModelError(f"--model {AUTO} has no measured model for x{scale}{asked} (`stream-sr models` lists them)")
    return ladder[::-1]


def _rank(model: ModelSpec) -> tuple[float, float]:
    """Mean PSNR over the sets; between equals the cheaper is better."""
    return sum(model.psnr_y.values()) / len(model.psnr_y), -model.macs_per_pixel


def find_model(
    name: str | None,
    scale: int | None,
    weights: str | None = None,
    *,
    prefer: str = WEIGHTS[0],
    folder: Path | None = None,
) -> ModelSpec:
    """The model of this name, scale and weights, or a bare ``FILE.onnx`` (with ``model.toml`` beside it, or without).

    ``name`` None is the default model (marked in its ``model.toml``), ``scale`` None is 2, or a file's own. ``weights``
    None takes those called ``prefer`` where there are any, else the others. Raises ModelError that lists what there is,
    or names the command that trains it.
    """
    if name is not None and name.endswith(".onnx"):
        return _from_file(Path(name), scale)
    if weights is not None and weights not in WEIGHTS:
        raise ModelError(f"weights '{weights}' is none of {', '.join(WEIGHTS)}")
    models = list_models(folder)
    if name is None:
        name = default_model(folder=folder).name
    named = [model for model in models if model.name == name]
    if not named and name in PRESETS:
        raise ModelError(f"preset '{name}' is not trained yet; `stream-sr train {name} --scale {scale or 2}` trains it")
    if not named:
        known = ", ".join(sorted({model.name for model in models})) or "none"
        if os.path.isfile(Path(name, "model.onnx")):  # False also for a name that is too long
            raise ModelError(f"'{name}' is a folder; give {Path(name, 'model.onnx')}")
        raise ModelError(
            f"no model '{name[:80]}'; there are {known}, or give a FILE.onnx (`stream-sr models` lists them)"
        )
    wanted = 2 if scale is None else scale
    fitting = {model.weights: model for model in named if model.scale == wanted}
    if fitting and (weights is None or weights in fitting):
        return fitting.get(weights or prefer) or next(iter(fitting.values()))
    if fitting:
        has = " and ".join(fitting)
        raise ModelError(
            f"model '{name}' x{wanted} is not tuned for {weights}, only for {has}; "
            f"`stream-sr train {name} --scale {wanted} --weights {weights}` trains it"
        )
    scales = ", ".join(sorted({f"x{model.scale}" for model in named}))
    hint = f"; `stream-sr train {name} --scale {wanted}` trains it" if name in PRESETS else ""
    if wanted == 1:
        hint = "; for the same size without a network give --backend bicubic"
    raise ModelError(f"model '{name}' is not trained for x{wanted}; there is {scales}{hint}")


def _from_file(path: Path, scale: int | None) -> ModelSpec:
    if not os.path.isfile(path):
        raise ModelError(f"no model file {path}")
    beside = path.with_name("model.toml")
    if path.name == "model.onnx" and beside.is_file():
        model = read_model(beside)
        if scale is not None and scale != model.scale:
            raise ModelError(f"{path} is a x{model.scale} model, x{scale} was asked for")
        return model
    return ModelSpec(name=path.stem, scale=scale or 0, onnx=path)
