"""A recipe: the TOML file that says how one network is trained. Packaged ones lie in ``recipes/``."""

import tomllib
from dataclasses import dataclass, field, fields
from math import inf
from pathlib import Path
from typing import Any

from stream_sr.errors import ConfigError
from stream_sr.inference.model import WEIGHTS

RECIPES = Path(__file__).parent / "recipes"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the weights, but for the pictures and the machine."""

    name: str
    scale: int
    weights: str
    network: dict[str, Any]  # `kind`, a name of `networks.NETWORKS`, and its arguments
    iterations: int
    batch: int
    patch: int  # low-resolution pixels
    learning_rate: float
    warmup: int  # iterations
    l2_from: float  # share of the run
    round_from: float  # share of the run after which it trains with weights rounded to bfloat16; 1: never
    ema: float
    seed: int
    shrinks: tuple[float, ...]
    validation_every: int  # iterations
    validation_images: tuple[str, ...]  # file stems
    shares: dict[str, float] = field(default_factory=dict)  # of the patches, by name of their folder
    loss: str = "l1"  # before the L2 stage: l1 or bce (binary cross-entropy)
    frames: int = 1  # consecutive pictures of a training example; more for a recurrent network
    settled: int = 0  # for how many pictures the first has stood still before, in every other example of such a one
    still: float = 0.0  # share of the examples of such a one in which nothing moves
    noise: float = 0.0  # levels: the most that is added to half of the examples of such a one, a standard deviation
    clip: float = 0.0  # the gradient's norm at most; 0: as it is
    expand: bool = False  # train every convolution as the sum of branches that are merged at the end
    bf16: bool = False  # compute in bfloat16 (weights, averages and the anchor stay exact)
    teacher_share: float = 0.5  # of the loss, where there is a teacher
    from_scale: int | None = None  # start from this scale's checkpoint of the same network; 0 in a file: from nothing

    def __post_init__(self) -> None:
        for key in ("iterations", "batch", "patch", "frames", "validation_every"):
            value = getattr(self, key)
            if not isinstance(value, int) or value < 1:
                raise ConfigError(f"recipe {self.name}: {key} is {value!r}, it must be a whole number from 1")
        if not isinstance(self.settled, int) or self.settled < 0:
            raise ConfigError(f"recipe {self.name}: settled is {self.settled!r}, it must be a whole number from 0")
        for key, most in (("clip", inf), ("noise", inf), ("still", 1)):
            value = getattr(self, key)
            if not isinstance(value, int | float) or not 0 <= value <= most:
                allowed = "from 0 to 1" if most == 1 else "from 0"
                raise ConfigError(f"recipe {self.name}: {key} is {value!r}, it must be a number {allowed}")
        if self.loss not in ("l1", "bce"):
            raise ConfigError(f"recipe {self.name}: loss is {self.loss!r}, it must be l1 or bce (l2_from = 0: all L2)")


def recipe_names() -> list[str]:
    """Names of the packaged recipes."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def load_recipe(name: str, *, scale: int, weights: str = WEIGHTS[0], **overrides: Any) -> Recipe:
    """Read a packaged recipe, or a file if ``name`` ends in ``.toml``.

    ``[scale.N]`` and ``[weights.NAME]`` change ``[train]`` for that scale and those weights, and their ``network`` the
    network's arguments; training for ``camera`` starts from the clean weights of the same scale, where the recipe does
    not say otherwise.
    ``overrides`` replace single fields (None is ignored). Raises ConfigError for an unknown name, a bad file, or a
    scale outside 1 to 4.
    """
    path = Path(name) if name.endswith(".toml") else RECIPES / f"{name}.toml"
    if not path.is_file():
        raise ConfigError(f"no recipe '{name}'; packaged are {', '.join(recipe_names())}, or give a FILE.toml")
    if scale not in (1, 2, 3, 4):
        raise ConfigError(f"scale {scale} is not trained; it is 1, 2, 3 or 4")
    try:
        raw = tomllib.loads(path.read_text())
        if "tune" in raw:
            raise ConfigError(f"{path}: the table [tune] is now called [weights]; rename it in this file")
        if weights != WEIGHTS[0] and weights not in raw.get("weights", {}):
            only = f"it is trained for {WEIGHTS[0]} pictures only"
            raise ConfigError(f"recipe '{name}' has no [weights.{weights}]; {only}")
        train, network = dict(raw["train"]), dict(raw["network"])
        changes = [raw.get("scale", {}).get(str(scale), {})]
        if weights != WEIGHTS[0]:
            tuned = raw["weights"][weights]
            changes += [{"from_scale": scale} | tuned, tuned.get("scale", {}).get(str(scale), {})]
        for change in changes:
            train |= {key: value for key, value in change.items() if key not in ("scale", "network")}
            network |= change.get("network", {})
        train["from_scale"] = train.get("from_scale") or None
        validation = {"validation_every": raw["validation"]["every"], "validation_images": raw["validation"]["images"]}
        train |= validation | {key: value for key, value in overrides.items() if value is not None}
        return Recipe(
            name=path.stem,
            scale=scale,
            weights=weights,
            network=network,
            **(train | {key: tuple(train[key]) for key in ("shrinks", "validation_images")}),
        )
    except (tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        known = ", ".join(part.name for part in fields(Recipe))
        raise ConfigError(f"{path}: {error}; a recipe has [network], [train] and [validation] with: {known}") from error
