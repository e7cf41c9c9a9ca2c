"""The equations of asynchronous timestep conditioning as pure functions.

Equation numbers are those of "AsyncDiff: Asynchronous Timestep Conditioning for Enhanced Text-to-Image Diffusion
Inference" (Xu, Yin, Chen). σ and t are one thing for flow models: 1 is noise, 0 is the image. A `Value` is a Python
float (one for the whole batch; nothing here then touches a device) or a tensor of shape (B,), one per sample.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import pairwise
from operator import neg
from typing import Any, NamedTuple, TypeAlias, cast

import torch
from torch import Tensor

from ..errors import GridError

Value: TypeAlias = float | Tensor

SIGMA_MIN = 1e-3
DEFAULT_BOUND = 0.5
LIFTED_BOUND = 1.0


# --- action → deviation -------------------------------------------------------------------------------------------


def deviation(r: Value, gamma: float = 1.0, bound: float = DEFAULT_BOUND) -> Value:
    """D = γ·2B·(r − 0.5), Eq 11 (B = .5), Eq 12 (γ) and Eq 13 (B = 1) in one. r in [0, 1]; r = 0.5 gives exactly 0."""
    return (gamma * 2.0 * bound) * (r - 0.5)


def ratio_of(deviation: Value, bound: float = DEFAULT_BOUND) -> Value:
    """The action r = 0.5 + D / 2B whose deviation at γ = 1 is D (inverse of `deviation`)."""
    return 0.5 + deviation / (2.0 * bound)


# --- deviation → conditioning timestep ----------------------------------------------------------------------------


def proposed_timestep(t_next: Value, interval: Value, deviation: Value) -> Value:
    """t_{k+1} + D·Δ_k, Eq 6 before any clamp. `interval` is Δ_k = t_{k+1} − t_k < 0, the interval just stepped over."""
    return t_next + deviation * interval


class Limits(NamedTuple):
    """The range that t* may take, both ends included."""

    low: Value
    high: Value


def limits(
    t_next: float,
    *,
    t_start: float,
    sigma_min: float = SIGMA_MIN,
    floor: float | None = None,
    ceiling: float | None = None,
) -> Limits:
    """The range allowed for t*: [σ_min, t_0] (Alg 2, line 10), narrowed to [floor, ceiling] where those are given.

    Those are the neighbouring grid points t_{k+2} and t_k when t* must stay within its interval.
    t_{k+1} itself is always inside, so that D = 0 stays exact on grids that go below σ_min.
    """
    low = max(sigma_min, floor) if floor is not None else sigma_min
    high = min(t_start, ceiling) if ceiling is not None else t_start
    return Limits(min(low, t_next), max(high, t_next))


def conditioning_timestep(t_next: Value, interval: Value, deviation: Value, allowed: Limits) -> Value:
    """t*_{k+1} = clamp(t_{k+1} + D·Δ_k), Eq 6 and Alg 2 line 10. D > 0 conditions on a cleaner timestep."""
    return clamp(proposed_timestep(t_next, interval, deviation), *allowed)


def is_clamped(t_next: Value, interval: Value, deviation: Value, allowed: Limits) -> bool | Tensor:
    """Whether `conditioning_timestep` of the same arguments cut the action off: such an action teaches nothing."""
    proposed = proposed_timestep(t_next, interval, deviation)
    return (proposed < allowed.low) | (proposed > allowed.high)


def applied_deviation(t_next: Value, interval: Value, deviation: Value, allowed: Limits) -> Value:
    """The D that t*_{k+1} stands for after the clamp, Eq 6 solved for D; `deviation` itself where nothing was cut."""
    ends = ((end - t_next) / interval + 0.0 for end in reversed(allowed))  # a larger D is a smaller t*
    return clamp(deviation, *ends)


def held_timestep(rho: Value, sigma: float, *, t_start: float, sigma_min: float = SIGMA_MIN) -> Value:
    """ρ_k·σ, clamped like t*: the conditioning of a later stage of a step (heun, dpm_2, …) or of an off-grid σ."""
    low, high = limits(sigma, t_start=t_start, sigma_min=sigma_min)
    return clamp(rho * sigma, low, high)


def clamp(value: Value, low: Value, high: Value) -> Value:
    """`value` limited to [low, high]; a float stays a float."""
    if isinstance(value, Tensor):
        return value.clamp(cast("Any", low), cast("Any", high))
    return min(max(value, low), high)


# --- velocity scale -----------------------------------------------------------------------------------------------


def velocity_scale(deviation: Value) -> Value:
    """ω = 1 + D, Eq 19–20 (the paper's 0.5 + r is γ = 1, B = .5). ω < 1 leaves residual noise as content."""
    return 1.0 + deviation


def coupled_velocity_scale(rho: Value, power: float) -> Value:
    """ω = ρ^p with ρ = t*/t. p = 0 is AsyncDiff (exactly 1); p = 1 is Lying Sigma / Detail Daemon."""
    return 1.0 if power == 0 else rho**power


# --- Beta policy --------------------------------------------------------------------------------------------------


def phi(x: Tensor) -> Tensor:
    """φ, Eq 17: 2 + x + x²/2 for x > 0, 1 + eˣ otherwise. Always > 1, so that the Beta density has one mode."""
    positive = x.clamp(min=0)
    return torch.where(x > 0, 2 + positive + positive.square() / 2, 1 + x.clamp(max=0).exp())


def beta_parameters(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """(α, β) = (φ(a), φ(b)), Eq 17. Shapes are kept."""
    return phi(a), phi(b)


def log_excess(x: Tensor) -> Tensor:
    """L(x) = log(φ(x) − 1): x for x ≤ 0, log1p(x + x²/2) otherwise. Finite wherever x is."""
    positive = x.relu()
    return torch.log1p(torch.addcmul(positive, positive, positive, value=0.5)) + (x - positive)


def beta_mode(a: Tensor, b: Tensor) -> Tensor:
    """(α − 1)/(α + β − 2), Eq 18, as sigmoid(L(a) − L(b)): the literal form is 0/0 for a, b ≲ −17 in fp32."""
    upper, lower = log_excess(torch.stack([a, b])).unbind()
    return torch.sigmoid(upper - lower)


def logits_of_mode(r: float) -> tuple[float, float]:
    """(a, b) whose Beta has its mode at r ∈ (0, 1) and α + β = 4, as at a = b = 0 (inverse of `beta_mode`)."""
    return _inverse_phi(1 + 2 * r), _inverse_phi(3 - 2 * r)


def _inverse_phi(alpha: float) -> float:
    """X with φ(x) = α > 1."""
    return math.log(alpha - 1) if alpha <= 2 else math.sqrt(2 * alpha - 3) - 1


def beta_mean(a: Tensor, b: Tensor) -> Tensor:
    """α/(α + β). Saturates later than the mode: (a, b) = (2, −2) has mode .974 and mean .841."""
    alpha, beta = beta_parameters(a, b)
    return alpha / (alpha + beta)


def beta_distribution(a: Tensor, b: Tensor) -> torch.distributions.Beta:
    """Beta(φ(a), φ(b)) in fp32. Its arguments are not validated: that would make the host wait for the device."""
    alpha, beta = beta_parameters(a.float(), b.float())
    return torch.distributions.Beta(alpha, beta, validate_args=False)


def beta_log_prob(a: Tensor, b: Tensor, r: Tensor) -> Tensor:
    """The log-probability of r under Beta(φ(a), φ(b)), a factor of Eq 15. r strictly inside (0, 1)."""
    return beta_distribution(a, b).log_prob(r)


def beta_entropy(a: Tensor, b: Tensor) -> Tensor:
    """Differential entropy of Beta(φ(a), φ(b)), in nats."""
    return beta_distribution(a, b).entropy()


# --- grids --------------------------------------------------------------------------------------------------------


def distinct(sigmas: Iterable[float]) -> list[float]:
    """The grid without repeats of neighbours (diffusers' Heun scheduler lists interior σ twice)."""
    grid: list[float] = []
    for sigma in sigmas:
        if not grid or sigma != grid[-1]:
            grid.append(sigma)
    return grid


def check_grid(sigmas: Sequence[float] | Tensor) -> tuple[float, ...]:
    """t_0 > … > t_K as floats: K ≥ 1, finite, strictly decreasing, inside [0, 1]. Else a GridError."""
    grid = check_points(sigmas)
    if any(later >= earlier for earlier, later in pairwise(grid)):
        raise GridError("The σ of a sampling grid must strictly decrease; check the scheduler or use fewer steps.")
    return grid


def check_points(sigmas: Sequence[float] | Tensor) -> tuple[float, ...]:
    """As `check_grid`, for points that may also rise, but not repeat: restarts, unsampling."""
    points = tuple(float(s) for s in (sigmas.tolist() if isinstance(sigmas, Tensor) else sigmas))
    if len(points) < 2:
        raise GridError(f"A sampling grid needs at least two σ values, got {len(points)}; use one step or more.")
    if not all(math.isfinite(s) for s in points):
        raise GridError("The sampling grid holds a σ that is not a finite number; check the scheduler.")
    if any(later == earlier for earlier, later in pairwise(points)):
        raise GridError("The σ of a sampling grid must strictly decrease; check the scheduler or use fewer steps.")
    if min(points) < 0 or max(points) > 1 + 1e-3:
        raise GridError(
            f"The sampling grid runs from {points[0]:.4g} to {points[-1]:.4g}, beyond the noise that the model knows"
            " (1 … 0 of a flow model's σ): use the model's own scheduler, and σ that nothing has scaled."
        )
    return points


SAME_RELATIVE, SAME_ABSOLUTE = 1e-5, 1e-7


def same_point(sigma: float, point: float) -> bool:
    """Whether two σ are one grid point, up to the rounding that a host's fp32 arithmetic adds."""
    return math.isclose(sigma, point, rel_tol=SAME_RELATIVE, abs_tol=SAME_ABSOLUTE)


def same_range(point: float) -> tuple[float, float]:
    """The lowest and the highest σ that are the same grid point as `point`."""
    low = min(point * (1 - SAME_RELATIVE), point - SAME_ABSOLUTE)
    return low, max(point / (1 - SAME_RELATIVE), point + SAME_ABSOLUTE)


def locate(grid: Sequence[float], sigma: float) -> int:
    """The step k of σ: t_k ≥ σ > t_{k+1}, up to rounding. σ above the grid is step 0, at or below its end K − 1."""
    k = bisect_left(grid, -sigma, key=neg)  # the first grid point with t_k ≤ σ
    if k == len(grid) or not same_point(sigma, grid[k]):
        k -= 1
    return min(max(k, 0), len(grid) - 2)
