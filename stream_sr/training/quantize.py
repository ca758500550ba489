"""Quantisation: ``model.int8.onnx``, a trained model in eight bits for processors with VNNI. Nothing is trained.

The ranges come from NNCF's post-training quantisation on pictures, a scale per channel of the weights, one per layer of
the activations. Before it the channels are made equally large (Nagel and others, "Data-Free Quantization Through Weight
Equalization and Bias Correction", ICCV 2019; the measured activations share the work with the weights as in Xiao and
others, "SmoothQuant", ICML 2023): exact in fp32, and it halves what eight bits lose. The anchor and the last sum stay
in fp32, and the input is exact. Needs nncf, onnx and onnxruntime.
"""

import logging
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import numpy_helper

from stream_sr.errors import ConfigError, ModelError
from stream_sr.inference.model import INT8_FILE, MAX_INT8_LOSS, PREVIOUS, ModelSpec, read_model
from stream_sr.training.clips import ENDING, VALIDATION, read_clips
from stream_sr.video.planes import Plane
from stream_sr.video.quality import FIDELITY_SIZE, psnr, texture
from stream_sr.video.resample import find_images, load_luma, make_pair

PICTURES = 100  # to measure the ranges on; more change the loss by less than 0.005 dB
JUDGES = 0.1  # share of the pictures that the loss is measured on, where the recipe's own are not there
SMALLEST = 1e-3  # of a channel's range, of the largest: a dead channel is not blown up
LEVEL = 1 / 255
Pair = tuple[Plane, Plane]  # low resolution, truth


def quantize_model(folder: Path, data: Sequence[Path], *, seed: int = 1) -> ModelSpec:
    """Write ``model.int8.onnx`` beside the model in ``folder``, and what it loses into ``model.toml``.

    ``data`` are folders of pictures or of clips of the model's scale; the pictures that the recipe validated on judge
    the loss, a tenth of them where those are not there. An eight-bit model that loses `MAX_INT8_LOSS` dB or more is not
    kept; its loss is recorded all the same. Raises ModelError for a recurrent model, ConfigError, SourceOpenError.
    """
    toml = folder / "model.toml"
    model = read_model(toml)
    graph = onnx.load_from_string(model.onnx.read_bytes())
    if any(port.name == PREVIOUS for port in graph.graph.input):
        raise ModelError(f"{model.onnx} is recurrent; eight bits are for models of one picture")
    held_back = tomllib.loads(toml.read_text()).get("training", {}).get("validation_images", [])
    learnt, judges = _split(data, model.scale, held_back, np.random.default_rng(seed))
    planes = [low for low, _ in learnt]
    quantized = _quantize(equalize(graph, planes), planes)
    loss = _mean_psnr(graph, judges, model.scale) - _mean_psnr(quantized, judges, model.scale)
    picture = texture(*FIDELITY_SIZE)
    fidelity = psnr(_run(graph, [picture])[0], _run(quantized, [picture])[0])
    path = folder / INT8_FILE
    if loss < MAX_INT8_LOSS:
        partial = path.with_suffix(".partial")
        partial.write_bytes(quantized.SerializeToString(deterministic=True))
        partial.replace(path)
    else:
        path.unlink(missing_ok=True)
    _record(
        toml,
        {
            "onnx_sha256": f'"{model.sha256()}"',
            "loss": f"{loss:.4f}",
            "fidelity": f"{fidelity:.2f}",
            "pictures": str(len(learnt)),
            "judges": str(len(judges)),
        },
    )
    return read_model(toml)


def equalize(model: Any, planes: Sequence[Plane]) -> Any:
    """The same function with channels of like size: what a channel is multiplied by, the next layer divides out.

    Between two convolutions with (P)ReLU, which lets a positive factor through, and nothing else. The factor is the
    root of the largest weight that reads the channel over the channel's largest value on ``planes``.
    """
    model = onnx.ModelProto.FromString(model.SerializeToString())
    stored = {one.name: one for one in model.graph.initializer}
    weights = {name: numpy_helper.to_array(one).astype(np.float64) for name, one in stored.items()}
    links = list(_links(model.graph))
    largest = _channel_maxima(model, [name for _, name, _ in links], planes)
    for before, name, after in links:
        reads = weights[after.input[1]]
        channel = 1 if after.op_type == "Conv" else 0
        others = tuple(axis for axis in range(4) if axis != channel)
        reach = np.abs(reads).max(axis=others)
        factor = np.sqrt(_floored(reach) / _floored(largest[name]))
        factor /= np.exp(np.log(factor).mean())
        shape = [1] * 4
        shape[channel] = -1
        weights[after.input[1]] = reads / factor.reshape(shape)
        weights[before.input[1]] = weights[before.input[1]] * factor.reshape(-1, 1, 1, 1)
        if len(before.input) > 2:
            weights[before.input[2]] = weights[before.input[2]] * factor
    for name, value in weights.items():
        stored[name].CopyFrom(numpy_helper.from_array(value.astype(np.float32), name))
    return model


def _links(graph: Any) -> Iterator[tuple[Any, str, Any]]:
    """(convolution, name of its activation, the one layer that reads it)."""
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    makers = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        if node.op_type not in ("Relu", "PRelu"):
            continue
        before, after = makers[node.input[0]], readers[node.output[0]]
        alone = len(readers[node.input[0]]) == len(after) == 1
        if alone and before.op_type == "Conv" and after[0].op_type in ("Conv", "ConvTranspose"):
            yield before, node.output[0], after[0]


