"""One step of training: forward, loss, backward, optimiser, average; on a GPU captured as a CUDA graph."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stream_sr.training.data import still
from stream_sr.training.recipe import Recipe

LOSSES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": F.l1_loss,
    "l2": F.mse_loss,
    "bce": F.binary_cross_entropy,
}
WARM_UP = 3  # steps before a capture, as torch asks for


class Step:
    """Trains ``network`` by one batch per call and keeps the running ``average`` of its weights.

    ``teacher`` is another network of the same scale, whose output is the target for ``recipe.teacher_share`` of the
    loss, and for all of it where there is no truth (Hinton and others, 2015, as regression).
    """

    def __init__(self, network: nn.Module, recipe: Recipe, *, teacher: nn.Module | None = None) -> None:
        self.network, self.recipe, self.teacher = network, recipe, teacher
        self.device = next(network.parameters()).device
        self.average = {name: value.detach().clone() for name, value in network.state_dict().items()}
        graph = self.device.type == "cuda" and recipe.round_from >= 1  # rounding swaps the weights, which no graph sees
        rate = torch.tensor(recipe.learning_rate, device=self.device) if graph else recipe.learning_rate
        self.optimizer = torch.optim.Adam(network.parameters(), lr=rate, capturable=graph, fused=graph or None)
        self._decay = torch.zeros((), device=self.device)
        self._captured: dict[tuple[Any, ...], _Captured] | None = {} if graph else None

    def __call__(self, batch: Batch, iteration: int) -> Tensor:
        """The loss, detached. ``iteration`` counts from 1 and decides the rate, the loss and the rounding."""
        recipe = self.recipe
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(batch.rate)
            else:
                group["lr"] = batch.rate
        self._decay.fill_(min(recipe.ema, (1 + iteration) / (10 + iteration)))
        squared = iteration > recipe.l2_from * recipe.iterations
        rounding = iteration > recipe.round_from * recipe.iterations
        if self._captured is None:
            return self.run(batch.tensors(self.device), squared, rounding)
        tensors = batch.tensors(self.device)
        key = (squared, *(tuple(one.shape) for one in tensors))
        if key not in self._captured:
            self._captured = {key: _Captured(self, tensors, squared)}  # the graph before is not needed again
        return self._captured[key](tensors)

    def run(self, tensors: Sequence[Tensor], squared: bool, rounding: bool) -> Tensor:
        """``tensors`` are low, truth, unlabelled (degraded, without a truth, may be none), uint8, and motion."""
        low, truth, unlabelled, flow = tensors
        recipe, kind = self.recipe, LOSSES["l2" if squared else self.recipe.loss]
        x, y = low.float() / 255, truth.float() / 255
        sequence: tuple[Tensor | None, ...] = ()  # what a recurrent network is given besides
        if flow.shape[1]:
            x, y, flow, before = self._watch(x, y, flow)
            sequence = flow, before
        masters = round_weights(self.network) if rounding else []
        with torch.autocast(self.device.type, torch.bfloat16, enabled=recipe.bf16):
            output = self.network(x, *sequence)
            taught = None if self.teacher is None else self._distillation(x, *sequence)
            z = unlabelled.float() / 255
            more = None if self.teacher is None or not len(z) else (self.network(z), self._distillation(z))
        loss = kind(output.float(), y)  # not in bfloat16
        if taught is not None:
            loss = (1 - recipe.teacher_share) * loss + recipe.teacher_share * kind(output.float(), taught)
        if more is not None:
            loss = loss + len(z) / len(x) * kind(more[0].float(), more[1])
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if recipe.clip:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), recipe.clip)
        restore_weights(self.network, masters)  # straight-through: the gradient at the rounded weights moves the exact
        self.optimizer.step()
        with torch.no_grad():
            for name, value in self.network.state_dict().items():
                self.average[name].lerp_(value, 1 - self._decay)
        return loss.detach()

    @torch.no_grad()
    def _watch(self, x: Tensor, y: Tensor, flow: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Examples of consecutive pictures ``[N, T, 1, H, W]`` as a fixed camera gives them: at rest, and with noise.

        In a share of them the first picture stands still, and half of them have noise, other noise in each picture.
        The last of what is returned are the pictures before every other example, if any.
        """
        recipe, count, device = self.recipe, len(x), self.device
        rests = torch.rand(count, 1, 1, 1, 1, device=device) < recipe.still
        x, y = (torch.where(rests, one[:, :1], one) for one in (x, y))
        flow = torch.where(rests, 0, flow)
        deviation = recipe.noise * (2 * torch.rand(count, 1, 1, 1, 1, device=device) - 1).clamp(0)
        before = x[::2, :1].expand(-1, recipe.settled, -1, -1, -1) if recipe.settled else None
        if recipe.noise:
            x = noisy(x, deviation)
            before = None if before is None else noisy(before, deviation[::2])
        return x, y, flow, before

    @torch.no_grad()
    def _distillation(self, *given: Tensor | None) -> Tensor:
        assert self.teacher is not None
        return self.teacher(*given).float().clamp(0, 1)

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave, on whatever device that was."""
        self.network.load_state_dict(state["network"])
        ours = self.optimizer.state_dict()["param_groups"]  # those of a GPU do not work on a CPU, nor the other way
        self.optimizer.load_state_dict({"state": state["optimizer"]["state"], "param_groups": ours})
        for name, value in state["average"].items():
            self.average[name].copy_(value)


def generator(device: torch.device) -> torch.Generator:
    """What a step draws from."""
    return torch.cuda.default_generators[device.index or 0] if device.type == "cuda" else torch.default_generator


def noisy(x: Tensor, deviation: Tensor) -> Tensor:
    """With Gaussian noise of so many levels, which is broadcast, and in levels again."""
    return ((x * 255 + torch.randn_like(x) * deviation).clamp(0, 255).round()) * (1 / 255)


class Batch:
    """Arrays of one step, uint8, the motion of its sequences, and its learning rate."""

    def __init__(self, low: Any, truth: Any, rate: float, unlabelled: Any = None, flow: Any = None) -> None:
        self.low, self.truth, self.rate = low, truth, rate
        self.flow = still(len(low)) if flow is None else flow
        self.unlabelled = low[:0] if unlabelled is None else unlabelled

    def tensors(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Low, truth, unlabelled and motion, on the device."""
        return tuple(  # type: ignore[return-value]
            (torch.from_numpy(one) if isinstance(one, np.ndarray) else one).to(device)
            for one in (self.low, self.truth, self.unlabelled, self.flow)
        )


