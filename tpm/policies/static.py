"""Policies that are a formula: the same D at every step, or D as a function of σ. Plain floats, no device work."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from ..documents import STRICT, check_name
from ..errors import PolicyError
from ..retiming.contract import StepState, check_backbone_name, check_bound
from ..retiming.equations import DEFAULT_BOUND, ratio_of
from .base import check_deviation, describe

MOST_KNOTS = 1000


@dataclass(frozen=True)
class Constant:
    """D is the same at every step: the paper's RL-free policy (end of section 4)."""

    __pydantic_config__ = STRICT

    deviation: float  # D at γ = 1 and this policy's own bound
    bound: float = DEFAULT_BOUND
    name: str = "constant"
    backbone: str | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    needs_state: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        check_bound(self.bound)
        check_name(self.name, PolicyError)
        check_deviation(self.deviation, self.bound)
        check_backbone_name(self.backbone)

    def begin(self, sigmas: Sequence[float]) -> None:
        pass

    def ratio(self, state: StepState) -> float:  # noqa: ARG002 - the protocol's signature
        """The value r = 0.5 + D/2B."""
        return cast("float", ratio_of(self.deviation, self.bound))

    def to_dict(self) -> dict[str, Any]:
        return describe(self, "constant", deviation=self.deviation)


@dataclass(frozen=True)
class Curve:
    """D as a piecewise linear function of σ, its end values held. Indexed by σ, so it fits any grid and step count."""

    __pydantic_config__ = STRICT

    knots: Sequence[tuple[float, float]]  # (σ, D at γ = 1), any order, distinct σ in [0, 1]
    bound: float = DEFAULT_BOUND
    name: str = "curve"
    backbone: str | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    needs_state: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        check_bound(self.bound)
        check_name(self.name, PolicyError)
        check_backbone_name(self.backbone)
        knots = tuple(sorted((float(sigma), float(value)) for sigma, value in self.knots))
        if not 1 <= len(knots) <= MOST_KNOTS:
            raise PolicyError(f"A curve policy needs 1 to {MOST_KNOTS} knots (σ, D), got {len(knots)}.")
        if not all(0 <= sigma <= 1 for sigma, _ in knots) or len({sigma for sigma, _ in knots}) < len(knots):
            raise PolicyError("The knots of a curve policy need distinct σ between 0 and 1.")
        for _, value in knots:
            check_deviation(value, self.bound)
        object.__setattr__(self, "knots", knots)

    def begin(self, sigmas: Sequence[float]) -> None:
        pass

    def deviation_at(self, sigma: float) -> float:
        """D at γ = 1 for the evaluation at σ."""
        i = bisect_left(self.knots, sigma, key=lambda knot: knot[0])
        (s0, d0), (s1, d1) = self.knots[max(i - 1, 0)], self.knots[min(i, len(self.knots) - 1)]
        return d1 if s0 == s1 else d0 + (d1 - d0) * (min(max(sigma, s0), s1) - s0) / (s1 - s0)

    def ratio(self, state: StepState) -> float:
        """The value r = 0.5 + D(t_{k+1})/2B."""
        return cast("float", ratio_of(self.deviation_at(state.sigma_next), self.bound))

    def to_dict(self) -> dict[str, Any]:
        return describe(self, "curve", knots=[list(knot) for knot in self.knots])
