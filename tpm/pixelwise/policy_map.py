"""Both asynchronies together: a pixel-wise map, and a policy's deviation on top of it, as pure tensor functions.

Every pixel has its own grid σ_0 > σ_1 > … of its run. A policy decides one deviation D for a step and image, and each
pixel is conditioned on t*_{i+1} = clamp(σ_{i+1} + D·(σ_{i+1} − σ_i)), Eq 6 of AsyncDiff on that grid (an extension: the
two papers do not speak of each other). The latent still moves from σ_{i+1} to σ_{i+2}. Maps are (B, 1, H, W), of a
video (B, 1, T, H, W).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..retiming.equations import SIGMA_MIN, Value
from .errors import ScheduleError


def conditioning_map(
    sigma: Tensor,
    sigma_next: Tensor,
    deviation: Value,
    *,
    t_start: float,
    sigma_min: float = SIGMA_MIN,
    following: Tensor | None = None,
) -> Tensor:
    """t* of every pixel that went from σ_i to σ_{i+1}, (B, 1, H, W) in fp64; `sigma_next` itself where D is 0.

    deviation: D as applied (γ included), a number or (B,). t_start: σ_0 of the run. following: σ_{i+2}, when t* must
    stay within its interval. A uniform map gives `retiming.conditioning_timestep` of its values, bit by bit. Raises
    ScheduleError when the maps do not fit each other.
    """
    if not isinstance(deviation, Tensor) and deviation == 0:
        return sigma_next
    check_same_grid(sigma, sigma_next, following)
    here = sigma_next.double()
    proposed = here + per_image(deviation, here) * (here - sigma.double())
    low, high = torch.full_like(here, sigma_min), torch.full_like(here, t_start)
    if following is not None:
        low, high = torch.maximum(low, following.double()), torch.minimum(high, sigma.double())
    low, high = torch.minimum(low, here), torch.maximum(high, here)  # D = 0 stays exact on grids that go below σ_min
    return torch.minimum(torch.maximum(proposed, low), high)


def coupling_map(t_star: Tensor, sigma: Tensor, power: float) -> Value:
    """ω = ρ^p with ρ = t*/σ per pixel (`retiming.coupled_velocity_scale`); the number 1 at p = 0."""
    if power == 0:
        return 1.0
    return torch.where(sigma > 0, (t_star / sigma.clamp(min=torch.finfo(sigma.dtype).tiny)) ** power, 1.0)


def per_image(value: Value, field: Tensor) -> Value:
    """A number as it is; (B,) as (B, 1, 1, …) of the rank of a map of B images or of one for all."""
    if not isinstance(value, Tensor):
        return value
    if value.ndim != 1 or len(field) not in (1, len(value)):
        raise ScheduleError(f"Deviations of {tuple(value.shape)} do not fit a map of {tuple(field.shape)}.")
    return value.to(field).reshape(-1, *[1] * (field.ndim - 1))


def check_same_grid(*maps: Tensor | None) -> None:
    """Raise ScheduleError unless all maps are (B, 1, H, W), or all (B, 1, T, H, W), of one size."""
    given = [each for each in maps if each is not None]
    if (
        any(each.ndim not in (4, 5) or each.shape[1] != 1 for each in given)
        or len({each.shape[2:] for each in given}) > 1
    ):
        shapes = ", ".join(str(tuple(each.shape)) for each in given)
        raise ScheduleError(f"Maps of σ need one shape (B, 1, H, W), got {shapes}.")
