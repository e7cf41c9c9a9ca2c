"""Policies that are a formula: the same D at every step, or a curve of it. Plain floats, no device work."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from ..documents import STRICT, check_name
from ..errors import PolicyError
from ..retiming.contract import StepState, check_backbone_name, check_bound
from ..retiming.equations import DEFAULT_BOUND, ratio_of
from .axes import axis_of
from .base import NEWEST, check_deviation, describe

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
    """D as a piecewise linear function of σ, of the step, or of the log-SNR (`axes`), its end values held.

    Over σ and log-SNR it fits any grid and step count; over the step k/K it follows the count, whatever the scheduler.
    """

    __pydantic_config__ = STRICT

    knots: Sequence[tuple[float, float]]  # (place, D at γ = 1), any order, distinct places on the axis
    bound: float = DEFAULT_BOUND
    name: str = "curve"
    backbone: str | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    axis: str = "sigma"  # what the places are: "sigma" or "step", 0 … 1, or "log_snr", −10 … 10
    needs_state: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        check_bound(self.bound)
        check_name(self.name, PolicyError)
        check_backbone_name(self.backbone)
        knots = tuple(sorted((float(place), float(value)) for place, value in self.knots))
        if not 1 <= len(knots) <= MOST_KNOTS:
            raise PolicyError(f"A curve policy needs 1 to {MOST_KNOTS} knots (place, D), got {len(knots)}.")
        self._check_places([place for place, _ in knots])
        for _, value in knots:
            check_deviation(value, self.bound)
        object.__setattr__(self, "knots", knots)

    def _check_places(self, places: Sequence[float]) -> None:
        axis = axis_of(self.axis)
        if not all(axis.low <= place <= axis.high for place in places) or len(set(places)) < len(places):
            raise PolicyError(
                f"The knots of a curve policy need distinct {axis.symbol} between {axis.low:g} and {axis.high:g}."
            )

    def begin(self, sigmas: Sequence[float]) -> None:
        pass

    def deviation_at(self, place: float) -> float:
        """D at γ = 1 for the evaluation at this place of the axis: at this σ, unless the curve has another one."""
        i = bisect_left(self.knots, place, key=lambda knot: knot[0])
        (s0, d0), (s1, d1) = self.knots[max(i - 1, 0)], self.knots[min(i, len(self.knots) - 1)]
        return d1 if s0 == s1 else d0 + (d1 - d0) * (min(max(place, s0), s1) - s0) / (s1 - s0)

    def ratio(self, state: StepState) -> float:
        """The value r = 0.5 + D/2B, D at the place of step k + 1."""
        return cast("float", ratio_of(self.deviation_at(axis_of(self.axis).place(state)), self.bound))

    def to_dict(self) -> dict[str, Any]:
        knots = [list(knot) for knot in self.knots]
        if self.axis == "sigma":
            return describe(self, "curve", knots=knots)
        return describe(self, "curve", knots=knots, axis=self.axis) | {"version": NEWEST}  # a reader of 1 would take σ
