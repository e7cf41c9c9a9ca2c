"""How a policy's actions are applied to a run."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ..documents import STRICT
from ..errors import RetimingError
from .equations import LIFTED_BOUND, SIGMA_MIN

Target = Literal["timestep", "velocity"]


@dataclass(frozen=True)
class Retiming:
    """How a policy's actions are applied. The defaults are the paper's deployment at γ = 1."""

    __pydantic_config__ = STRICT

    gamma: float = 1.0  # scale of the deviation, Eq 12; 0 is the synchronous sampler
    bound: float | None = None  # B; None: the bound that the policy was made for
    tail_sync: int = 0  # the last n steps run synchronously
    velocity_coupling: float = 0.0  # p in ω = ρ^p; 1 is Lying Sigma / Detail Daemon
    within_interval: bool = False  # t* never passes the neighbouring grid points
    sigma_min: float = SIGMA_MIN
    target: Target = "timestep"  # "velocity": D goes into ω instead (Eq 19–20)
    within_part: bool = False  # t* never leaves the σ of this part of a whole run: one of two experts

    def __post_init__(self) -> None:
        _check_number("gamma", self.gamma, -10, 10)
        _check_number("velocity_coupling", self.velocity_coupling, -4, 4)
        _check_number("sigma_min", self.sigma_min, 0, 0.5)
        if self.bound is not None:
            _check_number("bound", self.bound, 0, LIFTED_BOUND)
        if isinstance(self.tail_sync, bool) or not isinstance(self.tail_sync, int) or self.tail_sync < 0:
            raise RetimingError(f"tail_sync counts steps: give 0, 1, 2, …, not {self.tail_sync!r}.")
        if self.target not in ("timestep", "velocity"):
            raise RetimingError(f'target is "timestep" or "velocity", not {self.target!r}.')
        if self.target == "velocity" and self.velocity_coupling:
            raise RetimingError('velocity_coupling needs the target "timestep"; with "velocity" leave it at 0.')

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON."""
        return asdict(self)


def _check_number(name: str, value: Any, low: float, high: float) -> None:
    """Raise RetimingError unless `value` is a finite number in range (`bound` must be above 0)."""
    usable = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not usable or not low <= value <= high or (name == "bound" and value == 0):
        raise RetimingError(f"{name} must be a number from {low:g} to {high:g}, got {value!r}.")