class _Captured:
    """A step as a CUDA graph: one launch instead of some hundred."""

    def __init__(self, step: Step, tensors: Sequence[Tensor], squared: bool) -> None:
        self.inputs = [one.clone() for one in tensors]
        kept = {key: _copied(value) for key, value in step.state().items()}
        random = generator(step.device)
        drawn = random.get_state()
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "This instance was constructed with capturable")  # and not captured yet
            for _ in range(WARM_UP):
                step.run(self.inputs, squared, False)
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        step.optimizer.zero_grad(set_to_none=True)
        with torch.cuda.graph(self.graph):
            self.loss = step.run(self.inputs, squared, False)
        _restore(step, kept)  # warming up has trained
        random.set_state(drawn)  # and drawn

    def __call__(self, tensors: Sequence[Tensor]) -> Tensor:
        for ours, theirs in zip(self.inputs, tensors, strict=True):
            ours.copy_(theirs)
        self.graph.replay()
        return self.loss.clone()


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _copied(one) for key, one in value.items()}
    return [_copied(one) for one in value] if isinstance(value, list) else value


@torch.no_grad()
def _restore(step: Step, kept: Mapping[str, Any]) -> None:
    """Put values back into the very tensors that the graph works on; loading would make others."""
    for name, value in step.network.state_dict().items():
        value.copy_(kept["network"][name])
    for name, value in step.average.items():
        value.copy_(kept["average"][name])
    now, before = step.optimizer.state_dict()["state"], kept["optimizer"]["state"]
    for number, moments in now.items():
        for name, value in moments.items():
            if number in before:
                value.copy_(before[number][name])
            else:
                value.zero_()


@torch.no_grad()
def round_weights(network: nn.Module) -> list[Tensor]:
    """Round the convolutions' weights to bfloat16 in place; returns the exact ones.

    A CPU or GPU that computes in bfloat16 rounds the weights. In a network without a skip that is an error of gain,
    0.5 dB for FSRCNN; trained with rounded weights, it loses next to nothing. Biases and slopes stay exact.
    """
    exact = []
    for weight in (p for p in network.parameters() if p.dim() > 1):
        exact.append(weight.detach().clone())
        weight.copy_(weight.to(torch.bfloat16))
    return exact


@torch.no_grad()
def restore_weights(network: nn.Module, exact: Sequence[Tensor]) -> None:
    """Undo `round_weights`; nothing to do where ``exact`` is empty."""
    for weight, value in zip((p for p in network.parameters() if p.dim() > 1), exact, strict=False):
        weight.copy_(value)
