"""``card.md``: what a shipped model is, what it was trained on, the exact commands and the figures."""

import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stream_sr.errors import ConfigError, ModelError
from stream_sr.inference.model import INT8_FILE, ModelSpec, Quantized, read_model
from stream_sr.system.machine import format_line
from stream_sr.training.plots import read_log, summary
from stream_sr.training.recipe import Recipe

PAPERS = {
    "PlainSR": "The shape of Zhang, Zeng and Zhang, *ECBSR*, ACM MM 2021, and Du and others, *ABPN*, CVPRW 2021",
    "RecurrentSR": "The last output as state after Sajjadi and others, *FRVSR*, CVPR 2018, moved by the optical flow",
    "BareDeconvolution": "A reference design",
    "Autoencoder": "A reference design: Vincent and others, ICML 2008, made convolutional",
    "FSRCNN": "Dong, Loy and Tang, *Accelerating the Super-Resolution Convolutional Neural Network*, ECCV 2016",
}
DATA = {
    "T91": "Yang, Wright, Huang and Ma, 2010; research use",
    "BSDS399": "BSDS500 without its validation part (B100), Arbelaez, Maire, Fowlkes and Malik, 2011; research use",
    "cid22": "Cloudinary Image Dataset 2022, CC BY-SA 4.0",
    "clic_half": "CLIC 2025 validation, photographs from Unsplash (Unsplash License), halved in size",
}
ABSOLUTE = re.compile(r"(?:^|[\s='\"])(/|~|[A-Za-z]:\\)")


def write_card(
    model: ModelSpec,
    recipe: Recipe,
    *,
    log: Path,
    evaluations: Mapping[str, Sequence[Mapping[str, Any]]],
    commands: Sequence[str],
    data: Sequence[str] = tuple(DATA),
    history: str = "",
) -> Path:
    """Write ``card.md`` beside the model's ONNX file and return its path.

    ``log`` is the run's ``log.jsonl``; ``evaluations`` are what `evaluate` gave, by the name of the set, one per
    backend; ``commands`` made the model, in order; ``data`` names the sets it was trained on; ``history`` says where
    the run differed from its recipe. Raises ConfigError for a command with an absolute path in it (nobody else has it),
    SourceOpenError for a bad log.
    """
    for command in commands:
        if ABSOLUTE.search(command):
            raise ConfigError(f"the command '{command}' names a path of this machine; give it relative")
    card = model.onnx.with_name("card.md")
    card.write_text(_card(model, recipe, summary(read_log(log)), evaluations, commands, data, history))
    return card


def record_quality(folder: Path, psnr_y: Mapping[str, float], *, table: str = "psnr_y") -> ModelSpec:
    """Write the measured ``psnr_y`` (set to dB) into ``folder/model.toml``, nothing else changed; returns the model.

    Raises ModelError for a file that has no such ``table``, or that cannot be read afterwards.
    """
    path = folder / "model.toml"
    figures = "".join(f"{name} = {value:.2f}\n" for name, value in psnr_y.items())
    try:
        text = path.read_text()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error}; export the model again") from error
    title = re.escape(f"[{table}]")
    changed, count = re.subn(rf"(?m)^{title}\n(?:[^\[\n].*\n)*", lambda _: f"[{table}]\n{figures}", text)
    if count != 1:
        raise ModelError(f"{path} has {count} tables [{table}], it must have one; export the model again")
    path.write_text(changed)
    return read_model(path)


def _card(
    model: ModelSpec,
    recipe: Recipe,
    run: Mapping[str, Any],
    evaluations: Mapping[str, Sequence[Mapping[str, Any]]],
    commands: Sequence[str],
    data: Sequence[str],
    history: str,
) -> str:
    kind = recipe.network["kind"]
    arguments = ", ".join(f"{key} = {value}" for key, value in model.network.items() if key != "kind")
    return "\n".join(
        [
            f"# {model.name} x{model.scale}" + (", tuned for cameras" if model.weights == "camera" else ""),
            "",
            *_wrap(
                f"{kind} ({arguments}), {model.parameters:,} parameters, {model.macs_per_pixel:,} multiplications per "
                f"input pixel. Luma in, luma out, uint8, any size." + (f" {PAPERS[kind]}." if kind in PAPERS else "")
            ),
            "",
            "    " + f"stream-sr run SOURCE SINK --model {model.name} --scale {model.scale} --weights {model.weights}",
            "",
            "## Figures",
            "",
            *_wrap(
                "PSNR in dB and SSIM of luma (BT.601), border cut by the scale, reduced by MATLAB-style bicubic"
                + (", then through libx264 of that CRF (veryfast, zerolatency)" if model.weights == "camera" else "")
                + "; uint8 in and out of the shipped ONNX."
            ),
            "",
            *_figures(evaluations),
            "",
            *([*_wrap(_eight_bits(model.int8)), ""] if model.int8 else []),
            "## Training",
            "",
            *_training(recipe, run, history),
            "",
            *([*_wrap(history), ""] if history else []),
            "Pictures:",
            "",
            *(f"- {name}" + (f": {DATA[name]}" if name in DATA else "") for name in data),
            "",
            "Commands" + (", of the recipe as it stands:" if history else ":"),
            "",
            *("    " + command for command in commands),
            "",
        ]
    )