def _channel_maxima(model: Any, names: Sequence[str], planes: Sequence[Plane]) -> dict[str, npt.NDArray[np.float64]]:
    """Largest magnitude of each channel of these values, over all planes."""
    watched = onnx.ModelProto.FromString(model.SerializeToString())
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = _session(watched)
    largest = {name: np.zeros(1) for name in names}
    for plane in planes if names else ():
        for name, value in zip(names, session.run(names, {"luma": plane[None, None]}), strict=True):
            largest[name] = np.maximum(largest[name], np.abs(value).max(axis=(0, 2, 3)))
    return largest


def _floored(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.maximum(values, max(SMALLEST * float(values.max()), 1e-12))


def _quantize(model: Any, planes: Sequence[Plane]) -> Any:
    """NNCF's graph of QuantizeLinear and DequantizeLinear, the input's pair made exact."""
    os.environ.setdefault("NNCF_CI", "1")  # or it posts what is done here
    loggers = logging.getLoggerClass()
    import nncf
    from nncf.quantization.advanced_parameters import OverflowFix

    logging.setLoggerClass(loggers)  # nncf puts one of its own in place, for everybody
    logging.getLogger("nncf").setLevel(logging.ERROR)
    scaled = {node.output[0] for node in model.graph.node if node.op_type == "Mul"}
    kept = [
        node.name
        for node in model.graph.node
        if node.op_type == "Add" or (node.op_type == "ConvTranspose" and node.input[0] in scaled)
    ]
    quantized = nncf.quantize(
        model,
        nncf.Dataset([{"luma": plane[None, None]} for plane in planes]),
        subset_size=len(planes),
        preset=nncf.QuantizationPreset.MIXED,
        ignored_scope=nncf.IgnoredScope(names=kept),
        # else the first layer's weights have seven bits, for processors without VNNI, where eight bits do not run
        advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=OverflowFix.DISABLE),
    )
    stored = {one.name: one for one in quantized.graph.initializer}
    for node in quantized.graph.node:
        if node.op_type == "QuantizeLinear" and node.input[0] in scaled:
            zero = numpy_helper.to_array(stored[node.input[2]])
            lowest = np.full_like(zero, np.iinfo(zero.dtype).min)
            stored[node.input[1]].CopyFrom(numpy_helper.from_array(np.float32(LEVEL), node.input[1]))
            stored[node.input[2]].CopyFrom(numpy_helper.from_array(lowest, node.input[2]))
    del quantized.metadata_props[:]  # of NNCF: its version and options
    onnx.checker.check_model(quantized)
    return quantized


def _session(model: Any) -> Any:
    """Everything as the graph says it, in fp32: ONNX Runtime's own eight-bit kernels may saturate."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _run(model: Any, planes: Sequence[Plane]) -> list[Plane]:
    session = _session(model)
    return [session.run(None, {"luma": plane[None, None]})[0][0, 0] for plane in planes]


def _mean_psnr(model: Any, judges: Sequence[Pair], scale: int) -> float:
    results = _run(model, [low for low, _ in judges])
    return float(np.mean([psnr(got, truth, border=scale) for got, (_, truth) in zip(results, judges, strict=True)]))


def _split(
    folders: Sequence[Path], scale: int, held_back: Sequence[str], random: np.random.Generator
) -> tuple[list[Pair], list[Pair]]:
    """Pictures to measure the ranges on, and to judge by; never one in both."""
    clips = [folder for folder in folders if any(folder.glob(f"*{ENDING}"))]
    if clips and len(clips) < len(folders):
        raise ConfigError("some of the folders hold clips, the others do not; give folders of one kind")
    if clips:
        learnt = [clip for folder in folders for clip in read_clips(folder)]
        judges = [clip for folder in folders for clip in read_clips(folder / VALIDATION)]
        if wrong := {clip.scale for clip in learnt + judges} - {scale}:
            raise ConfigError(f"the clips are of scale {min(wrong)}, the model is of x{scale}; make others")
        chosen = [(clip.low[0], clip.truth[0]) for clip in _some(learnt, random)]
        return _judged(chosen, [(clip.low[0], clip.truth[0]) for clip in judges])
    paths = find_images(folders)
    named = [path for path in paths if path.stem in held_back]
    chosen = [make_pair(load_luma(path), scale) for path in _some([p for p in paths if p not in named], random)]
    return _judged(chosen, [make_pair(load_luma(path), scale) for path in named])


def _some(things: Sequence[Any], random: np.random.Generator) -> list[Any]:
    return [things[n] for n in sorted(random.permutation(len(things))[:PICTURES])]


def _judged(chosen: list[Pair], judges: list[Pair]) -> tuple[list[Pair], list[Pair]]:
    if judges:
        return chosen, judges
    count = max(1, round(JUDGES * len(chosen)))
    if count >= len(chosen):
        raise ConfigError(f"{len(chosen)} picture is too little to quantise with; give more with --data")
    return chosen[:-count], chosen[-count:]


def _record(toml: Path, values: Mapping[str, str]) -> None:
    """Put the table ``[int8]`` into a model.toml, in place of one that was there; its PSNR is to be measured anew."""
    table = "".join(f"{key} = {value}\n" for key, value in values.items())
    text = re.sub(r"(?m)^\n?\[int8(?:\.psnr_y)?\]\n(?:[^\[\n].*\n)*", "", toml.read_text())
    toml.write_text(f"{text.rstrip()}\n\n[int8]\n{table}\n[int8.psnr_y]\n")
