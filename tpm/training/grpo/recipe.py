"""The hyper-parameters of a training run, checked, and read from recipe files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any, Literal

from ...documents import STRICT, build
from ...errors import AsyncDiffError
from ...files import is_file, read_json, shortened
from ...retiming.contract import check_bound
from ...retiming.equations import DEFAULT_BOUND
from ...retiming.settings import Retiming
from ...retiming.solvers import EULER, Solver
from ...rewards.catalogue import CATALOGUE, RESIDUAL_NOISE
from ...suggestions import did_you_mean
from ..studio import derive

RECIPES = Path(__file__).parent / "recipes"


class RecipeError(AsyncDiffError):
    """A recipe that cannot be followed."""


MOST_TRAJECTORIES = 4096
RANGES = {
    "iterations": (1, 10**9),
    "steps": (2, 1000),
    "group": (2, MOST_TRAJECTORIES),  # its members are compared with each other
    "prompts_per_iteration": (1, MOST_TRAJECTORIES),
    "minibatch": (1, MOST_TRAJECTORIES),
    "render_batch": (1, MOST_TRAJECTORIES),
    "tail_sync": (0, 1000),
    "seed": (0, 2**63 - 1),
    "probe_every": (0, 10**9),
    "probes": (1, MOST_TRAJECTORIES),
    "drift_before": (0, 10**9),
}
"""The whole numbers of a recipe: least and most."""


@dataclass(frozen=True)
class Recipe:
    """How a TPM is trained. The defaults are the paper's for SD3.5-Medium (section 4.1)."""

    __pydantic_config__ = STRICT

    iterations: int = 4000
    steps: int = 15  # steps of the sampler; a trajectory has one action less
    group: int = 16  # trajectories a prompt
    noises: int | None = None  # different start noises in a group; None: one each. Fewer: z-scores within each noise
    prompts_per_iteration: int = 1
    minibatch: int = 4  # trajectories an optimiser step, of all processes together
    render_batch: int = 16  # most images in one run of the model
    learning_rate: float = 1e-5
    clip: float = 0.2
    kl_limit: float = 0.0  # largest move of an iteration, in nats of approximate KL; 0: only `clip` limits it
    ema: float = 0.995
    bound: float = DEFAULT_BOUND
    tail_sync: int = 0
    velocity_coupling: float = 0.0
    start: float = 0.0  # D that the untrained TPM answers everywhere
    null_reward: bool = False  # the control: scores are random numbers
    seed: int = 42
    weights: Mapping[str, float] = field(default_factory=dict)  # by metric, 1 where not given
    tpm: Mapping[str, int] = field(default_factory=dict)  # sizes that differ from the paper's
    probe_every: int = 50  # iterations between two comparisons with the synchronous sampler
    probes: int = 8  # prompts of such a comparison
    drift_before: int = 500  # D at its bound before this iteration stops the run; 0: never
    noise_limit: float = 1.25  # residual noise over the synchronous images' that stops the run

    def __post_init__(self) -> None:
        for name, (least, most) in RANGES.items():
            _check_whole(name, getattr(self, name), least, most)
        if self.noises is not None:
            _check_whole("noises", self.noises, 1, MOST_TRAJECTORIES)
        check_bound(self.bound)
        if self.noises is not None and self.group % self.noises:
            raise RecipeError(f"A group of {self.group} cannot be split over {self.noises} noises; choose a divisor.")
        if abs(self.start) >= self.bound:
            raise RecipeError(f"start must lie inside ±{self.bound:g}, the bound; got {self.start:g}.")
        if not (self.learning_rate > 0 and 0 < self.clip < 1 and 0 <= self.ema < 1):
            raise RecipeError("learning_rate must be above 0, clip between 0 and 1, ema from 0 to below 1.")
        if not 0 <= self.kl_limit < float("inf"):
            raise RecipeError(f"kl_limit must be 0 (none) or above, got {self.kl_limit:g}.")
        if not all(weight >= 0 and isfinite(weight) for weight in self.weights.values()):
            raise RecipeError(f"The weights of metrics must be numbers of at least 0, got {dict(self.weights)}.")
        if not self.noise_limit > 0:
            raise RecipeError(f"noise_limit must be above 0, got {self.noise_limit:g}.")
        if self.steps - self.tail_sync < 2:
            raise RecipeError(f"With {self.steps} steps and a tail of {self.tail_sync} no action is left to learn.")

    @property
    def actions(self) -> int:
        """Trajectories that share a start noise."""
        return self.group // (self.noises or self.group)

    @property
    def retiming(self) -> Retiming:
        """How the actions of training are applied: γ = 1."""
        return Retiming(bound=self.bound, tail_sync=self.tail_sync, velocity_coupling=self.velocity_coupling)

    def seed_of(self, *parts: int | str) -> int:
        """A seed for one purpose of this run."""
        return derive(self.seed, *parts)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON."""
        return asdict(self)


def read_recipe(name_or_path: str | Path) -> dict[str, Any]:
    """The document of a recipe file (JSON), or of a shipped recipe by name.

    `training` holds fields of :class:`Recipe`, `sampling` the studio's settings, `about` words. Raises RecipeError.
    """
    shipped = recipes()
    path = shipped.get(str(name_or_path), Path(name_or_path))
    if not is_file(path):
        raise RecipeError(
            f"{shortened(name_or_path)} is neither a file nor a shipped recipe"
            f"{did_you_mean(str(name_or_path), shipped)}; those are {', '.join(shipped)}."
        )
    document = read_json(path, RecipeError)
    build(RecipeFile, document, RecipeError, str(path))
    return document


@dataclass(frozen=True)
class Sampling:
    """What a recipe says of the studio; what it leaves out is the model's own."""

    __pydantic_config__ = STRICT

    guidance: float | None = None
    size: tuple[int, int] | None = None  # (width, height) in pixels
    negative: str = ""
    grid: Literal["simple", "scheduler"] = "simple"
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    solver: Solver = EULER

    def __post_init__(self) -> None:
        if self.guidance is not None and not 0 <= self.guidance <= 100:
            raise RecipeError(f"guidance must be from 0 to 100, got {self.guidance:g}.")
        if self.size is not None and not all(16 <= side <= 16_384 for side in self.size):
            raise RecipeError(f"size must be two numbers of pixels from 16 to 16384, got {list(self.size)}.")


@dataclass(frozen=True)
class RecipeFile:
    """What a recipe file holds."""

    __pydantic_config__ = STRICT

    about: Mapping[str, Any] = field(default_factory=dict)
    training: Recipe = field(default_factory=Recipe)
    sampling: Sampling = field(default_factory=Sampling)
    metrics: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        known = (*CATALOGUE, RESIDUAL_NOISE)
        unknown = next((name for name in self.metrics if name not in known), None)
        if unknown is not None:
            raise RecipeError(f"There is no metric {unknown!r}; those are {', '.join(known)}.")


def recipes() -> dict[str, Path]:
    """The shipped recipes by name."""
    return {path.stem: path for path in sorted(RECIPES.glob("*.json"))}


def _check_whole(name: str, value: Any, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise RecipeError(f"{name} must be a whole number from {least:,} to {most:,}, got {value!r}.")
