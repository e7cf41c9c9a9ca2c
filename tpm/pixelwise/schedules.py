"""Pixel-wise schedules: the state of a pixel goes down more slowly inside a region, and all arrive together.

The formulas are those of AsynDM (arXiv 2510.04504) in closed forms that are safe at k = 0. Symbols: s is the state of a
pixel, r the steps that remain, S the steps of the run, k ∈ [0, 1] a region's strength, T the span of the states and τ
their offset. A state is a float or a tensor of any shape; maps of states are (B, 1, H, W), of a video (B, 1, T, H, W),
in fp64, so that rounding never decides a timestep.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor

from ..retiming.equations import Value, clamp
from .errors import RegionError, ScheduleError

SlowCurve = Literal["quadratic", "piecewise", "exponential"]
CURVES: tuple[SlowCurve, ...] = get_args(SlowCurve)
PAPER_NAMES: dict[str, SlowCurve] = {"bin": "quadratic", "lin": "piecewise", "exp": "exponential"}

SNAP = 1e-6  # a fractional grid index this near to a whole one is that grid point


@dataclass(frozen=True)
class Space:
    """Where states live: from T + τ (noise) down to τ after r = 1, and to 0 after r = 0."""

    span: float = 1.0  # T
    offset: float = 0.0  # τ
    lead: int = 0  # advances made before the first model call


PAPER = Space(span=1000.0, offset=1.0, lead=1)
"""States are train timesteps of SD1.x and SD2.x (steps_offset 1)."""
SIGMA = Space()
"""States are fractions of the host's σ grid, for any host and any flow model (an extension of the paper)."""


@dataclass(frozen=True)
class Pace:
    """How a run slows its regions down. Raises ScheduleError for steps below 1 and unknown curves."""

    steps: int  # S
    curve: SlowCurve = "quadratic"
    space: Space = SIGMA

    def __post_init__(self) -> None:
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise ScheduleError(f"steps must be a whole number of 1 or more, got {self.steps!r}.")
        if self.curve not in CURVES:
            raise ScheduleError(f"The curve {self.curve!r} is unknown; use {', '.join(CURVES)}.")

    def remaining(self, step: int) -> int:
        """The r of the advance after the model call of step i: S − 1 − i in the paper's space, S − i in σ space."""
        return self.steps - self.space.lead - step


# --- one advance s → s′ -------------------------------------------------------------------------------------------


def background(state: Value, remaining: int, space: Space) -> Value:
    """The straight line to τ from wherever the state is: s − (s − τ)/r. r ≥ 1."""
    return state - (state - space.offset) / remaining


def quadratic(state: Value, remaining: int, steps: int, strength: float, space: Space) -> Value:
    """The paper's "bin": s − (s − τ)/r + k·T·(r − 1)/S². r ≥ 1."""
    return background(state, remaining, space) + strength * space.span * (remaining - 1) / steps**2


def piecewise(state: Value, remaining: int, steps: int, strength: float, space: Space) -> Value:
    """The paper's "lin", slow first, then fast: min(s − (1 − k)·T/S, τ + (1 + k)·(T/S)·(r − 1)). r ≥ 1."""
    stride = space.span / steps
    slow = state - (1 - strength) * stride
    return clamp(slow, -math.inf, space.offset + (1 + strength) * stride * (remaining - 1))


def exponential(state: Value, remaining: int, steps: int, strength: float, space: Space) -> Value:
    """The paper's "exp": s − (1−k)·T/S − [s − τ − (1−k)·T·r/S]·expm1(1/S)/expm1(r/S). r ≥ 1."""
    line = (1 - strength) * space.span / steps
    above = state - space.offset - line * remaining
    return state - line - above * (math.expm1(1 / steps) / math.expm1(remaining / steps))


FORMULAS: dict[SlowCurve, Callable[[Value, int, int, float, Space], Value]] = {
    "quadratic": quadratic,
    "piecewise": piecewise,
    "exponential": exponential,
}


def advance(state: Value, remaining: int, pace: Pace, strength: float | None = None) -> Value:
    """s′ of the background (strength None) or of a region of strength k. τ exactly at r = 1, 0 exactly at r = 0."""
    if remaining <= 1:
        return state * 0.0 + (pace.space.offset if remaining == 1 else 0.0)
    if strength is None:
        return background(state, remaining, pace.space)
    return FORMULAS[pace.curve](state, remaining, pace.steps, strength, pace.space)


def trajectory(pace: Pace, strength: float | None = None) -> list[float]:
    """The states of one pixel that stays in its region: S at the model calls, then 0."""
    check_strengths([] if strength is None else [strength])
    states: list[float] = []
    state: Value = pace.space.span + pace.space.offset
    for remaining in range(pace.steps, -1 if pace.space.lead else 0, -1):
        states.append(float(state))
        state = advance(state, remaining, pace, strength)
    return [*states, float(state)][pace.space.lead :]


# --- maps of states -----------------------------------------------------------------------------------------------


def start(masks: Tensor, strengths: Sequence[float], pace: Pace) -> Tensor:
    """The states at the first model call, (B, 1, H, W) or (B, 1, T, H, W) in fp64 on the masks' device.

    In the paper's space they have been advanced once (r = S), in σ space all are 1. masks: as for `reaim`.
    """
    state = torch.full_like(masks[:, :1], pace.space.span + pace.space.offset, dtype=torch.float64)
    check_masks(state, masks, strengths)
    return aimed(state, pace.steps, masks, strengths, pace) if pace.space.lead else state


