"""Clips: stills that move by whole pixels, films reduced to half, written, read back and learnt from."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stream_sr.errors import ConfigError, SourceOpenError
from stream_sr.evaluation.codec_roundtrip import h264_roundtrip
from stream_sr.training.clips import VALIDATION, Clip, ClipPatches, make_clips, read_clips
from stream_sr.training.device import DevicePatches
from stream_sr.training.loop import CHECKPOINT, measure, train
from stream_sr.training.material import load_material
from stream_sr.training.recipe import Recipe
from stream_sr.video.optical_flow import NO_REFERENCE, PARTS, flows, register
from stream_sr.video.planes import Plane
from stream_sr.video.resample import bicubic, to_uint8

pytestmark = pytest.mark.long

RECIPE = Recipe(
    name="small", scale=2, weights="camera", network={"kind": "PlainSR", "width": 4, "depth": 1}, iterations=4, batch=2,
    patch=16, learning_rate=1e-3, warmup=1, l2_from=0.5, round_from=1.0, ema=0.9, seed=1, shrinks=(1.0,),
    validation_every=2, validation_images=("held",), expand=True, bf16=True,
)  # fmt: skip


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(1).integers(20, 230, (height, width)).astype(np.uint8)


def film() -> Iterator[Plane]:
    for n in range(16):
        yield np.roll(noise(200, 240), n, 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pictures = tmp_path_factory.mktemp("pictures")
    for name in ("one", "held", "small"):
        side = 60 if name == "small" else 160
        Image.fromarray(noise(side, side + 20)).save(pictures / f"{name}.png")
    out = tmp_path_factory.mktemp("clips")
    count = make_clips(
        out,
        pictures=[pictures],
        videos=[("film", film)],
        scale=2,
        length=4,
        weights="camera",
        roundtrip=h264_roundtrip,
        validation=["held"],
    )
    assert count == 4  # two stills and twice four of sixteen pictures; the third still is too small
    return out


def test_a_film_is_reduced_to_half_before_it_counts_as_truth(folder: Path) -> None:
    clips = {clip.name: clip for clip in read_clips(folder)}
    assert sorted(clips) == ["film-00003", "film-00011", f"{sorted(clips)[-1].rsplit('-', 1)[0]}-one"]
    clip = clips["film-00003"]
    assert (clip.low.shape, clip.truth.shape, clip.scale) == ((4, 50, 60), (4, 100, 120), 2)
    first = next(film())
    assert (clip.truth[0] == to_uint8(bicubic(first.astype(np.float32), (100, 120)))).all()
    assert [clip.name.endswith("held") for clip in read_clips(folder / VALIDATION)] == [True]


def test_patches_of_low_and_truth_lie_at_the_same_place(folder: Path) -> None:
    clips = read_clips(folder)
    exact = [replace(clip, low=clip.truth[:, ::2, ::2]) for clip in clips]
    for frames in (1, 3):
        lows, truths, _ = ClipPatches(exact, patch=12, frames=frames, seed=2).batch(20)
        assert lows.shape[:-2] == truths.shape[:-2] == ((20, 1) if frames == 1 else (20, 3, 1))
        corners = [truths[..., a::2, b::2] for a in (0, 1) for b in (0, 1)]  # a turn moves the corner
        hit = np.stack([(corner == lows).reshape(20, -1).all(1) for corner in corners])
        assert hit.any(0).all()
    with pytest.raises(SourceOpenError, match="no clip holds 9 pictures"):
        ClipPatches(clips, patch=12, frames=9, seed=1)


def test_a_run_learns_from_clips_and_is_judged_by_the_others(folder: Path, tmp_path: Path) -> None:
    import torch

    from stream_sr.networks.plain import PlainSR

    train(RECIPE, folders=[folder], out=tmp_path, threads=1)
    state = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    assert set(state["best"]) == set(PlainSR(scale=2, width=4, depth=1).state_dict())  # merged
    network = PlainSR(scale=2, width=4, depth=1)
    network.load_state_dict(state["best"])
    assert measure(network, load_material(RECIPE, [folder]).validation) == state["best_psnr"]


def test_a_recurrent_run_starts_from_a_plain_one_and_goes_on(folder: Path, tmp_path: Path) -> None:
    import torch

    train(RECIPE, folders=[folder], out=tmp_path / "plain", threads=1)
    recipe = replace(
        RECIPE,
        network=RECIPE.network | {"kind": "RecurrentSR"},
        frames=3,
        settled=2,
        still=0.3,
        noise=3.0,
        expand=False,
        bf16=False,
    )
    start = tmp_path / "plain" / CHECKPOINT
    train(recipe, folders=[folder], out=tmp_path / "whole", start_from=start, threads=1)
    halt = iter([False, True])
    train(recipe, folders=[folder], out=tmp_path / "parts", start_from=start, threads=1, stop=lambda: next(halt))
    train(recipe, folders=[folder], out=tmp_path / "parts", resume=True, threads=1)
    whole, parts = (torch.load(tmp_path / name / CHECKPOINT, weights_only=True) for name in ("whole", "parts"))
    assert all(torch.equal(value, parts["network"][name]) for name, value in whole["network"].items())
    assert "recall.weight" in whole["best"]
    again = tmp_path / "parts" / CHECKPOINT  # a recurrent one starts from its like too, bound kernels and all
    train(
        replace(recipe, learning_rate=0.0, iterations=1),
        folders=[folder],
        out=tmp_path / "c",
        start_from=again,
        threads=1,
    )
    state = torch.load(tmp_path / "c" / CHECKPOINT, weights_only=True)
    torch.testing.assert_close(state["best"], whole["best"], rtol=0, atol=1e-6)
    for one, teacher in ((recipe, start), (RECIPE, again)):
        with pytest.raises(ConfigError, match="does not; give another"):
            train(one, folders=[folder], out=tmp_path / "taught", teacher=teacher, threads=1)
    with pytest.raises(ConfigError, match="leave out --unlabelled"):
        train(recipe, folders=[folder], out=tmp_path / "d", teacher=again, unlabelled=[folder], threads=1)
    wider = replace(recipe, network=recipe.network | {"width": 6})
    with pytest.raises(ConfigError, match="the recipe starts from"):
        train(wider, folders=[folder], out=tmp_path / "wider", start_from=start, threads=1)


def test_the_motion_of_an_example_is_that_of_its_pictures(tmp_path: Path) -> None:
    """Whatever turn it took: the truth before, moved by it, is the truth."""
    truth = noise(90, 90)
    planes = np.stack([truth[8 - 2 * n : 72 - 2 * n, 4 + n : 68 + n] for n in range(4)])  # down by 2, left by 1
    clip = Clip(np.ascontiguousarray(planes[:, ::2, ::2]), planes, "moving")
    flow = np.full((4, 2, 32, 32), NO_REFERENCE, np.int16)
    flow[1:] = np.array([-PARTS, 2 * PARTS])[:, None, None]
    vars(clip)["flow"] = flow
    lows, truths, moves = ClipPatches([clip], patch=24, frames=3, seed=4).batch(40)
    seen = set()
    for example, motion in zip(truths[:, :, 0], moves, strict=True):
        for before, now, flow in zip(example[:-1], example[1:], motion[1:], strict=True):
            moved = np.empty_like(before)
            register(before, flow, moved)
            assert (moved[4:-4, 4:-4] == now[4:-4, 4:-4]).all()
            seen.add((int(flow[0, 0, 0]), int(flow[1, 0, 0])))
    assert seen == {(a * PARTS, b * PARTS) for x, y in ((2, 1), (1, 2)) for a in (x, -x) for b in (y, -y)}
    assert lows.shape == (40, 3, 1, 24, 24)
    on_a_device = DevicePatches(ClipPatches([clip], patch=24, frames=3, seed=4), torch.device("cpu")).batch(40)
    for ours, theirs in zip(on_a_device, (lows, truths, moves), strict=True):
        assert torch.equal(ours, torch.from_numpy(theirs))


def test_the_flow_of_a_clip_is_measured_on_its_degraded_pictures() -> None:
    large = to_uint8(bicubic(noise(24, 24).astype(np.float64), (384, 384)))
    truth = np.stack([large[40:296, 60 - 8 * n : 316 - 8 * n] for n in range(3)])
    low = np.stack([to_uint8(bicubic(one.astype(np.float64), (64, 64))) for one in truth])
    clip = Clip(low, truth, "pan")
    assert clip.flow.shape == (3, 2, 64, 64)
    assert (clip.flow[0] == NO_REFERENCE).all()
    middle = clip.flow[1:, :, 12:-12, 12:-12]
    assert np.abs(middle[:, 0] - 8 * PARTS).mean() < PARTS
    assert np.abs(middle[:, 1]).mean() < PARTS
    wide = Clip(np.stack([truth[0], truth[1]]), np.zeros((2, 512, 512), np.uint8), "wide")
    assert flows(list(wide.low), 2).shape == (2, 2, 128, 128)
    assert wide.flow.shape == (2, 2, 256, 256)
    assert np.abs(wide.flow[1, :, 40:-40, 40:-40] - np.array([16 * PARTS, 0])[:, None, None]).mean() < 2 * PARTS


def test_stills_become_scenes_too(folder: Path, tmp_path: Path) -> None:
    stills = tmp_path / "stills"
    stills.mkdir()
    for n in range(3):
        Image.fromarray(noise(260, 300)).save(stills / f"{n}.png")
    for motion, names in (
        ("pan", ["stills-0", "stills-1"]),
        ("scene", ["stills-0-scene", "stills-1-scene"]),
        ("both", ["stills-0", "stills-0-scene", "stills-1", "stills-1-scene"]),
    ):
        out = tmp_path / motion
        make_clips(
            out,
            pictures=[stills],
            videos=[],
            scale=2,
            length=3,
            weights="clean",
            roundtrip=h264_roundtrip,
            motion=motion,
            validation=["2"],
        )
        assert sorted(clip.name for clip in read_clips(out)) == names
        assert len(read_clips(out / VALIDATION)) == len(names) // 2


@pytest.mark.parametrize("frames", [1, 3])
def test_the_device_cuts_the_same_examples(folder: Path, frames: int) -> None:
    import torch

    from stream_sr.training.device import DevicePatches

    clips = read_clips(folder)
    host = ClipPatches(clips, patch=12, frames=frames, seed=9)
    device = DevicePatches(ClipPatches(clips, patch=12, frames=frames, seed=9), torch.device("cpu"))
    for _ in range(3):
        for ours, theirs in zip(host.batch(7), device.batch(7), strict=True):
            assert np.array_equal(ours, theirs.numpy())


def test_a_teacher_pulls_the_student_to_itself(folder: Path, tmp_path: Path) -> None:
    """The same short run with and without: with all weight on the teacher, the student ends nearer to it."""
    import torch

    from stream_sr.networks.plain import PlainSR

    recipe = replace(RECIPE, iterations=40, validation_every=40, expand=False, bf16=False, learning_rate=5e-3)
    teacher = PlainSR(scale=2, width=4, depth=1)
    with torch.no_grad():
        assert teacher.head.bias is not None
        teacher.head.bias.fill_(0.2)  # it wants all pictures brighter
    saved = {"recipe": {"scale": 2, "network": dict(recipe.network)}, "best": teacher.state_dict()}
    torch.save(saved, tmp_path / "teacher.pt")
    plain = tmp_path / "pictures"
    plain.mkdir()
    Image.fromarray(noise(64, 64)).save(plain / "extra.png")
    biases = {}
    for share, extra in ((0.0, []), (1.0, []), (1.0, [plain])):
        out = tmp_path / f"{share}{len(extra)}"
        taught = replace(recipe, teacher_share=share)
        train(taught, folders=[folder], out=out, threads=1, teacher=tmp_path / "teacher.pt", unlabelled=extra)
        biases[share, len(extra)] = float(torch.load(out / CHECKPOINT, weights_only=True)["network"]["head.bias"])
    assert biases[1.0, 0] > biases[0.0, 0] + 0.03
    assert biases[1.0, 1] != biases[1.0, 0]
    (tmp_path / "bad.pt").write_bytes(b"no checkpoint")
    for name in ("bad.pt", "missing.pt"):
        with pytest.raises(ConfigError, match="is no checkpoint of"):
            train(recipe, folders=[folder], out=tmp_path / "bad", threads=1, teacher=tmp_path / name)
    with pytest.raises(ConfigError, match="--teacher"):
        train(recipe, folders=[folder], out=tmp_path / "none", threads=1, unlabelled=[plain])


def test_what_cannot_be_learnt_from_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the clips are of scale 2, the recipe trains x4"):
        load_material(replace(RECIPE, scale=4), [folder])
    (tmp_path / "pictures").mkdir()
    with pytest.raises(ConfigError, match="holds no clips"):
        load_material(RECIPE, [folder, tmp_path / "pictures"])
    Image.fromarray(noise(64, 64)).save(tmp_path / "pictures" / "held.png")
    with pytest.raises(ConfigError, match="all 1 pictures validate"):
        load_material(replace(RECIPE, weights="clean"), [tmp_path / "pictures"])
    for change in ({"weights": "camera"}, {"weights": "clean", "scale": 1}):
        with pytest.raises(ConfigError, match="which teaches nothing"):
            load_material(replace(RECIPE, **change), [tmp_path / "pictures"])
    with pytest.raises(ConfigError, match="stream-sr clips"):
        load_material(replace(RECIPE, frames=3), [tmp_path / "pictures"])
    with pytest.raises(ConfigError, match="no clips in"):
        load_material(RECIPE, [folder / VALIDATION])
    with pytest.raises(ConfigError, match="holds clips already"):
        make_clips(folder, pictures=[], videos=[], scale=2, length=2, weights="clean", roundtrip=h264_roundtrip)
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 no")
    with pytest.raises(SourceOpenError, match="is no clip"):
        read_clips(tmp_path)
