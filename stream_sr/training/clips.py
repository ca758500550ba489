"""Clips for training: short runs of consecutive pictures, degraded and true, kept as one file each.

Made once, where a codec is at hand (`stream-sr clips`), and read where the network is trained, which may be another
machine. Stills are turned into clips (`scenes`; Cao and others, "VCISR", WACV 2024, for the idea): the reduced pictures
move by fractions of a pixel.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from stream_sr.errors import ConfigError, SourceOpenError
from stream_sr.training.data import still, turn, turn_flow
from stream_sr.training.degrade import Degradation, Roundtrip, draw
from stream_sr.training.scenes import LEAST, pan, scene
from stream_sr.video.optical_flow import Flow, flows
from stream_sr.video.planes import Plane
from stream_sr.video.resample import bicubic, find_images, load_luma, to_uint8

ENDING = ".npz"
VALIDATION = "validation"  # folder of the clips that choose the best weights, inside a folder of clips
MOTIONS = ("pan", "scene", "both")  # of stills


@dataclass(frozen=True)
class Clip:
    """Consecutive pictures: ``low`` ``[T, h, w]`` and ``truth`` ``[T, s*h, s*w]``, uint8."""

    low: np.ndarray
    truth: np.ndarray
    name: str

    @cached_property
    def flow(self) -> Flow:
        """How far each picture has moved since the one before it, ``[T, 2, h, w]``: `optical_flow.flows` for each
        pixel.

        Measured on the degraded pictures, as it is where the network is used; noise that a step adds is not in it.
        """
        found = flows(list(self.low), self.scale)
        height, width = self.low.shape[1:]
        parts = -(-height // found.shape[2])  # of a large picture it is coarser
        return found.repeat(parts, 2).repeat(parts, 3)[:, :, :height, :width] if parts > 1 else found

    @property
    def scale(self) -> int:
        return int(self.truth.shape[-1] // self.low.shape[-1])


def make_clips(
    out: Path,
    *,
    pictures: Sequence[Path],
    videos: Iterable[tuple[str, Callable[[], Iterator[Plane]]]],
    scale: int,
    length: int,
    weights: str,
    roundtrip: Roundtrip,
    motion: str = MOTIONS[0],
    seed: int = 1,
    validation: Sequence[str] = (),
    report: Callable[[str], None] = lambda _: None,
) -> int:
    """Write clips of ``length`` pictures into ``out``, one per still and one per ``2 * length`` pictures of a video.

    ``motion`` says how stills become clips: by a `scenes.pan`, by a `scenes.scene`, or both, which are two clips.
    ``pictures`` are folders; ``videos`` are names and functions that give luma planes, which are reduced to half their
    size before they count as truth (that removes their own compression). ``weights`` is ``clean`` (reduced by bicubic)
    or ``camera`` (degraded, each clip by another `degrade.draw`, which may soften the truth too). ``validation``
    names pictures (stems) and videos whose clips go into the folder `VALIDATION` below. Returns how many clips were
    written. Raises SourceError for what cannot be read or gives no clip, ConfigError for a folder that holds clips
    already and for two of one name.
    """
    if any(out.glob(f"*{ENDING}")):
        raise ConfigError(f"{out} holds clips already; give another folder, or remove them")
    (out / VALIDATION).mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    count = 0

    def keep(origin: str, name: str, truth: Sequence[Plane]) -> None:
        nonlocal count
        kind = draw(random, scale) if weights == "camera" else Degradation()
        truth = kind.soften(truth)
        low = kind.apply(truth, scale, random=random, roundtrip=roundtrip)
        path = (out / VALIDATION if origin in validation else out) / f"{name}{ENDING}"
        if path.exists():
            raise ConfigError(f"two pictures or films make a clip of the name {name}; rename one, and empty {out}")
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            np.savez_compressed(file, low=np.stack(low), truth=np.stack(truth), how=str(asdict(kind)))
        partial.replace(path)
        count += 1
        report(f"{path.name}: {len(low)} pictures of {low[0].shape[1]}x{low[0].shape[0]}")

    stills = find_images(pictures) if pictures else []
    for path in stills:
        name, luma = f"{path.parent.name}-{path.stem}", load_luma(path)
        if motion != "scene" and (moving := pan(luma, scale, length, random)):
            keep(path.stem, name, moving)
        if motion == "pan":
            continue
        others = [one for one in stills if (one.stem in validation) == (path.stem in validation)]
        other = load_luma(others[int(random.integers(len(others)))])
        if moving := scene(luma, other, scale, length, random):
            keep(path.stem, f"{name}-scene", moving)
    for name, frames in videos:
        waiting: list[Plane] = []
        for n, frame in enumerate(frames()):
            if n % (2 * length) < length:
                half = to_uint8(bicubic(frame.astype(np.float32), (frame.shape[0] // 2, frame.shape[1] // 2)))
                waiting.append(_cut(half, scale))
                if min(waiting[-1].shape) < LEAST // 2:
                    size = f"{frame.shape[1]}x{frame.shape[0]}"
                    raise SourceOpenError(
                        f"the film {name} is {size}; a side needs at least {LEAST + 4 * scale} pixels"
                    )
            if len(waiting) == length:
                keep(name, f"{name}-{n:05d}", waiting)
                waiting = []
    if not count:
        raise SourceOpenError(
            f"no clip could be made: films need {length} pictures, still ones {LEAST + 16 + 2 * scale} pixels a side"
        )
    return count


def _cut(picture: Plane, scale: int) -> Plane:
    height, width = (side // (2 * scale) * 2 * scale for side in picture.shape)
    return np.ascontiguousarray(picture[:height, :width])


def read_clips(folder: Path) -> list[Clip]:
    """All clips of a folder, by name. Raises SourceOpenError for a damaged file or clips of different scales."""
    clips = []
    for path in sorted(folder.glob(f"*{ENDING}")):
        try:
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                clips.append(Clip(file["low"], file["truth"], path.stem))
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise SourceOpenError(f"{path} is no clip of `stream-sr clips`: {error}; make it again") from error
    if len({clip.scale for clip in clips}) > 1:
        raise SourceOpenError(f"{folder} holds clips of different scales; keep one scale in a folder")
    return clips


class ClipPatches:
    """Random patches from clips held in memory, one of the eight flips and rotations each. Seeded, endless.

    ``frames`` consecutive pictures at one place, or 1 for a single one. Clips count by their area.
    """

    def __init__(self, clips: Sequence[Clip], *, patch: int, frames: int, seed: int) -> None:
        self.patch, self.frames = patch, frames
        self.random = np.random.default_rng(seed)
        self.pairs = [clip for clip in clips if min(clip.low.shape[1:]) >= patch and len(clip.low) >= frames]
        if not self.pairs:
            raise SourceOpenError(f"no clip holds {frames} pictures of {patch}x{patch}; make longer or larger ones")
        self.scale = self.pairs[0].scale
        self.chance = np.cumsum([float(clip.low.size) for clip in self.pairs])
        self.chance /= self.chance[-1]

    def batch(self, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Low-resolution patches ``[count, T, 1, p, p]`` and truths ``[count, T, 1, s*p, s*p]``, uint8, and motion.

        That is ``[count, T, 2, p, p]``, as `Clip.flow`. Where ``frames`` is 1, pictures are without the axis T, and
        there is no motion.
        """
        p, s, t = self.patch, self.scale, self.frames
        lows = np.empty((count, t, 1, p, p), np.uint8)
        truths = np.empty((count, t, 1, s * p, s * p), np.uint8)
        flow = np.empty((count, t, 2, p, p), np.int16) if t > 1 else still(count)
        for n in range(count):
            which, begin, y, x, turns, flip = self.place()
            clip = self.pairs[which]
            low = clip.low[begin : begin + t, y : y + p, x : x + p]
            truth = clip.truth[begin : begin + t, s * y : s * (y + p), s * x : s * (x + p)]
            lows[n, :, 0], truths[n, :, 0] = turn(low, turns, flip), turn(truth, turns, flip)
            if t > 1:
                flow[n] = turn_flow(clip.flow[begin : begin + t, :, y : y + p, x : x + p], turns, flip)
        return (lows[:, 0], truths[:, 0], flow) if t == 1 else (lows, truths, flow)

    def place(self) -> tuple[int, int, int, int, int, bool]:
        """Where the next example lies: clip, first picture, row, column, quarter turns, mirrored."""
        which = min(int(np.searchsorted(self.chance, self.random.random())), len(self.pairs) - 1)
        sides = zip(self.pairs[which].low.shape, (self.frames, self.patch, self.patch), strict=True)
        begin, y, x = (int(self.random.integers(side - part + 1)) for side, part in sides)
        return which, begin, y, x, int(self.random.integers(4)), bool(self.random.integers(2))

    def planes(self, which: int) -> tuple[Plane, Plane]:
        """Low and truth of a clip, ``[T, H, W]``."""
        return self.pairs[which].low, self.pairs[which].truth
