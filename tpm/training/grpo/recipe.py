"""The hyper-parameters of a training run, checked, and read from recipe files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ...errors import AsyncDiffError
from ...files import read_json
from ...retiming.contract import check_bound
from ...retiming.equations import DEFAULT_BOUND
from ...retiming.settings import Retiming
from ..studio import derive

RECIPES = Path(__file__).parent / "recipes"


class RecipeError(AsyncDiffError):
    """A recipe that cannot be followed."""


@dataclass(frozen=True)
class Recipe:
    """How a TPM is trained. The defaults are the paper's for SD3.5-Medium (section 4.1)."""

    iterations: int = 4000
    steps: int = 15  # of the sampler; steps − 1 actions a trajectory
    group: int = 16  # trajectories a prompt
    noises: int | None = None  # different start noises in a group; None: one each. Fewer: z-scores within each noise
    prompts_per_iteration: int = 1
    minibatch: int = 4  # trajectories an optimiser step, of all processes together
    render_batch: int = 16  # most images in one run of the model
    learning_rate: float = 1e-5
    clip: float = 0.2
    ema: float = 0.995
    bound: float = DEFAULT_BOUND
    tail_sync: int = 0
    velocity_coupling: float = 0.0
    start: float = 0.0  # D that the untrained TPM answers everywhere
    null_reward: bool = False  # the control: scores are random numbers
    seed: int = 42
    weights: Mapping[str, float] = field(default_factory=dict)  # of the metrics, 1 where not given
    tpm: Mapping[str, int] = field(default_factory=dict)  # sizes that differ from the paper's
    probe_every: int = 50  # iterations between two comparisons with the synchronous sampler
    probes: int = 8  # prompts of such a comparison
    drift_before: int = 500  # D at its bound before this iteration stops the run; 0: never
    noise_limit: float = 1.25  # residual noise over the synchronous images' that stops the run

    def __post_init__(self) -> None:
        for name in ("iterations", "group", "prompts_per_iteration", "minibatch", "render_batch", "probes"):
            _check_whole(name, getattr(self, name), 1)
        _check_whole("steps", self.steps, 2)
        _check_whole("probe_every", self.probe_every, 0)
        _check_whole("drift_before", self.drift_before, 0)
        check_bound(self.bound)
        if self.noises is not None and (self.noises < 1 or self.group % self.noises):
            raise RecipeError(f"A group of {self.group} cannot be split over {self.noises} noises; choose a divisor.")
        if self.group < 2:
            raise RecipeError("A group needs two trajectories or more: its members are compared with each other.")
        if abs(self.start) >= self.bound:
            raise RecipeError(f"start must lie inside ±{self.bound:g}, the bound; got {self.start:g}.")
        if not (self.learning_rate > 0 and 0 < self.clip < 1 and 0 <= self.ema < 1):
            raise RecipeError("learning_rate must be above 0, clip between 0 and 1, ema from 0 to below 1.")
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
    if not path.is_file():
        raise RecipeError(f"{name_or_path} is neither a file nor a shipped recipe; those are {', '.join(shipped)}.")
    document = read_json(path, RecipeError)
    unknown = sorted(document.get("training", {}).keys() - {entry.name for entry in fields(Recipe)})
    if unknown:
        raise RecipeError(f"{path} has an unknown entry {unknown[0]!r} under training; correct its name.")
    return document


def recipes() -> dict[str, Path]:
    """The shipped recipes by name."""
    return {path.stem: path for path in sorted(RECIPES.glob("*.json"))}


def _check_whole(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise RecipeError(f"{name} must be a whole number of at least {least}, got {value!r}.")
