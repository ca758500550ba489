"""What a run learns from and is judged by: pictures that are reduced on the way, or clips that were made before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stream_sr.errors import ConfigError
from stream_sr.inference.model import WEIGHTS
from stream_sr.training.clips import ENDING, VALIDATION, Clip, ClipPatches, read_clips
from stream_sr.training.data import Patches
from stream_sr.training.recipe import Recipe
from stream_sr.video.planes import Plane
from stream_sr.video.resample import find_images, load_luma, make_pair


@dataclass(frozen=True)
class Material:
    """``patches`` to learn from; ``validation``: runs of consecutive (degraded, true) pictures, never learnt from."""

    patches: Patches | ClipPatches
    validation: list[list[tuple[Plane, Plane]]]
    pictures: int  # still pictures, or clips


def load_material(recipe: Recipe, folders: Sequence[Path]) -> Material:
    """Pictures or clips from ``folders``, never both. Raises ConfigError, SourceOpenError."""
    with_clips = [folder for folder in folders if holds_clips(folder)]
    if not with_clips:
        return _pictures(recipe, folders)
    if len(with_clips) < len(folders):
        others = ", ".join(str(folder) for folder in folders if folder not in with_clips)
        raise ConfigError(f"{others} holds no clips, the other folders do; give folders of one kind")
    return _clips(recipe, folders)


def holds_clips(folder: Path) -> bool:
    """Whether there are clips in it, rather than pictures."""
    return any(folder.glob(f"*{ENDING}"))


def _pictures(recipe: Recipe, folders: Sequence[Path]) -> Material:
    if recipe.frames > 1:
        raise ConfigError(f"recipe {recipe.name} learns from clips; make some with `stream-sr clips` and give --data")
    if recipe.weights != WEIGHTS[0] or recipe.scale == 1:
        raise ConfigError(
            f"pictures are only reduced, which teaches nothing for {recipe.weights} x{recipe.scale}; make clips with "
            f"`stream-sr clips --weights camera --scale {recipe.scale}` and give --data"
        )
    images = find_images(folders)
    held_back = [path for path in images if path.stem in recipe.validation_images]
    missing = set(recipe.validation_images) - {path.stem for path in held_back}
    if missing:
        raise ConfigError(
            f"validation pictures not found in the folders: {', '.join(sorted(missing))}; name some of yours with "
            f"--validate NAME (there are {', '.join(sorted(path.stem for path in images)[:3])}, ...); the packaged "
            "recipes take ten of the Cloudinary Image Dataset (cid22)"
        )
    if len(held_back) == len(images):
        raise ConfigError(f"all {len(images)} pictures validate, and none is left to learn from; give more with --data")
    patches = Patches(
        [path for path in images if path not in held_back],
        scale=recipe.scale,
        patch=recipe.patch,
        shrinks=recipe.shrinks,
        seed=recipe.seed,
        shares=recipe.shares,
    )
    validation = [[make_pair(load_luma(path), recipe.scale)] for path in held_back]
    return Material(patches, validation, len(images) - len(held_back))


def unlabelled_patches(recipe: Recipe, folders: Sequence[Path]) -> Patches:
    """Patches of pictures as they are, for a teacher to enlarge. Raises SourceOpenError."""
    return Patches(find_images(folders), scale=1, patch=recipe.patch, shrinks=[1.0], seed=recipe.seed + 1)


def _clips(recipe: Recipe, folders: Sequence[Path]) -> Material:
    clips = [clip for folder in folders for clip in read_clips(folder)]
    judges = [clip for folder in folders for clip in read_clips(folder / VALIDATION)]
    if not judges:
        raise ConfigError(f"no clips in {folders[0] / VALIDATION}; `stream-sr clips` makes them with --validate")
    wrong = {clip.scale for clip in clips + judges} - {recipe.scale}
    if wrong:
        raise ConfigError(f"the clips are of scale {min(wrong)}, the recipe trains x{recipe.scale}; make others")
    patches = ClipPatches(clips, patch=recipe.patch, frames=recipe.frames, seed=recipe.seed)
    return Material(patches, [_frames(clip) for clip in judges], len(clips))


def _frames(clip: Clip) -> list[tuple[Plane, Plane]]:
    return list(zip(clip.low, clip.truth, strict=True))