def _figures(evaluations: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    rows = [(name, result) for name, results in evaluations.items() for result in results]
    if not rows:
        return ["Not measured yet."]
    lines = ["| set | backend | PSNR | SSIM | bicubic PSNR | SSIM |", "| --- | --- | --- | --- | --- | --- |"]
    for name, result in rows:
        theirs = result["bicubic"]
        lines.append(
            f"| {name} | {result['backend']} {result['precision']} | {result['psnr_y']:.2f} | {result['ssim_y']:.4f} "
            f"| {theirs['psnr_y']:.2f} | {theirs['ssim_y']:.4f} |"
        )
    machines = {format_line(result["machine"]): None for _, result in rows}
    return [*lines, "", *(f"Measured on {line}." for line in machines)]


def _eight_bits(int8: Quantized) -> str:
    lost = f"{int8.loss:.3f} dB on the pictures that chose the weights, {int8.fidelity:.1f} dB from fp32 on a texture"
    if int8.onnx.is_file():
        return (
            f"`{INT8_FILE}` is the same network in eight bits (NNCF, after training, the channels made equal; "
            f"QuantizeLinear and DequantizeLinear), for OpenVINO on processors with VNNI: it loses {lost}."
        )
    return f"In eight bits it would lose too much: {lost}. So there is no `{INT8_FILE}`."


def _training(recipe: Recipe, run: Mapping[str, Any], history: str) -> list[str]:
    start = {None: "nothing", recipe.scale: "the clean weights"}.get(
        recipe.from_scale, f"the x{recipe.from_scale} body"
    )
    if recipe.network["kind"] == "FSRCNN" and not recipe.from_scale:
        start = "bilinear interpolation"
    if recipe.frames > 1:
        start = f"the x{recipe.from_scale or recipe.scale} weights of `fast`"
    start = "an earlier run, see below" if history else start
    loss = {"l1": "L1 loss", "bce": "binary cross-entropy"}[recipe.loss] if recipe.l2_from > 0 else "L2 loss"
    done = "" if run["iterations"] >= run["of"] else f" ({run['iterations']:,} of them done)"
    squared = f", L2 after {recipe.l2_from:.0%} of the run" if 0 < recipe.l2_from < 1 else ""
    clip = f", the gradient's norm at most {recipe.clip:g}" if recipe.clip else ""
    shares = "".join(f", {share:.0%} of the patches from {name}" for name, share in recipe.shares.items())
    made = (
        f"Recipe `{recipe.name}`: from {start}, {run['of']:,} iterations{done} of {recipe.batch} patches of "
        f"{recipe.patch}x{recipe.patch} low-resolution pixels, Adam, learning rate {recipe.learning_rate:g} after "
        f"{recipe.warmup} iterations of warm-up, cosine to 1e-6{clip}, {loss}{squared}, average of the weights "
        f"{recipe.ema:g}, seed {recipe.seed}; in the eight flips and rotations{shares}."
    )
    if recipe.weights == "clean" and recipe.frames == 1:
        made += f" The pictures are also shown at {', '.join(f'{s:g}' for s in recipe.shrinks)} of their size."
    if recipe.frames > 1:
        made += f" Each example is {recipe.frames} consecutive pictures, with nothing remembered before the first."
        if recipe.settled:
            made = f"{made[:-1]}, or, in every other, its own result after it stood still for {recipe.settled}."
        if recipe.still:
            made += f" In {recipe.still:.0%} of the examples the first picture stands still throughout."
        if recipe.noise:
            made += (
                f" Half of all have a sensor's noise, other noise in each picture, of at most {recipe.noise:g} levels "
                "(standard deviation)."
            )
    if recipe.expand:
        made += " Each convolution is trained as the sum of branches (3x3, 1x1, 1x1 after 3x3, identity), merged after."
    if recipe.round_from < 1:
        made += (
            f" In the last {1 - recipe.round_from:.0%} the network computes with weights rounded to bfloat16, and the "
            "shipped weights are exact in it."
        )
    judges = "the validation set" if recipe.weights == "clean" and recipe.frames == 1 else "the validation clips"
    chosen = (
        f"The weights are those of iteration {run['at']:,}, the best on {judges} ({run['psnr']:.2f} dB), which "
        f"were never trained on: {', '.join(recipe.validation_images)}"
        + (" as clips, and the clip street_dog_720p." if judges.endswith("clips") else ".")
    )
    return [*_wrap(made), "", *_wrap(chosen)]


def _wrap(text: str) -> list[str]:
    return textwrap.wrap(text, 110, break_on_hyphens=False)