def reaim(state: Tensor, step: int, masks: Tensor, strengths: Sequence[float], pace: Pace) -> Tensor:
    """The states after step i, each pixel aimed anew from where it is by the region that holds it now.

    state: (B, 1, H, W). masks: bool (B, J, H, W) or (1, J, H, W), a hard partition (`regions.partition`); pixels in no
    region are background. Of a video all have T before H. strengths: k per region. Raises RegionError and
    ScheduleError for what does not fit.
    """
    check_masks(state, masks, strengths)
    remaining = pace.remaining(step)
    if remaining < 0 or step < 0:
        raise ScheduleError(f"There is no step {step} in a run of {pace.steps}; steps count from 0.")
    return aimed(state, remaining, masks, strengths, pace)


def aimed(state: Tensor, remaining: int, masks: Tensor, strengths: Sequence[float], pace: Pace) -> Tensor:
    """s′ = (1 − Σ_j m_j)·background(s) + Σ_j m_j·item_j(s) for one-hot m."""
    result = torch.as_tensor(advance(state, remaining, pace))
    for mask, strength in zip(masks.split(1, dim=1), strengths, strict=True):
        result = torch.where(mask, advance(state, remaining, pace, strength), result)
    return result


# --- states → timesteps and σ -------------------------------------------------------------------------------------


def transition(state: Tensor, following: Tensor, train_steps: int = 1000) -> tuple[Tensor, Tensor]:
    """(t, t′) of the paper's space: rounded, in [0, T − 1], t′ ≤ t. Shapes are kept; int64.

    The states themselves go on unrounded.
    """
    t = state.round().clamp(0, train_steps - 1).long()
    t_next = following.round().clamp(0, train_steps - 1).long()
    return t, torch.minimum(t, t_next)


def sigma_at(state: Tensor, sigmas: Tensor) -> Tensor:
    """σ(s): the host's grid (S + 1,), interpolated linearly at the index S·(1 − s). Dtype and device of the grid.

    On grid points the result is the grid's own number, so that the background is the host's schedule, bit by bit.
    """
    if sigmas.ndim != 1 or len(sigmas) < 2:
        raise ScheduleError(f"A σ grid is one row of at least two numbers, not {tuple(sigmas.shape)}.")
    steps = len(sigmas) - 1
    index = (steps * (1 - state)).clamp(0, steps)
    index = torch.where((index - index.round()).abs() < SNAP, index.round(), index).to(sigmas.device)
    low = index.floor().clamp(max=steps - 1).long()
    grid = sigmas.to(index.dtype)
    return torch.lerp(grid[low], grid[low + 1], index - low).to(sigmas.dtype)


class Levels(Protocol):
    """A host's schedule. Its grid is that of the background; `level` is where any pixel is."""

    grid: Tensor  # the background's levels at the calls of the network
    pace: Pace

    def level(self, state: Tensor) -> Tensor:
        """The σ or the timesteps of states, of the same shape."""


class SigmaLevels:
    """σ on a host's grid (S + 1,), for any host and any flow model."""

    def __init__(self, sigmas: Tensor, curve: SlowCurve = "quadratic") -> None:
        self.grid, self.pace = sigmas.cpu(), Pace(len(sigmas) - 1, curve)

    def level(self, state: Tensor) -> Tensor:
        """σ of states, on the CPU; on grid points the grid's own numbers."""
        return sigma_at(state, self.grid)


class TimestepLevels:
    """Whole timesteps of a schedule with `train_steps` of them, whose last is `offset`: the paper's space."""

    def __init__(self, timesteps: Tensor, train_steps: int, offset: int, curve: SlowCurve = "quadratic") -> None:
        self.grid, self._train_steps = timesteps.cpu(), train_steps
        self.pace = Pace(len(timesteps), curve, Space(float(train_steps), float(offset), lead=1))

    def level(self, state: Tensor) -> Tensor:
        """The timesteps of states, int64."""
        return transition(state, state, self._train_steps)[0]


# --- checks -------------------------------------------------------------------------------------------------------


def check_strengths(strengths: Sequence[Any]) -> None:
    """Raise ScheduleError unless every k is a number from 0 to 1."""
    for strength in strengths:
        usable = isinstance(strength, int | float) and not isinstance(strength, bool)
        if not usable or not 0 <= strength <= 1:
            raise ScheduleError(f"A region's strength k must be a number from 0 to 1, got {strength!r}.")


def check_masks(state: Tensor, masks: Tensor, strengths: Sequence[float]) -> None:
    """Raise unless the masks are bool, fit the states, and have one strength each. Looks at shapes only."""
    check_strengths(strengths)
    if masks.dtype != torch.bool or masks.ndim not in (4, 5) or masks.shape[1] != len(strengths):
        raise RegionError(
            f"{len(strengths)} strengths need bool masks of shape (B, {len(strengths)}, H, W), not {masks.dtype} of"
            f" {tuple(masks.shape)}; see regions.partition."
        )
    if masks.shape[2:] != state.shape[2:] or masks.shape[0] not in (1, state.shape[0]):
        raise RegionError(
            f"Masks of {tuple(masks.shape)} do not fit a latent of {tuple(state.shape)}; resize them to its grid."
        )
