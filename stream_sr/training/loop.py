"""The training loop: flat, seeded, resumable. Needs torch and Pillow."""

import json
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.utils import parametrize

from stream_sr.errors import ConfigError
from stream_sr.networks.layers import collapse, expand
from stream_sr.networks.recurrent import RecurrentSR
from stream_sr.networks.registry import NETWORKS, build_network, restore_network, transfer
from stream_sr.system import machine
from stream_sr.training.device import DevicePatches
from stream_sr.training.material import load_material, unlabelled_patches
from stream_sr.training.recipe import Recipe
from stream_sr.training.step import Batch, Step, generator, round_weights
from stream_sr.video.optical_flow import flows
from stream_sr.video.planes import Plane
from stream_sr.video.quality import psnr

CHECKPOINT = "checkpoint.pt"
SAME = (  # fields of the recipe with which alone a run goes on
    "scale", "weights", "network", "expand", "validation_images", "batch", "patch", "frames", "settled", "still",
    "noise", "loss", "seed", "teacher_share",
)  # fmt: skip


def train(
    recipe: Recipe,
    *,
    folders: Sequence[Path],
    out: Path,
    resume: bool = False,
    start_from: Path | None = None,
    teacher: Path | None = None,
    unlabelled: Sequence[Path] = (),
    threads: int | None = None,
    stop: Callable[[], bool] = lambda: False,
    report: Callable[[dict[str, Any]], None] = lambda _: None,
) -> Path:
    """Train a network and return the path of its checkpoint, ``out/checkpoint.pt``.

    ``folders`` hold pictures, of which those named in the recipe's validation list choose the best weights and are
    left out of training, or clips (`training.clips`). ``start_from`` is the checkpoint to start from (needed where the
    recipe says ``from_scale``). ``teacher`` is the checkpoint of a larger network to learn from as well,
    ``unlabelled`` are folders of pictures that only it is asked about (they are enlarged as they are). ``stop()`` is
    asked after every iteration: when true, the state is written and the run can go on with ``resume``, to the same
    weights as an uninterrupted one on the same processor (on a GPU sums may come in another order). ``report`` is
    handed each validation's figures. Raises ConfigError for a missing or unwanted checkpoint or one of another
    network, SourceOpenError for bad folders.
    """
    if threads is not None and threads < 1:
        raise ConfigError(f"--threads {threads}: at least one is needed")
    torch.set_num_threads(threads or min(torch.get_num_threads(), machine.cores()))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    checkpoint = out / CHECKPOINT
    if checkpoint.exists() and not resume:
        raise ConfigError(f"{checkpoint} exists; go on with --resume, or give another --out")
    if resume and not checkpoint.exists():
        raise ConfigError(f"there is no {checkpoint} to go on from; start without --resume")
    torch.manual_seed(recipe.seed)
    network = make_network(recipe)
    if unlabelled and teacher is None:
        raise ConfigError("pictures without a truth need a teacher; give --teacher CHECKPOINT")
    if unlabelled and recipe.frames > 1:
        raise ConfigError(
            f"recipe {recipe.name} learns from sequences; leave out --unlabelled, which are single pictures"
        )
    material = load_material(recipe, folders)
    patches, validation = material.patches, material.validation
    if not checkpoint.exists():
        _start(network, recipe, start_from)
    parameters = sum(p.numel() for p in network.parameters() if p.requires_grad)
    if recipe.expand:
        expand(network)
    network = network.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    step = Step(network, recipe, teacher=_teacher(teacher, recipe, device))
    more = unlabelled_patches(recipe, unlabelled) if unlabelled else None
    first, best_psnr, best, rounded = 0, -math.inf, {}, False
    if checkpoint.exists():
        state = load_checkpoint(checkpoint)
        check_same(state["recipe"], recipe, checkpoint)
        step.load(state)
        best, first, best_psnr = state["best"], state["iteration"], state["best_psnr"]
        if first >= recipe.iterations:
            raise ConfigError(
                f"{checkpoint} has had {first:,} iterations, {recipe.iterations:,} were asked for: nothing is left to "
                "train; give more with --iterations, or start anew with another --out"
            )
        rounded = state.get("rounded", False)
        patches.random.bit_generator.state = json.loads(state["random"])
        if "random_step" in state and state["random_device"] == device.type:
            generator(device).set_state(state["random_step"])
        if more and state.get("random_unlabelled"):
            more.random.bit_generator.state = json.loads(state["random_unlabelled"])
    if not best:
        best = _candidate(network.state_dict(), recipe, device).state_dict()
    examples: Any = DevicePatches(patches, device) if device.type == "cuda" else patches
    out.mkdir(parents=True, exist_ok=True)

    settings = asdict(recipe) | {
        "parameters": parameters,
        "pictures": material.pictures,
        "device": str(device),
        "first_iteration": first,
    }
    report({"event": "start"} | settings)

    def save(iteration: int) -> None:
        state = step.state() | {
            "recipe": {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(recipe).items()},
            "best": best,
            "best_psnr": best_psnr,
            "iteration": iteration,
            "rounded": rounded,
            "random": json.dumps(patches.random.bit_generator.state),
            "random_unlabelled": json.dumps(more.random.bit_generator.state) if more else "",
            "random_step": generator(device).get_state(),
            "random_device": device.type,
        }
        partial = checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(checkpoint)

    began, losses = time.monotonic(), []
    for iteration in range(first + 1, recipe.iterations + 1):
        rate = learning_rate(recipe, iteration)
        if iteration > recipe.round_from * recipe.iterations and not rounded:
            rounded, best_psnr = True, -math.inf  # weights from before cannot be shipped: the rounded ones count now
        extra = more.batch(max(1, recipe.batch // 4))[0] if more else None
        low, truth, flow = examples.batch(recipe.batch)
        losses.append(step(Batch(low, truth, rate, extra, flow), iteration))

        last = iteration == recipe.iterations
        stopping = stop()
        if last or iteration % recipe.validation_every == 0:
            candidate = _candidate(network.state_dict() if rounded else step.average, recipe, device)
            if rounded:  # not the average: it would be rounded to other values than those that were trained
                round_weights(candidate)
            quality = measure(candidate, validation)
            if quality > best_psnr:
                best_psnr, best = quality, {name: value.clone() for name, value in candidate.state_dict().items()}
            squared = iteration > recipe.l2_from * recipe.iterations
            row = {
                "event": "validation",
                "iteration": iteration,
                "of": recipe.iterations,
                "learning_rate": rate,
                "loss": float(torch.stack(losses).mean()),
                "loss_kind": "l2" if squared else recipe.loss,
                "psnr": quality,
                "best_psnr": best_psnr,
                "seconds": time.monotonic() - began,
            }
            losses.clear()
            with (out / "log.jsonl").open("a") as log:
                log.write(json.dumps(row) + "\n")
            report(row)
            save(iteration)
        elif stopping:
            save(iteration)
        if stopping and not last:
            report({"event": "stopped", "iteration": iteration})
            break
    return checkpoint


def make_network(recipe: Recipe) -> torch.nn.Module:
    """The recipe's network with fresh weights. Raises ConfigError where it cannot be built."""
    kind, arguments = str(recipe.network.get("kind")), {k: v for k, v in recipe.network.items() if k != "kind"}
    if kind not in NETWORKS:
        raise ConfigError(f"recipe {recipe.name}: network kind '{kind}' is none of {', '.join(NETWORKS)}")
    if (NETWORKS[kind] is RecurrentSR) != (recipe.frames > 1):
        wanted = "frames from 2" if NETWORKS[kind] is RecurrentSR else "frames = 1"
        raise ConfigError(f"recipe {recipe.name}: {kind} learns with {wanted}, not with frames = {recipe.frames}")
    try:
        with warnings.catch_warnings(action="ignore"):  # torch warns of layers without a channel; they are refused here
            network = build_network(kind, scale=recipe.scale, **arguments)
        if not all(p.numel() for p in network.parameters()):
            raise ValueError("a layer has no channels")
    except (ArithmeticError, RuntimeError, TypeError, ValueError) as error:
        shape = ", ".join(f"{name} {value}" for name, value in arguments.items())
        raise ConfigError(f"{kind} x{recipe.scale} cannot be built with {shape}: {error}") from error
    return network


def load_checkpoint(path: Path) -> dict[str, Any]:
    """What a run wrote, on the CPU. Raises ConfigError for a file that is missing or none of ours."""
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
        if not {"recipe", "best"} <= set(state):
            raise ValueError("it holds no recipe and no weights")
        if "tune" in state["recipe"]:
            raise ValueError("its recipe says tune, which is now called weights; train it again")
    except Exception as error:  # torch.load raises what pickle, zip and its own reader do
        reason = f"{type(error).__name__}: {error}".splitlines()[0].partition(". ")[0]  # torch's second is advice
        raise ConfigError(f"{path} is no checkpoint of `stream-sr train` ({reason})") from error
    return dict(state)


def _candidate(weights: Mapping[str, torch.Tensor], recipe: Recipe, device: torch.device) -> torch.nn.Module:
    """The network as it would be shipped: trained weights, branches merged."""
    candidate = make_network(recipe).to(device)
    if recipe.expand:
        expand(candidate)
    candidate.load_state_dict(weights)
    collapse(candidate)
    return candidate


def _teacher(checkpoint: Path | None, recipe: Recipe, device: torch.device) -> torch.nn.Module | None:
    """The best weights of another run of the same scale, frozen."""
    if checkpoint is None:
        return None
    state = load_checkpoint(checkpoint)
    scale = state["recipe"]["scale"]
    if scale != recipe.scale:
        raise ConfigError(f"the teacher {checkpoint} enlarges by {scale}, the recipe by {recipe.scale}")
    network = restore_network(state["recipe"]["network"], scale=scale, weights=state["best"])
    if isinstance(network, RecurrentSR) != (recipe.frames > 1):
        takes = "sequences" if recipe.frames > 1 else "single pictures"
        raise ConfigError(f"recipe {recipe.name} learns from {takes}, the teacher {checkpoint} does not; give another")
    return network.to(device).eval().requires_grad_(False)


def _start(network: torch.nn.Module, recipe: Recipe, start_from: Path | None) -> None:
    """Give the network the weights it starts from: another run's, of its own scale or of ``from_scale``."""
    if start_from is None:
        if recipe.from_scale is not None:
            start = f"x{recipe.from_scale} of {'`fast`' if recipe.frames > 1 else 'the same recipe'}"
            raise ConfigError(f"{recipe.weights} x{recipe.scale} starts from {start}; give its checkpoint with --from")
        return
    state = load_checkpoint(start_from)
    scale, shape = state["recipe"]["scale"], state["recipe"]["network"]
    ours, theirs = _shared(recipe.network), _shared(shape)
    if scale != recipe.scale and 0 < ours.get("depth", 0) < theirs.get("depth", 0):
        theirs["depth"] = ours["depth"]  # the last of its layers are left out
    if theirs != ours or scale not in (recipe.scale, recipe.from_scale):
        raise ConfigError(
            f"{start_from} holds {shape} x{scale}; the recipe starts from its own x{recipe.scale}"
            + (f" or x{recipe.from_scale}" if recipe.from_scale else "")
        )
    if scale == recipe.scale:
        _fill(network, state["best"], start_from)
        return
    transfer(restore_network(shape, scale=scale, weights=state["best"]), network)


def _fill(network: torch.nn.Module, weights: Mapping[str, torch.Tensor], start_from: Path) -> None:
    """Plain weights into a network that may have more (a plain one has no memory to hand on) and may be bound."""
    bounded = {
        f"{name}.weight": layer
        for name, layer in network.named_modules()
        if parametrize.is_parametrized(layer, "weight")
    }
    found = network.load_state_dict({k: v for k, v in weights.items() if k not in bounded}, strict=False)
    if found.unexpected_keys:
        raise ConfigError(f"{start_from} holds {', '.join(found.unexpected_keys)}, which the recipe has not")
    for name in bounded.keys() & weights.keys():
        bounded[name].weight = weights[name]


def _shared(shape: Mapping[str, Any]) -> dict[str, Any]:
    """The network without its kind: a recurrent one starts from the plain one of the same width and depth."""
    return {key: value for key, value in shape.items() if key != "kind"}


def check_same(saved: dict[str, Any], recipe: Recipe, checkpoint: Path) -> None:
    """Refuse to go on from a checkpoint of another run. How long it is, and its rate, may change."""
    ours, given = asdict(recipe), {one.name: one.default for one in fields(Recipe)}
    for key in SAME:
        now = list(ours[key]) if isinstance(ours[key], tuple) else ours[key]
        if saved.get(key, given[key]) != now:
            before = saved.get(key, given[key])
            raise ConfigError(f"{checkpoint} was trained with {key} {before}, the recipe says {now}")


def learning_rate(recipe: Recipe, iteration: int) -> float:
    """Linear warm-up, then cosine from the recipe's rate to 1e-6 at the last iteration."""
    if iteration <= recipe.warmup:
        return recipe.learning_rate * iteration / recipe.warmup
    part = (iteration - recipe.warmup) / max(1, recipe.iterations - recipe.warmup)
    return 1e-6 + (recipe.learning_rate - 1e-6) * 0.5 * (1 + math.cos(math.pi * part))


@torch.no_grad()
def measure(network: torch.nn.Module, runs: Sequence[Sequence[tuple[Plane, Plane]]]) -> float:
    """Mean PSNR in dB over runs of consecutive (degraded, true) pictures, each run counting once.

    The output is rounded to uint8, the border cut by the scale. A recurrent network begins each run anew.
    Computed in full float32, on a GPU too.
    """
    network.eval()
    device = next(network.parameters()).device
    means = []
    for run in runs:
        lows = torch.from_numpy(np.stack([low for low, _ in run]))[:, None].to(device, torch.float32) / 255
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # what is left out is False
            if isinstance(network, RecurrentSR):
                moved = torch.from_numpy(flows([low for low, _ in run], network.scale)).to(device)
                outputs = network(lows[None], moved[None])[0]
            else:
                outputs = network(lows)
        pictures = (outputs * 255).clamp(0, 255).round().to(torch.uint8).cpu().numpy()
        border = run[0][1].shape[0] // run[0][0].shape[0]
        found = [psnr(picture[0], truth, border=border) for picture, (_, truth) in zip(pictures, run, strict=True)]
        means.append(sum(found) / len(found))
    return sum(means) / len(means)
