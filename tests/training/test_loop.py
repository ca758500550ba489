"""The training loop: seeded, resumable to the bit, refusing what would be overwritten; the validation is held back."""

import copy
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from stream_sr.errors import ConfigError
from stream_sr.networks.registry import build_network
from stream_sr.training.data import Patches
from stream_sr.training.loop import CHECKPOINT, learning_rate, load_checkpoint, measure, train
from stream_sr.training.recipe import Recipe
from stream_sr.training.step import Batch, Step, _Captured
from stream_sr.video.resample import load_luma, make_pair

RECIPE = Recipe(
    name="tiny", scale=2, weights="clean", network={"kind": "FSRCNN", "d": 4, "s": 2, "m": 1, "kernel": 5},
    iterations=12, batch=2, patch=8, learning_rate=1e-3, warmup=2, l2_from=0.5, round_from=0.5, ema=0.9, seed=1,
    shrinks=(1.0,), validation_every=4, validation_images=("held",),
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    y, x = np.mgrid[:40, :44]
    for name, period in (("one", 5), ("two", 7), ("held", 9)):
        wave = 128 + 100 * np.sin(x / period) * np.cos(y / period)
        Image.fromarray(wave.astype(np.uint8)).save(folder / f"{name}.png")
    return folder


def run(folder: Path, out: Path, recipe: Recipe = RECIPE, **options: Any) -> tuple[dict[str, Any], list[Any]]:
    """Train and give back the checkpoint's content and the events."""
    events: list[Any] = []
    path = train(recipe, folders=[folder], out=out, threads=1, report=events.append, **options)
    return torch.load(path, weights_only=True), events


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def stop_after(count: int) -> Any:
    calls = iter(range(1, 1000))
    return lambda: next(calls) >= count


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The checkpoint of an uninterrupted run."""
    return run(folder, tmp_path_factory.mktemp("whole"))[0]


@pytest.mark.parametrize("interruptions", [(4,), (5, 2), (1, 1, 1)])
def test_a_resumed_run_ends_with_the_same_bits(
    folder: Path, whole: dict[str, Any], tmp_path: Path, interruptions: tuple[int, ...]
) -> None:
    done = 0
    for n, count in enumerate(interruptions):
        state, events = run(folder, tmp_path, resume=n > 0, stop=stop_after(count))
        done += count
        assert state["iteration"] == done
        assert events[-1] == {"event": "stopped", "iteration": done}
    state, _ = run(folder, tmp_path, resume=True)
    assert same(state, whole)
    logged = [json.loads(line)["iteration"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert logged == [4, 8, 12]


def test_training_moves_the_weights_and_another_seed_moves_them_elsewhere(
    folder: Path, whole: dict[str, Any], tmp_path: Path
) -> None:
    other, _ = run(folder, tmp_path, replace(RECIPE, seed=2))
    assert not same(whole["network"], whole["average"])
    assert not same(other["network"], whole["network"])


def test_the_best_weights_are_those_of_the_best_validation(folder: Path, whole: dict[str, Any], tmp_path: Path) -> None:
    network = build_network("FSRCNN", scale=2, d=4, s=2, m=1, kernel=5)
    pair = make_pair(load_luma(folder / "held.png"), 2)
    network.load_state_dict(whole["best"])
    assert measure(network, [[pair]]) == whole["best_psnr"]
    _, events = run(folder, tmp_path)
    rows = [event for event in events if event["event"] == "validation"]
    assert max(row["psnr"] for row in rows if row["iteration"] > 6) == whole["best_psnr"]  # rounded from there on
    assert [row["loss_kind"] for row in rows] == ["l1", "l2", "l2"]


def test_the_validation_is_left_out_of_training(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def spy(paths: list[Path], **options: Any) -> Patches:
        seen.extend(path.stem for path in paths)
        return Patches(paths, **options)

    monkeypatch.setattr("stream_sr.training.material.Patches", spy)
    _, events = run(folder, tmp_path)
    assert seen == ["one", "two"]
    assert events[0]["pictures"] == 2


def test_a_checkpoint_is_neither_overwritten_nor_missed_nor_mistaken(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="start without --resume"):
        run(folder, tmp_path, resume=True)
    run(folder, tmp_path, stop=stop_after(1))
    before = (tmp_path / CHECKPOINT).read_bytes()
    with pytest.raises(ConfigError, match="--resume"):
        run(folder, tmp_path)
    other = replace(RECIPE, network=RECIPE.network | {"d": 6})
    with pytest.raises(ConfigError, match="trained with network"):
        run(folder, tmp_path, other, resume=True)
    for change in ({"seed": 2}, {"patch": 6}, {"loss": "bce"}):
        with pytest.raises(ConfigError, match=f"trained with {next(iter(change))}"):
            run(folder, tmp_path, replace(RECIPE, **change), resume=True)
    fewer = replace(RECIPE, iterations=1)
    with pytest.raises(ConfigError, match="nothing is left to train"):
        run(folder, tmp_path, fewer, resume=True)
    assert (tmp_path / CHECKPOINT).read_bytes() == before


def test_missing_validation_pictures_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="absent"):
        run(folder, tmp_path, replace(RECIPE, validation_images=("held", "absent")))


def test_x3_starts_from_x2(folder: Path, whole: dict[str, Any], tmp_path: Path) -> None:
    recipe = replace(RECIPE, scale=3, from_scale=2, iterations=1)
    with pytest.raises(ConfigError, match="--from"):
        run(folder, tmp_path / "a", recipe)
    torch.save(whole, tmp_path / "x2.pt")
    state, _ = run(folder, tmp_path / "b", replace(recipe, learning_rate=0.0, warmup=1), start_from=tmp_path / "x2.pt")
    for name, value in whole["best"].items():
        if not name.startswith("head."):
            assert torch.equal(state["network"][name], value)


def test_a_larger_scale_may_leave_the_last_layers_out(folder: Path, tmp_path: Path) -> None:
    deep = replace(RECIPE, network={"kind": "PlainSR", "width": 4, "depth": 3, "skip": True}, round_from=1.0)
    state, _ = run(folder, tmp_path / "x2", deep)
    recipe = replace(
        deep, network=deep.network | {"depth": 2}, scale=3, from_scale=2, iterations=1, learning_rate=0.0, warmup=1
    )
    start = tmp_path / "x2" / CHECKPOINT
    shallow, _ = run(folder, tmp_path / "x3", recipe, start_from=start)
    for name in ("feature.weight", "body.1.weight", "body.3.bias"):
        assert torch.equal(shallow["network"][name], state["best"][name])
    assert "body.5.weight" not in shallow["network"]
    for other in ({"depth": 4}, {"width": 5}):
        with pytest.raises(ConfigError, match="the recipe starts from"):
            run(folder, tmp_path / "no", replace(recipe, network=deep.network | other), start_from=start)
    with pytest.raises(ConfigError, match="the recipe starts from"):
        run(folder, tmp_path / "no", replace(recipe, scale=2), start_from=start)


def test_the_learning_rate_rises_then_falls_to_its_end() -> None:
    recipe = replace(RECIPE, iterations=100, warmup=10)
    rates = [learning_rate(recipe, n) for n in range(1, 101)]
    assert rates[:10] == pytest.approx([recipe.learning_rate * n / 10 for n in range(1, 11)])
    assert all(a > b for a, b in pairwise(rates[9:]))
    assert rates[-1] == pytest.approx(1e-6)


def test_the_shipped_weights_are_exact_in_bfloat16(folder: Path, tmp_path: Path, whole: dict[str, Any]) -> None:
    exact, _ = run(folder, tmp_path, replace(RECIPE, round_from=1.0))

    def representable(weights: dict[str, Any]) -> bool:
        return all(torch.equal(w, w.to(torch.bfloat16).float()) for w in weights.values() if w.dim() > 1)

    assert representable(whole["best"])
    assert not representable(whole["network"])  # training goes on with the exact ones
    assert not representable(exact["best"])


def test_unlabelled_pictures_go_on_where_they_were(folder: Path, whole: dict[str, Any], tmp_path: Path) -> None:
    torch.save(whole, tmp_path / "teacher.pt")
    more: dict[str, Any] = {"teacher": tmp_path / "teacher.pt", "unlabelled": [folder]}
    apart, _ = run(folder, tmp_path / "parts", stop=stop_after(5), **more)
    apart, _ = run(folder, tmp_path / "parts", resume=True, **more)
    assert same(apart, run(folder, tmp_path / "whole", **more)[0])


def test_the_optimiser_of_another_device_is_taken_over(tmp_path: Path) -> None:
    """A GPU's keeps its rate on the device and is capturable; its moments go on, its options are those of this one."""
    step = Step(build_network("PlainSR", scale=2, width=4, depth=1), replace(RECIPE, round_from=1.0))
    batch = Batch(np.zeros((1, 1, 8, 8), np.uint8), np.full((1, 1, 16, 16), 9, np.uint8), 1e-3)
    step(batch, 1)
    state = step.state()
    for group in state["optimizer"]["param_groups"]:
        group |= {"capturable": True, "fused": True, "lr": torch.tensor(1e-3)}
    torch.save(state, tmp_path / "state.pt")
    other = Step(build_network("PlainSR", scale=2, width=4, depth=1), replace(RECIPE, round_from=1.0))
    other.load(torch.load(tmp_path / "state.pt", weights_only=True))
    (group,) = other.optimizer.param_groups
    assert (group["capturable"], group["fused"]) == (False, None)
    step.optimizer.param_groups[0] |= {"capturable": False, "fused": None, "lr": 1e-3}
    assert torch.equal(other(batch, 2), step(batch, 2))
    assert same(other.state()["network"], step.state()["network"])


def test_warming_up_for_a_graph_neither_trains_nor_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU but for the device: what a capture calls runs at once here."""

    class Now:
        def __init__(self, *_: object) -> None: ...
        def __enter__(self) -> None: ...
        def __exit__(self, *_: object) -> None: ...
        def wait_stream(self, _: object) -> None: ...

    for name in ("Stream", "stream", "current_stream", "CUDAGraph", "graph"):
        monkeypatch.setattr(torch.cuda, name, Now)
    network = build_network("RecurrentSR", scale=2, width=4, depth=1)
    step = Step(network, replace(RECIPE, round_from=1.0, still=0.5, noise=3.0, settled=2, frames=3))
    low, truth = (np.full((2, 3, 1, side, side), 90, np.uint8) for side in (8, 16))
    batch = Batch(low, truth, 1e-3, flow=np.zeros((2, 3, 2, 8, 8), np.int16))
    step(batch, 1)
    before, drawn = copy.deepcopy(step.state()), torch.get_rng_state()
    _Captured(step, batch.tensors(step.device), squared=False)
    assert same(step.state()["network"], before["network"])
    assert same(step.state()["average"], before["average"])
    assert torch.equal(torch.get_rng_state(), drawn)


def test_a_gradient_is_clipped_where_the_recipe_says_so() -> None:
    random = np.random.default_rng(1)
    low, truth = (random.integers(0, 256, (2, 1, side, side)).astype(np.uint8) for side in (8, 16))
    norms = []
    for clip in (0.0, 1e-3):
        torch.manual_seed(3)
        step = Step(build_network("PlainSR", scale=2, width=4, depth=1), replace(RECIPE, round_from=1.0, clip=clip))
        step(Batch(low, truth, 1e-3), 1)
        norms.append(
            float(torch.cat([one.grad.ravel() for one in step.network.parameters() if one.grad is not None]).norm())
        )
    assert norms[0] > 0.01
    assert norms[1] == pytest.approx(1e-3, rel=1e-3)


class Watching(torch.nn.Module):
    """Keeps what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.level = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[Any] = []

    def forward(self, *given: Any) -> torch.Tensor:
        self.seen = list(given)
        low = given[0]
        return self.level + low.repeat_interleave(2, 3).repeat_interleave(2, 4)


def watched(**changes: Any) -> tuple[Any, Any, Any]:
    """The pictures, the flow and the pictures before of a step over forty ramps that move by 3 levels a picture."""
    torch.manual_seed(5)
    network = Watching()
    ramp = np.linspace(20, 120, 16 * 16).reshape(16, 16)
    low = np.stack([ramp + 3 * t for t in range(4)]).astype(np.uint8)[None, :, None].repeat(40, 0)
    truth = low.repeat(2, 3).repeat(2, 4)
    flow = np.full((40, 4, 2, 16, 16), 8, np.int16)
    Step(network, replace(RECIPE, round_from=1.0, **changes))(Batch(low, truth, 1e-3, flow=flow), 1)
    pictures, moves, before = network.seen
    return (pictures * 255).numpy().round(3), moves.numpy(), None if before is None else (before * 255).numpy().round(3)


def test_a_share_of_the_examples_stands_still() -> None:
    pictures, moves, before = watched(still=0.4, settled=2)
    rests = np.array([not np.ptp(one, axis=0).any() for one in pictures])
    assert 8 <= rests.sum() <= 24
    assert not moves[rests].any()
    assert (moves[~rests] == 8).all()
    assert (np.diff(pictures[~rests], axis=1) == 3).all()
    assert before.shape == (20, 2, 1, 16, 16)
    assert (before == pictures[::2, :1]).all()
    assert watched()[2] is None


def test_half_of_the_examples_have_noise_other_in_each_picture() -> None:
    exact = watched()[0]
    pictures, _, before = watched(noise=4.0, settled=8)
    error = pictures - exact
    deviations = error.std((1, 2, 3, 4))
    assert 10 <= (deviations < 0.01).sum() <= 30
    assert 3 < deviations.max() < 4.2
    noisy = deviations > 1
    assert np.abs(error[noisy].mean((1, 2, 3, 4))).max() < 0.5
    assert all((np.ptp(one, axis=0) > 1).any() for one in error[noisy])
    assert (pictures == pictures.round()).all()
    other = (before - exact[::2, :1]).std((1, 2, 3, 4))
    np.testing.assert_allclose(other, deviations[::2], atol=0.5)
    assert (np.ptp(before, axis=1).any((1, 2, 3)) == (deviations[::2] > 0.1)).all()


def test_measuring_leaves_cudnn_on_and_is_exact(tmp_path: Path) -> None:
    seen: list[tuple[bool, bool]] = []

    class Looking(torch.nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append((torch.backends.cudnn.enabled, torch.backends.cudnn.allow_tf32))
            return x.repeat_interleave(2, 2).repeat_interleave(2, 3)

    before = torch.backends.cudnn.enabled, torch.backends.cudnn.allow_tf32
    grey = np.full((16, 16), 9, np.uint8)
    assert measure(Looking(1, 1, 1), [[(grey[:8, :8], grey)]]) > 90
    assert seen == [(True, False)]
    assert (torch.backends.cudnn.enabled, torch.backends.cudnn.allow_tf32) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network": {"kind": "VGG"}}, "none of FSRCNN"),
        ({"network": {"kind": "Autoencoder"}}, "same size"),
        ({"network": {"kind": "PlainSR", "width": 0}}, "cannot be built with width 0"),
        ({"network": {"kind": "RecurrentSR"}}, "RecurrentSR learns with frames from 2, not with frames = 1"),
        ({"frames": 3}, "FSRCNN learns with frames = 1, not with frames = 3"),
        ({"network": {"kind": "PlainSR", "colour": 3}}, "unexpected keyword argument 'colour'"),
    ],
)
def test_a_network_that_cannot_be_built_is_told(
    folder: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run(folder, tmp_path / "out", replace(RECIPE, **change))
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_with_the_old_name_of_the_weights_is_refused(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path)
    checkpoint = tmp_path / CHECKPOINT
    state = torch.load(checkpoint, weights_only=True)
    state["recipe"]["tune"] = state["recipe"].pop("weights")
    torch.save(state, checkpoint)
    with pytest.raises(ConfigError, match="its recipe says tune, which is now called weights"):
        load_checkpoint(checkpoint)


def test_a_damaged_checkpoint_is_told(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path)
    (tmp_path / CHECKPOINT).write_bytes((tmp_path / CHECKPOINT).read_bytes()[:500])
    with pytest.raises(ConfigError, match="is no checkpoint of"):
        run(folder, tmp_path, resume=True)
    with pytest.raises(ConfigError, match="--threads -1"):
        train(RECIPE, folders=[folder], out=tmp_path / "b", threads=-1)
