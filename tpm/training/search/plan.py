"""What a search tries, and how hard; checked before anything is sampled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ...errors import AsyncDiffError
from ...retiming.contract import check_bound
from ...retiming.equations import DEFAULT_BOUND

CONSTANTS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0)
BEST = 3  # values of D that are tried with every tail


class SearchError(AsyncDiffError):
    """A search cannot be made."""


@dataclass(frozen=True)
class SearchPlan:
    """What is searched, and how hard."""

    steps: int = 8  # steps of the sampler
    bound: float = DEFAULT_BOUND
    prompts: int = 48  # a candidate; every generation has its own
    held_out: int = 128  # prompts of the last stage
    generations: int = 8
    population: int = 16  # candidates a generation, its centre among them
    elite: int = 4
    knots: int = 4
    tails: Sequence[int] = (0, 1, 2)  # tail_sync to choose from
    couplings: Sequence[float] = (0.0,)  # p to choose from
    spread: float = 0.4  # standard deviation of the first generation's D, as a part of the bound
    enough: float = 0.04  # stops when the D of the elite spread less than this part of the bound
    seed: int = 42
    weights: Mapping[str, float] = field(default_factory=dict)  # by metric, 1 where not given

    def __post_init__(self) -> None:
        check_bound(self.bound)
        for name, least in {"steps": 2, "prompts": 2, "held_out": 2, "generations": 0, "elite": 1, "knots": 1}.items():
            if not isinstance(getattr(self, name), int) or getattr(self, name) < least:
                raise SearchError(f"{name} must be a whole number of at least {least}, got {getattr(self, name)!r}.")
        if self.population <= self.elite:
            raise SearchError(f"An elite of {self.elite} needs a larger population than {self.population}.")
        if not self.tails or not self.couplings:
            raise SearchError("There must be a tail and a coupling to choose from; 0 is none.")
        if min(self.tails) < 0 or self.steps - max(self.tails) < 2:
            raise SearchError(f"With {self.steps} steps and a tail of {max(self.tails)} no action is left to search.")
        if not (0 < self.spread <= 1 and 0 <= self.enough < 1):
            raise SearchError("spread must be above 0 and at most 1, enough from 0 to below 1.")

    def constants(self) -> list[float]:
        """D of the first stage, above 0."""
        return [d for d in CONSTANTS if 0 < d <= self.bound]

    def constant_arms(self) -> int:
        """How many constants the first stage tries: every D, and the best ones with each other tail."""
        return len(self.constants()) + min(BEST, len(self.constants())) * (len(self.tails) - 1)
