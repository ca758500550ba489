"""Short films made of stills, for training: what is seen of them, picture by picture, with nothing degraded yet.

A `pan` is as sharp as its still. A `scene` shows what a pan has not: a camera that turns and zooms by fractions of a
pixel, and things before it that go their own way, which a network with a memory has to tell from the rest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from stream_sr.video.planes import Plane
from stream_sr.video.resample import bicubic, to_uint8

Still = npt.NDArray[np.float64]

WINDOW = (256, 384)  # largest height and width of what is seen
LEAST = 96  # smallest side of it
SHRINKS = (1.0, 0.8, 0.65)
ROOM = 16  # pixels that a still is larger than the window at least
FASTEST = 3  # pixels per picture: what a hand or a slow pan does at 25 pictures a second
STILL = 0.2  # share of the pans that stand still: what a fixed camera sends

SCENE_SHRINKS = (0.8, 0.65, 0.5)  # of a scene: its pictures are sampled anew
LARGE = 400  # pixels, the shortest side of a still that may be shrunk by the last of them
CALM = 0.3  # share of the scenes with a fixed camera
THINGS = 3  # at most
REACH = 12.0  # pixels that a camera moves from its middle at most
CAMERA = np.array([2.5, 2.5, 0.004, 0.004])  # pixels down and right, radians, logarithm of size: at most, per picture
THING = np.array([4.0, 4.0, 0.01, 0.004])
JERK = np.array([0.15, 0.15, 0.0003, 0.0002])  # change of these, standard deviation


def pan(still: Still, scale: int, length: int, random: np.random.Generator) -> list[Plane]:
    """A window that moves over a still by whole pixels, ``length`` pictures; empty where the still is too small.

    The still is shown at one of `SHRINKS`: reduced, photographs are as sharp as they get. The speed changes slowly, as
    a hand moves a camera; a fifth of the clips stand still.
    """
    picture = to_uint8(_shrink(still, random))
    size = _window(picture.shape, ROOM, scale)
    if size is None:
        return []
    height, width = size
    limit = np.array([picture.shape[0] - height, picture.shape[1] - width], np.float64)
    place = random.uniform(0, 1, 2) * limit
    speed = np.zeros(2) if random.random() < STILL else random.uniform(-FASTEST, FASTEST, 2) * random.random()
    frames = []
    for _ in range(length):
        y, x = np.rint(place).astype(int)
        frames.append(np.ascontiguousarray(picture[y : y + height, x : x + width]))
        if speed.any():
            speed = np.clip(speed + random.normal(0, 0.2, 2), -FASTEST, FASTEST)
        outside = (place + speed < 0) | (place + speed > limit)
        speed = np.where(outside, -speed, speed)
        place = np.clip(place + speed, 0, limit)
    return frames


@dataclass(frozen=True)
class _MovingObject:
    """Something before the camera: a rounded shape with the texture of another still, and where it goes."""

    centre: tuple[float, float]
    size: tuple[int, int]
    squareness: int  # 1: an ellipse; more: nearly a rectangle
    texture: tuple[float, float]  # the texture's middle in its still
    path: npt.NDArray[np.float64]


def scene(still: Still, other: Still, scale: int, length: int, random: np.random.Generator) -> list[Plane]:
    """A camera's way over ``still``, ``length`` pictures, and things made of ``other``; empty where it is too small.

    Three in ten cameras stand still, with things that move before them.
    """
    shrink = float(random.choice(SCENE_SHRINKS if min(still.shape) > LARGE else SCENE_SHRINKS[:2]))
    seen = tuple(int(side * shrink) for side in still.shape)
    size = _window(seen, 2 * ROOM, scale)
    if size is None:
        return []
    calm = random.random() < CALM
    path = np.zeros((length, 4)) if calm else _way(random, length, CAMERA)
    path[:, :2] = np.clip(path[:, :2], -REACH, REACH)
    reach = [(part / 2 + REACH + 2) / shrink for part in size]
    middle = tuple(_place(random, side, part) for side, part in zip(still.shape, reach, strict=True))
    things = [_moving_object(random, size, other, length) for _ in range(int(random.integers(calm, THINGS + 1)))]
    ground, front = (Image.fromarray(one.astype(np.float32)) for one in (still, other))
    close = 1.0 if min(other.shape) < LARGE else SHRINKS[-1]
    frames = []
    for n in range(length):
        picture = _look(ground, size, (middle[0], middle[1]), path[n], shrink)
        for thing in things:
            _put(picture, front, thing, n, close)
        frames.append(to_uint8(picture))
    return frames


def _moving_object(random: np.random.Generator, size: tuple[int, int], other: Still, length: int) -> _MovingObject:
    height, width = (max(8, int(random.uniform(0.15, 0.5) * side)) for side in size)
    centre = tuple(random.uniform(part / 2, side - part / 2) for side, part in zip(size, (height, width), strict=True))
    texture = tuple(_place(random, side, part) for side, part in zip(other.shape, (height, width), strict=True))
    return _MovingObject(
        (centre[0], centre[1]),
        (height, width),
        int(random.choice([1, 2, 4])),
        (texture[0], texture[1]),
        _way(random, length, THING),
    )


def _way(random: np.random.Generator, length: int, fastest: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """``[length, 4]``: down, right, turned by, logarithm of the size, around their middle."""
    speed = random.uniform(-fastest, fastest) * random.random(4)
    way = np.cumsum(speed + np.cumsum(random.normal(0, 1, (length, 4)) * JERK, 0), 0)
    return way - way.mean(0)


def _place(random: np.random.Generator, side: int, half: float) -> float:
    """Somewhere along a side where ``half`` fits on both sides; its middle where it fits nowhere."""
    return float(random.uniform(half, side - half)) if side > 2 * half else side / 2


def _look(
    image: Image.Image, size: tuple[int, int], middle: tuple[float, float], pose: npt.NDArray[np.float64], shrink: float
) -> npt.NDArray[np.float64]:
    """What is seen of an image around ``middle`` (its pixels), each pixel the mean of four samples."""
    height, width = (2 * side for side in size)
    down, right, angle, grown = pose
    step = np.exp(grown) / shrink / 2
    cos, sin = np.cos(angle) * step, np.sin(angle) * step
    y, x = middle[0] + down / shrink, middle[1] + right / shrink
    affine = (cos, -sin, x - cos * width / 2 + sin * height / 2, sin, cos, y - sin * width / 2 - cos * height / 2)
    large = image.transform((width, height), Image.Transform.AFFINE, affine, Image.Resampling.BICUBIC)
    return np.asarray(large, np.float64).reshape(size[0], 2, size[1], 2).mean((1, 3))


def _put(picture: npt.NDArray[np.float64], front: Image.Image, thing: _MovingObject, n: int, shrink: float) -> None:
    """Draw a thing into the ``n``-th picture, in place, as far as it is inside."""
    pose = thing.path[n]
    centre = np.array(thing.centre) + pose[:2]
    low = np.maximum(0, (centre - np.array(thing.size) / 2).astype(int) - 1)
    high = np.minimum(picture.shape, (centre + np.array(thing.size) / 2).astype(int) + 2)
    if (high <= low).any():
        return
    (top, left), (bottom, right) = low, high
    rows, columns = np.ogrid[top:bottom, left:right]
    power = 2 * thing.squareness
    away = np.abs((rows - centre[0]) / (thing.size[0] / 2)) ** power
    away = away + np.abs((columns - centre[1]) / (thing.size[1] / 2)) ** power
    share = np.clip((1 - away) * 8, 0, 1)
    shift = np.array([(top + bottom) / 2 - centre[0], (left + right) / 2 - centre[1], pose[2], pose[3]])
    texture = _look(front, (bottom - top, right - left), thing.texture, shift, shrink)
    part = picture[top:bottom, left:right]
    part += share * (texture - part)


def _shrink(still: Still, random: np.random.Generator) -> Still:
    by = float(random.choice(SHRINKS))
    size = (round(still.shape[0] * by), round(still.shape[1] * by))
    return still if by == 1 or min(size) < 2 * LEAST else bicubic(still, size)


def _window(seen: tuple[int, ...], room: int, scale: int) -> tuple[int, int] | None:
    """Height and width of what is seen, multiples of twice the scale; None where that would be too small."""
    height, width = (min(most, side - room) // (2 * scale) * 2 * scale for most, side in zip(WINDOW, seen, strict=True))
    return (height, width) if min(height, width) >= LEAST else None
